"""Whether a save fits into a notice."""

from __future__ import annotations

import msgspec

from runctl_controller.rehearsal import advice
from runctl_controller.rehearsal.evidence import Evidence, known
from runctl_shared.units import format_bytes, format_duration

NOTICES = (("EC2", 120.0), ("GCP", 30.0), ("RunPod", 5.0))
"""Seconds between a provider's notice of an interruption and the end of the machine.

EC2: "a two-minute warning" (Amazon EC2 user guide, "Spot Instance interruption notices"). GCP: "up to 30
seconds" (Compute Engine, "Spot VMs", preemption process). RunPod: SIGTERM, and SIGKILL 5 seconds later
(RunPod documentation, "Spot instances").
"""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a notice that a save takes. `measured`: all of it was; else it is reckoned from a periodic
    checkpoint's size at the speeds that were measured."""

    until_signal: float
    save: float
    store: float
    size: float
    measured: bool

    @property
    def total(self) -> float:
        return self.until_signal + self.save + self.store


def need(found: Evidence) -> Need | None:
    """None where too little was measured."""
    until = found.signal_after or 0.0
    saved = found.saved
    if saved is not None:
        save, store, size = (known(saved, key) for key in ("save_seconds", "upload_seconds", "size"))
        if save is None or store is None or size is None:
            return None
        return Need(until_signal=until, save=save, store=store, size=size, measured=True)
    late = found.late
    whole = max((known(item, "size") or 0.0 for item in found.stored), default=0.0)
    if late is None or not whole:
        return None
    written, took = known(late, "size") or 0.0, known(late, "save_seconds") or 0.0
    if not written or not took or whole < written:
        return None
    sent = sum(known(item, "size") or 0.0 for item in found.stored)
    spent = sum(known(item, "upload_seconds") or 0.0 for item in found.stored)
    store = whole * spent / sent if sent else 0.0
    return Need(until_signal=until, save=whole * took / written, store=store, size=whole, measured=False)


def tips(found: Evidence) -> tuple[str, ...]:
    """The figures, where the save is too long for the drill's own notice or for any provider's."""
    wanted = need(found)
    if wanted is None:
        return ()
    short = [(name, notice) for name, notice in NOTICES if wanted.total > notice]
    given = found.notice is not None and wanted.total > found.notice
    if not short and not given:
        return ()
    long = [(name, notice) for name, notice in NOTICES if wanted.total <= notice]
    speed = f" ({format_bytes(wanted.size / wanted.store)} a second)" if wanted.store > 0 else ""
    how = "" if wanted.measured else ", as reckoned"
    text = (
        f"A save at a notice takes {format_duration(wanted.total)}{how}: "
        f"{format_duration(wanted.until_signal)} until the signal, {format_duration(wanted.save)} to write "
        f"{format_bytes(wanted.size)}, {format_duration(wanted.store)} to store them{speed}."
    )
    if short:
        text += f" That is more than the notice of {_listed(short)}"
        text += f"; it fits that of {_listed(long)}." if long else "."
    return (text, advice.SMALLER) if given or len(short) > 1 else (text,)


def _listed(notices: list[tuple[str, float]]) -> str:
    return " and ".join(f"{name} ({notice:.0f} s)" for name, notice in notices)
