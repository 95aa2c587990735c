"""What a drill changes in what is wanted of a machine. Pure."""

from __future__ import annotations

from datetime import datetime, timezone

import msgspec

from runctl_controller.providers.local.home import Wanted
from runctl_shared.messages.events import NoticeKind

_EVENT = "instance-event-0000000000000drill"
_LASTS = 3600.0  # seconds that the maintenance of a drill would take


def announced(wanted: Wanted, kind: NoticeKind, now: float, notice: float) -> Wanted:
    """With a notice of `kind`. Said again, it never puts off what was announced before."""
    if kind == "rebalance":
        return msgspec.structs.replace(wanted, rebalance_at=now)
    at = now + max(0.0, notice)
    if kind == "maintenance":
        return msgspec.structs.replace(wanted, maintenance=(_event(at, "active"),))
    before = wanted.interrupt_at
    return msgspec.structs.replace(wanted, interrupt_at=at if before is None else min(at, before))


def withdrawn(wanted: Wanted, kind: NoticeKind) -> Wanted:
    """Without a notice of `kind`; EC2 goes on listing maintenance that is off, and says so."""
    if kind == "rebalance":
        return msgspec.structs.replace(wanted, rebalance_at=None)
    if kind == "maintenance":
        events = tuple({**event, "State": "canceled"} for event in wanted.maintenance)
        return msgspec.structs.replace(wanted, maintenance=events)
    return msgspec.structs.replace(wanted, interrupt_at=None)


def _event(at: float, state: str) -> dict[str, str]:
    return {
        "NotBefore": _written(at),
        "NotAfter": _written(at + _LASTS),
        "Code": "system-reboot",
        "Description": "a drill: nothing will happen",
        "EventId": _EVENT,
        "State": state,
    }


def _written(seconds: float) -> str:
    """As EC2 writes the times of scheduled events, which is not how it writes other times."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%-d %b %Y %H:%M:%S GMT")  # noqa: UP017
