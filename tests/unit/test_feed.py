"""What following costs those whom nobody follows."""

from __future__ import annotations

from typing import Any

from runctl_controller.service.feed import Feed
from runctl_controller.service.hearing import Hearing
from runctl_controller.store.port import Beat
from runctl_shared.clock import FakeClock
from runctl_shared.messages.events import Heartbeat, OutputSeen


class _Untouched:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


def test_what_nobody_follows_touches_neither_store_nor_bus() -> None:
    """A transaction for each heartbeat of ten thousand agents because one run is followed, or was once."""
    clock, nothing = FakeClock(), _Untouched()
    feed = Feed(nothing, nothing, Hearing(10.0), clock)
    feed.follow("run-abcd", 60.0)
    feed.beat(Beat(agent="agent-wxyz-1", at=0.0, body=Heartbeat(phase="training")))
    feed.output("agent-wxyz-1", OutputSeen(offset=0, data=b"x"))
    feed.output("nobody", OutputSeen(offset=0, data=b"x"))
    clock.advance(61.0)
    feed.beat(Beat(agent="agent-abcd-1", at=0.0, body=Heartbeat(phase="training")))
