"""Made-up lives of an agent: whatever it says, in whatever order, whoever handles it raises nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl_shared.messages.codec import KINDS, encode
from runctl_shared.messages.events import EVENTS, UNNUMBERED
from runctl_testing.fuzzing import decode_any, join, listener
from runctl_testing.made_up import bodies

said = st.one_of([bodies(kind) for kind in (*EVENTS, *UNNUMBERED)])
anything = st.one_of([bodies(kind) for kind in KINDS.values()])
moments = st.floats(0, 1e12)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(said | anything, moments), min_size=1, max_size=12))
def test_a_life_of_valid_messages(tmp_path_factory: Any, life: list[tuple[Any, float]]) -> None:
    """A number, a text or an order of events that loop, core or store cannot take: the event would be handed
    out again and again, and hold up everything that follows it."""
    data = join([encode(body, id="x", sent=sent)[:65_000] for body, sent in life])
    with listener() as listening:
        listening.hear(data)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(said, moments), min_size=1, max_size=12))
def test_a_life_in_the_store_of_a_real_controller(
    tmp_path_factory: Any, life: list[tuple[Any, float]]
) -> None:
    """The same, and what SQLite cannot hold."""
    folder: Path = tmp_path_factory.mktemp("life")
    data = join([encode(body, id="x", sent=sent)[:65_000] for body, sent in life])
    with listener(folder) as listening:
        listening.hear(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_real_messages_put_together_wrongly(data: st.DataObject) -> None:
    """Parts of two messages, spliced, doubled, cut and with bytes exchanged."""
    kinds = st.sampled_from(list(KINDS.values()))
    one, two = (encode(data.draw(bodies(data.draw(kinds))), id="x") for _ in range(2))
    cut, start = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(two)))
    spliced = bytearray(one[:cut] + two[start:] + one[: data.draw(st.integers(0, 20))])
    for _ in range(data.draw(st.integers(0, 5))):
        if spliced:
            spliced[data.draw(st.integers(0, len(spliced) - 1))] = data.draw(st.integers(0, 255))
    decode_any(bytes(spliced))
