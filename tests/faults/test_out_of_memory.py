"""Memory that runs out, for real: by the kernel's hand, and by the training's own word."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import NamedTuple

from runctl_shared.messages.replies import RunDetail
from runctl_testing.aftermath import Witness
from runctl_testing.cgroups import entering, limited
from runctl_testing.controller_process import TINY, House

TRAIN = (sys.executable, str(TINY), "--steps", "30", "--step-time", "0.02")


class Told(NamedTuple):
    run: str
    witness: Witness


def begin(house: House, folder: Path, name: str, command: tuple[str, ...], **changes: object) -> Told:
    """A run with a witness of its own, so that several may share a house."""
    witness = Witness(house, folder / f"diary-{name}")
    return Told(house.submit(command=command, env=witness.env, **changes), witness)


def end(house: House, *told: Told) -> list[RunDetail]:
    """Once all is over, and everything that must hold holds."""
    for each in told:
        house.wait_final(each.run)
    return [each.witness.check(each.run) for each in told]


def test_the_kernel_kills_for_a_limit(house: House, tmp_path: Path, dice: random.Random) -> None:
    """A kill by the kernel told as the user's error: of the training itself, or of a worker of its."""
    kinds, size = ("hog", "hog-worker"), 64 * 2**20
    with limited(size) as one, limited(size) as other:
        told = [
            begin(
                house,
                tmp_path,
                kind,
                entering(group, *TRAIN, "--trouble", kind, "--trouble-at", str(dice.randint(5, 25))),
                max_restarts=1,
            )
            for kind, group in zip(kinds, (one, other), strict=True)
        ]
        details = end(house, *told)
    for detail in details:
        first, second = detail.attempts
        assert first.reason == "out_of_memory"
        assert "the kernel killed" in first.detail
        assert "raise the limit, or need less memory" in first.detail
        assert (second.reason, detail.run.state) == ("succeeded", "succeeded")


def test_what_ended_it_is_told_apart(house: House, tmp_path: Path) -> None:
    """Want of memory called the user's error; a kill of unknown origin or an error called want of memory."""
    expected = {
        "no-memory": ("out_of_memory", "MemoryError"),
        "cuda": ("out_of_memory", "use a smaller batch, gradient accumulation"),
        "killed": ("user_error", "signal SIGKILL"),
        "error": ("user_error", "the shapes do not match"),
    }
    told = [begin(house, tmp_path, kind, (*TRAIN, "--trouble", kind)) for kind in expected]
    for detail, (reason, words) in zip(end(house, *told), expected.values(), strict=True):
        (attempt,) = detail.attempts
        assert (attempt.reason, detail.run.state) == (reason, "failed")
        assert words in attempt.detail
        assert words in detail.run.why
