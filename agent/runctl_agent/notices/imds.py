"""EC2's notices, from the machine's own metadata service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

import msgspec

from runctl_agent.notices.imds_client import ImdsClient, ImdsDisabled, ImdsFailed, endpoint_from
from runctl_agent.notices.model import Notice
from runctl_agent.notices.read_imds import NOTICE_PATHS, Unreadable, read
from runctl_agent.notices.standing import Standing
from runctl_shared.clock import Clock
from runctl_shared.messages.events import NoticeKind

log = logging.getLogger("runctl.notices")

SLOWEST = 5.0
"""Seconds between two tries, however many have failed: a notice gives only two minutes."""

DISABLED_PAUSE = 10.0
"""Seconds between two tries while the service is switched off."""

TELL_AFTER = 10
"""So many failures in a row are worth telling a person about."""

DISABLED = (
    "This machine's metadata service is switched off, so an interruption would come without a notice. "
    "Switch it on: aws ec2 modify-instance-metadata-options --http-endpoint enabled --instance-id ID."
)
UNHEARD = (
    "This machine's metadata service does not answer, so an interruption would come without a notice. "
    "Allow HTTP to 169.254.169.254; in a container, give the machine a metadata hop limit of 2."
)


class _Pace(msgspec.Struct):
    """When to ask for one kind of notice. Seconds on the monotonic clock."""

    every: float
    due: float = 0.0
    failures: int = 0

    def next(self, now: float) -> None:
        self.failures = 0
        self.due = now + self.every

    def later(self, now: float, least: float) -> None:
        self.failures += 1
        slower = min(SLOWEST, self.every * 1.5 ** min(self.failures, 20))
        self.due = now + max(self.every, slower, least)


class ImdsSource:
    """Asks for interruptions every `poll` seconds, for rebalance and maintenance every 5, in its own thread.

    `on_notice` is called from that thread for each thing that is new (see Notice.change); `on_trouble` once
    for each spell in which notices would go unseen, with a sentence for a person. Neither may block for long.
    Nothing that the service does ends the thread: whatever is not plainly a notice is counted in `failures`.
    """

    def __init__(
        self,
        clock: Clock,
        on_notice: Callable[[Notice], None],
        *,
        endpoint: str | None = None,
        poll: float = 1.0,
        on_trouble: Callable[[str], None] | None = None,
        standing: Iterable[str] = (),
    ) -> None:
        """`endpoint`: the address, by default that of the environment, else EC2's. `standing`: ids of notices
        that were told before (by an agent that died): one that is not served any more is told as withdrawn.
        Raises UsageError."""
        self._clock = clock
        self._on_notice = on_notice
        self._on_trouble = on_trouble
        self._client = ImdsClient(endpoint_from(endpoint), clock)
        self._standing = Standing(standing)
        slow = max(poll, min(SLOWEST, poll * 5))
        self._paces: dict[NoticeKind, _Pace] = {
            "interruption": _Pace(poll),
            "rebalance": _Pace(slow),
            "maintenance": _Pace(slow),
        }
        self._told = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failures = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the connection; returns when both is done (a few seconds at most)."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._client.close()

    def poll(self) -> float:
        """Ask for everything that is due; returns the seconds until something is due again."""
        for kind, pace in self._paces.items():
            if pace.due > self._clock.monotonic() or self._stop.is_set():
                continue
            if not self._ask(kind, pace) and kind == "interruption":
                # The service itself cannot be reached: no use in asking it for the rest now.
                for other in self._paces.values():
                    other.due = max(other.due, pace.due)
        return max(0.0, min(pace.due for pace in self._paces.values()) - self._clock.monotonic())

    def _run(self) -> None:
        delay = 0.0
        while not self._stop.wait(delay):
            try:
                delay = self.poll()
            except Exception:
                # A mistake of ours in reading one answer must not make the machine deaf to the next.
                log.exception("notices.poll_failed")
                delay = SLOWEST

    def _ask(self, kind: NoticeKind, pace: _Pace) -> bool:
        """Ask for one kind. False when the service could not be asked."""
        try:
            answer = self._client.get(NOTICE_PATHS[kind])
        except ImdsFailed as error:
            self._failed(kind, pace, error)
            return False
        try:
            served = read(kind, answer, self._clock.now())
        except Unreadable as error:
            self._failed(kind, pace, error)
            return True
        now = self._clock.monotonic()
        pace.next(now)
        if kind == "interruption":
            self._told = False
        for notice in self._standing.observe(kind, served, now):
            self._tell(notice)
        return True

    def _failed(self, kind: NoticeKind, pace: _Pace, error: Exception) -> None:
        self.failures += 1
        disabled = isinstance(error, ImdsDisabled)
        pace.later(self._clock.monotonic(), DISABLED_PAUSE if disabled else 0.0)
        log.debug("notices.unread kind=%s failures=%d why=%s", kind, pace.failures, error)
        if kind == "interruption" and (disabled or pace.failures >= TELL_AFTER):
            self._trouble(DISABLED if disabled else UNHEARD)

    def _trouble(self, sentence: str) -> None:
        if self._told:
            return
        self._told = True
        log.warning("notices.unseen why=%s", sentence)
        if self._on_trouble is not None:
            self._on_trouble(sentence)

    def _tell(self, notice: Notice) -> None:
        log.info(
            "notices.%s id=%s action=%s in=%s", notice.change, notice.id, notice.action, notice.deadline_in
        )
        try:
            self._on_notice(notice)
        except Exception:
            log.exception("notices.handler_failed id=%s", notice.id)
