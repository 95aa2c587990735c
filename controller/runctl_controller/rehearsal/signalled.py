"""What the training did when it was asked to save."""

from __future__ import annotations

import signal
from enum import Enum

from runctl_controller.rehearsal import advice
from runctl_controller.rehearsal.evidence import Evidence, known
from runctl_shared.units import format_bytes, format_duration

STORING = 1.0
"""Seconds of storing after the end of a training from which on something was there to be stored."""


class Did(Enum):
    SAVED = "saved and ended"
    WENT_ON = "saved, did not end, and was killed"
    DIED = "died of the signal's default action"
    IGNORED = "went on without saving, and was killed"
    UNSAVED = "ended by itself without saving"
    TOO_SLOW = "was killed while it saved"
    NOT_STORED = "what it saved could not be stored in time"
    UNKNOWN = "nobody knows"


def did(found: Evidence) -> Did:
    """From the attempt's signal and exit code, and from what it left."""
    before = found.before
    if before is None:
        return Did.UNKNOWN
    killed = before.signal == "SIGKILL"
    if found.saved is not None:
        return Did.WENT_ON if killed else Did.SAVED
    if (known(found.ended, "storing_seconds") or 0.0) >= STORING:
        return Did.NOT_STORED
    if killed:
        return Did.TOO_SLOW if found.late is not None else Did.IGNORED
    if before.signal == found.signal or _as_shells_say(before.exit_code, found.signal):
        return Did.DIED
    return Did.UNKNOWN if before.exit_code is None else Did.UNSAVED


def told(found: Evidence) -> str:
    """The same in words, with the figures."""
    took = "" if found.exit_took is None else f"{format_duration(found.exit_took)} after it"
    name = found.signal
    code = None if found.before is None else found.before.exit_code
    what = {
        Did.SAVED: "it saved in time",
        Did.WENT_ON: "it saved, but went on training until it was killed",
        Did.DIED: f"{name} ended it{_in(took)} before it saved: it has no handler for it",
        Did.IGNORED: f"it went on after {name} without saving, and was killed{_in(took)}",
        Did.UNSAVED: f"it handled {name} and ended with exit code {code}{_in(took)}, but saved nothing",
        Did.TOO_SLOW: f"{_writing(found)} when the notice ran out",
        Did.NOT_STORED: "what it had saved was still being stored when the notice ran out",
        Did.UNKNOWN: "it did not save when it was asked to",
    }
    return what[did(found)]


TIPS: dict[Did, tuple[str, ...]] = {
    Did.SAVED: (),
    Did.WENT_ON: (advice.END_AFTER_SAVE,),
    Did.DIED: (advice.ADD_HANDLER,),
    Did.IGNORED: (advice.DO_NOT_IGNORE, advice.SAVE_ON_SIGNAL),
    Did.UNSAVED: (advice.SAVE_IN_HANDLER,),
    Did.TOO_SLOW: (advice.SMALLER,),
    Did.NOT_STORED: (advice.SMALLER,),
    Did.UNKNOWN: (advice.SAVE_ON_SIGNAL,),
}


def _in(took: str) -> str:
    return f" ({took})" if took else ""


def _writing(found: Evidence) -> str:
    late = found.late
    if late is None:
        return "it was still saving"
    size, took = known(late, "size") or 0.0, known(late, "save_seconds") or 0.0
    return (
        f"it was still writing {late.data.get('root')} ({format_bytes(size)} after {format_duration(took)})"
    )


def _as_shells_say(code: int | None, name: str) -> bool:
    """A shell that ran the command reports its death by a signal as 128 and the signal's number."""
    found = getattr(signal, name, None)
    return isinstance(found, signal.Signals) and code == 128 + found
