"""What a reader of EC2's notices must do in each situation that aws-node-termination-handler's own unit tests
name, one line each: with ours, who shows it, and where ours is meant to differ.

Names are those of its tests (pkg/ec2metadata, pkg/monitor/{spotitn,rebalancerecommendation,scheduledevent,
asglifecycle}, pkg/interruptioneventstore); the tests are our own. Whatever it does to Kubernetes nodes
(taints, cordons, drains) has no counterpart here.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from runctl_agent.notices.imds import ImdsSource
from runctl_agent.notices.imds_client import ImdsClient, ImdsFailed
from runctl_agent.notices.model import Notice
from runctl_agent.notices.read_imds import NOTICE_PATHS, Answer, Unreadable, read
from runctl_controller.providers.local.imds import Metadata, MetadataServer
from runctl_shared.clock import FakeClock
from runctl_shared.errors import UsageError
from runctl_shared.messages.events import NoticeKind
from runctl_testing.imds_server import DATE, SERVED_AT, ImdsServer, maintenance

HERE = Path(__file__)
CLIENT, READING, FAULTS = "test_imds_client.py", "test_imds_reading.py", "../faults/test_notices.py"


class Row(NamedTuple):
    """`named`: their tests. `ours`: what ours does then. `shown`: `file::test` that shows it."""

    named: str
    ours: str
    shown: tuple[str, ...]


TABLE = (
    # -- tokens and requests
    Row(
        "GetV2Token, RequestV2",
        "a token is fetched once and sent with each request",
        (f"{CLIENT}::test_a_token_is_fetched_once_and_kept_on_one_connection", "::test_the_strict_service"),
    ),
    Row(
        "GetV2TokenBadTTLHeader",
        "differs: a lifetime that is no number is taken for the one asked for",
        ("::test_a_lifetime_that_is_no_number",),
    ),
    Row(
        "GetV2TokenBadURL",
        "an address that is none is refused before anything is asked",
        (f"{CLIENT}::test_an_address_that_is_none_is_refused_with_its_mend",),
    ),
    Row(
        "RequestV1",
        "differs: without a token nothing is asked, since that would work only where the older "
        "protocol is open, and hide that the newer one is not",
        ("::test_without_a_token_nothing_is_asked",),
    ),
    Row(
        "Request401",
        "a refused token is replaced at once, and only once",
        (
            f"{CLIENT}::test_a_refused_token_is_replaced_at_once",
            f"{CLIENT}::test_a_service_that_refuses_its_own_token_is_tried_twice_only",
            "::test_the_strict_service_forgets_its_tokens",
        ),
    ),
    Row(
        "Request500",
        "the status is an answer; what it means is the reader's",
        ("::test_a_status_of_its_own_is_an_answer",),
    ),
    Row(
        "RequestFailure, Retry",
        "an unreachable service is a failure, asked again and never given up",
        (
            f"{CLIENT}::test_nobody_listening_is_a_failure",
            f"{CLIENT}::test_an_unreachable_service_is_asked_one_thing_at_a_time",
        ),
    ),
    Row(
        "RequestConstructFail",
        "a path that cannot be asked is a failure, no crash",
        ("::test_a_path_that_cannot_be_asked",),
    ),
    # -- each kind of notice
    Row(
        "GetSpotITNEventSuccess, GetRebalanceRecommendationEventSuccess, "
        "GetScheduledMaintenanceEventsSuccess, Monitor_Success",
        "told once, with kind, action and deadline",
        (
            f"{CLIENT}::test_all_three_kinds_are_told_the_slow_ones_are_asked_for_less",
            "::test_the_strict_service",
        ),
    ),
    Row(
        "GetSpotITNEvent404Success, GetRebalanceRecommendationEvent404Success, Monitor_404Response",
        "no notice; no failure either",
        (f"{READING}::test_not_found_means_none", "::test_a_404_is_no_failure"),
    ),
    Row(
        "GetSpotITNEvent500Failure, GetRebalanceRecommendationEvent500Failure, "
        "GetScheduledMaintenanceEvents500Failure, Monitor_500Response",
        "no notice, a failure, asked again; none that stands is called off",
        ("::test_failures_of_each_kind", f"{CLIENT}::test_failures_do_not_call_a_notice_off"),
    ),
    Row(
        "GetSpotITNEventBadJSON, GetRebalanceRecommendationEventBadJSON, "
        "GetScheduledMaintenanceEventsBadJSON, Monitor_MetadataParseFailure, "
        "Monitor_InstanceActionDecodeFailure",
        "no notice, a failure, asked again",
        ("::test_failures_of_each_kind", f"{READING}::test_whatever_is_not_plainly_a_notice_is_none"),
    ),
    Row(
        "GetSpotITNEventRequestFailure, GetRebalanceRecommendationEventRequestFailure, "
        "GetScheduledMaintenanceEventsRequestFailure",
        "a failure, and the watch goes on",
        ("::test_failures_of_each_kind",),
    ),
    Row(
        "Monitor_TimeParseFailure, Monitor_NoticeTimeParseFailure, Monitor_StartTimeParseFail",
        "a notice without a readable time is none; one beside it is told",
        ("::test_failures_of_each_kind", "::test_one_bad_event_does_not_hide_the_others"),
    ),
    Row(
        "Monitor_EndTimeParseFail",
        "when maintenance ends is not asked",
        ("::test_an_end_that_cannot_be_read",),
    ),
    Row(
        "Monitor_CanceledEvent",
        "cancelled or completed maintenance is none, and ends the notice of it",
        (
            f"{READING}::test_maintenance_that_is_over_is_none",
            f"{CLIENT}::test_a_cancelled_maintenance_is_withdrawn",
            f"{FAULTS}::test_a_hint_alone_saves_and_trains_on",
        ),
    ),
    Row(
        "GetASGTargetLifecycleState*, asglifecycle Monitor_*",
        "differs: not asked, runctl makes no such groups",
        ("::test_groups_are_not_asked_after",),
    ),
    Row(
        "GetMetadataServiceRequest*, GetNodeMetadata",
        "differs: what the machine is, its boot file says",
        ("::test_groups_are_not_asked_after",),
    ),
    # -- de-duplication
    Row(
        "AddDrainEvent",
        "served again, it is the same notice",
        (
            f"{CLIENT}::test_a_notice_is_told_once_however_often_it_is_served",
            f"{READING}::test_a_notice_whose_time_wanders_is_told_once",
        ),
    ),
    Row(
        "CancelInterruptionEvent, ShouldUncordonNode",
        "a withdrawn notice is over, and may come again",
        (
            f"{READING}::test_a_withdrawn_notice_is_told_and_may_come_again",
            f"{FAULTS}::test_a_withdrawn_notice_may_come_again",
        ),
    ),
    Row(
        "ShouldDrainNode",
        "differs: any notice is acted upon when it comes, since to save early costs little",
        (f"{FAULTS}::test_a_hint_alone_saves_and_trains_on",),
    ),
    Row(
        "MarkAllAsProcessed, IgnoreEvent",
        "what an agent that died had told is not told again",
        (f"{READING}::test_what_an_agent_that_died_had_told_and_still_stands_is_not_called_off",),
    ),
)


def test_every_row_is_shown() -> None:
    """A test that was renamed or removed, and a table that goes on naming it."""
    for row in TABLE:
        assert row.shown, row.named
        for place in row.shown:
            file, test = place.split("::")
            assert test in _functions(HERE.parent / file if file else HERE), f"{place} ({row.named})"


@functools.cache
def _functions(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in tree if isinstance(node, ast.FunctionDef)}


# -- what no other file shows --------------------------------------------------------------------

TERMINATE = b'{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
KINDS = list(NOTICE_PATHS)
GOOD: dict[NoticeKind, bytes] = {
    "interruption": TERMINATE,
    "rebalance": b'{"noticeTime": "2017-09-18T08:19:00Z"}',
    "maintenance": maintenance(),
}
_ACTIVE = b'"Code": "system-reboot", "State": "active", "EventId": "e"'
BAD_JSON: dict[NoticeKind, bytes] = {
    "interruption": b'{"action": false}',
    "rebalance": b'{"noticeTime": false}',
    "maintenance": b'{"NotBefore": false}',
}
BAD_TIME: dict[NoticeKind, bytes] = {
    "interruption": b'{"action": "terminate", "time": "2017-09-18 soon"}',
    "rebalance": b'{"noticeTime": ""}',
    "maintenance": b'[{"NotBefore": "", ' + _ACTIVE + b"}]",
}


@pytest.fixture
def server() -> Iterator[ImdsServer]:
    with closing(ImdsServer()) as made:
        yield made


class Watch:
    """The agent's source at any service, polled by hand. Everything that it told is in `told`."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        self.told: list[Notice] = []
        self.clock = clock
        self.source = ImdsSource(clock, self.told.append, endpoint=url)

    def poll(self, times: int = 8) -> list[tuple[NoticeKind, str]]:
        for _ in range(times):
            self.clock.advance(self.source.poll())
        return [(notice.kind, notice.change) for notice in self.told]

    def close(self) -> None:
        self.source.stop()


@pytest.fixture
def watch(server: ImdsServer) -> Iterator[Watch]:
    with closing(Watch(server.url, FakeClock(SERVED_AT))) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["500", "503", "bad JSON", "bad time", "hung up"])
def test_failures_of_each_kind(server: ImdsServer, watch: Watch, kind: NoticeKind, how: str) -> None:
    """A failure of one kind that is taken for a notice, ends the watch, or hides the notice that follows."""
    path = NOTICE_PATHS[kind]
    if how == "hung up":
        server.hang_up = 1  # the connection was kept: so the first one is no failure
        watch.poll(1)
        server.hang_up = 6
    else:
        bad = {"bad JSON": BAD_JSON, "bad time": BAD_TIME}.get(how)
        server.answers[path] = (200, bad[kind]) if bad else (int(how), b"")
    assert watch.poll() == []
    assert watch.source.failures > 0
    server.hang_up = 0
    server.answers[path] = (200, GOOD[kind])
    assert watch.poll() == [(kind, "given")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_404_is_no_failure(server: ImdsServer, watch: Watch, kind: NoticeKind) -> None:
    """A machine without a notice that is asked ever more seldom, as if its service were ill."""
    assert watch.poll() == []
    assert watch.source.failures == 0
    assert server.asked("GET", NOTICE_PATHS[kind]) > 1


def test_one_bad_event_does_not_hide_the_others() -> None:
    """Several events may be listed: one of a form that is not known yet must not silence the rest."""
    good = msgspec.json.decode(maintenance())[0]
    for bad in (
        {**good, "NotBefore": "", "EventId": "other"},
        {**good, "Code": "<b>", "EventId": "other"},
        {"State": "active"},
        "what?",
        {**good, "State": "canceled", "NotBefore": "", "EventId": "other"},
    ):
        body = msgspec.json.encode([bad, good])
        [notice] = read("maintenance", Answer(200, body, DATE), now=0.0)
        assert (notice.action, notice.deadline_in) == ("system-reboot", 7199.0)
    with pytest.raises(Unreadable):
        read("maintenance", Answer(200, msgspec.json.encode([{**good, "NotBefore": ""}]), DATE), now=0.0)


@pytest.mark.parametrize("end", ["", "never", None])
def test_an_end_that_cannot_be_read(end: str | None) -> None:
    """A notice that is dropped for the sake of a time that nobody needs."""
    event = {**msgspec.json.decode(maintenance())[0], "NotAfter": end}
    [notice] = read("maintenance", Answer(200, msgspec.json.encode([event]), DATE), now=0.0)
    assert notice.deadline_in == 7199.0


def test_a_lifetime_that_is_no_number(server: ImdsServer) -> None:
    """A token that is thrown away, or kept for ever, because its lifetime cannot be read."""
    server.lifetime = "badttl"
    clock = FakeClock(SERVED_AT)
    with closing(ImdsClient(server.url, clock)) as client:
        for _ in range(3):
            assert client.get(NOTICE_PATHS["rebalance"]).status == 404
        assert len(server.tokens) == 1
        clock.advance(3400.0)
        client.get(NOTICE_PATHS["rebalance"])
        assert len(server.tokens) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_without_a_token_nothing_is_asked(server: ImdsServer, status: int) -> None:
    """A fall-back to the protocol without tokens, which works where it should not."""
    server.token_status = status
    with closing(ImdsClient(server.url, FakeClock(SERVED_AT))) as client, pytest.raises(ImdsFailed):
        client.get(NOTICE_PATHS["interruption"])
    assert {method for method, _ in server.seen} == {"PUT"}


@pytest.mark.parametrize("status", [200, 400, 404, 429, 500, 503])
def test_a_status_of_its_own_is_an_answer(server: ImdsServer, status: int) -> None:
    """A client that judges, and so hides from the reader which failure it was."""
    server.answers[NOTICE_PATHS["interruption"]] = (status, b"said")
    with closing(ImdsClient(server.url, FakeClock(SERVED_AT))) as client:
        answer = client.get(NOTICE_PATHS["interruption"])
    assert (answer.status, answer.body) == (status, b"said")


@pytest.mark.parametrize("path", ["/\x7f", "/a b", "/a\r\nX: y", "/\u0130"])
def test_a_path_that_cannot_be_asked(server: ImdsServer, path: str) -> None:
    """An exception of another kind, which would end the thread that watches."""
    with closing(ImdsClient(server.url, FakeClock(SERVED_AT))) as client:
        with pytest.raises(ImdsFailed):
            client.get(path)
        assert client.get(NOTICE_PATHS["rebalance"]).status == 404
    with pytest.raises(UsageError):
        ImdsClient("http://\x7f", FakeClock(SERVED_AT))


def test_groups_are_not_asked_after(server: ImdsServer, watch: Watch) -> None:
    """Questions that nobody needs an answer to: the service is throttled for each machine."""
    watch.poll(20)
    assert {path for method, path in server.seen if method == "GET"} == set(NOTICE_PATHS.values())


@pytest.fixture
def strict() -> Iterator[MetadataServer]:
    """The service of local machines, whose time is the machine's own."""
    made = MetadataServer(Metadata(instance_id="agent-x-1"), FakeClock(SERVED_AT))
    made.start()
    yield made
    made.stop()


def test_the_strict_service(strict: MetadataServer) -> None:
    """Two of our own parts that agree with each other and not with EC2 are seen by the files beside this one;
    this sees two that do not even agree with each other."""
    clock = FakeClock(SERVED_AT)
    with closing(Watch(strict.endpoint, clock)) as watch:
        assert watch.poll() == []
        event = msgspec.json.decode(maintenance(start="1 Jan 2035 09:00:00 GMT"))[0]
        strict.metadata = msgspec.structs.replace(
            strict.metadata, taken_at=4e9, rebalance_at=SERVED_AT, maintenance=(event,)
        )
        assert sorted(watch.poll()) == sorted((kind, "given") for kind in KINDS)
        strict.metadata = Metadata(instance_id="agent-x-1")
        assert sorted(watch.poll(40)[3:]) == sorted((kind, "withdrawn") for kind in KINDS)
        assert watch.source.failures == 0


def test_the_strict_service_forgets_its_tokens(strict: MetadataServer) -> None:
    """A service that was restarted, and an agent that is deaf from then on."""
    with closing(Watch(strict.endpoint, FakeClock(SERVED_AT))) as watch:
        watch.poll()
        strict.expire_tokens()
        strict.metadata = msgspec.structs.replace(strict.metadata, taken_at=4e9)
        assert watch.poll(1) == [("interruption", "given")]
        strict.fail(failures=4, status=500)
        watch.poll()
        strict.fail()
        assert watch.poll() == [("interruption", "given")]
        assert watch.source.failures >= 2
