"""Everything that touches the checkpoint store, in one worker thread, so that the loop never waits for it."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from runctl_agent.core import inputs
from runctl_agent.edges.logship import StoredOutput
from runctl_agent.edges.place import Place
from runctl_agent.watcher.model import Candidate
from runctl_shared.checkpoints.manifest import Manifest, ManifestDamaged
from runctl_shared.checkpoints.objects import AlreadyExists, ObjectStoreError
from runctl_shared.checkpoints.repository import ClaimRefused, RunRepository
from runctl_shared.checkpoints.upload import ChangedDuringUpload, Draft, LocalFile
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id
from runctl_shared.errors import RunctlError
from runctl_shared.messages.events import AttemptEnded
from runctl_shared.messages.fitting import fit
from runctl_shared.spec import Boot

log = logging.getLogger("runctl.keeper")
FIRST_WAIT, LONGEST_WAIT = 1.0, 20.0
TRIES = 5
"""How often a claim, a restore or the last word is tried before giving up: a passing outage is ordinary."""
MOST_DAMAGED = 50
"""Damaged checkpoints that are reported one by one: all must fit into one message."""


class Keeper:
    """`tell` puts an input into the loop's inbox. `committed` and `discarded` tell the watcher of a version's
    fate; `step_before(wall)` is the last step that the training had reported by then;
    `trigger(written_at)` why a checkpoint of that monotonic time was taken."""

    def __init__(
        self,
        repository: RunRepository,
        place: Place,
        boot: Boot,
        clock: Clock,
        tell: Callable[[inputs.Input], None],
        committed: Callable[[str], None],
        discarded: Callable[[str, float], None],
        step_before: Callable[[float], int | None],
        trigger: Callable[[float], str],
    ) -> None:
        self._repository, self._place, self._boot, self._clock = repository, place, boot, clock
        self._tell, self._committed, self._discarded = tell, committed, discarded
        self._step_before, self._trigger = step_before, trigger
        self._lock = threading.Lock()
        self._waiting: list[Candidate] = []
        self._sequence: int | None = None
        self._newest = float("-inf")
        self._output = StoredOutput(repository.logs, boot.attempt, place.output)
        self._output_size = 0
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    # -- from any thread ----------------------------------------------------------------------

    def claim(self) -> None:
        self._jobs.put(self._claim)

    def restore(self, ignore: Callable[[str], None]) -> None:
        """`ignore(root)` keeps the watcher from taking what came out of the store."""
        self._jobs.put(lambda: self._restore(ignore))

    def retell(self, saved_at: float | None) -> None:
        """After a restart: say Stored of what was stored last, unless the core knows of it. `saved_at`: when
        the newest that it knows of was written (monotonic)."""
        self._jobs.put(lambda: self._retell(saved_at))

    def add(self, candidate: Candidate) -> None:
        """A complete checkpoint: stored in the order of coming."""
        with self._lock:
            self._waiting.append(candidate)
        self._jobs.put(self._commit_next)

    def flush(self, last: Callable[[], list[Candidate]], hurry: bool) -> None:
        """Store what waits and what `last()` finds, then say Flushed. In a hurry, the newest alone counts."""
        self._jobs.put(lambda: self._flush(last, hurry))

    def write_end(self, record: AttemptEnded) -> None:
        self._jobs.put(lambda: self._write_end(record))

    def write_log(self, size: int) -> None:
        """Have the first `size` bytes of the output stored."""
        self._output_size = size
        self._jobs.put(self._write_log)

    def close(self, timeout: float) -> None:
        self._closing.set()
        self._jobs.put(None)
        self._thread.join(timeout)

    # -- the worker ---------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # one failed job must not end the keeping of all the others
                log.exception("keeper.failed")

    def _patiently(self, act: Callable[[], None], gave_up: Callable[[str], None]) -> None:
        """Do it, again after failures of the store; in the end say why not. Somebody waits for one of the
        two: so also after a mistake of ours."""
        wait = FIRST_WAIT
        for attempt in range(1, TRIES + 1):
            try:
                act()
            except ObjectStoreError as error:
                log.warning("store.failed try=%d: %s", attempt, error)
                if attempt == TRIES or self._closing.wait(wait):
                    gave_up(str(error))
                    return
                wait = min(LONGEST_WAIT, wait * 2)
            except (RunctlError, OSError) as error:
                gave_up(str(error))
                return
            except Exception as error:
                log.exception("keeper.failed")
                gave_up(f"the agent failed: {type(error).__name__}")
                return
            else:
                return

    def _claim(self) -> None:
        def act() -> None:
            # What a newer attempt has committed is no parent of ours: then the claim is refused.
            older = (p.name for p in self._repository.eligible() if p.attempt < self._boot.attempt)
            parent = next(older, None)
            try:
                claim = self._repository.claim(
                    self._boot.attempt, self._boot.agent, parent, self._clock.now()
                )
            except ClaimRefused as error:
                self._tell(inputs.ClaimFailed(at=self._now, superseded=True, detail=str(error)))
            else:
                self._tell(inputs.Claimed(at=self._now, parent=claim.parent))

        def gave_up(why: str) -> None:
            self._tell(inputs.ClaimFailed(at=self._now, superseded=False, detail=why))

        self._patiently(act, gave_up)

    def _restore(self, ignore: Callable[[str], None]) -> None:
        def act() -> None:
            found = self._repository.restore(self._repository.eligible(), self._place.restored)
            if found is None:
                self._tell(inputs.Restored(at=self._now, manifest=None))
                return
            manifest = found.manifest
            path = self._put_in_place(found.path, manifest.root)
            ignore(manifest.root)
            self._tell(
                inputs.Restored(
                    at=self._now,
                    manifest=manifest.name,
                    path=str(path),
                    step=manifest.step,
                    size=manifest.size,
                    seconds=found.seconds,
                    damaged=tuple(f"{name}: {why}" for name, why in found.damaged[:MOST_DAMAGED]),
                )
            )

        self._patiently(act, lambda why: self._tell(inputs.RestoreFailed(at=self._now, detail=why)))

    def _put_in_place(self, restored: Path, root: str) -> Path:
        """Under its own name in the checkpoint folder, where trainings that look for it themselves do so."""
        target = self._place.checkpoints / root
        if root in (".", "") or "/" in root:
            return restored
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)  # a folder cannot replace a link or a file
        os.replace(restored, target)
        return target

    def _commit_next(self) -> None:
        with self._lock:
            candidate = self._waiting.pop(0) if self._waiting else None
        if candidate is not None:
            self._commit(candidate)

    def _commit(self, candidate: Candidate) -> bool:
        """Store one checkpoint. False when it should be tried again."""
        files = [LocalFile(f.path, f.size, f.mtime_ns, f.inode) for f in candidate.files]
        written_at = self._now - max(0.0, self._clock.now() - candidate.written_at)
        step = candidate.step if candidate.step is not None else self._step_before(candidate.written_at)
        try:
            sequence = self._next_sequence()
            if candidate.written_at < self._newest:
                # A newer one is safe already. Stored now, this one would count as the newest.
                self._committed(candidate.version)
                return True
            draft = Draft(
                id=new_id("ck"),
                attempt=self._boot.attempt,
                sequence=sequence,
                step=step,
                epoch=candidate.epoch,
                format=candidate.format,
                root=candidate.root_name,
                single_file=candidate.single_file,
                trigger=self._trigger(written_at),
                written_at=candidate.written_at,
            )
            self._sequence = sequence
            manifest = self._repository.commit(draft, self._place.checkpoints, files)
        except ChangedDuringUpload:
            # Ordinary: the training rotated or rewrote it. If it is still there, it comes back.
            self._discarded(candidate.version, 0.0)
            return True
        except AlreadyExists:
            self._sequence = None
            self._discarded(candidate.version, 0.0)
            return False
        except (RunctlError, OSError) as error:
            self._not_stored(candidate, error)
            self._discarded(candidate.version, LONGEST_WAIT / 2)
            return False
        except ValueError as error:
            # It can never be stored, whatever is tried: neither the training nor its end must wait for it.
            self._not_stored(candidate, error)
            self._committed(candidate.version)
            return True
        self._newest = candidate.written_at
        self._committed(candidate.version)
        self._tell(self._stored(manifest, written_at))
        return True

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

    def _not_stored(self, candidate: Candidate, error: Exception) -> None:
        log.warning("checkpoint.failed root=%r: %s", candidate.root_name, error)
        self._tell(inputs.NotStored(at=self._now, root=candidate.root_name, reason=str(error)))

    def _next_sequence(self) -> int:
        """The number of the next commit."""
        if self._sequence is None:
            self._look_back()
        return (self._sequence or 0) + 1

    def _look_back(self) -> Manifest | None:
        """What this attempt has committed before: by an agent that died, or without our hearing of it."""
        own = [p for p in self._repository.manifests() if p.attempt == self._boot.attempt]
        newest = None
        if own:
            try:
                newest = self._repository.read_manifest(own[-1].name)
                self._newest = max(self._newest, newest.written_at)
            except ManifestDamaged:
                pass  # then it is no newer one that is safe
        self._sequence = max((p.sequence for p in own), default=0)
        return newest

    def _retell(self, saved_at: float | None) -> None:
        def act() -> None:
            manifest = self._look_back()
            if manifest is None:
                return
            written_at = self._now - max(0.0, self._clock.now() - manifest.written_at)
            # The two clocks may have been set apart a little since.
            if saved_at is None or written_at > saved_at + 1.0:
                self._tell(self._stored(manifest, written_at))

        self._patiently(act, lambda why: log.warning("store.unseen %s", why))

    def _flush(self, last: Callable[[], list[Candidate]], hurry: bool) -> None:
        wait = FIRST_WAIT
        failed: list[Candidate] = []
        while not self._closing.is_set():
            with self._lock:
                waiting = {c.version: c for c in (*failed, *self._waiting, *last())}
                self._waiting.clear()
            if not waiting:
                break
            found = sorted(waiting.values(), key=lambda candidate: candidate.written_at, reverse=hurry)
            failed = [candidate for candidate in found if not self._commit(candidate)]
            if failed:
                self._closing.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)
        self._tell(inputs.Flushed(at=self._now))

    def _write_end(self, record: AttemptEnded) -> None:
        def act() -> None:
            self._repository.write_end(self._boot.attempt, fit(record))
            self._tell(inputs.EndRecorded(at=self._now))

        self._write_log()  # what could not be stored before
        # The controller hears it by the bus as well; only when both fail is it inferred.
        self._patiently(act, lambda why: log.warning("end-record.failed %s", why))

    def _write_log(self) -> None:
        try:
            self._output.bring_up_to(self._output_size)
        except (RunctlError, OSError) as error:
            log.warning("log.failed %s", error)

    @property
    def _now(self) -> float:
        return self._clock.monotonic()
