"""One line of output to what it says about progress. Pure; never raises; takes time linear in the line.

Precedence, within a line: a JSON object is read by its keys and nothing else; else a progress bar with the
names before and in it, whose own counter is the weakest kind of step; else names in free text. A line that
tells of a checkpoint being read says nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from runctl_agent.progress import bars, text
from runctl_agent.progress.model import Kind, Progress

MAX_LINE = 64 * 1024
"""Bytes. A longer line is no line of progress."""

_MAX_TEXT = 4096  # bytes of a line that is not JSON
_HINTS = (b"step", b"iter", b"epoch", b"loss", b"batch", b"it/s", b"s/it", b"%|")
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links
    r"|\x1b[@-Z\\^_]?"
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]"
)
_STEP_KEYS = {
    **dict.fromkeys(("global_step", "train/global_step", "trainer/global_step"), Kind.STEP),
    **dict.fromkeys(("step", "train/step", "train_step", "_step"), Kind.STEP),
    **dict.fromkeys(("iteration", "iter", "train/iteration", "train/iter"), Kind.ITERATION),
}
_EPOCH_KEYS = ("epoch", "train/epoch", "train_epoch")
_LOSS_KEYS = (
    "train_loss",
    "train/loss",
    "training_loss",
    "loss/train",
    "loss",
    "step_loss",
    "lm_loss",
    "lm loss",
)
_MAX_STEP = 2**63


def may_hold_progress(line: bytes) -> bool:
    """A cheap look before the dear one: False means that `parse_line` would find nothing."""
    low = line.lower()
    return any(hint in low for hint in _HINTS)


def parse_line(line: bytes) -> Progress | None:
    """None when `line` says nothing of step, epoch or loss."""
    if len(line) > MAX_LINE or not may_hold_progress(line):
        return None
    line = line.strip()
    if line.startswith(b"{") and line.endswith(b"}"):
        content = _json(line)
        if content is not None:
            past = text.speaks_of_the_past(line[:_MAX_TEXT].decode("utf-8", "replace"))
            return None if past else _something(_from_keys(content))
    plain = _plain(line)
    if text.speaks_of_the_past(plain):
        return None
    found = bars.find(plain)
    return _something(text.find(plain) if found is None else found)


def is_whole_bar(line: bytes) -> bool:
    """Whether `line`, not yet ended, is a progress bar that has been written to its end."""
    return len(line) <= _MAX_TEXT and bars.is_whole(_plain(line))


def _plain(line: bytes) -> str:
    return _ESCAPES.sub("", line[:_MAX_TEXT].decode("utf-8", "replace"))


def _something(progress: Progress) -> Progress | None:
    return progress if progress.says_something() else None


def _json(line: bytes) -> dict[str, object] | None:
    try:
        # A number of ten thousand digits must not cost quadratic time.
        content = json.loads(line.decode("utf-8", "replace"), parse_int=_short_int)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _short_int(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else math.inf


def _from_keys(content: Mapping[str, object]) -> Progress:
    flat: dict[str, object] = {}
    for value in content.values():
        if isinstance(value, dict):
            flat.update({key.lower(): inner for key, inner in value.items()})
    flat.update({key.lower(): value for key, value in content.items()})  # the outer ones win
    steps = ((_whole(flat.get(key)), kind) for key, kind in _STEP_KEYS.items())
    step, kind = next((found for found in steps if found[0] is not None), (None, Kind.STEP))
    return Progress(step, _first(flat, _EPOCH_KEYS, at_least=0.0), _first(flat, _LOSS_KEYS), kind)


def _first(flat: Mapping[str, object], keys: tuple[str, ...], at_least: float | None = None) -> float | None:
    for key in keys:
        number = _number(flat.get(key))
        if number is not None and (at_least is None or (number >= at_least and math.isfinite(number))):
            return number
    return None


def _whole(value: object) -> int | None:
    number = _number(value)
    if number is None or not 0 <= number < _MAX_STEP or number != int(number):
        return None
    return value if isinstance(value, int) else int(number)


def _number(value: object) -> float | None:
    """JSON's own number, or one in a string, as some frameworks log theirs."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, str))
        or (isinstance(value, str) and len(value) > 40)
    ):
        return None
    try:
        return float(value)
    except ValueError:
        return None
