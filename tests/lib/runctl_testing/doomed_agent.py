"""The agent, killed with SIGKILL at one chosen boundary between its parts, once in the life of its machine.

`RUNCTL_TEST_DOOM` (see `doom`) comes to it from the environment of the controller (see `controller_process`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runctl_agent.hands import Hands
from runctl_agent.spool.sqlite import SqliteSpool
from runctl_shared.bus.embedded.bus import EmbeddedBus
from runctl_shared.bus.embedded.subscription import Held

BOUNDARIES: dict[str, tuple[type, str]] = {
    "decision stored": (SqliteSpool, "commit"),
    "event forgotten": (SqliteSpool, "forget"),
    "command acknowledged": (Held, "ack"),
    "effect carried out": (Hands, "carry_out"),
    "message sent": (EmbeddedBus, "publish"),
}
"""What happens there, by the method that does it. One dies just before it or just after it."""
DEAD = "doomed-agent-has-died"
"""The file beside the machine's disk that says so."""


def doom(boundary: str, before: bool, count: int) -> str:
    """What to put into the environment: at the `count`-th time (from 1) that the boundary is passed."""
    return f"{'before' if before else 'after'}:{boundary}:{count}"


def arm(doom: str, mark: Path) -> None:
    """Have this process die as `doom` says, unless the one before it has."""
    side, boundary, count = doom.split(":")
    owner, name = BOUNDARIES[boundary]
    real: Callable[..., Any] = getattr(owner, name)
    passed = 0

    def die_if_due() -> None:
        nonlocal passed
        passed += 1
        if passed == int(count) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def method(*args: Any, **words: Any) -> Any:
        if side == "before":
            die_if_due()
        value = real(*args, **words)
        if side == "after":
            die_if_due()
        return value

    setattr(owner, name, method)


if __name__ == "__main__":
    from runctl_agent.main import main
    from runctl_testing.controller_process import DOOM

    arm(os.environ[DOOM], Path(sys.argv[sys.argv.index("--machine") + 1]).parent / DEAD)
    sys.exit(main())
