"""The store in memory: the fake for tests and the simulation. Keeps state, fails once on request."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from runctl_controller.core.effects import Effect, Tell
from runctl_controller.core.leadership import Leadership
from runctl_controller.core.model import Record, Run
from runctl_controller.core.tables import OPEN_RUN
from runctl_controller.store.port import Beat, DueTimer, Forgotten, Outgoing, Sums, Told, superseded


class _Tables:
    """All rows. Values are frozen, so a shallow copy of the dicts is a snapshot."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.agents: dict[str, str] = {}
        self.outbox: dict[int, Outgoing] = {}
        self.timers: dict[tuple[str, str], float] = {}
        self.story: dict[int, tuple[str, Tell]] = {}
        self.last_told = 0
        self.beats: dict[str, Beat] = {}
        self.forgotten: dict[str, Forgotten] = {}
        self.last_outgoing = 0

    def copy(self) -> _Tables:
        new = _Tables()
        for name, value in vars(self).items():
            setattr(new, name, dict(value) if isinstance(value, dict) else value)
        return new


class MemoryTransaction:
    """See Transaction."""

    def __init__(self, tables: _Tables) -> None:
        self._t = tables

    def load(self, run: str) -> Record | None:
        return self._t.records.get(run)

    def save(self, record: Record) -> None:
        self._t.records[record.run.id] = record
        for attempt in record.attempts:
            self._t.agents[attempt.agent] = record.run.id

    def remove(self, left: Forgotten) -> None:
        run, t = left.run, self._t
        for attempt in t.records.pop(run).attempts:
            del t.agents[attempt.agent]
            t.beats.pop(attempt.agent, None)
        t.outbox = {number: item for number, item in t.outbox.items() if item.run != run}
        t.timers = {key: at for key, at in t.timers.items() if key[0] != run}
        t.story = {number: told for number, told in t.story.items() if told[0] != run}
        t.forgotten[run] = left

    def recall(self, run: str) -> Forgotten | None:
        return self._t.forgotten.pop(run, None)

    def sums(self) -> Sums:
        left = self._t.forgotten.values()
        return Sums(runs=len(left), dollars=sum(each.dollars for each in left))

    def run_id(self, name_or_id: str) -> str | None:
        if name_or_id in self._t.records:
            return name_or_id
        return self._newest(name_or_id)

    def beginning(self, start: str, limit: int) -> Sequence[str]:
        ids = sorted(run for run in self._t.records if run.startswith(start))
        names = {r.run.spec.name for r in self._t.records.values() if r.run.spec.name.startswith(start)}
        newest = [found for name in sorted(names)[:limit] if (found := self._newest(name)) is not None]
        return [*ids[:limit], *newest]

    def _newest(self, name: str) -> str | None:
        named = [r.run for r in self._t.records.values() if r.run.spec.name == name]
        return max(named, key=lambda run: (run.created_at, run.id)).id if named else None

    def run_of_agent(self, agent: str) -> str | None:
        return self._t.agents.get(agent)

    def runs(self, *, limit: int, project: str | None = None, only_open: bool = False) -> Sequence[Run]:
        found = [
            r.run
            for r in self._t.records.values()
            if (project is None or r.run.spec.project == project)
            and (not only_open or r.run.state in OPEN_RUN)
        ]
        return sorted(found, key=lambda run: run.created_at, reverse=True)[:limit]

    def busy(self) -> Sequence[str]:
        return [r.run.id for r in self._t.records.values() if r.run.state in OPEN_RUN or r.busy]

    def queue(self, run: str, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._t.last_outgoing += 1
            number = self._t.last_outgoing
            self._t.outbox[number] = Outgoing(id=number, run=run, effect=effect)

    def outgoing(self, after: int = 0, limit: int = 1000) -> Sequence[Outgoing]:
        return [item for number, item in sorted(self._t.outbox.items()) if number > after][:limit]

    def done(self, outgoing: int) -> None:
        self._t.outbox.pop(outgoing, None)

    def set_timer(self, run: str, key: str, at: float) -> None:
        self._t.timers[run, key] = at

    def cancel_timer(self, run: str, key: str) -> None:
        self._t.timers.pop((run, key), None)

    def take_due(self, now: float, limit: int = 1000) -> Sequence[DueTimer]:
        due = sorted((at, run, key) for (run, key), at in self._t.timers.items() if at <= now)[:limit]
        for _, run, key in due:
            del self._t.timers[run, key]
        return [DueTimer(run=run, key=key, at=at) for at, run, key in due]

    def shift_timers(self, seconds: float) -> None:
        self._t.timers = {key: at + seconds for key, at in self._t.timers.items()}

    def next_timer(self) -> float | None:
        return min(self._t.timers.values(), default=None)

    def tell(self, run: str, item: Tell) -> int:
        self._t.last_told += 1
        self._t.story[self._t.last_told] = (run, item)
        return self._t.last_told

    def told_after(self, number: int, limit: int, run: str | None = None) -> Sequence[Told]:
        return [told for told in self._told(run) if told.number > number][:limit]

    def told_before(self, number: int, limit: int, run: str | None = None) -> Sequence[Told]:
        return [told for told in reversed(self._told(run)) if told.number < number][:limit]

    def newest_told(self) -> int:
        return max(self._t.story, default=0)

    def _told(self, run: str | None) -> list[Told]:
        records = self._t.records
        return [
            Told(number=number, run=of, name=records[of].run.spec.name if of in records else "", item=item)
            for number, (of, item) in self._t.story.items()
            if run is None or of == run
        ]

    def story(self, run: str, limit: int) -> Sequence[Tell]:
        items = [item for of, item in self._t.story.values() if of == run]
        return items[-limit:] if limit else ()

    def save_beats(self, beats: Iterable[Beat]) -> None:
        self._t.beats.update((beat.agent, beat) for beat in beats)

    def beats(self, agents: Iterable[str]) -> Sequence[Beat]:
        return [self._t.beats[agent] for agent in agents if agent in self._t.beats]


class Disk:
    """What outlives a controller's process: hand the same one to the next MemoryStore."""

    def __init__(self) -> None:
        self.tables = _Tables()
        self.leadership = Leadership()
        self.turn = threading.RLock()


class MemoryStore:
    """See Store. `fail_once(error)`: the next commit fails and changes nothing."""

    def __init__(self, disk: Disk | None = None, installation: str = "inst-memory") -> None:
        self.disk = disk or Disk()
        self._installation = installation
        self._epoch: int | None = None
        self._fail: Exception | None = None

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        with self.disk.turn:
            tables = self.disk.tables.copy()
            yield MemoryTransaction(tables)
            if self._epoch is not None and self._epoch != self.disk.leadership.epoch:
                raise superseded(self.disk.leadership)
            if self._fail is not None:
                error, self._fail = self._fail, None
                raise error
            self.disk.tables = tables

    def take_over(
        self,
        *,
        pid: int = 0,
        now: float = 0.0,
        seconds: float = 0.0,
        instead_of: Leadership | None = None,
    ) -> Leadership:
        with self.disk.turn:
            known = self.disk.leadership
            if instead_of is not None and known != instead_of:
                raise superseded(known)
            self._epoch = known.epoch + 1
            self.disk.leadership = Leadership(epoch=self._epoch, pid=pid, since=now, seconds=seconds)
            return self.disk.leadership

    def renew(self) -> None:
        with self.disk.turn:
            known = self.disk.leadership
            if self._epoch is not None and self._epoch != known.epoch:
                raise superseded(known)
            self.disk.leadership = msgspec.structs.replace(known, renewals=known.renewals + 1)

    def leadership(self) -> Leadership | None:
        return self.disk.leadership

    def fail_once(self, error: Exception) -> None:
        self._fail = error

    def installation(self) -> str:
        return self._installation

    def close(self) -> None:
        """Nothing to close."""
