"""Where the programs of this folder write down what they do (`runctl_testing.aftermath` reads it).

The product is not installed where they run; its test's own diary needs nothing but Python.
"""

from __future__ import annotations

import os

from runctl_testing.tiny_train import Diary


class Quiet:
    """Left alone, nobody asks what it did."""

    def note(self, kind: str, value: int) -> None:
        """Nothing."""


def open_diary() -> Diary | Quiet:
    return Diary() if "RUNCTL_ATTEMPT" in os.environ else Quiet()
