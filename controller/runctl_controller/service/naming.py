"""Which run is meant: by its id, its name, or a beginning of either that only one has."""

from __future__ import annotations

from runctl_controller.core.model import Record
from runctl_controller.store.port import Transaction
from runctl_shared.errors import NotFound, UsageError

_SHOWN = 5
"""Candidates that are named when a beginning is not enough."""


def named(tx: Transaction, name: str) -> Record:
    """The run that `name` means. An id wins over a name, a whole one over a beginning; of several runs of one
    name the newest is meant. Raises NotFound, and UsageError when a beginning fits several."""
    exact = tx.run_id(name)
    found = [exact] if exact is not None else _beginning(tx, name)
    if len(found) > 1:
        raise _ambiguous(tx, name, found)
    record = tx.load(found[0]) if found else None
    if record is None:
        raise NotFound(f"There is no run {name[:100]!r}.", "`runctl ls` shows the runs.")
    return record


def _beginning(tx: Transaction, name: str) -> list[str]:
    return list(dict.fromkeys(tx.beginning(name, _SHOWN + 1))) if name else []


def _ambiguous(tx: Transaction, name: str, found: list[str]) -> UsageError:
    shown = []
    for run in found[:_SHOWN]:
        record = tx.load(run)
        shown.append(run if record is None else f"{record.run.spec.name} ({run})")
    more = " and others" if len(found) > _SHOWN else ""
    return UsageError(f"{name[:100]!r} may be {', '.join(shown)}{more}.", "Give more of its name or id.")
