"""Progress bars: tqdm's (`Epoch 3:  45%|████▌ | 450/1000 [00:10<00:12, 43.2it/s, loss=0.12]`) and Keras's."""

from __future__ import annotations

import re
from dataclasses import replace

from runctl_agent.progress import text
from runctl_agent.progress.model import Kind, Progress

_TQDM = re.compile(
    r"(?<![0-9])[0-9]{1,3}%\|[^|]{0,300}\|\s{0,8}(?P<n>[0-9]{1,18})/(?P<of>[0-9]{1,18})\s{0,4}"
    r"\[(?P<inside>[^\]]{0,600})(?P<closed>\]?)"
)
# A bar without a known end: `450it [00:10, 43.2it/s]`.
_ENDLESS = re.compile(
    r"(?<![\w.])(?P<n>[0-9]{1,18})(?:it|steps?|batch(?:es)?) "
    r"\[(?P<inside>[0-9]{1,3}:[^\]]{0,600})(?P<closed>\]?)"
)
_KERAS = re.compile(r"^\s{0,8}(?P<n>[0-9]{1,18})/(?P<of>[0-9]{1,18})\s{1,4}[\[━╸]")
_RATE = re.compile(
    r"(?:[0-9.]{1,20}|\?)\s?(?:(?:it|iter|step|steps|batch|batches)/s|s/(?:it|iter|step|batch))(?![A-Za-z])"
)
_NAME = re.compile(r"([^|%]{0,80}?)[:\s]{0,8}$")
_NO_TRAINING = re.compile(
    r"map|download|upload|load|fetch|token|filter|generat|eval|valid|test|sav|shard|extract|cach|preproc|encod"
    r"|infer|predict|sanity|warm",
    re.IGNORECASE,
)
_COUNTS_EPOCHS = re.compile(r"(?:^|[^\w])epochs?$", re.IGNORECASE)
_COUNTS_STEPS = re.compile(r"(?:^|[^\w])(?:global[_ ])?steps?$", re.IGNORECASE)


def find(line: str) -> Progress | None:
    """What the last bar in `line` says, with what stands before and in it by name; None without a bar.

    A bar of something else (a download, an evaluation) says nothing at all.
    """
    bars = [*_TQDM.finditer(line)] or [*_ENDLESS.finditer(line)]
    if not bars:
        keras = _KERAS.search(line)
        if keras is None:
            return None
        return _with_counter(text.find(line[keras.end() :]), keras, Kind.BATCH)
    last = bars[-1]
    name = _name(line, last)
    if _NO_TRAINING.search(name) or not _RATE.search(last["inside"]):
        return Progress()
    named = text.find(f"{name}: {last['inside']}")
    if _COUNTS_EPOCHS.search(name):
        return replace(named, epoch=float(last["n"])) if named.epoch is None else named
    return _with_counter(named, last, Kind.STEP if _COUNTS_STEPS.search(name) else Kind.BAR)


def is_whole(line: str) -> bool:
    """Whether `line` ends in a finished tqdm bar: tqdm ends a bar only when it writes the next one."""
    for pattern in (_TQDM, _ENDLESS):
        for match in pattern.finditer(line):
            if match["closed"] and not line[match.end() :].strip():
                return True
    return False


def _name(line: str, bar: re.Match[str]) -> str:
    found = _NAME.search(line, max(0, bar.start() - 100), bar.start())
    return found[1].strip() if found else ""


def _with_counter(named: Progress, bar: re.Match[str], kind: Kind) -> Progress:
    if named.step is not None and named.kind > kind:
        return named
    total = bar.groupdict().get("of")
    return replace(named, step=int(bar["n"]), kind=kind, total=None if total is None else int(total))
