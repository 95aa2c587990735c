"""The step and the epoch that a checkpoint's name tells."""

from __future__ import annotations

import re

# Longer numbers are dates and hashes; what goes on as 7b, 1.5 or 2024-01-31 is a size, a version or a day.
_DIGITS = r"(?<![0-9])([0-9]{1,11})(?![a-z0-9]|\.[0-9]|-[0-9][0-9]-[0-9][0-9])"

_STEP = re.compile(r"(?:^|[^a-z])(?:global_?)?(?:steps?|iter(?:ation)?s?|it)[-_=]?" + _DIGITS)
_NUMBERED = re.compile(
    r"(?:^|[^a-z])(?:checkpoint|ckpts?|cp|chkpt|model|snapshot|state|save|weights)[-_.=]?" + _DIGITS
)
_ONLY_NUMBER = re.compile(_DIGITS + r"(?:\.[a-z0-9]+)*")
_EPOCH = re.compile(r"(?:^|[^a-z])epochs?[-_=]?" + _DIGITS)


def step_in(name: str) -> int | None:
    """The step in names such as step-000123, checkpoint_500, model.step=120.pt, epoch=3-step=400.ckpt, 120.

    A number that no such word comes before is not taken for one: resnet-50.pt, llama-7b.
    """
    name = name.lower()
    for pattern in (_STEP, _NUMBERED):
        if found := pattern.search(name):
            return int(found[1])
    alone = _ONLY_NUMBER.fullmatch(name)
    return int(alone[1]) if alone else None


def epoch_in(name: str) -> float | None:
    """The epoch in names such as epoch=3-step=400.ckpt, model-epoch03.pt."""
    found = _EPOCH.search(name.lower())
    return float(found[1]) if found else None
