"""Step, epoch and loss by name in free text: `step=17`, `Epoch 3/10`, `'train_loss': 1.2e-3`.

A name must stand alone (`lr_step`, `loss_scale`, `timestep`, `?step=3`, `ckpt/step-3` are others), a number
must end where a number ends (`2024-01-01`, `30%`, `3s` are others), and the word before must not change the
meaning (`max steps`, `val loss`). Every repetition is bounded, so time is linear.
"""

from __future__ import annotations

import re

from runctl_agent.progress.model import Kind, Progress

_ALONE = r"(?<![\w./?&@\\-])"
_IS = (
    r"(?:\(train\))?[\"']?(?:\s{0,8}[=:]\s{0,8}|\s{1,8})"
    r"[\[(\"']{0,2}(?:tensor\(|(?:np\.)?float\d\d\()?\s{0,8}"
)
_WHOLE = r"(?P<n>[0-9]{1,3}(?:,[0-9]{3}){1,5}|[0-9]{1,18})(?:\.0{1,8})?"
_OF = r"(?:\s{0,8}/\s{0,8}(?P<of>[0-9]{1,18}))?"
_ENDS = r"(?![\w%/\\-]|[.,][0-9])"

_STEP = re.compile(
    _ALONE
    + r"(?:train(?:er|ing)?[/_. ])?"
    + r"(?:(?P<step>(?:global[_ ]?)?step)|(?P<iteration>iter(?:ation)?)|batch)(?P<s>(?:es|s)?)"
    + _IS + _WHOLE + _OF + _ENDS,
    re.IGNORECASE,
)  # fmt: skip
_EPOCH = re.compile(
    _ALONE + r"epoch(?P<s>s?)" + _IS + r"(?P<n>[0-9]{1,7}(?:\.[0-9]{1,20})?)" + _OF + _ENDS, re.IGNORECASE
)
# `Epoch: [3][120/1000]`
_EPOCH_AND_BATCH = re.compile(
    _ALONE
    + r"epoch(?:\(train\))?[:\s]{0,8}\[\s{0,8}(?P<epoch>[0-9]{1,7})(?:/(?P<epochs>[0-9]{1,7}))?\]"
    + r"\s{0,4}\[\s{0,8}(?P<n>[0-9]{1,18})\s{0,4}/\s{0,4}(?P<of>[0-9]{1,18})\]",
    re.IGNORECASE,
)
_LOSS = re.compile(
    _ALONE
    + r"(?P<train>(?:train(?:ing)?|step)[/_. ])?loss(?P<train2>/train)?"
    + _IS
    + r"(?P<n>[-+]?(?:nan|inf(?:inity)?"
    + r"|(?:[0-9]{1,40}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:e[-+]?[0-9]{1,4})?))"
    + r"(?![\w%\\]|[.,][0-9])",
    re.IGNORECASE,
)
_WORD_BEFORE = re.compile(r"([A-Za-z]{1,20})\s{1,4}$")
_NO_STEP_AFTER = {
    "total", "max", "maximum", "min", "minimum", "num", "number", "of", "per", "every", "each", "warmup",
    "accumulation", "optimization", "optimizer", "eval", "evaluation", "val", "valid", "validation",
    "test", "best", "save", "saving", "logging", "log", "time", "all", "target", "remaining", "until",
    "gradient", "from", "last", "previous", "next", "final", "stop",
}  # fmt: skip
_NO_LOSS_AFTER = {
    "val", "valid", "validation", "eval", "evaluation", "test", "dev", "best", "min", "minimum", "lowest",
    "previous", "prev", "old", "target", "stop", "aux", "auxiliary", "kl", "reg", "regularization",
    "balance",
}  # fmt: skip
_SUMMARY = "train_runtime"
"""What the Hugging Face Trainer prints at its end is the mean over all steps, not the loss it has come to."""
# Such a line names the step of a checkpoint, and the training may well start elsewhere: believing it would
# pass off a silent restart as a resume.
_OF_THE_PAST = re.compile(
    r"(?<![A-Za-z])(?:resum|restor|restart|recover|(?:continu|start)(?:e|ed|ing)? (?:at|from)"
    r"|load(?:ed|ing)[^\n]{0,60}?(?:checkpoint|ckpt|state|model|weight|from))",
    re.IGNORECASE,
)


def speaks_of_the_past(text: str) -> bool:
    """Whether `text` tells of a checkpoint that was read, rather than of what the training does now."""
    return _OF_THE_PAST.search(text) is not None


def find(text: str) -> Progress:
    """What `text` says by name. Of several steps the strongest kind, then the first, wins."""
    step, total, kind = _find_step(text)
    epoch, epochs = _find_epoch(text)
    within = kind is Kind.BATCH and epoch is not None
    return Progress(step, epoch, _find_loss(text), kind, total, epochs, within)


def _find_step(text: str) -> tuple[int | None, int | None, Kind]:
    best: tuple[int | None, int | None, Kind] = (None, None, Kind.BAR)
    for match in _STEP.finditer(text):
        kind = Kind.STEP if match["step"] else Kind.ITERATION if match["iteration"] else Kind.BATCH
        # `steps=1000` and `batch=32` are settings; `steps: 10/1000` and `batch 3/32` are progress.
        needs_total = bool(match["s"]) or kind is Kind.BATCH
        if (needs_total and not match["of"]) or _follows(text, match.start(), _NO_STEP_AFTER):
            continue
        if best[0] is None or kind > best[2]:
            best = (int(match["n"].replace(",", "")), _int(match["of"]), kind)
    if best[0] is None:
        match_ = _EPOCH_AND_BATCH.search(text)
        if match_:
            return int(match_["n"]), int(match_["of"]), Kind.BATCH
    return best


def _find_epoch(text: str) -> tuple[float | None, int | None]:
    """The epoch, and of how many."""
    match = _EPOCH_AND_BATCH.search(text)
    if match:
        return float(match["epoch"]), _int(match["epochs"])
    for match in _EPOCH.finditer(text):
        if (match["of"] or not match["s"]) and not _follows(text, match.start(), _NO_STEP_AFTER):
            return float(match["n"]), _int(match["of"])
    return None, None


def _find_loss(text: str) -> float | None:
    if _SUMMARY in text:
        return None
    plain: float | None = None
    for match in _LOSS.finditer(text):
        if match["train"] or match["train2"]:
            return float(match["n"])
        if plain is None and not _follows(text, match.start(), _NO_LOSS_AFTER):
            plain = float(match["n"])
    return plain


def _follows(text: str, at: int, words: set[str]) -> bool:
    match = _WORD_BEFORE.search(text, max(0, at - 24), at)
    return match is not None and match[1].lower() in words


def _int(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
