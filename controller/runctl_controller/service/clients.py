"""Requests of clients: what changes a run goes through the core, what only looks is read from the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from runctl_controller.core.inputs import Imported, Requested
from runctl_controller.core.model import Record
from runctl_controller.core.requests import check_removable
from runctl_controller.core.tables import OPEN_RUN
from runctl_controller.providers.port import Provider
from runctl_controller.service.admission import admit
from runctl_controller.service.engine import check_settled
from runctl_controller.service.history import list_events
from runctl_controller.service.importing import Found, Importer
from runctl_controller.service.loop import Loop
from runctl_controller.service.naming import named
from runctl_controller.service.reading import list_checkpoints, read_log, read_series, remove_checkpoints
from runctl_controller.service.views import run_detail, run_view
from runctl_controller.store.port import Beat, Store, Superseded, Transaction
from runctl_shared.bus.port import Delivery
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id
from runctl_shared.errors import RefusedByGuard, RunctlError, UsageError, wire_code
from runctl_shared.messages import commands, replies, requests
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import MAX_MESSAGE, Malformed, Message, decode, encode
from runctl_shared.spec import RunSpec

log = logging.getLogger("runctl.clients")
_LESS = "Ask for less of it: a lower limit, or fewer items of the story."
_ACTS = (
    requests.SubmitRun,
    requests.StopRun,
    requests.CancelRun,
    requests.ResumeRun,
    requests.InterruptRun,
    requests.RemoveRun,
)
LONGEST_FOLLOW = 300.0
"""Seconds for which one request has a run followed, at the most: who is still there asks again."""
READERS = 8
"""Requests that may wait for checkpoint stores at the same time; what is beyond them stands in line."""
_SLOW = (requests.ReadLog, requests.ReadSeries, requests.ListCheckpoints)
"""Requests that read checkpoint stores: not on the loop's thread, for a store may take its time."""


def _said(message: Message[Any], handle: Callable[[Message[Any]], Body | None]) -> Body | None:
    """What `handle` says to the message; if it fails, the words with which the client is told why."""
    try:
        return handle(message)
    except Superseded:
        raise  # not ours to answer: unsettled, the request goes to who leads now
    except RunctlError as error:
        return replies.Failed(code=wire_code(error), what=error.what, mend=error.mend)
    except Exception as error:  # a bug must not leave the client waiting
        log.exception("request.failed kind=%s", message.envelope.kind)
        what = f"The controller failed: {type(error).__name__}."
        return replies.Failed(code="error", what=what, mend="See controller.log in its state folder.")


class Clients:
    """Answers requests. `about` says what the controller is (for ControllerStatus), `standbys` which
    processes wait for its turn."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        clock: Clock,
        about: replies.Status,
        providers: Mapping[str, Provider] | None = None,
        standbys: Callable[[], tuple[int, ...]] = tuple,
    ) -> None:
        self._loop, self._store, self._clock = loop, store, clock
        self._about, self._standbys = about, standbys
        self._importer = Importer(store, providers or {}, clock, about.installation)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="runctl-clients")
        self.last_asked = clock.monotonic()
        self._deleting: set[str] = set()
        """Runs whose checkpoints are being deleted. The loop's thread alone touches it."""

    def on_request(self, delivery: Delivery) -> None:
        """From the bus's thread."""
        self._loop.put(lambda: self._take(delivery))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, delivery: Delivery) -> None:
        self.last_asked = self._clock.monotonic()
        try:
            message = decode(delivery.body)
        except Malformed as error:
            self._answer(delivery, replies.Failed(code="usage", what=f"The request is malformed: {error}."))
            return
        if isinstance(message.body, requests.SubmitRun):
            self._pool.submit(self._admit, delivery, message)
        elif isinstance(message.body, requests.RemoveRun) and message.body.checkpoints:
            self._delete(delivery, message)
        elif isinstance(message.body, requests.ImportRuns):
            self._pool.submit(self._import, delivery, message)
        elif isinstance(message.body, _SLOW):
            self._pool.submit(self._reply, delivery, message)
        else:
            self._reply(delivery, message)

    def _admit(self, delivery: Delivery, message: Message[Any]) -> None:
        """Look at the checkpoint store, which may take its time: not on the loop's thread. Then act."""
        failed = _said(message, lambda message: admit(message.body.spec, self._about.installation))
        if failed is None:
            self._loop.put(lambda: self._reply(delivery, message))
        else:
            self._answer(delivery, failed)

    def _delete(self, delivery: Delivery, message: Message[Any]) -> None:
        """Delete what the run keeps in its store, if it may be forgotten at all; then forget it. Meanwhile
        nobody may resume it: it would go on from what is half there."""
        held: list[Record] = []
        failed = _said(message, lambda message: held.append(self._removable(message.body.run)))
        if failed is not None:
            self._answer(delivery, failed)
            return
        (record,) = held

        def empty() -> None:
            failed = _said(message, lambda _: self._empty(record.run.spec))
            self._loop.put(lambda: forget(failed))

        def forget(failed: Body | None) -> None:
            self._deleting.discard(record.run.id)
            self._answer(delivery, failed or _said(message, self._handle) or replies.Done())

        self._deleting.add(record.run.id)
        self._pool.submit(empty)

    def _empty(self, spec: RunSpec) -> None:
        self._importer.refuse_anothers(spec)
        remove_checkpoints(spec)

    def _removable(self, name: str) -> Record:
        with self._store.transaction() as tx:
            record = named(tx, name)
            self._check_not_deleting(record)
            check_settled(tx, record.run)
        check_removable(record)
        return record

    def _check_not_deleting(self, record: Record) -> None:
        if record.run.id in self._deleting:
            raise RefusedByGuard(f"The checkpoints of {record.run.spec.name} are being deleted.")

    def _import(self, delivery: Delivery, message: Message[Any]) -> None:
        """Read the store here; put on record what was found on the loop's thread."""
        importer = self._importer
        found: list[Found] = []
        more = False

        def look(message: Message[Any]) -> None:
            nonlocal found, more
            found, more = importer.look(message.body)

        failed = _said(message, look)
        if failed is not None:
            self._answer(delivery, failed)
            return
        self._loop.put(lambda: self._answer(delivery, self._take_in(message, found, more)))

    def _take_in(self, message: Message[Any], found: Sequence[Found], more: bool) -> Body:
        actor = f"user:{message.envelope.actor or 'unknown'}"
        given = Imported(at=self._clock.now(), actor=actor, url=message.body.url)
        views = []
        for each in found:
            view = each.view
            try:
                if each.record is not None and not self._loop.take_in(each.record, given, whole=each.whole):
                    view = msgspec.structs.replace(view, outcome="known", note="it is on record already")
            except RunctlError as error:  # what the state's own rules refuse
                view = msgspec.structs.replace(view, outcome="damaged", note=error.what)
            views.append(view)
        through = found[-1].view.run if found else ""
        return replies.ImportList(runs=tuple(views), through=through, more=more)

    def _reply(self, delivery: Delivery, message: Message[Any]) -> None:
        self._answer(delivery, _said(message, self._handle) or replies.Done())

    def _answer(self, delivery: Delivery, body: Body) -> None:
        data = encode(body, id=new_id("rep"), sent=self._clock.now())
        if len(data) > MAX_MESSAGE:
            kind = type(body).__name__
            failed = replies.Failed(code="usage", what=f"The {kind} is too long for a message.", mend=_LESS)
            data = encode(failed, id=new_id("rep"), sent=self._clock.now())
        delivery.reply(data)
        delivery.ack()

    def _handle(self, message: Message[Any]) -> Body:
        body = message.body
        if isinstance(body, _ACTS):
            return self._act(body, message.envelope.actor or "unknown")
        handler = _LOOKS.get(type(body))
        if handler is None:
            raise UsageError(f"This controller does not know the request {message.envelope.kind!r}.")
        return handler(self, body)

    def _act(self, body: Any, actor: str) -> Body:
        name = body.run if not isinstance(body, requests.SubmitRun) else body.spec.run
        if self._deleting and not isinstance(body, requests.SubmitRun):
            with self._store.transaction() as tx:
                self._check_not_deleting(named(tx, name))
        given = Requested(at=self._clock.now(), actor=f"user:{actor}", body=body)
        reply = self._loop.request(name, given).decision.reply
        return reply if reply is not None else replies.Done()

    def _beat(self, tx: Transaction, record: Record) -> Beat | None:
        """The newest heartbeat of the run's current attempt, from memory or from the store."""
        attempt = record.current or (record.attempts[-1] if record.attempts else None)
        if attempt is None:
            return None
        return self._loop.hearing.newest(attempt.agent) or next(iter(tx.beats([attempt.agent])), None)

    def _list(self, body: requests.ListRuns) -> Body:
        now = self._clock.now()
        with self._store.transaction() as tx:
            runs = tx.runs(limit=min(body.limit, 1000), project=body.project, only_open=not body.all)
            records = [record for run in runs if (record := tx.load(run.id)) is not None]
            sums = tx.sums()
            return replies.RunList(
                runs=tuple(run_view(r, self._beat(tx, r), now) for r in records),
                forgotten=sums.runs,
                forgotten_dollars=sums.dollars,
            )

    def _show(self, body: requests.ShowRun) -> Body:
        with self._store.transaction() as tx:
            record = named(tx, body.run)
            story = tx.story(record.run.id, min(body.story, 5000))
            return run_detail(record, self._beat(tx, record), story, self._clock.now())

    def _checkpoints(self, body: requests.ListCheckpoints) -> Body:
        with self._store.transaction() as tx:
            spec = named(tx, body.run).run.spec
        return list_checkpoints(spec)

    def _read_log(self, body: requests.ReadLog) -> Body:
        with self._store.transaction() as tx:
            record = named(tx, body.run)
        return read_log(record.run.spec, body.attempt or record.run.newest, body.offset, body.limit)

    def _series(self, body: requests.ReadSeries) -> Body:
        with self._store.transaction() as tx:
            spec = named(tx, body.run).run.spec
        return read_series(spec, body.attempt, body.limit)

    def _follow(self, body: requests.FollowRun) -> Body:
        with self._store.transaction() as tx:
            record = named(tx, body.run)
        seconds = min(body.seconds, LONGEST_FOLLOW)
        self._loop.feed.follow(record.run.id, seconds)
        attempt = record.current
        if body.output and attempt is not None and attempt.started_at is not None:
            follow = commands.FollowOutput(seconds=seconds, offset=body.offset)
            self._loop.tell_agent(record.run.id, attempt.agent, follow)
        return replies.Done(run=record.run.id)

    def _events(self, body: requests.ListEvents) -> Body:
        with self._store.transaction() as tx:
            return list_events(tx, body)

    def _status(self, body: requests.ControllerStatus) -> Body:
        with self._store.transaction() as tx:
            busy = tx.busy()
            records = [record for run in busy if (record := tx.load(run)) is not None]
        machines = sum(m.state.value != "terminated" for r in records for m in r.machines)
        now = {"unfinished": len(busy), "machines": machines, "standbys": self._standbys()}
        return msgspec.structs.replace(self._about, **now)

    def _stop(self, body: requests.StopController) -> Body:
        with self._store.transaction() as tx:
            records = [r for run in tx.busy() if (r := tx.load(run)) is not None]
        going = [r.run.spec.name for r in records if r.run.state in OPEN_RUN]
        ending = [r.run.spec.name for r in records if r.run.state not in OPEN_RUN]
        if going and not body.force:
            raise RefusedByGuard(
                f"{len(going)} run(s) are not finished ({', '.join(going[:5])}): nobody would resume them.",
                "Stop them first, or use --force: they train on, and resume when a controller is back.",
            )
        if ending and not body.force:
            raise RefusedByGuard(
                f"A machine of {', '.join(ending[:5])} is not known to be gone yet.",
                "That takes a few seconds as a rule; or use --force, and nobody watches it end.",
            )
        self._loop.stop()
        return replies.Done(note="the controller ends")


_LOOKS: dict[type[Body], Callable[[Clients, Any], Body]] = {
    requests.ListRuns: Clients._list,
    requests.ShowRun: Clients._show,
    requests.ListCheckpoints: Clients._checkpoints,
    requests.ReadLog: Clients._read_log,
    requests.ReadSeries: Clients._series,
    requests.FollowRun: Clients._follow,
    requests.ListEvents: Clients._events,
    requests.ControllerStatus: Clients._status,
    requests.StopController: Clients._stop,
}
