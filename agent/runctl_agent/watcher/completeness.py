"""Which checkpoints are complete, and when to look again. Decides; the looking itself is handed in.

A checkpoint is complete when

* nobody has any of its files open for writing (a read lease is granted on each), and
* its format's own sign is there; or, for a format without one and on file systems without leases, nothing
  about it has changed and nobody was seen writing to it for a quiet period, and
* its format finds nothing wrong with it.

Each version is ready once. What changes after that is a new version; what only loses files is being deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from runctl_agent.formats.base import FileStamp, Verdict
from runctl_agent.watcher.lease import Lease

BUSY_FIRST, BUSY_MOST = 0.05, 1.0
"""Seconds after which a file that was open for writing is tried again: the first time, and at most."""

RESTLESS = 2.0
"""Times the quiet period after which it is worth saying that something was never left alone for so long."""

REJECTED_FIRST, REJECTED_MOST = 5.0, 600.0
"""The same for one that is not whole although nobody writes to it: it may take reading all of it again."""


class Seen(msgspec.Struct, frozen=True):
    """One candidate at one look. `signed`: its format has a sign of its own. `known`: this version has been
    taken before."""

    stamps: tuple[FileStamp, ...]
    signed: bool
    known: bool = False


class Look(msgspec.Struct, frozen=True):
    """`ready`: names of those that are complete now. `next_look`: the monotonic time at which one may have
    become so; None when only a change can bring one."""

    ready: list[str]
    next_look: float | None


class _Watch(msgspec.Struct):
    """One candidate in its present version. `since`: from when on it is known to be quiet; None while
    somebody writes to it. `taken`: the files of the version that was ready last. `at`: when this version
    was seen first; `first_at`: the first of all since it was last complete or `settled`, left alone."""

    seen: Seen
    look_at: float
    first_at: float
    at: float
    since: float | None = None
    refusals: int = 0
    rejections: int = 0
    done: bool = False
    settled: bool = False
    taken: frozenset[FileStamp] = frozenset()
    why: str = "new"


class Completeness:
    """The state of all candidates. Times are monotonic seconds."""

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        self._watches: dict[str, _Watch] = {}

    def look(
        self,
        now: float,
        seen: Mapping[str, Seen],
        lease: Callable[[str], Lease],
        check: Callable[[str], Verdict],
        *,
        woken: bool = False,
        writer_gone: bool = False,
    ) -> Look:
        """Decide on everything that was `seen`; whatever is not in it has vanished.

        `lease` and `check` are asked by name, and only when their answer matters. `woken`: something has
        happened, so ask again about what was being written. `writer_gone`: nobody is left who could go on
        writing, so ask about everything and wait for no quiet period.
        """
        self._follow(now, seen)
        ready = []
        for name, watch in self._watches.items():
            due = watch.look_at <= now or writer_gone or (woken and watch.since is None)
            if watch.done or not due:
                continue
            if woken:
                watch.refusals = 0
            if self._may_check(now, watch, lease(name), writer_gone) and self._judge(now, watch, check(name)):
                ready.append(name)
        waiting = [watch.look_at for watch in self._watches.values() if not watch.done]
        return Look(ready, min(waiting, default=None))

    def reopen(self, name: str, at: float) -> None:
        """What was ready was not taken after all: let it be ready again, not before the time `at`.

        Unless it has lost files since, which is why most are not taken.
        """
        watch = self._watches.get(name)
        if watch is not None and watch.done and frozenset(watch.seen.stamps) == watch.taken:
            # It was quiet before, so that no event is asked for, nor does one bring it forward.
            since = at if watch.since is None else watch.since
            self._watches[name] = _Watch(
                watch.seen, look_at=at, first_at=watch.at, at=watch.at, since=since, taken=watch.taken
            )

    def drop(self, name: str) -> None:
        """Judge it afresh at the next look."""
        self._watches.pop(name, None)

    def waiting(self) -> dict[str, str]:
        """By name, why each one that is not done is not ready."""
        return {name: watch.why for name, watch in self._watches.items() if not watch.done}

    def restless(self, name: str) -> str | None:
        """A sentence about what was written to again and again without a quiet period; None of all else."""
        watch = self._watches.get(name)
        lasted = 0.0 if watch is None or watch.settled else watch.at - watch.first_at
        if lasted <= RESTLESS * self._quiet:
            return None
        return f"it was written to for {lasted:.0f} seconds, and never left alone for {self._quiet:g}"

    def _follow(self, now: float, seen: Mapping[str, Seen]) -> None:
        for name in self._watches.keys() - seen.keys():
            del self._watches[name]
        for name, found in seen.items():
            before = self._watches.get(name)
            if before is None or before.seen.stamps != found.stamps:
                self._watches[name] = _new_version(now, found, before)

    def _may_check(self, now: float, watch: _Watch, lease: Lease, writer_gone: bool) -> bool:
        if lease is Lease.BUSY:
            watch.since, watch.why = None, "somebody is writing to it"
            watch.look_at = now + min(BUSY_MOST, BUSY_FIRST * 2.0 ** min(watch.refusals, 20))
            watch.refusals += 1
            return False
        watch.refusals = 0
        if watch.since is None:
            watch.since = now
        watch.settled = now >= watch.since + self._quiet
        signed = watch.seen.signed and lease is Lease.FREE
        if signed or writer_gone or watch.settled:
            return True
        watch.look_at, watch.why = watch.since + self._quiet, "it may still be growing"
        return False

    def _judge(self, now: float, watch: _Watch, verdict: Verdict) -> bool:
        if verdict.complete:
            watch.done, watch.taken, watch.why = True, frozenset(watch.seen.stamps), ""
            return True
        watch.look_at = now + min(REJECTED_MOST, REJECTED_FIRST * 2.0 ** min(watch.rejections, 20))
        watch.rejections += 1
        watch.why = verdict.reason
        return False


def _new_version(now: float, seen: Seen, before: _Watch | None) -> _Watch:
    taken = before.taken if before is not None else frozenset()
    stamps = frozenset(seen.stamps)
    if seen.known or stamps < taken:
        done = stamps if seen.known else taken
        return _Watch(seen, look_at=now, first_at=now, at=now, done=True, taken=done)
    # Whoever has been writing for long is asked about less often, however often the size changes.
    refusals = before.refusals if before is not None else 0
    first_at = now if before is None or before.done or before.settled else before.first_at
    return _Watch(seen, look_at=now, first_at=first_at, at=now, taken=taken, refusals=refusals)
