"""Runs out of a checkpoint store whose record was lost. What lies there may be damaged, or a trap."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from runctl_controller.core import keeping, taking
from runctl_controller.core.model import Record
from runctl_controller.providers.port import Provider
from runctl_controller.store.port import Store
from runctl_shared.checkpoints.manifest import ManifestDamaged
from runctl_shared.checkpoints.objects import ObjectMissing, ObjectStore
from runctl_shared.checkpoints.open import open_store
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import Clock
from runctl_shared.errors import ProviderFailed, RefusedByGuard, RunctlError
from runctl_shared.ids import agent_id, is_id, is_run_id
from runctl_shared.messages.events import AttemptEnded
from runctl_shared.messages.replies import ImportView
from runctl_shared.messages.requests import ImportRuns
from runctl_shared.spec import RunSpec, check_spec

log = logging.getLogger("runctl.importing")
MOST_RUNS = 100
"""In one request: it has to be answered in time."""
LONGEST_SPEC = 600_000
"""Bytes: what a spec of ours has at the most, and what fits into a message that shows it."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the store: `view` says what becomes of it; `record` is to be put on record, if there is one.
    `whole`: with its ledger."""

    view: ImportView
    record: Record | None = None
    whole: bool = False


class Importer:
    """Reads stores and asks providers; changes nothing. `installation` is our own. Usable from any thread."""

    def __init__(
        self, store: Store, providers: Mapping[str, Provider], clock: Clock, installation: str
    ) -> None:
        self._store, self._providers, self._clock = store, providers, clock
        self._installation = installation

    def look(self, body: ImportRuns) -> tuple[list[Found], bool]:
        """The next runs in the store, and whether there are more. Raises UsageError for a URL that means no
        store, ObjectStoreError when it cannot be read."""
        objects = open_store(body.url, create=False)
        limit = max(1, min(body.limit, MOST_RUNS))
        names = [name for name in objects.tops() if name > body.after and is_run_id(name)]
        found = [self._found(objects, run, body) for run in names[:limit]]
        return found, len(names) > limit

    def _found(self, objects: ObjectStore, run: str, body: ImportRuns) -> Found:
        with self._store.transaction() as tx:
            known = tx.load(run)
        if known is not None:
            return _told(run, "known", "it is on record already", known.run.spec.name)
        try:
            return self._read(objects, run, body)
        except (ManifestDamaged, keeping.Unsound, ValueError) as error:
            log.info("import.damaged run=%s: %s", run, error)
            return _told(run, "damaged", str(error).rstrip("."))
        except ObjectMissing as error:
            return _told(run, "damaged", f"a part of it is missing: {error}".rstrip("."))
        except RunctlError as error:
            return _told(run, "damaged", error.what.rstrip("."))

    def _read(self, objects: ObjectStore, run: str, body: ImportRuns) -> Found:
        repository = RunRepository(objects, run)
        spec = _spec(repository.read_spec(), body.url, self._providers)
        record, owner, note, kept_at = _record(repository, spec)
        if _is_over(repository, record):
            return Found(view=_view(record, "imported", note), record=record, whole=bool(record.intervals))
        if owner != self._installation and not body.take_over:
            whose = f"installation {owner}" if owner else "another installation"
            return Found(
                view=_view(record, "held", f"{whose} has not finished it, and may still look after it")
            )
        traces, at = _traces(repository), self._clock.now()
        if owner != self._installation and not body.force:
            lives = taking.sign_of_life(list(_signs(repository, traces, kept_at)), at)
            if lives:
                return Found(view=_view(record, "held", lives))
        living = self._living(owner, record) if owner else []
        taken = taking.taken_over(record, traces, living, at)
        adopted = any(attempt.open for attempt in taken.attempts)
        outcome, more = ("adopted", _machines(living, taken)) if adopted else ("imported", note)
        return Found(view=_view(taken, outcome, more), record=taken, whole=bool(record.intervals))

    def refuse_anothers(self, spec: RunSpec) -> None:
        """Raise RefusedByGuard when another installation looks after the run of `spec` in its store: then
        what lies there is not ours to delete. What cannot be read shows nobody."""
        repository = RunRepository(open_store(spec.store, create=False), spec.run)
        try:
            record, owner, _, kept_at = _record(repository, spec)
            if owner in ("", self._installation) or _is_over(repository, record):
                return
            signs = list(_signs(repository, _traces(repository), kept_at))
        except (ManifestDamaged, ObjectMissing, ValueError):
            return
        lives = taking.sign_of_life(signs, self._clock.now())
        if lives:
            raise RefusedByGuard(
                f"{spec.name} is looked after by installation {owner}: {lives}.",
                "Its checkpoints are that one's; without --checkpoints, the run is forgotten here alone.",
            )

    def _living(self, owner: str, record: Record) -> list[taking.Living]:
        """Machines of this run, and of no other, that a provider lists as that installation's."""
        provider = self._providers[record.run.spec.provider]
        offer = next(iter(provider.offers()))
        try:
            listed = provider.list_ours(owner)
        except ProviderFailed as error:
            raise ValueError(f"the provider could not be asked for its machines: {error}") from error
        prefix = agent_id(record.run.id, 0).removesuffix("0")
        return [
            taking.Living(sighting=sighting, offer=offer)
            for sighting in listed
            if sighting.machine.startswith(prefix)
            and sighting.machine.removeprefix(prefix).isdecimal()
            and sighting.token == f"{owner}.{sighting.machine}"
        ]


def _told(run: str, outcome: str, note: str, name: str = "") -> Found:
    return Found(view=ImportView(run=run, name=name, outcome=outcome, note=note))


def _view(record: Record, outcome: str, note: str) -> ImportView:
    return ImportView(run=record.run.id, name=record.run.spec.name, outcome=outcome, note=note)


def _machines(living: Sequence[taking.Living], record: Record) -> str:
    if not living:
        return "this computer does not know its machine, and asks about it; it waits for you then"
    return f"its machine {living[0].sighting.machine} lives, and goes on"


def _spec(spec: RunSpec, url: str, providers: Mapping[str, Provider]) -> RunSpec:
    """The run as it can go on from the store where it lies now. Raises ValueError."""
    for error in check_spec(spec):
        raise ValueError(f"what was asked for cannot run: {error.what}")
    if spec.provider not in providers:
        raise ValueError(f"its provider {spec.provider[:100]!r} is not known here")
    if len(msgspec.json.encode(spec)) > LONGEST_SPEC:
        raise ValueError("what was asked for is too long")
    return msgspec.structs.replace(spec, store=url, installation="")


def _record(repository: RunRepository, spec: RunSpec) -> tuple[Record, str, str, float | None]:
    """The record, whose it was, a note, and when it was kept: the controller's own, else what the agents'
    traces tell."""
    owner = spec.installation if is_id(spec.installation) else ""
    try:
        data = repository.read_record()
        if data is not None:
            record, kept = keeping.read(data, spec)
            return record, kept.installation, "", kept.at
        note = "without the controller's record of it: no machines, no ledger"
    except (ManifestDamaged, keeping.Unsound) as error:
        note = f"the controller's record of it is damaged ({error}): no machines, no ledger"
    return taking.rebuilt(spec, _traces(repository)), owner, note, None


def _is_over(repository: RunRepository, record: Record) -> bool:
    """Whether the record says that the run is finished, and nothing says that it went on since."""
    return repository.newest_attempt() <= record.run.newest and not taking.unfinished(record)


def _signs(repository: RunRepository, traces: taking.Traces, kept_at: float | None) -> Iterator[taking.Sign]:
    """What was done last to a run, of each kind; one that cannot be read tells nothing."""
    if kept_at is not None:
        yield taking.Sign(what="its controller kept its record", at=kept_at)
    for number, claim in sorted(traces.claims.items())[-1:]:
        yield taking.Sign(what=f"attempt {number} claimed it", at=claim.claimed_at)
    newest = max(traces.manifests, default=None)
    if newest is not None:
        with contextlib.suppress(ManifestDamaged, ObjectMissing):
            committed = repository.read_manifest(newest.name).committed_at
            yield taking.Sign(what=f"attempt {newest.attempt} stored a checkpoint", at=committed)


def _traces(repository: RunRepository) -> taking.Traces:
    """Raises ManifestDamaged when there is more than a run of ours can leave, or a claim cannot be read."""
    claims, manifests = repository.claims(), repository.manifests()
    ends = dict(_ends(repository))
    traces = taking.Traces(claims=claims, ends=ends, manifests=manifests)
    if len(traces.attempts) > keeping.MOST_ATTEMPTS:
        raise ManifestDamaged("It has more attempts than a run can have.")
    return traces


def _ends(repository: RunRepository) -> Iterator[tuple[int, AttemptEnded]]:
    """Final records; a damaged one is as good as none, as its agent may have died while it wrote."""
    for attempt in repository.ends():
        try:
            data = repository.read_end(attempt)
            if data is not None:
                yield attempt, msgspec.json.decode(data, type=AttemptEnded)
        except (ManifestDamaged, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
