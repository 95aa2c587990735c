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
from runctl_agent.edges.committer import Committer
from runctl_agent.edges.logship import StoredOutput
from runctl_agent.edges.losses import StoredLosses
from runctl_agent.edges.place import Place
from runctl_agent.progress.series import LossSeries
from runctl_agent.watcher.model import Candidate
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.checkpoints.repository import ClaimRefused, RunRepository
from runctl_shared.clock import Clock
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
        losses: LossSeries | None = None,
    ) -> None:
        self._repository, self._place, self._boot, self._clock = repository, place, boot, clock
        self._tell = tell
        self._output = StoredOutput(repository.logs, boot.attempt, place.output)
        self._output_size = 0
        self._losses = StoredLosses(losses or LossSeries(), repository.series, boot.attempt)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._closing = threading.Event()
        self._committer = Committer(
            repository,
            place.checkpoints,
            boot.attempt,
            clock,
            tell,
            committed,
            discarded,
            step_before,
            trigger,
            self._over,
        )
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    # -- from any thread ----------------------------------------------------------------------

    def claim(self) -> None:
        self._jobs.put(self._claim)

    def restore(self, ignore: Callable[[str], None]) -> None:
        """`ignore(root)` keeps the watcher from taking what came out of the store."""
        self._jobs.put(lambda: self._restore(ignore))

    def retell(self, known: str | None) -> None:
        """After a restart, before anything else is added: say Stored of everything that this attempt has
        stored after `known`, the newest manifest that the core has heard of."""
        self._jobs.put(lambda: self._retell(known))

    def add(self, candidate: Candidate) -> None:
        """A complete checkpoint: stored in the order of coming."""
        self._committer.add(candidate)
        self._jobs.put(self._committer.commit_next)

    def flush(self, last: Callable[[], list[Candidate]]) -> None:
        """Store what waits and what `last()` finds, oldest first, then say Flushed.

        Whatever was complete before `last()` returned must be in its answer or have been added by then."""
        self._jobs.put(lambda: self._committer.flush(last))

    def hurry(self, on: bool) -> None:
        """Whether the machine is about to be taken: then the newest goes first, and alone counts."""
        self._committer.hurry(on)

    def write_end(self, record: AttemptEnded) -> None:
        """The attempt is over: give up what is under way, store no checkpoint any more, but the last word."""
        self._over.set()
        self._jobs.put(lambda: self._write_end(record))

    def write_log(self, size: int) -> None:
        """Have the first `size` bytes of the output stored."""
        self._output_size = size
        self._jobs.put(self._write_log)

    def write_losses(self) -> None:
        """Have the losses that were reported stored."""
        self._jobs.put(self._write_losses)

    def close(self, timeout: float) -> None:
        self._over.set()
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

    def _patiently(
        self, act: Callable[[], None], gave_up: Callable[[str], None], until: threading.Event
    ) -> None:
        """Do it, again after failures of the store; in the end, or when `until` is set, say why not. Somebody
        waits for one of the two: so also after a mistake of ours."""
        wait = FIRST_WAIT
        for attempt in range(1, TRIES + 1):
            try:
                act()
            except ObjectStoreError as error:
                log.warning("store.failed try=%d: %s", attempt, error)
                if attempt == TRIES or until.wait(wait):
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
                    self._boot.attempt, self._boot.agent, parent, self._clock.now(), self._boot.installation
                )
            except ClaimRefused as error:
                self._tell(inputs.ClaimFailed(at=self._now, superseded=True, detail=str(error)))
            else:
                self._tell(inputs.Claimed(at=self._now, parent=claim.parent))

        def gave_up(why: str) -> None:
            self._tell(inputs.ClaimFailed(at=self._now, superseded=False, detail=why))

        self._patiently(act, gave_up, self._over)

    def _restore(self, ignore: Callable[[str], None]) -> None:
        def act() -> None:
            found = self._repository.restore(
                self._repository.eligible(), self._place.restored, self._over.is_set
            )
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

        def gave_up(why: str) -> None:
            self._tell(inputs.RestoreFailed(at=self._now, detail=why))

        self._patiently(act, gave_up, self._over)

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

    def _retell(self, known: str | None) -> None:
        self._patiently(
            lambda: self._committer.retell(known),
            lambda why: log.warning("store.unseen %s", why),
            self._over,
        )

    def _write_end(self, record: AttemptEnded) -> None:
        def act() -> None:
            self._repository.write_end(self._boot.attempt, fit(record))
            self._tell(inputs.EndRecorded(at=self._now))

        self._write_log()  # what could not be stored before
        self._write_losses()
        # The controller hears it by the bus as well; only when both fail is it inferred.
        self._patiently(act, lambda why: log.warning("end-record.failed %s", why), self._closing)

    def _write_log(self) -> None:
        try:
            self._output.bring_up_to(self._output_size)
        except (RunctlError, OSError) as error:
            log.warning("log.failed %s", error)

    def _write_losses(self) -> None:
        try:
            self._losses.bring_up()
        except (RunctlError, OSError) as error:
            log.warning("losses.failed %s", error)

    @property
    def _now(self) -> float:
        return self._clock.monotonic()
