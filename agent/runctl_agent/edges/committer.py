"""Storing what the training saves: in the order in which it was handed over, again until it is stored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from runctl_agent.core import inputs
from runctl_agent.edges.versions import Versions
from runctl_agent.watcher.model import Candidate
from runctl_shared.checkpoints.manifest import Manifest, ManifestDamaged, NameParts
from runctl_shared.checkpoints.objects import AlreadyExists
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.checkpoints.upload import ChangedDuringUpload, Draft, LocalFile, Stopped
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id
from runctl_shared.errors import RunctlError

log = logging.getLogger("runctl.keeper")
FIRST_WAIT, LONGEST_WAIT = 1.0, 20.0
"""Seconds between two tries of a flush, for which a machine waits."""


class Committer:
    """The keeper's, with the same callbacks (see there). `folder`: where the training saves; `over`: set when
    nothing is to be stored any more. `add` and `hurry` are for any thread, the rest for the worker's."""

    def __init__(
        self,
        repository: RunRepository,
        folder: Path,
        attempt: int,
        clock: Clock,
        tell: Callable[[inputs.Input], None],
        committed: Callable[[str], None],
        discarded: Callable[[str, float], None],
        step_before: Callable[[float], int | None],
        trigger: Callable[[float], str],
        over: threading.Event,
    ) -> None:
        self._repository, self._folder, self._attempt, self._clock = repository, folder, attempt, clock
        self._tell, self._committed, self._discarded = tell, committed, discarded
        self._step_before, self._trigger = step_before, trigger
        self._over = over
        self._hurry = threading.Event()
        self._lock = threading.Lock()  # guards the next two; never held while somebody else is asked
        self._waiting: list[Candidate] = []
        self._versions = Versions()
        self._sequence: int | None = None
        self._newest = 0  # the number of the newest version that this process has stored
        self._before: Manifest | None = None  # the newest that an earlier process of the agent has stored
        self._unheard_after: str | None = None  # after which of those they have to be said again

    def add(self, candidate: Candidate) -> None:
        """Let it wait for its turn."""
        with self._lock:
            self._versions.number(candidate.version)
            self._waiting.append(candidate)

    def hurry(self, on: bool) -> None:
        """See Keeper.hurry."""
        (self._hurry.set if on else self._hurry.clear)()

    def commit_next(self) -> None:
        """Store the one whose turn it is, unless the attempt is over."""
        with self._lock:
            candidate = self._turn(self._waiting) if self._waiting else None
        if candidate is not None and not self._over.is_set():
            self._commit(candidate)

    def flush(self, last: Callable[[], list[Candidate]]) -> None:
        """See Keeper.flush."""
        wait = FIRST_WAIT
        failed: list[Candidate] = []
        while not self._over.is_set():
            # First the look, then what waits: what another look has found was added before this one began.
            found = self._look(last)
            with self._lock:
                waiting = {c.version: c for c in (*failed, *self._waiting, *found)}
                self._waiting.clear()
            if not waiting:
                break
            failed = self._commit_all(sorted(waiting.values(), key=lambda c: self._number(c.version)))
            if failed:
                self._over.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)
        self._tell(inputs.Flushed(at=self._now))

    def retell(self, known: str | None) -> None:
        """See Keeper.retell. Raises ObjectStoreError: then it is said when the store can be read again."""
        self._unheard_after = known or ""
        self._look_back()

    def _commit(self, candidate: Candidate) -> bool:
        """Store one checkpoint. False when it should be tried again."""
        version, id = candidate.version, new_id("ck")
        try:
            sequence = self._next_sequence()
            if self._superseded(candidate):
                self._committed(version)
                return True
            draft, written_at = self._draft(candidate, id, sequence)
            files = [LocalFile(f.path, f.size, f.mtime_ns, f.inode) for f in candidate.files]
            self._sequence = sequence
            manifest = self._repository.commit(draft, self._folder, files, self._over.is_set)
        except Stopped:
            log.warning("checkpoint.given_up root=%r: the attempt is over", candidate.root_name)
            return True
        except ChangedDuringUpload:
            # Ordinary: the training rotated or rewrote it. If it is still there, it comes back.
            self._discarded(version, 0.0)
            return True
        except AlreadyExists:
            self._sequence = None
            self._discarded(version, 0.0)
            return False
        except ValueError as error:
            # It can never be stored, whatever is tried: neither the training nor its end must wait for it.
            self._not_stored(candidate, str(error))
            self._committed(version)
            return True
        except Exception as error:
            if not isinstance(error, (RunctlError, OSError)):
                log.exception("keeper.failed")
            self._failed(candidate, str(error).replace(id, "it"))
            return False
        with self._lock:
            self._newest = self._versions.done(version)
        self._committed(version)
        self._tell(self._stored(manifest, written_at))
        return True

    def _draft(self, candidate: Candidate, id: str, sequence: int) -> tuple[Draft, float]:
        """What is to be committed, and when it was written on the monotonic clock."""
        written_at = self._monotonic(candidate.written_at)
        draft = Draft(
            id=id,
            attempt=self._attempt,
            sequence=sequence,
            step=candidate.step if candidate.step is not None else self._step_before(candidate.written_at),
            epoch=candidate.epoch,
            format=candidate.format,
            root=candidate.root_name,
            single_file=candidate.single_file,
            trigger=self._trigger(written_at),
            written_at=candidate.written_at,
        )
        return draft, written_at

    def _superseded(self, candidate: Candidate) -> bool:
        """Whether a newer one is safe already: stored now, this one would count as the newest.

        The order of hand-over says so, never the files' times alone: clocks are set back, and files dated
        ahead. Of what an earlier process has stored that order is unknown; then all signs must agree.
        """
        before, step = self._before, candidate.step
        if self._newest:
            older = self._number(candidate.version) < self._newest
        elif before is None or step is None or before.step is None:
            older = False
        else:
            older = step < before.step and candidate.written_at < before.written_at
        if older:
            log.info("checkpoint.superseded root=%r: a newer one is stored", candidate.root_name)
        return older

    def _stored(self, manifest: Manifest, written_at: float) -> inputs.Stored:
        return inputs.Stored(
            at=self._now,
            manifest=manifest.name,
            step=manifest.step,
            epoch=manifest.epoch,
            size=manifest.size,
            files=len(manifest.files),
            format=manifest.format,
            written_at=written_at,
            wall=manifest.written_at,
            upload_seconds=manifest.upload_seconds,
        )

    def _failed(self, candidate: Candidate, reason: str) -> None:
        """It comes back later, and later each time; what is no news is not told again."""
        with self._lock:
            news, wait = self._versions.failed(candidate.version, reason)
        if news:
            self._not_stored(candidate, reason)
        self._discarded(candidate.version, wait)

    def _not_stored(self, candidate: Candidate, reason: str) -> None:
        log.warning("checkpoint.failed root=%r: %s", candidate.root_name, reason)
        self._tell(inputs.NotStored(at=self._now, root=candidate.root_name, reason=reason))

    def _number(self, version: str) -> int:
        with self._lock:
            return self._versions.number(version)

    def _next_sequence(self) -> int:
        """The number of the next commit."""
        if self._sequence is None:
            self._look_back()
        return (self._sequence or 0) + 1

    def _look_back(self) -> None:
        """What this attempt has committed before, by an agent that died, or without our hearing of it."""
        own = [p for p in self._repository.manifests() if p.attempt == self._attempt]
        if own and not self._newest:
            self._before = self._read(own[-1])
        if self._unheard_after is not None:
            unheard = [self._read(parts) for parts in own if parts.name > self._unheard_after]
            self._unheard_after = None
            for manifest in unheard:
                if manifest is not None:
                    self._tell(self._stored(manifest, self._monotonic(manifest.written_at)))
        self._sequence = max((p.sequence for p in own), default=0)

    def _read(self, parts: NameParts) -> Manifest | None:
        try:
            return self._repository.read_manifest(parts.name)
        except ManifestDamaged as error:
            log.warning("manifest.damaged name=%s: %s", parts.name, error)
            return None

    def _commit_all(self, waiting: list[Candidate]) -> list[Candidate]:
        """Store them all; returns those that are to be tried again."""
        failed = []
        while waiting and not self._over.is_set():
            candidate = self._turn(waiting)
            if not self._commit(candidate):
                failed.append(candidate)
        return failed

    def _turn(self, waiting: list[Candidate]) -> Candidate:
        """The next of `waiting`, which is in the order of coming."""
        return waiting.pop(-1 if self._hurry.is_set() else 0)

    def _look(self, last: Callable[[], list[Candidate]]) -> list[Candidate]:
        try:
            return last()
        except Exception:  # what waits is stored all the same, and whoever waits for Flushed hears it
            log.exception("keeper.look_failed")
            return []

    def _monotonic(self, wall: float) -> float:
        return self._now - max(0.0, self._clock.now() - wall)

    @property
    def _now(self) -> float:
        return self._clock.monotonic()
