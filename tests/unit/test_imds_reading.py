"""What the answers of the metadata service mean, and what of it is news."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_agent.notices.model import Notice
from runctl_agent.notices.read_imds import NOTICE_PATHS, Answer, Unreadable, read
from runctl_agent.notices.standing import NEARER, POLLS_WITHOUT, Standing
from runctl_shared.messages.events import NoticeKind
from runctl_testing.imds_server import DATE, SERVED_AT, maintenance

TERMINATE = b'{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
REBALANCE = b'{"noticeTime": "2017-09-18T08:19:00Z"}'


# -- what an answer means


def test_an_interruption_names_its_action_and_deadline() -> None:
    [notice] = read("interruption", Answer(200, TERMINATE, DATE), now=0.0)
    assert (notice.kind, notice.action, notice.deadline_in) == ("interruption", "terminate", 119.0)


@pytest.mark.parametrize("skew", [-86400.0, -30.0, 0.0, 30.0, 86400.0])
def test_the_machines_own_clock_does_not_matter(skew: float) -> None:
    [notice] = read("interruption", Answer(200, TERMINATE, DATE), now=SERVED_AT + skew)
    assert notice.deadline_in == 119.0


@pytest.mark.parametrize(("skew", "left"), [(0.0, 120.0), (-86400.0, 120.0), (20.0, 100.0), (86400.0, 0.0)])
def test_without_a_date_the_machines_clock_is_believed_within_bounds(skew: float, left: float) -> None:
    for date in (None, "yesterday"):
        [notice] = read("interruption", Answer(200, TERMINATE, date), now=SERVED_AT + skew)
        assert notice.deadline_in == left


def test_a_deadline_is_never_absurd() -> None:
    far = b'{"action": "terminate", "time": "2099-01-01T00:00:00Z"}'
    past = b'{"action": "terminate", "time": "2001-01-01T00:00:00Z"}'
    assert read("interruption", Answer(200, far, DATE), 0.0)[0].deadline_in == 900.0
    assert read("interruption", Answer(200, past, DATE), 0.0)[0].deadline_in == 0.0


def test_a_rebalance_names_no_deadline() -> None:
    [notice] = read("rebalance", Answer(200, REBALANCE, DATE), now=0.0)
    assert (notice.kind, notice.id, notice.deadline_in) == ("rebalance", "rebalance", None)


def test_maintenance_has_a_time_of_another_form() -> None:
    [notice] = read("maintenance", Answer(200, maintenance(), DATE), now=0.0)
    assert (notice.action, notice.deadline_in) == ("system-reboot", 7199.0)
    assert notice.id == "maintenance-system-reboot-instance-event-0d59937288b749b32"


@pytest.mark.parametrize("state", ["completed", "canceled"])
def test_maintenance_that_is_over_is_none(state: str) -> None:
    assert read("maintenance", Answer(200, maintenance(state), DATE), now=0.0) == []


@pytest.mark.parametrize("kind", list(NOTICE_PATHS))
def test_not_found_means_none(kind: NoticeKind) -> None:
    assert read(kind, Answer(404, TERMINATE, DATE), now=0.0) == []


@pytest.mark.parametrize("kind", list(NOTICE_PATHS))
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, TERMINATE),
        (302, TERMINATE),
        (200, b""),
        (200, b"{"),
        (200, b"null"),
        (200, b"\xff\xfe"),
        (200, b"[" * 100_000),
        (200, b"<html>sign in to the hotel's network</html>"),
        (200, b'{"action": "terminate"}'),
        (200, b'{"action": "terminate", "time": "2017-09-18 soon"}'),
        (200, b'{"action": "terminate", "time": "2017-09-18T08:22:00"}'),
        (200, b'{"action": "rm -rf /\\n", "time": "2017-09-18T08:22:00Z"}'),
        (200, b'{"noticeTime": "later"}'),
        (200, b'[{"Code": "system-reboot", "NotBefore": "later", "State": "active"}]'),
        (200, b'[{"Code": "<b>", "NotBefore": "18 Sep 2017 10:20:00 GMT", "State": "active"}]'),
    ],
)
def test_whatever_is_not_plainly_a_notice_is_none(kind: NoticeKind, status: int, body: bytes) -> None:
    with pytest.raises(Unreadable):
        read(kind, Answer(status, body, DATE), now=0.0)


# -- what is news


def interruption(deadline_in: float | None, action: str = "terminate") -> Notice:
    return Notice(kind="interruption", action=action, id=f"interruption-{action}", deadline_in=deadline_in)


def test_a_notice_whose_time_wanders_is_told_once() -> None:
    standing = Standing()
    assert standing.observe("interruption", [interruption(120.0)], 0.0) == [interruption(120.0)]
    for second in range(1, 100):
        wandering = 120.0 - second + (second % 5) * 3 - 1
        assert standing.observe("interruption", [interruption(wandering)], float(second)) == []


def test_a_nearer_deadline_is_told_again() -> None:
    standing = Standing()
    standing.observe("interruption", [interruption(120.0)], 0.0)
    [moved] = standing.observe("interruption", [interruption(90.0)], 10.0)
    assert (moved.change, moved.deadline_in) == ("moved", 90.0)
    assert standing.observe("interruption", [interruption(110.0)], 10.0) == []


def test_one_odd_answer_does_not_call_a_notice_off() -> None:
    standing = Standing()
    standing.observe("interruption", [interruption(120.0)], 0.0)
    for _ in range(5):
        for _ in range(POLLS_WITHOUT - 1):
            assert standing.observe("interruption", [], 1.0) == []
        assert standing.observe("interruption", [interruption(119.0)], 1.0) == []


def test_a_withdrawn_notice_is_told_and_may_come_again() -> None:
    standing = Standing()
    standing.observe("interruption", [interruption(120.0)], 0.0)
    told = [standing.observe("interruption", [], 1.0) for _ in range(POLLS_WITHOUT + 2)]
    assert [[n.change for n in news] for news in told] == [[], [], ["withdrawn"], [], []]
    assert standing.observe("interruption", [interruption(60.0)], 9.0)[0].change == "given"


def test_what_an_agent_that_died_had_told_is_withdrawn_as_well() -> None:
    standing = Standing(["interruption-terminate", "maintenance-reboot-7", "of another age"])
    told = [standing.observe("interruption", [], 1.0) for _ in range(POLLS_WITHOUT + 1)]
    assert [[(n.id, n.change) for n in news] for news in told] == [
        [],
        [],
        [("interruption-terminate", "withdrawn")],
        [],
    ]
    news = [standing.observe("maintenance", [], 1.0) for _ in range(POLLS_WITHOUT)]
    assert [n.id for n in news[-1]] == ["maintenance-reboot-7"]


def test_what_an_agent_that_died_had_told_and_still_stands_is_not_called_off() -> None:
    standing = Standing(["interruption-terminate"])
    for _ in range(3 * POLLS_WITHOUT):
        news = standing.observe("interruption", [interruption(60.0)], 1.0)
        assert "withdrawn" not in [n.change for n in news]


def test_another_action_takes_the_place_of_the_first() -> None:
    standing = Standing()
    standing.observe("interruption", [interruption(120.0, "stop")], 0.0)
    news = standing.observe("interruption", [interruption(100.0)], 1.0)
    assert [(n.action, n.change) for n in news] == [("stop", "withdrawn"), ("terminate", "given")]


def test_the_kinds_do_not_call_each_other_off() -> None:
    standing = Standing()
    standing.observe("interruption", [interruption(120.0)], 0.0)
    for _ in range(10):
        assert standing.observe("maintenance", [], 1.0) == []


@given(st.lists(st.one_of(st.none(), st.floats(0, 900)), max_size=60))
def test_told_deadlines_only_come_nearer_and_changes_alternate(polls: list[float | None]) -> None:
    standing, told = Standing(), list[tuple[float, Notice]]()
    for second, left in enumerate(polls):
        served = [] if left is None else [interruption(left)]
        told += [(float(second), n) for n in standing.observe("interruption", served, float(second))]
    deadline: float | None = None
    for at, notice in told:
        if notice.change == "given":
            assert deadline is None
        else:
            assert deadline is not None
        if notice.change == "moved":
            assert deadline is not None
            assert notice.deadline_in is not None
            assert at + notice.deadline_in < deadline - NEARER
        deadline = None if notice.deadline_in is None else at + notice.deadline_in
