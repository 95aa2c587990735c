"""The wire contract: what is said arrives, and what is no message is Malformed and nothing else."""

from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl_shared.messages import commands, events, replies, requests
from runctl_shared.messages.base import PROTOCOL, Body, Envelope
from runctl_shared.messages.codec import (
    KINDS,
    MAX_MESSAGE,
    MOST_UNKNOWN,
    Malformed,
    Message,
    Unknown,
    decode,
    encode,
)
from runctl_testing.made_up import bodies

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
BEAT: dict[str, Any] = {"v": PROTOCOL, "kind": "Heartbeat", "id": "msg-1", "body": {"phase": "training"}}


def packed(**changes: Any) -> bytes:
    """A heartbeat with these fields of the envelope changed; None removes one."""
    head = {name: value for name, value in (BEAT | changes).items() if value is not None}
    return msgpack.packb(head)  # type: ignore[no-any-return]  # msgpack is untyped


def body(**fields: Any) -> bytes:
    return packed(body={"phase": "training"} | fields)


def only_malformed(data: bytes) -> Message[Any] | None:
    try:
        return decode(data)
    except Malformed as error:
        said = str(error)
    assert 0 < len(said) < 400
    return None


class TestRoundTrip:
    @each_kind
    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_every_kind_arrives_as_it_was_sent(self, kind: type[Body], data: st.DataObject) -> None:
        sent = data.draw(bodies(kind))
        got = decode(encode(sent, id="msg-1", run="run-1", attempt=3, agent="agent-1", sequence=7, sent=1.5))
        assert got.body == sent
        assert type(got.body) is kind
        assert got.unknown_fields == ()
        assert got.envelope == Envelope(
            kind=kind.__name__, id="msg-1", run="run-1", attempt=3, agent="agent-1", sequence=7, sent=1.5
        )

    @each_kind
    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_what_we_send_is_never_refused_for_its_limits(
        self, kind: type[Body], data: st.DataObject
    ) -> None:
        """Texts made from exceptions, file names that are no Unicode, times before 1970, odd steps."""
        sent = data.draw(bodies(kind, wild=True))
        assert type(decode(encode(sent, id="msg-1")).body) is kind

    def test_what_fits_is_not_touched(self) -> None:
        text = "x" * 2000
        assert decode(encode(replies.Failed(code="usage", what=text), id="a")).body.what == text

    def test_what_is_too_long_is_cut_and_says_so(self) -> None:
        got = decode(encode(replies.Failed(code="usage", what="x" * 3000), id="a")).body.what
        assert got == "x" * 1999 + "…"

    def test_texts_inside_lists_and_views_are_cut_too(self) -> None:
        restored = events.CheckpointRestored(
            manifest="m", step=-1, size=-5, seconds=math.nan, damaged=("y" * 5000, "z")
        )
        got = decode(encode(restored, id="a")).body
        assert [len(text) for text in got.damaged] == [2000, 1]
        assert (got.step, got.size, got.seconds) == (0, 0, 0.0)

    def test_bytes_arrive_as_bytes(self) -> None:
        sent = events.OutputSeen(offset=0, data=bytes(range(256)))
        assert decode(encode(sent, id="a")).body == sent

    def test_a_value_of_another_type_is_a_mistake_of_ours_and_raises(self) -> None:
        with pytest.raises(msgspec.ValidationError):
            encode(commands.RenewLease(seconds="soon"), id="a")  # type: ignore[arg-type]  # on purpose


class TestWhatANewerPeerSays:
    def test_unknown_fields_are_passed_over_and_reported(self) -> None:
        got = decode(body(gpu_percent=3, colour="red"))
        assert got.body == events.Heartbeat(phase="training")
        assert got.unknown_fields == ("colour", "gpu_percent")

    def test_their_number_and_length_are_bounded(self) -> None:
        got = decode(body(**{f"{n:04d}" + "x" * 500: n for n in range(500)}))
        assert len(got.unknown_fields) == MOST_UNKNOWN
        assert max(map(len, got.unknown_fields)) <= 100

    def test_an_unknown_kind_is_known_as_unknown(self) -> None:
        got = decode(packed(kind="GpuMelted", body={"a": 1}))
        assert got.body == Unknown()
        assert got.envelope.kind == "GpuMelted"

    def test_unknown_fields_of_the_envelope_do_no_harm(self) -> None:
        assert decode(packed(trace="abc")).body == events.Heartbeat(phase="training")

    def test_another_protocol_version_is_refused_by_number(self) -> None:
        with pytest.raises(Malformed, match=f"protocol version {PROTOCOL + 1} is not {PROTOCOL}"):
            decode(packed(v=PROTOCOL + 1))


def made(kind: str, field: str) -> Body:
    """A message of `kind` with one element in `field`."""
    fields: dict[str, dict[str, Any]] = {
        "Registered": {"protocol": 1, "version": "1"},
        "CheckpointRestored": {"manifest": "m", "step": 1, "size": 1, "seconds": 1.0},
        "SaveAsked": {"cause": "stop", "signal": "TERM", "seconds_after_cause": 0.0},
    }
    return KINDS[kind](**fields[kind], **{field: (1 if field == "pids" else "x",)})


class TestLists:
    """One message must not make as much work as it has room for elements."""

    LIMITS = (
        ("Registered", "capabilities", 200),
        ("CheckpointRestored", "damaged", 20),
        ("SaveAsked", "pids", 1000),
    )

    @pytest.mark.parametrize(("kind", "field", "most"), LIMITS)
    def test_what_we_say_ourselves_is_cut(self, kind: str, field: str, most: int) -> None:
        one = made(kind, field)
        said = msgspec.structs.replace(one, **{field: getattr(one, field) * (most + 5)})
        assert len(getattr(decode(encode(said, id="x")).body, field)) == most

    @pytest.mark.parametrize(("kind", "field", "most"), LIMITS)
    def test_what_others_say_is_refused(self, kind: str, field: str, most: int) -> None:
        good = msgspec.to_builtins(decode(encode(made(kind, field), id="x")).body)
        assert only_malformed(packed(kind=kind, body=good | {field: good[field] * (most + 1)})) is None
        assert only_malformed(packed(kind=kind, body=good)) is not None


class TestMalformed:
    @given(st.binary(max_size=300))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        only_malformed(data)

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_mutated_messages(self, data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from(list(KINDS.values())))
        valid = bytearray(encode(data.draw(bodies(kind)), id="msg-1"))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(valid) - 1))
            valid[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(valid)))
        only_malformed(bytes(valid))
        only_malformed(bytes(valid[:cut]))

    @settings(max_examples=200)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from([*BEAT, "phase", "step"]), inner, max_size=4)
            ),
            max_leaves=8,
        ),
        st.sampled_from([*BEAT, "", "body.phase"]),
    )
    def test_values_of_other_types_anywhere(self, value: Any, where: str) -> None:
        data = body(phase=value) if where == "body.phase" else packed(**{where: value})
        only_malformed(data if where else msgpack.packb(value))

    @pytest.mark.parametrize("depth", [100, 511, 512, 1023, 1024, 100_000, MAX_MESSAGE - 1])
    @pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"], ids=["lists", "maps"])
    def test_deep_nesting(self, opening: bytes, depth: int) -> None:
        assert only_malformed((opening * depth)[: MAX_MESSAGE - 1] + b"\xc0") is None

    @pytest.mark.parametrize("depth", [100, 500, 900])
    def test_deep_nesting_inside_a_field_that_takes_anything(self, depth: int) -> None:
        story = {"at": 0.0, "attempt": 0, "kind": "k", "text": "t", "actor": "a"}
        for inner in (story | {"data": {"deep": "HERE"}}, story | {"text": "HERE"}):
            view = {"run": "r", "name": "n", "project": "p", "state": "s"}
            data = packed(kind="RunChanged", body={"story": inner, "view": view})
            only_malformed(data.replace(b"\xa4HERE", b"\x91" * depth + b"\xc0"))

    @pytest.mark.parametrize(
        "first", [0xDB, 0xC6, 0xDD, 0xDF, 0xC9], ids=["str", "bin", "list", "map", "ext"]
    )
    def test_huge_claimed_lengths_take_no_memory(self, first: int) -> None:
        for count in (2**32 - 1, 2**31, MAX_MESSAGE):
            claim = bytes([first]) + struct.pack(">I", count)
            assert only_malformed(claim) is None

    @pytest.mark.parametrize("claim", [MAX_MESSAGE - 1, 50_000])
    def test_nested_claims_take_little_memory(self, claim: int) -> None:
        """Each level claims as much as just passes: 512 times 8 MB, if that was set aside."""
        nested = (b"\xdd" + struct.pack(">I", claim)) * 512
        tracemalloc.start()
        try:
            assert only_malformed(nested.ljust(MAX_MESSAGE, b"\xc0")) is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 300 << 20

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xc1",
            b"\xc0",
            b"\x90",
            packed() + b"\x00",
            packed()[:-1],
            b"\x00" * (MAX_MESSAGE + 1),
            packed(body=None),
            packed(body=[]),
            packed(kind=None),
            packed(id=None),
            packed(id=5),
            packed(v="1"),
            packed(attempt=-1),
            packed(attempt=100_000),
            packed(sequence=-1),
            packed(sequence=True),
            packed(id="x" * 201),
            packed(sent=math.nan),
            packed(sent=-1.0),
            body(phase=5),
            body(phase="x" * 201),
            body(step=-1),
            body(step=1.5),
            body(step="7"),
            body(at_risk_seconds=-0.5),
            body(at_risk_seconds=math.nan),
            body(at_risk_seconds=math.inf),
            body(disk_free=2**63),
            body(phase=msgpack.ExtType(5, b"x")),
            body(phase=msgpack.Timestamp(5)),
            packed(kind="AttemptEnded", body={"reason": "bored"}),
            packed(kind="AttemptEnded", body={"reason": "lost", "detail": "x" * 2001}),
            packed(kind="RenewLease", body={"seconds": -1}),
            packed(kind="SubmitRun", body={"spec": 5}),
        ],
    )
    def test_what_breaks_a_rule(self, data: bytes) -> None:
        assert only_malformed(data) is None

    def test_text_that_is_not_unicode(self) -> None:
        assert only_malformed(body(phase="OOPS").replace(b"OOPS", b"O\xffPS")) is None

    def test_keys_that_are_no_text(self) -> None:
        for key in (b"\x01", b"\xc0", b"\xc4\x01a", b"\x90", b"\xcb" + b"\0" * 8):
            data = body(KEYS=1).replace(b"\xa4KEYS", key)
            assert only_malformed(data) is None

    def test_of_a_field_that_comes_twice_one_counts(self) -> None:
        data = body(step=1, stop=2).replace(b"\xa4stop", b"\xa4step")
        got = only_malformed(data)
        assert got is None or got.body.step in (1, 2)

    def test_every_kind_refuses_a_body_without_its_fields(self) -> None:
        for kind in KINDS.values():
            needed = any(field.required for field in msgspec.structs.fields(kind))
            assert (only_malformed(packed(kind=kind.__name__, body={})) is None) == needed


def test_no_kind_is_named_twice() -> None:
    groups = (
        events.EVENTS,
        events.UNNUMBERED,
        commands.COMMANDS,
        requests.REQUESTS,
        replies.REPLIES,
        replies.FEED,
    )
    assert len(KINDS) == sum(map(len, groups))
