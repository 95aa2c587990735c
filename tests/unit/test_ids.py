"""Identifiers are safe wherever they are put, and no two things ever share one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_shared.draw import new_id
from runctl_shared.ids import agent_id, attempt_of, is_id, is_name, is_run_id, run_of

SAFE = re.compile(r"[a-z0-9._-]+\Z")
RUN_IDS = st.from_regex(r"run-[0-9a-z]{4,32}", fullmatch=True)


@pytest.mark.parametrize("prefix", ["run", "agent", "ck", "cmd", "inst", "req"])
def test_fresh_ids_are_ids(prefix: str) -> None:
    drawn = {new_id(prefix) for _ in range(200)}
    assert len(drawn) == 200
    assert all(is_id(one) and one.startswith(prefix + "-") for one in drawn)


@pytest.mark.parametrize(
    "text",
    ["", "run", "run-", "run-abc", "Run-abcd", "run-abcd\n", "run-ab/d", "run-..", "run-abcd-", "-abcd"],
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)
    assert not is_run_id(text)


@given(st.text(max_size=40))
def test_whatever_counts_as_an_id_or_name_is_safe(text: str) -> None:
    if is_id(text) or is_name(text) or is_run_id(text):
        assert SAFE.match(text)
        assert text not in (".", "..")


@pytest.mark.parametrize("text", ["a", "a.b", "digits-7f3k", "x" * 63])
def test_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "a.", "-a", "a-", "A", "a b", "ä", "a\n", "x" * 64])
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)


@given(RUN_IDS, RUN_IDS, st.integers(1, 99_999), st.integers(1, 99_999))
def test_no_two_attempts_share_an_agent(run: str, other: str, n: int, m: int) -> None:
    """The agent's id names a machine at the provider: two of one name would be one machine."""
    assert is_id(agent_id(run, n))
    assert (agent_id(run, n) == agent_id(other, m)) == ((run, n) == (other, m))


@pytest.mark.parametrize("text", ["run-abcd-12", "gun-abcd1234", "agent-abcd1234"])
def test_ids_of_which_agents_could_meet_are_not_those_of_runs(text: str) -> None:
    assert is_id(text)
    assert not is_run_id(text)


@given(RUN_IDS, st.integers(1, 99_999))
def test_an_agents_id_tells_its_run_and_attempt(run: str, attempt: int) -> None:
    agent = agent_id(run, attempt)
    assert (run_of(agent), attempt_of(agent)) == (run, attempt)


@given(st.text(max_size=40))
def test_what_is_no_agents_id_tells_no_run(text: str) -> None:
    """A sender's name that makes its hearer stumble."""
    assert run_of(text) in ("", f"run-{text[6:].rpartition('-')[0]}")
