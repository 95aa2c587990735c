"""Everything of one run in a checkpoint store.

Every method may be repeated, and the process may be killed at any point of it: what was stored is whole, and
what was not is not there.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from runctl_shared.checkpoints import lineage
from runctl_shared.checkpoints.checks import SPEC, load_manifest, require_run
from runctl_shared.checkpoints.logs import RunLogs
from runctl_shared.checkpoints.manifest import (
    CLAIMS,
    MANIFESTS,
    RECORD,
    Claim,
    Manifest,
    ManifestDamaged,
    NameParts,
    claim_name,
    data_key,
    decode_claim,
    encode,
    end_name,
    parse_claim_name,
    parse_end_name,
    parse_name,
)
from runctl_shared.checkpoints.objects import AlreadyExists, ObjectMissing, ObjectStore
from runctl_shared.checkpoints.prefixed import PrefixedStore
from runctl_shared.checkpoints.restore import Restore, Restored, content_problem
from runctl_shared.checkpoints.series import RunSeries
from runctl_shared.checkpoints.upload import Draft, ShouldStop, Stamp, Upload, check_draft, never
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.errors import RunctlError
from runctl_shared.spec import RunSpec

MOST_OF_A_WORD, MOST_OF_A_RECORD = 1 << 20, 32 << 20
"""Bytes of a description, claim or end; and of a record of some ten thousand attempts."""


class ClaimRefused(RunctlError):
    """The run's lineage is another's: this attempt must not train. `holder` is the claim in the way."""

    exit_code = 4
    code = "claim_refused"

    def __init__(self, holder: Claim) -> None:
        whose = f" of installation {holder.installation}" if holder.installation else ""
        super().__init__(f"Attempt {holder.attempt} of {holder.run} is claimed by {holder.agent}{whose}.")
        self.holder = holder


class RunRepository:
    """The part of `store` below the run's id. All methods raise ObjectStoreError when the store fails. What
    would come of a store in which nothing of the run is (see `require_run`) is StoreRefused: neither is its
    emptiness an answer, nor is anything put there.

    `logs` is the run's output, `series` its losses.
    """

    def __init__(self, store: ObjectStore, run: str, *, clock: Clock | None = None) -> None:
        self._store = PrefixedStore(store, run)
        self._run = run
        self._clock = clock or SystemClock()
        self.logs = RunLogs(self._store, run)
        self.series = RunSeries(self._store, run)

    def write_spec(self, spec: RunSpec) -> None:
        """Store what was asked for. Raises AlreadyExists when it is there and different."""
        try:
            self._store.put(SPEC, msgspec.json.format(msgspec.json.encode(spec), indent=1), if_absent=True)
        except AlreadyExists:
            if self.read_spec() != spec:
                raise

    def read_spec(self) -> RunSpec:
        """What was asked for. Raises ManifestDamaged."""
        require_run(self._store, self._run)
        try:
            spec = msgspec.json.decode(self._whole(SPEC), type=RunSpec)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ManifestDamaged(f"{SPEC} of {self._run} is not a run: {error}.") from error
        if spec.run != self._run:
            raise ManifestDamaged(f"{SPEC} of {self._run} is of another run, {spec.run!r}.")
        return spec

    def claims(self) -> dict[int, Claim]:
        """Every claim, by attempt. Raises ManifestDamaged when one cannot be read: without it, nobody knows
        what may be restored."""
        attempts = (parse_claim_name(info.key) for info in self._store.list(CLAIMS))
        return {attempt: self._read_claim(attempt) for attempt in attempts if attempt is not None}

    def claim(
        self, attempt: int, agent: str, parent: str | None, now: float, installation: str = ""
    ) -> Claim:
        """Claim the lineage for `attempt`, which starts from `parent` (a manifest's name; None: nothing).

        Returns the claim as stored: an agent that claimed before and crashed gets that one again, with that
        parent. `now` is UTC seconds. Raises ClaimRefused when another agent, or the same one of another
        installation, holds this attempt, or a newer attempt has claimed.
        """
        claim = mine = Claim(
            run=self._run,
            attempt=attempt,
            agent=agent,
            installation=installation,
            parent=parent,
            claimed_at=now,
        )
        _check_claim(claim)
        require_run(self._store, self._run)
        self._refuse_older(attempt)
        try:
            self._store.put(claim_name(attempt), encode(claim), if_absent=True)
        except AlreadyExists:
            claim = self._read_claim(attempt)
        # A newer attempt may have come between the look and the put.
        self._refuse_older(attempt)
        if (claim.agent, claim.installation) != (mine.agent, mine.installation):
            raise ClaimRefused(claim)
        return claim

    def manifests(self) -> list[NameParts]:
        """Every committed checkpoint, oldest first, eligible or not; one listing."""
        names = (parse_name(info.key) for info in self._store.list(MANIFESTS))
        found = [parts for parts in names if parts is not None]
        if not found:
            require_run(self._store, self._run)
        return found

    def read_manifest(self, name: str) -> Manifest:
        """The manifest `name`, checked. Raises ManifestDamaged, ObjectMissing."""
        return load_manifest(self._store, self._run, name)

    def eligible(self) -> list[NameParts]:
        """What may be restored, newest first: an empty list is proof that there is nothing."""
        require_run(self._store, self._run)
        return lineage.eligible(self.claims(), (parts.name for parts in self.manifests()))

    def commit(
        self, draft: Draft, base: Path, files: Sequence[Stamp], should_stop: ShouldStop = never
    ) -> Manifest:
        """Upload `files`, as they were under `base` when it was complete, then commit the manifest.

        The checkpoint exists once this returns. `should_stop` is asked between files. Raises
        ChangedDuringUpload and Stopped after having removed what was uploaded; AlreadyExists when this
        attempt has committed that sequence number, or the id is taken; ValueError for what cannot be a
        checkpoint. After another ObjectStoreError it may or may not exist: ask `manifests()`.
        """
        check_draft(draft, files)
        require_run(self._store, self._run)
        for parts in self.manifests():
            if parts.id == draft.id or (parts.attempt, parts.sequence) == (draft.attempt, draft.sequence):
                raise AlreadyExists(f"{parts.name} has already been committed.")
        return Upload(self._store, self._run, self._clock, should_stop).commit(draft, base, files)

    def verify(self, manifest: Manifest) -> list[str]:
        """What is wrong with the stored files, one sentence each, after reading all of them."""
        problems = (self._file_problem(manifest, index) for index in range(len(manifest.files)))
        return [problem for problem in problems if problem is not None]

    def restore(
        self, candidates: Iterable[NameParts], target_dir: Path, should_stop: ShouldStop = never
    ) -> Restored | None:
        """Restore the first intact one of `candidates`, which come as `eligible()` orders them.

        It is put into the folder ``target_dir/<checkpoint id>``, verified, its files' times as they were. It
        appears there in one step. If it is there already, it is verified and used. Damaged ones are passed
        over, reported and left as they are. None when there are no candidates. Raises NothingIntact when all
        are damaged, RestoreFailed when `target_dir` has no room or cannot be written, Stopped; and
        ObjectStoreError when the store cannot be read: that says nothing about what is in it.
        One restore at a time into one `target_dir`.
        """
        return Restore(self._store, self._run, self._clock, target_dir, should_stop).newest(candidates)

    def write_end(self, attempt: int, record: msgspec.Struct | bytes) -> None:
        """Store the attempt's final record, over one that is there."""
        data = record if isinstance(record, bytes) else msgspec.json.encode(record)
        require_run(self._store, self._run)
        self._store.put(end_name(attempt), data)

    def read_end(self, attempt: int) -> bytes | None:
        """The attempt's final record as stored; None when there is none. Raises ManifestDamaged when it is
        too long to be one."""
        try:
            return self._whole(end_name(attempt))
        except ObjectMissing:
            require_run(self._store, self._run)
            return None

    def ends(self) -> list[int]:
        """The attempts that have a final record, in order."""
        attempts = (parse_end_name(info.key) for info in self._store.list(CLAIMS))
        return [attempt for attempt in attempts if attempt is not None]

    def newest_attempt(self) -> int:
        """The last attempt that has a claim or a final record, by one listing; 0: none has."""
        keys = [info.key for info in self._store.list(CLAIMS)]
        return max((parse_claim_name(key) or parse_end_name(key) or 0 for key in keys), default=0)

    def write_record(self, data: bytes) -> None:
        """Store the controller's record of the run, over an older one. Raises StoreRefused when nothing of
        the run is in the store: one that was emptied is not begun again."""
        require_run(self._store, self._run)
        self._store.put(RECORD, data)

    def read_record(self) -> bytes | None:
        """The controller's record as stored; None when there is none. Raises ManifestDamaged."""
        try:
            return self._whole(RECORD, MOST_OF_A_RECORD)
        except ObjectMissing:
            return None

    def remove(self) -> int:
        """Delete everything of the run; how many objects that were. What is left when it fails is what can be
        deleted again: the run's own description goes last, a checkpoint's files after its manifest."""
        count = 0
        for prefix in (MANIFESTS, ""):
            for info in self._store.list(prefix):
                if info.key != SPEC:
                    self._store.delete(info.key)
                    count += 1
        self._store.delete(SPEC)
        return count + 1

    def _read_claim(self, attempt: int) -> Claim:
        claim = decode_claim(self._whole(claim_name(attempt)), attempt)
        if claim.run != self._run:
            raise ManifestDamaged(f"{claim_name(attempt)} is of another run, {claim.run!r}.")
        return claim

    def _whole(self, key: str, most: int = MOST_OF_A_WORD) -> bytes:
        """The object, if it has no more bytes than it can have: a store may hold anything."""
        data = self._store.get_range(key, 0, most + 1)
        if len(data) > most:
            raise ManifestDamaged(f"{key} of {self._run} is longer than {most} bytes.")
        return data

    def _refuse_older(self, attempt: int) -> None:
        attempts = (parse_claim_name(info.key) for info in self._store.list(CLAIMS))
        newest = max((found for found in attempts if found is not None), default=attempt)
        if newest > attempt:
            raise ClaimRefused(self._read_claim(newest))

    def _file_problem(self, manifest: Manifest, index: int) -> str | None:
        entry = manifest.files[index]
        try:
            size, sha256 = self._store.get_file(data_key(manifest.id, entry.path), _Nowhere())
        except ObjectMissing:
            return f"{entry.path!r} is missing."
        return content_problem(entry, size, sha256)


class _Nowhere(io.BytesIO):
    """Takes everything, keeps nothing."""

    def write(self, data: object, /) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]  # whatever the base class takes


def _check_claim(claim: Claim) -> None:
    """Raise ValueError for a claim that would be stored and then not be understood."""
    parent = parse_name(claim.parent) if claim.parent is not None else None
    if claim.parent is not None and (parent is None or parent.attempt >= claim.attempt):
        raise ValueError(f"{claim.parent!r} cannot be the parent of attempt {claim.attempt}")
    if parse_claim_name(claim_name(claim.attempt)) != claim.attempt:
        raise ValueError(f"there is no attempt {claim.attempt}")
