"""Progress bars, as these programs really print them (tests/unit/progress_samples):

Epoch 3:  45%|████▌ | 450/1000 [00:10<00:12, 43.2it/s, loss=0.12]     tqdm, and Lightning's
Training: |         | 11/? [00:00<00:00, 907.70it/s]                  Lightning's, before it knows the
length 450it [00:10, 43.2it/s]                                               tqdm, of unknown length
24/24 ━━━━━━━━━━ 0s 2ms/step - loss: 2.4925                           Keras
24/24 - 0s - 2ms/step - loss: 2.4925                                  Keras, verbose=2
Epoch 1/2  ━━━━━╺━━━━ 14/30 0:00:00 • 0:00:01 647.96it/s              Lightning's by rich
"""

from __future__ import annotations

import re
from dataclasses import replace

from runctl_agent.progress import text
from runctl_agent.progress.model import Kind, Progress

_NUMBER = r"[0-9]{1,18}|[0-9]{1,4}(?:\.[0-9]{1,2})?[kMGT]"  # the second with tqdm's unit_scale
_TQDM = re.compile(
    rf"(?:(?<![0-9])[0-9]{{1,3}}%)?\|[^|]{{0,300}}\|\s{{0,8}}(?P<n>{_NUMBER})/(?P<of>{_NUMBER}|\?)\s{{0,4}}"
    r"\[(?P<inside>[^\]]{0,600})(?P<closed>\]?)"
)
_ENDLESS = re.compile(
    rf"(?<![\w.])(?P<n>{_NUMBER})(?:it|steps?|batch(?:es)?) "
    r"\[(?P<inside>[0-9]{1,3}:[^\]]{0,600})(?P<closed>\]?)"
)
_KERAS = re.compile(
    r"^\s{0,8}(?P<n>[0-9]{1,18})/(?P<of>[0-9]{1,18})\s{1,4}(?:[\[━╸]|-\s{1,4}[0-9]{1,9}s\s{1,4}-)"
)
_RICH = re.compile(
    r"^\s{0,8}(?P<name>[^━╸╺|]{0,80}?)\s{1,4}[━╸╺]{3,300}\s{1,4}(?P<n>[0-9]{1,18})/(?P<of>[0-9]{1,18})\s"
    r"(?P<inside>[^━]{0,300})"
)
_RATE = re.compile(
    r"(?:[0-9.]{1,20}|\?)\s?[kMGT]?"
    r"(?:(?:it|iter|step|steps|batch|batches)/s|s/(?:it|iter|step|batch))(?![A-Za-z])"
)
_NAME = re.compile(r"([^|%]{0,80}?)[:\s]{0,8}(?:[0-9]{1,3}%)?$")
_NO_TRAINING = re.compile(
    r"map|download|upload|load|fetch|token|filter|generat|eval|valid|test|sav|shard|extract|cach|preproc|encod"
    r"|infer|predict|sanity|warm",
    re.IGNORECASE,
)
_COUNTS_EPOCHS = re.compile(r"(?:^|[^\w])epochs?$", re.IGNORECASE)
_COUNTS_STEPS = re.compile(r"(?:^|[^\w])(?:global[_ ])?steps?$", re.IGNORECASE)
_SCALES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def find(line: str) -> Progress | None:
    """What the last bar in `line` says, with what stands before and in it by name; None without a bar.

    A bar of something else (a download, an evaluation) says nothing at all. One at 0 says nothing of a step:
    it is drawn before the first, also by a training that resumes elsewhere.
    """
    bars = [*_TQDM.finditer(line)] or [*_ENDLESS.finditer(line)]
    if bars:
        return _tqdm(line, bars[-1])
    if (keras := _KERAS.search(line)) is not None:
        named = replace(text.find(line[keras.end() :]), within=True, first_epoch=1)
        return _with_counter(named, keras, Kind.BATCH)
    if (rich := _RICH.search(line)) is not None:
        return _rich(rich)
    return None


def is_whole(line: str) -> bool:
    """Whether `line` ends in a finished tqdm bar: tqdm ends a bar only when it writes the next one."""
    for pattern in (_TQDM, _ENDLESS):
        for match in pattern.finditer(line):
            if match["closed"] and not line[match.end() :].strip():
                return True
    return False


def _tqdm(line: str, bar: re.Match[str]) -> Progress:
    found = _NAME.search(line, max(0, bar.start() - 100), bar.start())
    name = found[1].strip() if found else ""
    if _NO_TRAINING.search(name):
        return Progress()
    named = text.find(f"{name}: {bar['inside']}")
    if not _RATE.search(bar["inside"]):
        return named  # of samples, tokens or bytes: how many says nothing of steps
    if _COUNTS_EPOCHS.search(name):
        n, of = _number(bar["n"]), _number(bar.groupdict().get("of"))
        return replace(named, epoch=named.epoch if n is None else float(n), epochs=of)
    if bar.groupdict().get("of") == "?":  # nobody but Lightning's bar, and its epochs begin at 0
        return replace(_with_counter(named, bar, Kind.BAR), first_epoch=0)
    kind = Kind.STEP if _COUNTS_STEPS.search(name) else Kind.BAR
    within = named.epoch is not None and kind is Kind.BAR
    # Only Lightning's loggers put that into a bar.
    first = 0 if within and "v_num=" in bar["inside"] else None
    return _with_counter(replace(named, within=within, first_epoch=first), bar, kind)


def _rich(bar: re.Match[str]) -> Progress:
    if _NO_TRAINING.search(bar["name"]) or not _RATE.search(bar["inside"]):
        return Progress()
    named = text.find(f"{bar['name']}: {bar['inside']}")
    within = named.epoch is not None
    # Lightning's names the number of the last epoch, not how many there are.
    epochs = None if named.epochs is None else named.epochs + 1
    named = replace(named, within=within, first_epoch=0 if within else None, epochs=epochs)
    return _with_counter(named, bar, Kind.BAR)


def _with_counter(named: Progress, bar: re.Match[str], kind: Kind) -> Progress:
    if named.step is not None and named.kind > kind:
        return replace(named, within=False)
    n = _number(bar["n"])
    if not n:
        # What else it shows is of the epoch before.
        return Progress(epoch=named.epoch, epochs=named.epochs, first_epoch=named.first_epoch)
    return replace(named, step=n, kind=kind, total=_number(bar.groupdict().get("of")))


def _number(text_: str | None) -> int | None:
    """`24`, or `23.5k`, which stands for anything near it."""
    if text_ is None or text_ == "?":
        return None
    scale = _SCALES.get(text_[-1])
    return int(text_) if scale is None else round(float(text_[:-1]) * scale)
