"""What every Store promises, asked of the one in memory and of the one in a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from runctl_controller.core.effects import Launch, Look, Tell
from runctl_controller.core.leadership import Leadership
from runctl_controller.core.model import Interval
from runctl_controller.core.tables import OPEN_RUN, AttemptState, MachineState, RunState
from runctl_controller.store.memory import Disk, MemoryStore
from runctl_controller.store.port import Beat, DueTimer, Forgotten, Store, Sums, Superseded
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.messages.events import Heartbeat
from runctl_testing.records import (
    change_attempt,
    change_machine,
    change_run,
    finished,
    new_run,
    with_attempt,
)

Open = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same state each time, as the next process would."""
    opened: list[Store] = []
    disk = Disk()

    def make() -> Store:
        memory = request.param == "memory"
        opened.append(MemoryStore(disk) if memory else SqlStore(f"sqlite:///{tmp_path}/state.db"))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> Store:
    return open_store()


RICH = with_attempt(
    with_attempt(
        new_run("run-rich", 5.0, restarts=2, exit_code=-9, why="müde\0"),
        ("boot", 1.0, 2.0),
        ("training", 2.0, 9.5),
        permitted=True,
        state=AttemptState.ENDED,
        reason="lost",
        lost_steps=3,
        started_at=2.0,
        lost_seconds=0.1 + 0.2,
    ),
    ("waiting", 9.0, None),
    unheard_since=7.0,
)


def test_what_is_saved_is_loaded(store: Store) -> None:
    record = change_machine(RICH, 1, state=MachineState.TERMINATED, cause="interrupted", ended_at=9.5)
    with store.transaction() as tx:
        assert tx.load("run-rich") is None
        tx.save(record)
        assert tx.load("run-rich") == record
    with store.transaction() as tx:
        assert tx.load("run-rich") == record
        assert tx.run_of_agent("agent-rich-2") == "run-rich"
        assert tx.run_of_agent("agent-rich-3") is None


def test_every_part_of_a_record_may_change(store: Store) -> None:
    """Also an interval that is split, and one that is dropped while others follow it."""
    states = [RICH]
    states.append(change_run(states[-1], state=RunState.TRAINING, fruitless=1, why=""))
    states.append(change_attempt(states[-1], 2, state=AttemptState.STAGING, events_through=4))
    states.append(change_machine(states[-1], 2, state=MachineState.RUNNING, provider_id="p-1"))
    first, second, last = states[-1].intervals
    split = (first, _to(second, 4.0), _to(second, 9.5, start=4.0, use="lost"), last)
    states.append(msgspec.structs.replace(states[-1], intervals=split))
    states.append(msgspec.structs.replace(states[-1], intervals=(first, last)))
    again = _to(last, None, start=12.0)
    states.append(msgspec.structs.replace(states[-1], intervals=(first, _to(last, 12.0), again)))
    states.append(msgspec.structs.replace(states[-1], intervals=(first, again, _to(last, 12.0))))
    for state in states:
        with store.transaction() as tx:
            tx.load("run-rich")
            tx.save(state)
        with store.transaction() as tx:
            assert tx.load("run-rich") == state


def _to(interval: Interval, end: float | None, **changes: object) -> Interval:
    return msgspec.structs.replace(interval, end=end, **changes)


def test_runs_do_not_mix(store: Store) -> None:
    other = with_attempt(new_run("run-other"), ("boot", 1.0, None))
    with store.transaction() as tx:
        tx.save(RICH)
        tx.save(other)
        tx.save(change_attempt(RICH, 1, detail="changed"))
    with store.transaction() as tx:
        assert tx.load("run-other") == other


def test_an_exception_undoes_everything(store: Store) -> None:
    _fill(store)
    with pytest.raises(ZeroDivisionError):
        _fail(store)
    with store.transaction() as tx:
        assert tx.load("run-rich") == RICH
        assert tx.load("run-new") is None
        assert [item.id for item in tx.outgoing()] == [1]
        assert tx.next_timer() == 5.0
        assert [item.text for item in tx.story("run-rich", 10)] == ["known"]
        assert [beat.at for beat in tx.beats(["agent-rich-1"])] == [1.0]


def _fail(store: Store) -> None:
    with store.transaction() as tx:
        tx.save(change_run(RICH, why="not to be"))
        tx.save(new_run("run-new"))
        tx.queue("run-rich", [Look(machine="m")])
        tx.done(1)
        tx.set_timer("run-rich", "new", 1.0)
        tx.cancel_timer("run-rich", "known")
        tx.take_due(1e9)
        tx.tell("run-rich", _told("not to be"))
        tx.save_beats([_beat("agent-rich-1", 9.0)])
        raise ZeroDivisionError


def _fill(store: Store) -> None:
    with store.transaction() as tx:
        tx.save(RICH)
        tx.queue("run-rich", [Launch(machine="m")])
        tx.set_timer("run-rich", "known", 5.0)
        tx.tell("run-rich", _told("known"))
        tx.save_beats([_beat("agent-rich-1", 1.0)])


def test_the_next_process_finds_everything(open_store: Open) -> None:
    store = open_store()
    _fill(store)
    store.close()
    with open_store().transaction() as tx:
        assert tx.load("run-rich") == RICH
        assert [(item.id, item.run, item.effect) for item in tx.outgoing()] == [
            (1, "run-rich", Launch(machine="m"))
        ]
        assert tx.take_due(5.0) == [DueTimer(run="run-rich", key="known", at=5.0)]
        assert list(tx.story("run-rich", 10)) == [_told("known")]
        assert list(tx.beats(["agent-rich-1"])) == [_beat("agent-rich-1", 1.0)]


def test_effects_leave_in_the_order_they_came_and_stay_until_done(store: Store) -> None:
    with store.transaction() as tx:
        tx.queue("run-a", [Look(machine="1"), Look(machine="2")])
        tx.queue("run-b", [Launch(machine="3")])
    with store.transaction() as tx:
        first, second, third = tx.outgoing()
        assert [item.effect for item in (first, second, third)] == [
            Look(machine="1"), Look(machine="2"), Launch(machine="3"),
        ]  # fmt: skip
        assert [item.run for item in (first, second, third)] == ["run-a", "run-a", "run-b"]
        assert list(tx.outgoing(after=first.id, limit=1)) == [second]
        tx.done(second.id)
        tx.done(second.id)
        assert list(tx.outgoing()) == [first, third]


def test_the_number_of_an_effect_is_never_given_again(open_store: Open) -> None:
    """Else whoever remembers the newest number that it has seen would miss the next effect."""
    store = open_store()
    with store.transaction() as tx:
        tx.queue("run-a", [Look(machine="1")])
        last = tx.outgoing()[-1].id
        tx.done(last)
    store.close()
    with open_store().transaction() as tx:
        tx.queue("run-a", [Look(machine="2")])
        assert [item.id > last for item in tx.outgoing(after=last)] == [True]


def test_timers_are_replaced_cancelled_and_taken_once(store: Store) -> None:
    with store.transaction() as tx:
        assert tx.next_timer() is None
        tx.set_timer("run-a", "look", 30.0)
        tx.set_timer("run-b", "look", 20.0)
        tx.set_timer("run-a", "retry", 40.0)
        tx.set_timer("run-a", "look", 10.0)
        tx.set_timer("run-c", "look", 5.0)
        tx.cancel_timer("run-c", "look")
        tx.cancel_timer("run-c", "look")
    with store.transaction() as tx:
        assert tx.next_timer() == 10.0
        assert list(tx.take_due(9.0)) == []
        assert list(tx.take_due(20.0)) == [
            DueTimer(run="run-a", key="look", at=10.0),
            DueTimer(run="run-b", key="look", at=20.0),
        ]
        assert list(tx.take_due(20.0)) == []
        assert tx.next_timer() == 40.0


def test_timers_are_taken_a_few_at_a_time_and_move_with_the_clock(store: Store) -> None:
    with store.transaction() as tx:
        for at in (3.0, 1.0, 2.0):
            tx.set_timer("run-a", f"look:{at}", at)
        tx.shift_timers(-0.5)
    with store.transaction() as tx:
        assert [timer.at for timer in tx.take_due(9.0, 2)] == [0.5, 1.5]
        assert tx.next_timer() == 2.5


def test_a_name_means_its_newest_run_and_an_id_comes_first(store: Store) -> None:
    with store.transaction() as tx:
        tx.save(finished("run-b", 1.0, name="digits"))
        tx.save(finished("run-c", 3.0, name="digits"))
        tx.save(finished("run-a", 2.0, name="digits"))
        tx.save(new_run("run-d", 4.0, name="run-a"))
        assert tx.run_id("digits") == "run-c"
        assert tx.run_id("run-a") == "run-a"
        assert tx.run_id("digit") is None


def test_what_begins_alike(store: Store) -> None:
    """A run that is not found by its beginning, one of a name's older runs, or a neighbour that is."""
    with store.transaction() as tx:
        tx.save(finished("run-b1", 1.0, name="digits"))
        tx.save(finished("run-b2", 3.0, name="digits"))
        tx.save(finished("run-b3", 2.0, name="digits-long"))
        tx.save(finished("run-c1", 2.0, name="dig"))
        tx.save(finished("run-c2", 2.0, name="dih"))
        assert tx.beginning("dig", 9) == ["run-c1", "run-b2", "run-b3"]
        assert tx.beginning("dig", 2) == ["run-c1", "run-b2"]
        assert tx.beginning("run-b", 9) == ["run-b1", "run-b2", "run-b3"]
        assert tx.beginning("run-b", 1) == ["run-b1"]
        assert tx.beginning("digits-longer", 9) == []
        assert tx.beginning("%", 9) == tx.beginning("_", 9) == []


def test_what_happened_is_numbered_over_all_runs(store: Store) -> None:
    """A page that lacks an item, has one twice, mixes runs up, or goes the wrong way."""
    with store.transaction() as tx:
        tx.save(new_run("run-a", name="digits"))
        numbers = [tx.tell(f"run-{run}", _told(str(n))) for n, run in enumerate("abacb")]
        assert numbers == sorted(set(numbers))
    with store.transaction() as tx:
        assert [told.number for told in tx.told_after(0, 9)] == numbers
        assert [told.number for told in tx.told_after(numbers[1], 2)] == numbers[2:4]
        assert [told.item.text for told in tx.told_after(0, 9, "run-b")] == ["1", "4"]
        assert [told.number for told in tx.told_before(numbers[-1], 2)] == [numbers[3], numbers[2]]
        assert [told.item.text for told in tx.told_before(10**9, 1, "run-a")] == ["2"]
        assert [(told.run, told.name) for told in tx.told_after(0, 2)] == [("run-a", "digits"), ("run-b", "")]
        assert tx.newest_told() == numbers[-1]
        assert tx.told_after(numbers[-1], 9) == tx.told_before(numbers[0], 9) == []


def test_a_removed_run_leaves_nothing_but_what_it_cost(store: Store) -> None:
    """A row of it that stays, one of a neighbour that goes, a sum that forgets or counts twice."""
    record = change_machine(RICH, 2, state=MachineState.TERMINATED)
    other = with_attempt(new_run("run-other"), ("boot", 1.0, 2.0))
    left = Forgotten(
        run="run-rich", name="rich", project="p", created_at=5.0, removed_at=9.0, by="user:me",
        uses={"boot": (1.0, 0.25), "training": (7.5, 0.5)},
    )  # fmt: skip
    with store.transaction() as tx:
        for each in (record, other):
            tx.save(each)
            tx.tell(each.run.id, _told("known"))
            tx.set_timer(each.run.id, "look", 5.0)
            tx.queue(each.run.id, [Look(machine="m")])
            tx.save_beats([_beat(f"agent-{each.run.id[4:]}-1", 9.0)])
        assert tx.sums() == Sums()
        tx.remove(left)
        assert tx.load("run-rich") is None
    with store.transaction() as tx:
        assert tx.load("run-rich") is None
        assert tx.run_id("run-rich") is tx.run_of_agent("agent-rich-1") is None
        assert tx.load("run-other") == other
        assert [item.run for item in tx.outgoing()] == ["run-other"]
        assert [timer.run for timer in tx.take_due(9.0)] == ["run-other"]
        assert [told.run for told in tx.told_after(0, 9)] == ["run-other"]
        assert [beat.agent for beat in tx.beats(["agent-rich-1", "agent-other-1"])] == ["agent-other-1"]
        assert tx.sums() == Sums(runs=1, dollars=0.75)
        tx.save(record)  # it may come back
    with store.transaction() as tx:
        assert tx.recall("run-rich") == left
        assert tx.recall("run-rich") is None
        assert tx.sums() == Sums()


def test_runs_newest_first(store: Store) -> None:
    with store.transaction() as tx:
        for number, state in enumerate(RunState):
            project = "even" if number % 2 == 0 else "odd"
            tx.save(new_run(f"run-{number}", float(number), project=project, state=state))
        ids = [run.id for run in tx.runs(limit=100)]
        assert ids == [f"run-{number}" for number in reversed(range(len(RunState)))]
        assert [run.id for run in tx.runs(limit=3)] == ids[:3]
        assert {run.state for run in tx.runs(limit=100, only_open=True)} == OPEN_RUN
        assert [run.id for run in tx.runs(limit=2, project="odd")] == ["run-9", "run-7"]
        both = tx.runs(limit=2, project="odd", only_open=True)
        assert [run.id for run in both] == ["run-5", "run-3"]
        assert list(tx.runs(limit=0)) == []


def test_busy_is_whoever_may_still_cost_something(store: Store) -> None:
    ended = change_attempt(with_attempt(finished("run-1")), 1, state=AttemptState.ENDED)
    gone = change_machine(ended, 1, state=MachineState.TERMINATED)
    with store.transaction() as tx:
        tx.save(finished("run-0"))
        tx.save(new_run("run-q"))
        tx.save(ended)
        assert sorted(tx.busy()) == ["run-1", "run-q"]
    with store.transaction() as tx:
        tx.save(gone)
        assert list(tx.busy()) == ["run-q"]
    with store.transaction() as tx:
        tx.save(change_attempt(gone, 1, state=AttemptState.SAVING))
        assert sorted(tx.busy()) == ["run-1", "run-q"]


def test_a_story_is_told_in_order_from_its_end(store: Store) -> None:
    with store.transaction() as tx:
        for number in range(5):
            tx.tell("run-a", _told(f"a{number}"))
            tx.tell("run-b", _told(f"b{number}"))
    with store.transaction() as tx:
        assert [item.text for item in tx.story("run-a", 2)] == ["a3", "a4"]
        assert [item.text for item in tx.story("run-b", 99)] == ["b0", "b1", "b2", "b3", "b4"]
        assert list(tx.story("run-a", 0)) == []
        assert list(tx.story("run-c", 9)) == []


def _told(text: str) -> Tell:
    data: dict[str, object] = {"step": 7, "loss": 0.5, "pids": [1, 2], "none": None, "odd": "\udcff\0"}
    return Tell(at=1.5, attempt=2, kind="run", text=text, actor="user:anna", data=data)


def test_of_an_agent_only_the_newest_beat_is_kept(store: Store) -> None:
    with store.transaction() as tx:
        tx.save_beats([])
        tx.save_beats([_beat("agent-1", 1.0), _beat("agent-2", 1.0)])
        tx.save_beats([_beat("agent-2", 2.0)])
    with store.transaction() as tx:
        assert list(tx.beats(["agent-2", "agent-9", "agent-1"])) == [
            _beat("agent-2", 2.0),
            _beat("agent-1", 1.0),
        ]
        assert list(tx.beats([])) == []


def test_a_loss_that_is_no_number_stays_one(store: Store) -> None:
    beat = Beat(
        agent="agent-1", at=1.0, body=Heartbeat(phase="training", loss=float("nan"), epoch=float("inf"))
    )
    with store.transaction() as tx:
        tx.save_beats([beat])
    with store.transaction() as tx:
        (found,) = tx.beats(["agent-1"])
        assert repr(found) == repr(beat)


def _beat(agent: str, at: float) -> Beat:
    return Beat(agent=agent, at=at, body=Heartbeat(phase="training", step=int(at), loss=at / 3))


def test_who_takes_over_is_the_only_one_to_write(open_store: Open) -> None:
    old, new = open_store(), open_store()
    first = old.take_over().epoch
    with old.transaction() as tx:
        tx.save(RICH)
    assert new.take_over().epoch == first + 1
    for _ in range(2):
        with pytest.raises(Superseded), old.transaction() as tx:
            tx.save(new_run("run-late"))
    with new.transaction() as tx:
        assert tx.load("run-late") is None
        tx.save(change_run(RICH, why="new"))
    assert old.take_over().epoch == first + 2
    with old.transaction() as tx:
        assert tx.load("run-rich") == change_run(RICH, why="new")
    with pytest.raises(Superseded), new.transaction():
        pass


def test_a_leadership_is_seen_by_others_and_goes_on_counting(open_store: Open) -> None:
    """A standby that cannot see its leader is well takes over from it."""
    leader, standby = open_store(), open_store()
    assert (found := standby.leadership()) is not None
    assert found.epoch == 0
    mine = leader.take_over(pid=7, now=5.0, seconds=15.0)
    assert mine == Leadership(epoch=1, pid=7, since=5.0, seconds=15.0)
    assert standby.leadership() == mine
    leader.renew()
    leader.renew()
    assert standby.leadership() == msgspec.structs.replace(mine, renewals=2)


def test_a_leadership_can_be_seen_while_somebody_writes_and_never_ends(open_store: Open) -> None:
    """A leader that is stopped in the midst of a transaction would stop its standbys, too."""
    leader, standby = open_store(), open_store()
    mine = leader.take_over(pid=7, seconds=15.0)
    with leader.transaction() as tx:
        tx.save(RICH)
        assert standby.leadership() == mine


def test_only_what_was_seen_to_stand_still_is_replaced(open_store: Open) -> None:
    """Two standbys that saw the same leader stop would both lead, one after the other; and so would one that
    looked just before the leader woke up."""
    old, first, second = open_store(), open_store(), open_store()
    seen = old.take_over(pid=7, seconds=15.0)
    old.renew()
    with pytest.raises(Superseded):
        first.take_over(pid=8, instead_of=seen)
    old.renew()
    seen = msgspec.structs.replace(seen, renewals=2)
    assert first.take_over(pid=8, instead_of=seen).epoch == 2
    with pytest.raises(Superseded, match="process 8, epoch 2"):
        second.take_over(pid=9, instead_of=seen)
    with first.transaction() as tx:
        tx.save(RICH)
    with pytest.raises(Superseded, match="process 8, epoch 2"):
        old.renew()
    assert (now := second.leadership()) is not None
    assert (now.pid, now.renewals) == (8, 0)


def test_the_installation_is_made_once(open_store: Open) -> None:
    store = open_store()
    made = store.installation()
    assert made.startswith("inst-")
    assert store.installation() == made
    assert open_store().installation() == made
