"""What lay in the checkpoint folder and could not be stored, or was written by several at once."""

from __future__ import annotations

from collections.abc import Sequence

from runctl_controller.rehearsal import advice
from runctl_controller.rehearsal.evidence import Evidence

MOST = 3


def incomplete(found: Evidence) -> tuple[str, ...]:
    """Each by name, with why."""
    return tuple(f"{item.data.get('root')}: {item.data.get('reason')}" for item in found.incomplete)


def listed(found: Evidence) -> str:
    """The names, the first few of them."""
    return _few([str(item.data.get("root")) for item in found.incomplete], ", ")


def tips(found: Evidence) -> tuple[str, ...]:
    tips = []
    names = incomplete(found)
    if names:
        tips += [f"Never complete, and so not stored: {_few(names, '; ')}.", advice.WHOLE]
    for item in found.shared[:MOST]:
        writers = item.data.get("writers")
        who = ", ".join(map(str, writers)) if isinstance(writers, (list, tuple)) else "several processes"
        tips.append(f"Several processes write {item.data.get('path')} at once ({who}). {advice.ONE_WRITER}")
    return tuple(tips)


def _few(names: Sequence[str], between: str) -> str:
    more = f", and {len(names) - MOST} more" if len(names) > MOST else ""
    return between.join(names[:MOST]) + more
