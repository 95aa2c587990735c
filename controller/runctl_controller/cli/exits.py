"""What `runctl run` exits with."""

from __future__ import annotations

import re
import signal

from runctl_shared.messages.replies import AttemptView, RunDetail

PAUSED = 75
"""EX_TEMPFAIL: not done, and to be gone on with."""
OURS = 125


def exit_code(detail: RunDetail) -> int:
    """The training's own exit code (128 + n after signal n) once the run has ended; 75 when it is paused,
    125 when runctl could not go on."""
    state = detail.run.state
    if state == "succeeded":
        return 0
    if state == "paused":
        return PAUSED
    if state == "stuck":
        return OURS
    ended = [a for a in detail.attempts if a.exit_code is not None or a.signal is not None]
    return _of(ended[-1]) if ended else OURS


def _of(attempt: AttemptView) -> int:
    if attempt.signal is not None:
        return 128 + _number(attempt.signal)
    return attempt.exit_code or OURS


def _number(name: str) -> int:
    try:
        return int(signal.Signals[name])
    except KeyError:
        found = re.search(r"\d+", name)
        return int(found[0]) if found else 0
