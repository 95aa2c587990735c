"""Who leads: the one controller that may write. Pure; the store keeps the record, `service/standby.py` looks
at it.

A leadership is a lease with a number, its epoch. Whoever takes over counts the epoch up, and from then on
every transaction of the one before fails: that is the fence, and it needs no clock. The lease only tells
*when* to take over, and it is judged on one clock alone, that of whoever waits: times of two processes are
never compared.
"""

from __future__ import annotations

import msgspec

LOOKS = 5
"""How often, in the time after which its lease has run out, a leader renews it and a standby looks."""


class Leadership(msgspec.Struct, frozen=True, kw_only=True):
    """`epoch` counts leaderships; 0: nobody has led yet. `renewals` goes on counting for as long as the
    leader (process `pid`) is well; if it has stood still for `seconds`, somebody else may lead. `since`: UTC,
    for show."""

    epoch: int = 0
    pid: int = 0
    since: float = 0.0
    seconds: float = 0.0
    renewals: int = 0


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What a standby has seen by its own monotonic clock: `seen` since `still_since`, when it last looked."""

    seen: Leadership
    still_since: float
    looked_at: float


def look(before: Watch | None, seen: Leadership, now: float) -> Watch:
    """What is known after having seen this at `now`. Who has not looked for long (it was stopped itself, with
    all the machine maybe) begins anew: the leader must have had its time while somebody looked."""
    if before is None or before.seen != seen or now - before.looked_at > seen.seconds / 2:
        return Watch(seen=seen, still_since=now, looked_at=now)
    return msgspec.structs.replace(before, looked_at=now)


def has_run_out(watch: Watch | None) -> bool:
    """Whether the leader has stood still for so long that another one may lead. (A version without leases
    wrote no `seconds`: of that one only its death tells.)"""
    if watch is None or watch.seen.seconds <= 0:
        return False
    return watch.looked_at - watch.still_since > watch.seen.seconds
