"""Runs out of a checkpoint store: what is ours comes back, what is not does no harm."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl_controller.core import taking
from runctl_controller.core.keeping import keep
from runctl_controller.core.model import Record
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.errors import NotFound, ProviderFailed, RefusedByGuard, UsageError
from runctl_shared.ids import agent_id
from runctl_shared.messages import requests
from runctl_shared.messages.events import AttemptEnded
from runctl_shared.messages.replies import Done, ImportList, RunList
from runctl_shared.spec import RunSpec
from runctl_testing.eventually import eventually
from runctl_testing.office import RUN, Office
from runctl_testing.records import change_machine, change_run, new_run, with_attempt

OTHERS = "inst-others"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The store of another installation, with one run that has failed."""
    put(tmp_path / "theirs", over(RUN))
    return tmp_path / "theirs"


def over(run: str, state: RunState = RunState.FAILED, **fields: Any) -> Record:
    """A run that is over, after half an hour at a quarter dollar."""
    made = new_run(run, 5.0, name=fields.pop("name", "digits"), state=state, why="it failed", ended_at=9.0)
    made = with_attempt(made, ("training", 0.0, 1800.0), state=AttemptState.ENDED, reason="user_error")
    order = msgspec.structs.replace(made.machines[0].order, token=f"{OTHERS}.{agent_id(run, 1)}")
    return change_machine(made, 1, state=MachineState.TERMINATED, order=order)


def put(folder: Path, record: Record, owner: str = OTHERS, **spec: Any) -> RunRepository:
    """The run as its installation has left it in the store."""
    store = RunRepository(DirectoryStore(folder), record.run.id)
    fields: dict[str, Any] = {"installation": owner, "store": folder.as_uri()} | spec
    store.write_spec(msgspec.structs.replace(record.run.spec, **fields))
    store.write_record(keep(record, owner, 1.0))
    return store


def going(run: str, **fields: Any) -> Record:
    """A run that trains, as far as its record knows."""
    made = with_attempt(new_run(run, 5.0, name="alive", state=RunState.TRAINING), ("training", 1.0, None),
                        state=AttemptState.TRAINING, permitted=True, events_through=4, **fields)  # fmt: skip
    order = msgspec.structs.replace(made.machines[0].order, token=f"{OTHERS}.{agent_id(run, 1)}")
    return change_machine(made, 1, state=MachineState.RUNNING, order=order, launched_at=1.0, provider_id="p")


def bring(office: Office, folder: Path, **ask: Any) -> dict[str, tuple[str, str]]:
    """What became of each run."""
    found = office.client.ask(requests.ImportRuns(url=folder.as_uri(), **ask), ImportList)
    return {view.run: (view.outcome, view.note) for view in found.runs}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run_comes_back_and_the_store_is_as_it_was(office: Office, folder: Path) -> None:
    before = everything(folder)
    assert bring(office, folder) == {RUN: ("imported", "")}
    detail = office.detail("digits")
    assert (detail.run.state, detail.run.why, detail.run.dollars) == ("failed", "it failed", 0.125)
    assert [(a.attempt, a.reason) for a in detail.attempts] == [(1, "user_error")]
    assert detail.spec.store == folder.as_uri()
    assert [(s.kind, s.actor[:5]) for s in detail.story] == [("imported", "user:")]
    assert everything(folder) == before
    assert bring(office, folder) == {RUN: ("known", "it is on record already")}
    assert office.detail().story == detail.story
    assert [call for call, _ in office.provider.calls if call != "offers"] == []


def test_what_is_on_record_is_not_touched(office: Office, tmp_path: Path) -> None:
    """A store that says otherwise of a run that trains here."""
    before = office.training()
    put(tmp_path / "theirs", over(RUN))
    assert bring(office, tmp_path / "theirs", take_over=True)[RUN][0] == "known"
    assert office.detail().run.state == before.run.state


def test_an_unfinished_run_of_others_is_left_to_them(office: Office, tmp_path: Path) -> None:
    """Two controllers that look after one run."""
    put(tmp_path / "theirs", going(RUN))
    outcome, note = bring(office, tmp_path / "theirs")[RUN]
    assert outcome == "held"
    assert OTHERS in note
    assert office.client.ask(requests.ListRuns(), RunList).runs == ()


def test_taken_over_without_a_machine_it_waits_for_a_person(office: Office, tmp_path: Path) -> None:
    """A run that begins to train because of what lies in a store."""
    put(tmp_path / "theirs", going(RUN))
    assert bring(office, tmp_path / "theirs", take_over=True)[RUN][0] == "adopted"
    eventually(lambda: "describe" in [call for call, _ in office.provider.calls])
    record = office.record()
    assert (record.run.wanted.value, len(record.attempts)) == ("pause", 1)
    assert not [call for call, _ in office.provider.calls if call == "launch"]


def test_what_its_owner_was_just_busy_with_is_not_taken_over(office: Office, tmp_path: Path) -> None:
    """Two controllers of one run, because a person believed that the other one was gone."""
    store = put(tmp_path / "theirs", going(RUN))
    store.write_record(keep(going(RUN), OTHERS, office.clock.now() - 20.0))
    outcome, note = bring(office, tmp_path / "theirs", take_over=True)[RUN]
    assert outcome == "held"
    assert note.startswith("its controller kept its record 2")
    assert "its controller seems to live" in note
    assert office.client.ask(requests.ListRuns(), RunList).runs == ()
    outcome, note = bring(office, tmp_path / "theirs", take_over=True, force=True)[RUN]
    assert outcome == "adopted"
    assert "this computer does not know its machine" in note


def test_a_fresh_claim_counts_though_the_record_is_old(office: Office, tmp_path: Path) -> None:
    """A record that did not reach the store in time would hide that somebody has just resumed the run."""
    store = put(tmp_path / "theirs", paused(RUN))
    store.claim(2, agent_id(RUN, 2), None, office.clock.now() - 20.0)
    outcome, note = bring(office, tmp_path / "theirs", take_over=True)[RUN]
    assert (outcome, note[:20]) == ("held", "attempt 2 claimed it")


def test_what_its_owner_has_resumed_is_not_deleted_by_who_imported_it(office: Office, tmp_path: Path) -> None:
    """A failed run that is imported, goes on where it came from, and loses its checkpoints to a clean-up."""
    store = put(tmp_path / "theirs", over(RUN))
    assert bring(office, tmp_path / "theirs")[RUN][0] == "imported"
    store.claim(2, agent_id(RUN, 2), None, office.clock.now() - 20.0, OTHERS)
    before = everything(tmp_path / "theirs")
    with pytest.raises(RefusedByGuard, match=f"looked after by installation {OTHERS}: attempt 2 claimed it"):
        office.client.ask(requests.RemoveRun(run=RUN, checkpoints=True), Done)
    assert everything(tmp_path / "theirs") == before
    office.client.ask(requests.RemoveRun(run=RUN), Done)
    assert office.client.ask(requests.ListRuns(), RunList).runs == ()


@pytest.mark.parametrize(
    ("ages", "told"),
    [((), ""), ((taking.FRESH,), ""), ((5000.0, 20.0), "b 20 s ago"), ((-1e9, 20.0), "a 0 s ago")],
)
def test_the_newest_sign_decides(ages: tuple[float, ...], told: str) -> None:
    """An old sign beside a fresh one, or a clock that is ahead, taken for nobody."""
    signs = [taking.Sign(what=what, at=1e6 - age) for what, age in zip("ab", ages, strict=False)]
    found = taking.sign_of_life(signs, 1e6)
    assert found.startswith(told)
    assert bool(found) == bool(told)


def paused(run: str) -> Record:
    return over(run, RunState.PAUSED)


def test_a_paused_run_that_has_been_resumed_since_is_not_finished(office: Office, tmp_path: Path) -> None:
    """A record that never reached the store: a second machine would train as the very same attempt."""
    store = put(tmp_path / "theirs", paused(RUN))
    store.claim(2, agent_id(RUN, 2), None, 50.0)
    assert bring(office, tmp_path / "theirs")[RUN][0] == "held"
    assert bring(office, tmp_path / "theirs", take_over=True)[RUN][0] == "imported"
    record = office.record()
    assert (record.run.state, record.run.newest) == (RunState.PAUSED, 2)
    assert [(a.number, a.open) for a in record.attempts] == [(1, False), (2, False)]
    office.client.ask(requests.ResumeRun(run=RUN), Done)
    assert office.record().run.newest == 3


def test_a_machine_of_another_run_is_not_adopted(office: Office, tmp_path: Path) -> None:
    """A forged record that would have somebody's machine ended, or watched as another run's."""
    office.training()
    (burning,) = office.provider.burning()
    put(tmp_path / "theirs", going("run-abcd"), owner="inst-test")
    assert bring(office, tmp_path / "theirs", take_over=True)["run-abcd"][0] == "adopted"
    record = office.record("run-abcd")
    assert [m.id for m in record.machines] == ["agent-abcd-1"]
    assert office.provider.burning() == [burning]


def test_without_the_controllers_record_the_traces_tell(office: Office, folder: Path) -> None:
    (folder / RUN / "record.json").write_bytes(b"{torn")
    store = RunRepository(DirectoryStore(folder), RUN)
    store.claim(1, agent_id(RUN, 1), None, 7.0)
    store.write_end(1, AttemptEnded(reason="succeeded", last_step=40, saved_step=40))
    outcome, note = bring(office, folder)[RUN]
    assert outcome == "imported"
    assert "record of it is damaged" in note
    detail = office.detail()
    assert (detail.run.state, detail.run.saved_step, detail.run.dollars) == ("succeeded", 40, 0.0)


def test_a_forgotten_run_comes_back_with_its_costs_counted_once(office: Office, folder: Path) -> None:
    bring(office, folder)
    office.client.ask(requests.RemoveRun(run=RUN), Done)
    assert office.client.ask(requests.ListRuns(), RunList).forgotten_dollars == 0.125
    assert bring(office, folder)[RUN][0] == "imported"
    listed = office.client.ask(requests.ListRuns(), RunList)
    assert (listed.forgotten, listed.forgotten_dollars, listed.runs[0].dollars) == (0, 0.0, 0.125)


def test_a_run_that_is_forgotten_twice_costs_what_it_cost(office: Office, folder: Path) -> None:
    """Money that was remembered of a run is lost, or counted again, when it came back without its ledger."""
    bring(office, folder)
    whole = (folder / RUN / "record.json").read_bytes()
    office.client.ask(requests.RemoveRun(run=RUN), Done)
    (folder / RUN / "record.json").write_bytes(b"{torn")
    RunRepository(DirectoryStore(folder), RUN).write_end(1, AttemptEnded(reason="succeeded"))
    assert bring(office, folder)[RUN][0] == "imported"
    assert office.client.ask(requests.ListRuns(), RunList).forgotten_dollars == 0.125
    office.client.ask(requests.RemoveRun(run=RUN), Done)
    listed = office.client.ask(requests.ListRuns(), RunList)
    assert (listed.forgotten, listed.forgotten_dollars) == (1, 0.125)
    (folder / RUN / "record.json").write_bytes(whole)
    bring(office, folder)
    assert office.client.ask(requests.ListRuns(), RunList).forgotten_dollars == 0.0


def test_in_pages_that_can_be_gone_on_with(office: Office, tmp_path: Path) -> None:
    for number in range(7):
        put(tmp_path / "theirs", over(f"run-0000{number}"))
    seen, after = [], ""
    while True:
        ask = requests.ImportRuns(url=(tmp_path / "theirs").as_uri(), after=after, limit=3)
        found = office.client.ask(ask, ImportList)
        seen += [view.run for view in found.runs]
        after = found.through
        if not found.more:
            break
    assert seen == [f"run-0000{number}" for number in range(7)]


def _hostile(folder: Path) -> None:
    """Whatever may lie in a store that others can write to."""
    spec = over(RUN).run.spec

    def lay(run: str, made: RunSpec | bytes) -> Path:
        place = folder / run
        place.mkdir(parents=True)
        (place / "run.json").write_bytes(made if isinstance(made, bytes) else msgspec.json.encode(made))
        return place

    def changed(run: str, **fields: Any) -> RunSpec:
        return msgspec.structs.replace(spec, **({"run": run} | fields))

    lay("run-wrong1", changed(RUN))
    lay("run-name1", changed("run-name1", name="../../x\x1b[2J"))
    lay("run-empty1", changed("run-empty1", command=()))
    lay("run-moon1", changed("run-moon1", provider="moon"))
    lay("run-junk1", b"\xff" * 100)
    lay("run-deep1", b"[" * 100_000)
    lay("run-long1", changed("run-long1", env={"A": "x" * 700_000}))
    with lay("run-huge1", b"").joinpath("run.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole of a terabyte
    os.symlink("/etc", folder / "run-link1")
    (lay("run-link2", b"") / "run.json").unlink()
    os.symlink("/etc/passwd", folder / "run-link2" / "run.json")
    os.mkfifo(folder / "run-pipe1")
    (folder / "run-file1").write_text("not a folder")
    (lay("run-pipe2", b"") / "run.json").unlink()
    os.mkfifo(folder / "run-pipe2" / "run.json")
    claims = lay("run-claim1", changed("run-claim1")) / "attempts"
    claims.mkdir()
    (claims / "00001.json").write_text('{"run": "run-other1"}')
    many = lay("run-many1", changed("run-many1")) / "manifests"
    many.mkdir()
    for number in range(0, 99_999, 9):
        (many / f"{number:05d}-000001-000000000001-ck-a.json").touch()
    for odd in (
        "RUN-ABCD",
        "run-",
        "run-a1b2-9",
        "..run-abcd",
        "run-ab cd",
        "\u202erun",
        "x" * 200,
        "lost+found",
    ):
        (folder / odd).mkdir()


def test_a_hostile_store_does_no_harm(office: Office, folder: Path) -> None:
    """A hang, a crash, a file read elsewhere, a run under another's name; and the good one comes back."""
    _hostile(folder)
    found = bring(office, folder, limit=100)
    assert found.pop(RUN) == ("imported", "")
    assert {outcome for outcome, _ in found.values()} == {"damaged"}
    assert set(found) == {
        p.name
        for p in folder.iterdir()
        if p.name.startswith("run-") and p.name[4:].isalnum() and p.name != RUN
    }
    assert all(note and "root:" not in note for _, note in found.values())
    assert [r.run for r in office.client.ask(requests.ListRuns(), RunList).runs] == [RUN]


def test_a_damaged_record_with_secrets_of_others_is_no_way_in(office: Office, folder: Path) -> None:
    """A machine's name or token that leads out of its folder."""
    path = folder / RUN / "record.json"
    document = json.loads(path.read_bytes())
    document["record"]["machines"][0]["order"]["machine"] = "../../../etc"
    document["record"]["machines"][0]["state"] = "running"
    path.write_text(json.dumps(document))
    outcome, note = bring(office, folder, take_over=True)[RUN]
    assert "is not its own" in note
    assert office.record().machines == ()
    assert outcome == "imported"


@pytest.mark.parametrize(
    ("url", "kind"),
    [("s3://bucket", UsageError), ("file://elsewhere/x", UsageError), ("/nowhere/at/all", ProviderFailed)],
)
def test_a_store_that_is_none(office: Office, url: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        office.client.ask(requests.ImportRuns(url=url), ImportList)


def test_an_empty_store_has_no_run(office: Office, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert bring(office, tmp_path / "empty") == {}
    with pytest.raises(NotFound):
        office.detail()


def test_a_run_that_is_imported_can_be_cancelled_and_forgotten(office: Office, tmp_path: Path) -> None:
    put(tmp_path / "theirs", change_run(over(RUN), state=RunState.PAUSED))
    assert bring(office, tmp_path / "theirs")[RUN][0] == "imported"
    office.client.ask(requests.CancelRun(run=RUN), Done)
    assert office.client.ask(requests.RemoveRun(run=RUN), Done).run == RUN
