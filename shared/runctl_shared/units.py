"""Durations and sizes, as people write and read them."""

from __future__ import annotations

import math
import re

from runctl_shared.errors import UsageError

LONGEST = 1e9
"""Seconds, some thirty years: the longest duration that a message may hold."""
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds in `text`: ``90s``, ``2m``, ``1h30m``, ``250ms``; a bare number is seconds.

    Raises UsageError for anything else.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        seconds = float(text)
    else:
        parts = _PART.findall(text)
        whole = bool(parts) and "".join(n + unit for n, unit in parts) == text
        seconds = math.fsum(float(n) * _SECONDS[unit] for n, unit in parts) if whole else math.nan
    if not seconds <= LONGEST:
        raise UsageError(f"{text[:100]!r} is not a duration.", "Write it like 90s, 2m or 1h30m.")
    return seconds


def format_duration(seconds: float) -> str:
    """``0.4s``, ``12s``, ``2m 05s``, ``3h 10m``, ``2d 4h``: two units at the most."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_bytes(count: float) -> str:
    """``812 B``, ``1.4 MB``, ``3.0 GB``: decimal units, as disks and networks are sold."""
    for unit, last in (("B", 999.5), ("kB", 999.95), ("MB", 999.95), ("GB", 999.95)):
        if abs(count) < last:  # and not 1000: it is rounded when it is shown
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
