"""What an answer of the EC2 metadata service means. Pure: no sockets, no clock of its own.

A deadline is told as a duration. It is measured from the moment that the service's own `Date` header names,
so that a machine whose clock is wrong still gets it right; only without that header the machine's clock is
believed, and then never to be further away than what EC2 gives at all.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Annotated

import msgspec

from runctl_agent.notices.model import Notice
from runctl_shared.messages.events import NoticeKind

NOTICE_PATHS: dict[NoticeKind, str] = {
    "interruption": "/latest/meta-data/spot/instance-action",
    "rebalance": "/latest/meta-data/events/recommendations/rebalance",
    "maintenance": "/latest/meta-data/events/maintenance/scheduled",
}

MOST: dict[NoticeKind, float] = {"interruption": 900.0, "rebalance": 0.0, "maintenance": 90 * 86400.0}
"""No deadline is further away than this (seconds)."""

MOST_UNSURE = 120.0
"""The same for an interruption whose distance only the machine's own clock tells: EC2 gives two minutes."""

_ACTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_EVENT_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")

Utc = Annotated[datetime, msgspec.Meta(tz=True)]


class Unreadable(Exception):
    """The answer is neither a notice nor the absence of one."""


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer. `date`: its Date header, if it had one."""

    status: int
    body: bytes
    date: str | None = None


class _InstanceAction(msgspec.Struct):
    action: str
    time: Utc


class _Rebalance(msgspec.Struct):
    notice_time: Utc = msgspec.field(name="noticeTime")


class _Maintenance(msgspec.Struct, rename="pascal"):
    code: str
    not_before: str
    event_id: str = "unnamed"
    state: str = "active"


def read(kind: NoticeKind, answer: Answer, now: float) -> list[Notice]:
    """The notices of `kind` that `answer` serves; an empty list when it says that there is none.

    `now` is the machine's own UTC, used only when the answer carries no date. Raises Unreadable.
    """
    if answer.status == 404:
        return []
    if answer.status != 200:
        raise Unreadable(f"HTTP status {answer.status}")
    try:
        if kind == "interruption":
            return [_interruption(answer, now)]
        if kind == "rebalance":
            msgspec.json.decode(answer.body, type=_Rebalance)
            return [Notice(kind=kind, action="rebalance", id="rebalance")]
        return _scheduled(answer, now)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)[:200]) from error


def _interruption(answer: Answer, now: float) -> Notice:
    told = msgspec.json.decode(answer.body, type=_InstanceAction)
    if not _ACTION.fullmatch(told.action):
        raise Unreadable("its action is not a word")
    deadline = _seconds_until(told.time, "interruption", answer, now)
    return Notice(
        kind="interruption", action=told.action, id=f"interruption-{told.action}", deadline_in=deadline
    )


def _scheduled(answer: Answer, now: float) -> list[Notice]:
    """Completed and cancelled events stay listed for a while. One that cannot be read hides no other."""
    found, bad = [], None
    for raw in msgspec.json.decode(answer.body, type=list[msgspec.Raw]):
        try:
            event = msgspec.json.decode(raw, type=_Maintenance)
            if event.state == "active":
                found.append(_maintenance(event, answer, now))
        except (msgspec.MsgspecError, Unreadable) as error:
            bad = error
    if bad is not None and not found:
        raise Unreadable(str(bad)[:200])
    return found


def _maintenance(event: _Maintenance, answer: Answer, now: float) -> Notice:
    if not _ACTION.fullmatch(event.code) or not _EVENT_ID.fullmatch(event.event_id):
        raise Unreadable("its code or its event id is not a word")
    start = _http_date(event.not_before)
    if start is None:
        raise Unreadable("its NotBefore is not a time")
    return Notice(
        kind="maintenance",
        action=event.code,
        id=f"maintenance-{event.code}-{event.event_id}",
        deadline_in=_seconds_until(start, "maintenance", answer, now),
    )


def _seconds_until(moment: datetime, kind: NoticeKind, answer: Answer, now: float) -> float:
    served = _http_date(answer.date)
    if served is not None:
        # The header is cut to whole seconds: take the end of that second, to err on the early side.
        left, most = moment.timestamp() - (served.timestamp() + 1.0), MOST[kind]
    else:
        left = moment.timestamp() - now
        most = MOST_UNSURE if kind == "interruption" else MOST[kind]
    return min(max(left, 0.0), most)


def _http_date(text: str | None) -> datetime | None:
    """`Mon, 21 Jan 2019 09:00:43 GMT`, with or without the weekday; None for anything else."""
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
