"""Whether two descriptors are one open file that was inherited, or two that were opened: kcmp(2)."""

from __future__ import annotations

import ctypes
import platform
import sys

_NUMBERS = {"x86_64": 312, "aarch64": 272}
_FILE = 0  # KCMP_FILE


def same_open_file(one: tuple[int, int], other: tuple[int, int]) -> bool | None:
    """For two (process, descriptor). None when the kernel does not tell: no such call, or not allowed."""
    number = _NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
    if number is None:
        return None
    order: int = ctypes.CDLL(None).syscall(number, one[0], other[0], _FILE, one[1], other[1])
    return None if order < 0 else order == 0
