"""The store in a database does what the one in memory does, whatever is asked of both."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runctl_controller.core import ledger
from runctl_controller.core.effects import Launch, Look, ReadEnd, SendCommand, Tell, Terminate
from runctl_controller.core.model import Interval, Record
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.store.memory import Disk, MemoryStore
from runctl_controller.store.port import Beat, Forgotten, Transaction
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.messages.commands import SaveNow, StopTraining
from runctl_shared.messages.events import Heartbeat
from runctl_testing import records

NAMES = st.sampled_from(["digits", "run-0", "run-1"])
RUNS = st.integers(0, 5).map("run-{}".format)
EFFECTS = st.sampled_from(
    [
        Launch(machine="m"),
        Look(machine="m"),
        Terminate(machine="m", actor="lifecycle"),
        ReadEnd(attempt=1),
        SendCommand(agent="a", attempt=1, id="cmd-1", body=StopTraining(save=False), expires=2.5),
        SendCommand(agent="a", attempt=1, id="cmd-2", body=SaveNow()),
    ]
)
TIMES = st.integers(0, 20).map(float)
KEYS = st.sampled_from(["look", "retry"])
Change = Callable[[Record], Record]


class Undo(Exception):
    pass


class Agreement(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="agree-"))
        self.disk = Disk()
        self.runs = 0

    @initialize()
    def open(self) -> None:
        self.memory = MemoryStore(self.disk)
        self.database = SqlStore(f"sqlite:///{self.folder}/state.db")

    @rule()
    def open_again(self) -> None:
        self.database.close()
        self.open()

    @rule()
    def take_over(self) -> None:
        assert self.memory.take_over() == self.database.take_over()

    @rule(name=NAMES, project=st.sampled_from(["a", "b"]), state=st.sampled_from(RunState))
    def submit(self, name: str, project: str, state: RunState) -> None:
        record = records.new_run(
            f"run-{self.runs}", float(self.runs), name=name, project=project, state=state
        )
        self.runs += 1
        self.both(lambda tx: tx.save(record))

    @rule(run=RUNS, paid=st.integers(0, 4))
    def remove(self, run: str, paid: int) -> None:
        left = Forgotten(
            run=run,
            name="n",
            project="p",
            created_at=1.0,
            removed_at=2.0,
            by="me",
            uses={"boot": (1.0, paid / 4)},
        )
        with self.memory.transaction() as tx:
            if tx.load(run) is None:
                return
        self.both(lambda tx: tx.remove(left))

    @rule(run=RUNS)
    def recall(self, run: str) -> None:
        self.both(lambda tx: tx.recall(run))

    @rule(run=RUNS, state=st.sampled_from(RunState), undo=st.booleans(), why=st.text(max_size=3))
    def change_run(self, run: str, state: RunState, undo: bool, why: str) -> None:
        self.change(run, lambda r: records.change_run(r, state=state, why=why, restarts=3), undo)

    @rule(run=RUNS, at=TIMES, undo=st.booleans())
    def add_attempt(self, run: str, at: float, undo: bool) -> None:
        self.change(run, lambda r: records.with_attempt(r, ("boot", at, None)), undo)

    @rule(run=RUNS, number=st.integers(1, 3), state=st.sampled_from(AttemptState), permitted=st.booleans())
    def change_attempt(self, run: str, number: int, state: AttemptState, permitted: bool) -> None:
        def change(record: Record) -> Record:
            training = any(a.permitted and a.open and a.number != number for a in record.attempts)
            allowed = permitted and not training
            return records.change_attempt(
                record, number, state=state, permitted=allowed, detail="ß", last_step=2**40
            )

        self.change(run, change, False)

    @rule(run=RUNS, number=st.integers(1, 3), state=st.sampled_from(MachineState))
    def change_machine(self, run: str, number: int, state: MachineState) -> None:
        self.change(run, lambda r: records.change_machine(r, number, state=state, looks=2), False)

    @rule(run=RUNS, number=st.integers(1, 3), use=st.sampled_from([None, "training"]), at=TIMES)
    def use_machine(self, run: str, number: int, use: str | None, at: float) -> None:
        def change(record: Record) -> Record:
            found = next((m for m in record.machines if m.attempt == number), None)
            if found is None:
                return record
            return _with_intervals(record, ledger.switch(record.intervals, found, use, at))

        self.change(run, change, False)

    @rule(run=RUNS, number=st.integers(1, 3), since=TIMES, undo=st.booleans())
    def lose(self, run: str, number: int, since: float, undo: bool) -> None:
        self.change(run, lambda r: _with_intervals(r, ledger.mark_lost(r.intervals, number, since)), undo)

    @rule(run=RUNS, effects=st.lists(EFFECTS, max_size=3), undo=st.booleans())
    def queue(self, run: str, effects: list[Any], undo: bool) -> None:
        self.both(lambda tx: tx.queue(run, effects), undo)

    @rule(number=st.integers(0, 9))
    def done(self, number: int) -> None:
        self.both(lambda tx: tx.done(number))

    @rule(run=RUNS, key=KEYS, at=TIMES, undo=st.booleans())
    def set_timer(self, run: str, key: str, at: float, undo: bool) -> None:
        self.both(lambda tx: tx.set_timer(run, key, at), undo)

    @rule(run=RUNS, key=KEYS)
    def cancel_timer(self, run: str, key: str) -> None:
        self.both(lambda tx: tx.cancel_timer(run, key))

    @rule(now=TIMES, undo=st.booleans())
    def take_due(self, now: float, undo: bool) -> None:
        self.both(lambda tx: list(tx.take_due(now)), undo)

    @rule(run=RUNS, at=TIMES, text=st.text(max_size=3), undo=st.booleans())
    def tell(self, run: str, at: float, text: str, undo: bool) -> None:
        item = Tell(at=at, attempt=1, kind="k", text=text, actor="user:b", data={"text": text})
        self.both(lambda tx: tx.tell(run, item), undo)

    @rule(agents=st.lists(st.sampled_from("ab"), unique=True), at=TIMES)
    def beat(self, agents: list[str], at: float) -> None:
        beats = [Beat(agent=each, at=at, body=Heartbeat(phase="p", loss=at / 7)) for each in agents]
        self.both(lambda tx: tx.save_beats(beats))

    @precondition(lambda self: self.runs > 0)
    @invariant()
    def everything_is_the_same(self) -> None:
        self.both(_everything)

    def change(self, run: str, change: Change, undo: bool) -> None:
        def act(tx: Transaction) -> Record | None:
            record = tx.load(run)
            if record is not None:
                tx.save(change(record))
            return tx.load(run)

        self.both(act, undo)

    def both(self, act: Callable[[Transaction], object], undo: bool = False) -> None:
        """Do the same in both; with `undo` it is undone by an exception, after which nothing has happened."""
        seen = []
        for store in (self.memory, self.database):
            try:
                with store.transaction() as tx:
                    seen.append(act(tx))
                    if undo:
                        raise Undo
            except Undo:
                pass
        assert seen[0] == seen[1]

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
        shutil.rmtree(self.folder)


def _with_intervals(record: Record, intervals: tuple[Interval, ...]) -> Record:
    return Record(run=record.run, attempts=record.attempts, machines=record.machines, intervals=intervals)


def _everything(tx: Transaction) -> object:
    runs = [f"run-{number}" for number in range(6)]
    return [
        [tx.load(run) for run in runs],
        [tx.run_id(name) for name in ("digits", "run-0", "run-1", "none")],
        tx.sums(),
        [tx.beginning(start, 2) for start in ("d", "run-", "run-1", "digits", "none")],
        [tx.run_of_agent(f"agent-{number}-1") for number in range(6)],
        [
            list(tx.runs(limit=limit, project=project, only_open=only))
            for limit in (1, 99)
            for project in (None, "a")
            for only in (False, True)
        ],
        sorted(tx.busy()),
        list(tx.outgoing()),
        list(tx.outgoing(after=2, limit=1)),
        tx.next_timer(),
        [list(tx.story(run, limit)) for run in runs for limit in (0, 1, 99)],
        list(tx.beats("ab")),
    ]


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    # Each step is written to a real disk.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
