"""Requests over a real bus: each kind, what is refused, and what nobody should have sent."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from runctl_controller.client.events import Events, Troubled
from runctl_controller.core.effects import ForgetAgent, Tell
from runctl_controller.core.model import Interval
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.service import clients as module
from runctl_controller.service.reading import list_checkpoints
from runctl_shared.bus.port import Address, BusUnavailable, Stream
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.errors import NotFound, ProviderFailed, RefusedByGuard, RunctlError, UsageError
from runctl_shared.messages import requests
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import Message, decode, encode
from runctl_shared.messages.commands import FollowOutput, StopTraining
from runctl_shared.messages.events import CheckpointCommitted, Heartbeat, OutputSeen
from runctl_shared.messages.replies import (
    CheckpointList,
    Done,
    EventList,
    EventView,
    Failed,
    LogPiece,
    OutputRelayed,
    ProgressSeen,
    RunChanged,
    RunDetail,
    RunList,
    Series,
    Status,
)
from runctl_shared.spec import RunSpec
from runctl_testing import checkpoints
from runctl_testing.buses import FEED, PATIENCE, Inbox
from runctl_testing.eventually import eventually
from runctl_testing.office import RUN, Office
from runctl_testing.records import change_attempt, change_machine, change_run

AGENT = "agent-abcd1234-1"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.close()


def raw(office: Office, data: bytes) -> Any:
    """The reply to these bytes."""
    return decode(office.agents.request(data, timeout=PATIENCE)).body


def heard(inbox: Inbox, kind: type[Body]) -> list[Any]:
    return [m.body for m in map(decode, inbox.bodies()) if isinstance(m.body, kind)]


def test_eight_who_ask_at_once_do_not_stand_in_line(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes its time, and clients of whom most wait for the others to have been served."""
    office.training()
    together = threading.Barrier(8)

    def slow(spec: RunSpec) -> CheckpointList:
        together.wait(PATIENCE)  # nobody is served before all eight are being served
        return list_checkpoints(spec)

    monkeypatch.setattr(module, "list_checkpoints", slow)
    ask = requests.ListCheckpoints(run=RUN)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(office.client.ask, ask, CheckpointList, PATIENCE) for _ in range(8)]
        assert [one.result(PATIENCE).checkpoints for one in asked] == [()] * 8


def test_a_store_that_hangs_keeps_nobody_else_waiting(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses that are read by the thread that drives everything: it would not even show that it leads."""
    office.training()
    reading, served = threading.Event(), threading.Event()

    def hangs(*_: object) -> Series:
        reading.set()
        assert served.wait(PATIENCE)
        return Series(points=(), stored=0)

    monkeypatch.setattr(module, "read_series", hangs)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(office.client.ask, requests.ReadSeries(run=RUN), Series, PATIENCE)
        assert reading.wait(PATIENCE)
        assert office.client.ask(requests.ControllerStatus(), Status, PATIENCE).unfinished == 1
        served.set()
        assert asked.result(PATIENCE).points == ()


class TestSubmit:
    def test_a_run_is_on_record_before_it_is_answered(self, office: Office) -> None:
        done = office.client.ask(requests.SubmitRun(spec=office.spec()), Done)
        assert done.run == RUN
        assert office.record().run.spec == office.spec()
        eventually(lambda: office.provider.burning() == [AGENT])

    def test_asked_again_it_is_the_same_run(self, office: Office) -> None:
        office.submitted()
        detail = office.submitted()
        assert len(detail.attempts) == 1
        listed = office.client.ask(requests.ListRuns(), RunList)
        assert [run.run for run in listed.runs] == [RUN]

    @pytest.mark.parametrize(
        ("changes", "kind"),
        [
            ({"run": "gun-abcd1234"}, UsageError),
            ({"name": "No Name"}, UsageError),
            ({"grace": -1.0}, UsageError),
            ({"provider": "moon"}, RefusedByGuard),
            ({"store": "s3://bucket"}, ProviderFailed),
            ({"store": "/proc/nowhere"}, ProviderFailed),
        ],
    )
    def test_what_cannot_run_is_refused_before_anything_is_on_record(
        self, office: Office, changes: dict[str, Any], kind: type[RunctlError]
    ) -> None:
        spec = msgspec.structs.replace(office.spec(), **changes)
        with pytest.raises(kind):
            office.client.ask(requests.SubmitRun(spec=spec), Done)
        assert office.client.ask(requests.ListRuns(), RunList).runs == ()
        assert office.provider.calls == [("offers", "")]

    def test_a_name_that_is_in_use_is_refused(self, office: Office) -> None:
        office.submitted()
        with pytest.raises(RefusedByGuard, match="digits"):
            office.submitted(office.spec(run="run-efgh5678"))


class TestLooking:
    def test_runs_newest_first_as_many_as_asked_for_and_of_the_project(self, office: Office) -> None:
        for number in range(3):
            office.submitted(
                office.spec(run=f"run-0000{number}", name=f"run{number}", project=f"p{number % 2}")
            )
        ask = office.client.ask
        assert [r.name for r in ask(requests.ListRuns(), RunList).runs] == ["run2", "run1", "run0"]
        assert [r.name for r in ask(requests.ListRuns(limit=1), RunList).runs] == ["run2"]
        assert [r.name for r in ask(requests.ListRuns(project="p1"), RunList).runs] == ["run1"]
        assert ask(requests.ListRuns(project="none"), RunList).runs == ()

    def test_a_run_by_name_or_id(self, office: Office) -> None:
        office.submitted()
        by_id, by_name = office.detail(RUN), office.detail("digits")
        assert by_id.run.run == by_name.run.run == RUN
        assert by_id.spec == office.spec()

    def test_a_run_by_a_beginning_that_only_it_has(self, office: Office) -> None:
        """A beginning that hides a whole name, means two things at once, or is nothing at all."""
        for number, name in enumerate(("digits", "dig", "dinner")):
            office.submitted(office.spec(run=f"run-0000{number}", name=name))
        assert office.detail("dinn").run.name == "dinner"
        assert office.detail("run-00001").run.name == "dig"
        assert office.detail("dig").run.name == "dig"
        assert office.client.ask(requests.CancelRun(run="dinn"), Done).run == "run-00002"
        with pytest.raises(UsageError, match=r"'d' may be dig \(run-00001\), digits \(run-00000\), dinner"):
            office.detail("d")
        with pytest.raises(UsageError, match="'run-' may be"):
            office.detail("run-")
        for nobody in ("", "x", "digitsx", "%", "run-00001-"):
            with pytest.raises(NotFound):
                office.detail(nobody)

    def test_the_newest_of_the_story_and_no_more_than_asked_for(self, office: Office) -> None:
        office.training()
        story = office.detail().story
        few = office.client.ask(requests.ShowRun(run=RUN, story=2), RunDetail).story
        assert few == story[-2:]

    def test_the_heartbeat_that_came_last_is_seen(self, office: Office) -> None:
        office.training()
        beat = encode(Heartbeat(phase="training", step=77, loss=0.5), id="b", agent=AGENT)
        office.agents.publish(Address(Stream.HEARTBEATS, AGENT, "Heartbeat"), beat, message_id="b")
        assert eventually(lambda: office.detail().run.step == 77, PATIENCE)
        assert office.detail().run.loss == 0.5

    def test_the_status_counts_what_is_left_to_do(self, office: Office) -> None:
        status = office.client.ask(requests.ControllerStatus(), Status)
        assert (status.unfinished, status.machines, status.installation) == (0, 0, "inst-test")
        office.training()
        status = office.client.ask(requests.ControllerStatus(), Status)
        assert (status.unfinished, status.machines) == (1, 1)
        assert status.pid > 1

    def test_checkpoints_newest_first_and_which_may_be_restored(self, office: Office, tmp_path: Path) -> None:
        office.submitted()
        assert office.client.ask(requests.ListCheckpoints(run=RUN), CheckpointList).checkpoints == ()
        repository = RunRepository(DirectoryStore(tmp_path / "checkpoints"), RUN)
        repository.claim(1, AGENT, None, 0.0)
        for step in (1, 2):
            checkpoints.commit(repository, tmp_path / "train", step)
        repository.claim(2, "agent-abcd1234-2", repository.eligible()[0].name, 0.0)
        checkpoints.commit(repository, tmp_path / "train", 9)  # a cut-off attempt's
        found = office.client.ask(requests.ListCheckpoints(run="digits"), CheckpointList).checkpoints
        assert [(c.step, c.eligible) for c in found] == [(9, False), (2, True), (1, True)]
        path = found[0].where.removeprefix("file://")
        assert checkpoints.is_whole(Path(path), 9)

    def test_a_damaged_manifest_hides_only_itself(self, office: Office, tmp_path: Path) -> None:
        office.submitted()
        store = DirectoryStore(tmp_path / "checkpoints")
        repository = RunRepository(store, RUN)
        repository.claim(1, AGENT, None, 0.0)
        names = [checkpoints.commit(repository, tmp_path / "train", step).name for step in (1, 2)]
        store.put(f"{RUN}/{names[1]}", b"{")
        found = office.client.ask(requests.ListCheckpoints(run=RUN), CheckpointList).checkpoints
        assert [c.step for c in found] == [1]

    def test_the_output_piece_by_piece(self, office: Office, tmp_path: Path) -> None:
        office.submitted()
        logs = RunRepository(DirectoryStore(tmp_path / "checkpoints"), RUN).logs
        logs.append_segment(1, 0, b"0123456789")
        logs.append_segment(2, 0, b"second")
        ask = office.client.ask
        piece = ask(requests.ReadLog(run=RUN, offset=3, limit=4), LogPiece)
        assert (piece.attempt, piece.offset, piece.data, piece.size) == (1, 3, b"3456", 10)
        assert piece.attempts == (1, 2)
        assert ask(requests.ReadLog(run=RUN, attempt=2), LogPiece).data == b"second"
        assert ask(requests.ReadLog(run=RUN, offset=99), LogPiece).data == b""
        logs.append_segment(1, 0, b"x" * (1 << 20))
        large = ask(requests.ReadLog(run=RUN, limit=2**53), LogPiece)  # as much as fits into a message
        assert 0 < len(large.data) < 1 << 20


class TestActing:
    def test_stop_asks_the_training_to_save(self, office: Office) -> None:
        office.training()
        inbox = office.commands()
        done = office.client.ask(requests.StopRun(run="digits"), Done)
        assert done.run == RUN
        eventually(lambda: heard(inbox, StopTraining))
        assert heard(inbox, StopTraining)[0].save

    def test_cancel_is_refused_while_it_trains_and_done_with_force(self, office: Office) -> None:
        office.training()
        with pytest.raises(RefusedByGuard, match="training"):
            office.client.ask(requests.CancelRun(run=RUN), Done)
        inbox = office.commands()
        office.client.ask(requests.CancelRun(run=RUN, force=True), Done)
        eventually(lambda: heard(inbox, StopTraining))
        assert not heard(inbox, StopTraining)[0].save

    def test_resume_of_what_goes_on_changes_nothing(self, office: Office) -> None:
        before = office.training()
        assert "already" in office.client.ask(requests.ResumeRun(run=RUN), Done).note
        assert office.detail().attempts == before.attempts

    def test_a_drill_reaches_the_provider(self, office: Office) -> None:
        office.training()
        office.client.ask(requests.InterruptRun(run=RUN, notice=60.0), Done)
        assert eventually(lambda: office.provider.notice(AGENT))

    def test_who_asks_is_told_in_the_story(self, office: Office) -> None:
        office.submitted()
        data = encode(requests.StopRun(run=RUN), id="r", actor="jane" * 50)
        assert isinstance(raw(office, data), Done)
        item = next(item for item in office.detail().story if item.kind == "stop")
        assert item.actor.startswith("user:janejane")

    @pytest.mark.parametrize(
        "body",
        [
            requests.ShowRun(run="nope"),
            requests.StopRun(run="nope"),
            requests.CancelRun(run="nope"),
            requests.ResumeRun(run="nope"),
            requests.InterruptRun(run="nope"),
            requests.ListCheckpoints(run="nope"),
            requests.ReadLog(run="nope"),
            requests.FollowRun(run="nope"),
        ],
    )
    def test_what_does_not_exist_is_not_found(self, office: Office, body: Body) -> None:
        with pytest.raises(NotFound, match="'nope'") as caught:
            office.client.ask(body, Done)
        assert caught.value.mend


class TestForgetting:
    @pytest.fixture
    def over(self, office: Office) -> Office:
        """A run that has failed, its machine gone, after half an hour at a quarter dollar."""
        office.submitted()
        with office.store.transaction() as tx:
            paid = Interval(machine=AGENT, attempt=1, use="training", start=0.0, end=1800.0, price=0.25)
            record = msgspec.structs.replace(office.record(), intervals=(paid,))
            record = change_attempt(record, 1, state=AttemptState.ENDED, reason="user_error")
            record = change_machine(record, 1, state=MachineState.TERMINATED)
            tx.save(change_run(record, state=RunState.FAILED))
            for item in tx.outgoing():
                tx.done(item.id)
        return office

    def test_it_is_gone_and_its_costs_are_not(self, over: Office, tmp_path: Path) -> None:
        """A ledger that forgets money with the run that spent it."""
        done = over.client.ask(requests.RemoveRun(run="dig"), Done)
        assert f"digits is forgotten; its checkpoints stay in {over.spec().store}" == done.note
        listed = over.client.ask(requests.ListRuns(), RunList)
        assert (listed.runs, listed.forgotten, listed.forgotten_dollars) == ((), 1, 0.125)
        with pytest.raises(NotFound):
            over.detail()
        with pytest.raises(NotFound):
            over.client.ask(requests.RemoveRun(run=RUN), Done)
        assert RunRepository(DirectoryStore(tmp_path / "checkpoints"), RUN).read_spec().run == RUN

    def test_with_its_checkpoints_and_nobody_elses(self, over: Office, tmp_path: Path) -> None:
        store = DirectoryStore(tmp_path / "checkpoints")
        neighbour = "run-abcd12345"
        for run in (RUN, neighbour):
            repository = RunRepository(store, run)
            repository.write_spec(msgspec.structs.replace(over.spec(run=run), installation="inst-test"))
            repository.claim(1, AGENT, None, 0.0)
            checkpoints.commit(repository, tmp_path / "train", 1)
        store.put("mine.txt", b"precious")
        kept = [info.key for info in store.list(neighbour)]
        assert len(kept) > 3
        over.client.ask(requests.RemoveRun(run=RUN, checkpoints=True), Done)
        assert [info.key for info in store.list("")] == ["mine.txt", *kept]

    def test_checkpoints_that_cannot_be_deleted_keep_the_run_on_record(
        self, over: Office, tmp_path: Path
    ) -> None:
        """A run that is forgotten half-way: nobody would know what is left of it."""
        (tmp_path / "checkpoints" / RUN / "link").symlink_to(tmp_path)
        with pytest.raises(ProviderFailed, match="symbolic link"):
            over.client.ask(requests.RemoveRun(run=RUN, checkpoints=True), Done)
        assert over.detail().run.state == "failed"

    def test_nobody_resumes_it_while_its_checkpoints_are_deleted(
        self, over: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A training that goes on from a store that is half empty, and is emptied further."""
        deleting, refused = threading.Event(), threading.Event()

        def slowly(spec: RunSpec) -> None:
            deleting.set()
            assert refused.wait(PATIENCE)

        monkeypatch.setattr(module, "remove_checkpoints", slowly)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(
                over.client.ask, requests.RemoveRun(run=RUN, checkpoints=True), Done, PATIENCE
            )
            assert deleting.wait(PATIENCE)
            for body in (requests.ResumeRun(run="dig"), requests.RemoveRun(run=RUN, checkpoints=True)):
                with pytest.raises(RefusedByGuard, match="being deleted"):
                    over.client.ask(body, Done)
            refused.set()
            assert "is forgotten" in asked.result(PATIENCE).note

    @pytest.mark.parametrize("state", sorted(set(RunState) - {RunState.SUCCEEDED, RunState.CANCELLED}))
    def test_what_is_not_finished_is_not_forgotten(
        self, over: Office, state: RunState, tmp_path: Path
    ) -> None:
        with over.store.transaction() as tx:
            record = change_run(over.record(), state=state)
            unsure = change_machine(record, 1, state=MachineState.UNCONFIRMED)
            tx.save(unsure if state is RunState.FAILED else record)
        for body in (requests.RemoveRun(run=RUN), requests.RemoveRun(run=RUN, checkpoints=True)):
            with pytest.raises(RefusedByGuard, match=r"not confirmed gone|only a finished run"):
                over.client.ask(body, Done)
        assert RunRepository(DirectoryStore(tmp_path / "checkpoints"), RUN).read_spec().run == RUN

    def test_what_is_still_to_be_done_for_it_comes_first(
        self, over: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A queue at the broker that nobody removes any more."""

        def away(agent: str) -> None:
            raise BusUnavailable("The broker is away.")

        monkeypatch.setattr(over.bus, "remove_agent", away)
        with over.store.transaction() as tx:
            tx.queue(RUN, [ForgetAgent(agent=AGENT)])
        for body in (requests.RemoveRun(run=RUN), requests.RemoveRun(run=RUN, checkpoints=True)):
            with pytest.raises(RefusedByGuard, match="cleaned up"):
                over.client.ask(body, Done)
        assert over.detail().run.state == "failed"


class TestWhatHappened:
    def pages(self, office: Office, **ask: Any) -> list[str]:
        found = office.client.ask(requests.ListEvents(**ask), EventList)
        return [event.story.text for event in found.events]

    def tell(self, office: Office, run: str, *texts: str, at: float = 1.0, **data: object) -> None:
        with office.store.transaction() as tx:
            for text in texts:
                tx.tell(run, Tell(at=at, attempt=1, kind="k", text=text, actor="agent", data=data))

    def test_the_newest_back_to_a_moment_and_the_oldest_beyond_a_number(self, office: Office) -> None:
        """An event that no page has, or that two have."""
        self.tell(office, "run-a", "1", "2", at=1.0)
        self.tell(office, "run-a", "3", "4", "5", at=2.0)
        assert self.pages(office, limit=2) == ["4", "5"]
        assert self.pages(office, since=2.0) == ["3", "4", "5"]
        assert self.pages(office, before=4, limit=2) == ["2", "3"]
        assert self.pages(office, after=2, limit=2) == ["3", "4"]
        through = office.client.ask(requests.ListEvents(after=2, limit=2), EventList)
        assert (through.through, through.more) == (4, True)
        rest = office.client.ask(requests.ListEvents(after=4, limit=2), EventList)
        assert (rest.through, rest.more) == (5, False)

    def test_of_one_run_by_its_name(self, office: Office) -> None:
        office.submitted()
        self.tell(office, "run-other", "another's")
        found = office.client.ask(requests.ListEvents(run="dig"), EventList)
        assert found.run == RUN
        assert {event.run for event in found.events} == {RUN}
        assert {event.name for event in found.events} == {"digits"}
        # Nothing of this run is missing up to the newest event of all.
        last = office.client.ask(requests.ListEvents(run=RUN, after=found.through), EventList)
        assert (last.events, last.through) == ((), found.through)
        with pytest.raises(NotFound):
            office.client.ask(requests.ListEvents(run="nope"), EventList)

    def test_pages_fit_into_a_message_however_long_their_events_are(self, office: Office) -> None:
        """A long event that can never be listed would hide everything after it."""
        self.tell(office, RUN, "first", long="x" * 400_000)
        self.tell(office, RUN, "second", long="x" * 400_000)
        self.tell(office, RUN, "third", long="x" * 3_000_000)
        assert self.pages(office, after=0) == ["first"]
        assert self.pages(office, after=1) == ["second", "third"]
        assert self.pages(office) == ["second", "third"]

    def test_a_gap_in_the_feed_is_filled_at_once(self, office: Office) -> None:
        """Not only once nothing has come for long."""
        office.submitted()
        heard_of: list[Message[Any]] = []
        office.client.listen(heard_of.append)
        feed = Events(office.client, None, lambda: True)
        feed.past(1)
        feed._subscription.close()
        office.client.ask(requests.StopRun(run=RUN), Done)
        eventually(lambda: len(heard_of) >= 3)
        numbers = [message.body.story.number for message in heard_of]
        feed._heard(heard_of[2])
        filled = [feed.next(0.0) for _ in range(3)]
        assert [event.story.number for event in filled if isinstance(event, EventView)] == numbers[:3]

    def test_a_listener_misses_nothing_while_the_feed_loses_much(self, office: Office) -> None:
        """A feed that drops, doubles and reorders; and events that come while it is asked for others."""
        office.submitted()
        dice = random.Random(7)
        feed = Events(office.client, None, lambda: True)
        seen = [event.story.number for event in feed.past(1000)]
        hear = feed._heard

        def lossy(message: Message[Any]) -> None:
            for _ in range(dice.choice((0, 1, 1, 2))):
                hear(message)

        feed._subscription.close()
        feed._subscription = office.client.listen(lossy)
        for _ in range(20):
            office.client.ask(requests.StopRun(run=RUN), Done)
            office.client.ask(requests.ResumeRun(run=RUN), Done)
        with office.store.transaction() as tx:
            wanted = [told.number for told in tx.told_after(0, 10_000)]
        while seen != wanted:
            event = feed.next(0.1)
            assert not isinstance(event, Troubled)
            seen += [] if event is None else [event.story.number]
            assert seen == wanted[: len(seen)]
        feed.close()


class TestFollowing:
    def test_output_and_progress_come_only_while_somebody_follows(self, office: Office) -> None:
        office.training()
        feed = Inbox()
        office.agents.subscribe(FEED, feed)
        inbox = office.commands()
        self.prints(office, b"nobody follows", 0)
        office.client.ask(requests.FollowRun(run="digits", seconds=1e9, offset=5), Done)
        eventually(lambda: heard(inbox, FollowOutput))
        # Whoever asks for ever and goes away must not be sent output for ever.
        assert heard(inbox, FollowOutput) == [FollowOutput(seconds=module.LONGEST_FOLLOW, offset=5)]
        self.prints(office, b"hello", 14)
        beat = encode(Heartbeat(phase="training", step=7), id="b", agent=AGENT)
        office.agents.publish(Address(Stream.HEARTBEATS, AGENT, "Heartbeat"), beat, message_id="b")
        eventually(lambda: heard(feed, OutputRelayed) and heard(feed, ProgressSeen), PATIENCE)
        assert heard(feed, OutputRelayed) == [OutputRelayed(attempt=1, offset=14, data=b"hello")]
        assert heard(feed, ProgressSeen)[0].view.step == 7

    def prints(self, office: Office, data: bytes, offset: int) -> None:
        message = encode(OutputSeen(offset=offset, data=data), id="o", attempt=1, agent=AGENT)
        office.agents.publish(Address(Stream.EVENTS, AGENT, "OutputSeen"), message, message_id="o").result(60)

    def test_every_change_is_on_the_feed(self, office: Office) -> None:
        office.training()
        feed = Inbox()
        office.agents.subscribe(FEED, feed)
        office.says(
            CheckpointCommitted(
                manifest="m",
                step=6,
                epoch=None,
                size=10,
                files=1,
                format="f",
                trigger="periodic",
                upload_seconds=1.0,
                written_at=1.0,
            )
        )
        eventually(lambda: heard(feed, RunChanged))
        changed = heard(feed, RunChanged)[0]
        assert (changed.story.kind, changed.view.run, changed.view.saved_step) == ("checkpoint", RUN, 6)


class TestWhatNobodyShouldHaveSent:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xc1",
            b"hello",
            msgpack.packb({"v": 1}),
            encode(requests.StopRun(run="x" * 200), id="")[:-9],
        ],
    )
    def test_a_malformed_request_is_answered(self, office: Office, data: bytes) -> None:
        answer = raw(office, data)
        assert isinstance(answer, Failed)
        assert (answer.code, answer.what[:24]) == ("usage", "The request is malformed")

    def test_an_unknown_kind_and_one_that_is_no_request(self, office: Office) -> None:
        head = {"v": 1, "kind": "MakeCoffee", "id": "r", "body": {}}
        for data in (msgpack.packb(head), encode(Heartbeat(phase="x"), id="r"), encode(Done(), id="r")):
            answer = raw(office, data)
            assert isinstance(answer, Failed)
            assert answer.code == "usage"
            assert "does not know" in answer.what

    def test_a_bug_inside_is_answered_without_its_details_and_the_next_request_works(
        self, office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*args: object) -> None:
            raise ZeroDivisionError("the password is hunter2")

        monkeypatch.setattr(module, "run_detail", broken)
        office.client.ask(requests.SubmitRun(spec=office.spec()), Done)
        answer = raw(office, encode(requests.ShowRun(run=RUN), id="r"))
        assert isinstance(answer, Failed)
        assert (answer.code, answer.what) == ("error", "The controller failed: ZeroDivisionError.")
        assert "controller.log" in answer.mend
        assert "request.failed kind=ShowRun" in caplog.text
        office.client.ask(requests.ControllerStatus(), Status)

    def test_a_failing_checkpoint_store_is_not_taken_for_a_failing_state(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both errors have the code `store`; they differ in what the command line exits with."""
        office.submitted()

        def away(*args: object) -> None:
            raise ObjectStoreError("The bucket is away.", "Wait.")

        monkeypatch.setattr(module, "list_checkpoints", away)
        with pytest.raises(ProviderFailed, match="away") as caught:
            office.client.ask(requests.ListCheckpoints(run=RUN), CheckpointList)
        assert caught.value.exit_code == 5

    def test_a_reply_that_is_too_long_is_refused_with_a_way_out(self, office: Office) -> None:
        office.submitted()
        with office.store.transaction() as tx:
            for number in range(1000):
                tx.tell(RUN, Tell(at=1.0, attempt=1, kind="k", text="x" * 2000, actor=f"a{number}"))
        with pytest.raises(UsageError, match="too long") as caught:
            office.client.ask(requests.ShowRun(run=RUN, story=1000), RunDetail)
        assert "fewer" in caught.value.mend
        assert len(office.client.ask(requests.ShowRun(run=RUN, story=100), RunDetail).story) == 100


class TestStopController:
    def test_with_nothing_left_to_do_it_ends(self, office: Office) -> None:
        office.client.ask(requests.StopController(), Done)
        office.thread.join(PATIENCE)
        assert not office.thread.is_alive()

    def test_it_is_refused_while_a_run_would_be_left_alone(self, office: Office) -> None:
        office.training()
        with pytest.raises(RefusedByGuard, match="digits"):
            office.client.ask(requests.StopController(), Done)
        assert office.thread.is_alive()
        office.client.ask(requests.StopController(force=True), Done)
        office.thread.join(PATIENCE)
        assert not office.thread.is_alive()
        assert office.provider.burning() == [AGENT]  # training goes on
        assert office.record().machines[0].state is MachineState.RUNNING
