"""Goes through one scan of the checkpoint directory: asks for leases, checks, and says what is complete."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from runctl_agent.formats import choose
from runctl_agent.formats.base import Entry, Format, Verdict, incomplete
from runctl_agent.watcher import lease
from runctl_agent.watcher.completeness import Completeness, Seen
from runctl_agent.watcher.lease import Lease
from runctl_agent.watcher.model import Busy, Candidate, Unfinished, version_of
from runctl_agent.watcher.scan import Scan, look_at
from runctl_agent.watcher.taken import Taken

log = logging.getLogger("runctl.watcher")


class _Found(msgspec.Struct, frozen=True):
    entry: Entry
    format: Format
    version: str
    seen: Seen


class Inspector:
    """Everything that is known about the candidates of one directory. For one thread at a time."""

    def __init__(self, root: Path, quiet: float, taken: Taken) -> None:
        self._root = root
        self._taken = taken
        self._completeness = Completeness(quiet)
        self._found: dict[str, _Found] = {}
        self._complete: dict[str, Candidate] = {}
        self._errors: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self.busy: list[Busy] = []
        """What somebody was writing to at the last look."""
        self.torn = False
        """Whether anything was ever found not to be whole although nobody was writing to it."""
        self.leases = True
        """Whether leases mean anything where the directory lies."""
        self.next_look: float | None = None
        """The monotonic time at which something may have become complete without an event."""

    def inspect(self, now: float, scanned: Scan, *, woken: bool, writer_gone: bool) -> list[Candidate]:
        """What is complete and was not handed over before, oldest first; from now on it has been."""
        self._unreadable = dict(scanned.unreadable)
        self._errors = {}
        self._complete = {}
        self.busy = []
        found = (self._find(entry) for entry in scanned.entries.values())
        self._found = {each.entry.name: each for each in found if each is not None}
        seen = {name: each.seen for name, each in self._found.items()}
        look = self._completeness.look(
            now, seen, self._lease, self._check, woken=woken, writer_gone=writer_gone
        )
        self.next_look = look.next_look
        ready = [self._complete[name] for name in look.ready]
        for candidate in ready:
            self._taken.hand_over(candidate.version, self._found[candidate.root_name].entry)
        return sorted(ready, key=lambda candidate: candidate.written_at)

    def commit(self, version: str) -> None:
        """Never hand `version` over (again). Raises OSError when it cannot be written down."""
        for name in self._named(version):
            del self._found[name]
            self._completeness.drop(name)
        self._taken.commit(version)

    def forget(self, version: str, at: float) -> None:
        """Hand `version` over again if it is still there, not before the time `at`. Raises OSError."""
        for name in self._named(version):
            self._completeness.reopen(name, at)
        self._taken.forget(version)

    def ignore(self, name: str) -> None:
        """Take what lies under `name` now for committed. Raises OSError."""
        entry = look_at(self._root, name)
        if entry is not None:
            self.commit(version_of(name, entry.files))

    def waiting(self) -> dict[str, str]:
        """By name, why each candidate that was not handed over is not complete (yet)."""
        return self._completeness.waiting() | self._unreadable

    @property
    def suspicious(self) -> bool:
        """Whether anything was ever torn, or is being written to that is never left alone."""
        return self.torn or any(self.restless(each.root_name) for each in self.busy)

    def restless(self, name: str) -> str | None:
        """See Completeness."""
        return self._completeness.restless(name)

    def unfinished(self) -> list[Unfinished]:
        """Of those that wait, the ones that hold anything."""
        found = []
        for name, why in self._completeness.waiting().items():
            files = self._found[name].entry.files if name in self._found else ()
            size = sum(file.size for file in files)
            if size:
                found.append(Unfinished(name, why, size, max(file.mtime_ns for file in files) / 1e9))
        return found

    def _find(self, entry: Entry) -> _Found | None:
        before = self._found.get(entry.name)
        if before is not None and before.entry == entry:
            return before
        try:
            kind = choose(entry)
        except OSError as error:
            self._unreadable[entry.name] = error.strerror or str(error)
            return None
        version = version_of(entry.name, entry.files)
        seen = Seen(entry.files, kind.signed, self._taken.knows(version, entry))
        return _Found(entry, kind, version, seen)

    def _named(self, version: str) -> list[str]:
        return [name for name, each in self._found.items() if each.version == version]

    def _lease(self, name: str) -> Lease:
        if not self.leases:
            return Lease.UNKNOWN
        entry = self._found[name].entry
        try:
            answer = lease.ask(entry.path_of(file) for file in entry.files)
        except OSError as error:
            self._errors[name] = error.strerror or str(error)
            return Lease.UNKNOWN
        if answer is Lease.BUSY:
            self.busy.append(Busy(name, tuple(file.path for file in entry.files)))
        return answer

    def _check(self, name: str) -> Verdict:
        found = self._found[name]
        try:
            if name in self._errors:
                return incomplete(self._errors[name])
            verdict = found.format.check(found.entry)
            self.torn = self.torn or not verdict.complete
            if verdict.complete:
                self._complete[name] = _candidate(found)
                if look_at(self._root, name) != found.entry:
                    verdict = incomplete("it changed while it was being checked")
        except OSError as error:
            verdict = incomplete(error.strerror or str(error))
        if not verdict.complete:
            log.info("watcher.incomplete name=%r why=%s", name, verdict.reason)
        return verdict


def _candidate(found: _Found) -> Candidate:
    entry, kind = found.entry, found.format
    return Candidate(
        version=found.version,
        root_name=entry.name,
        single_file=entry.single_file,
        files=entry.files,
        format=kind.name,
        signed=kind.signed,
        step=kind.step(entry),
        epoch=kind.epoch(entry),
        written_at=max(file.mtime_ns for file in entry.files) / 1e9,
    )
