"""Wait for something that another process or thread will bring about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    predicate: Callable[[], T], timeout: float = 30.0, interval: float = 0.02, what: str = ""
) -> T:
    """Call `predicate` until it returns something true, and return that.

    For states of other processes that no event announces. `timeout` (seconds) is only a stop for a test
    that would never end: choose it ten times as long as a loaded machine needs, and assert nothing on it.
    An AssertionError from `predicate` counts as "not yet"; the last one is part of the failure.
    """
    deadline = time.monotonic() + timeout
    last: T | AssertionError
    while True:
        try:
            last = predicate()
        except AssertionError as error:
            last = error
        else:
            if last:
                return last
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or predicate!r}; last seen: {last!r}")
        time.sleep(interval)
