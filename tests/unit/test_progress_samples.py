"""What is read out of the output that real programs printed (see progress_samples/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl_agent.progress.model import Kind
from runctl_agent.progress.sampler import LineSampler
from runctl_agent.progress.tracker import ProgressTracker

SAMPLES = Path(__file__).with_name("progress_samples")


def read(name: str, piece: int = 64) -> ProgressTracker:
    """Where a training stands after having printed this, slowly enough that no line is left out."""
    sampler, tracker = LineSampler(), ProgressTracker()
    data = (SAMPLES / f"{name}.txt").read_bytes()
    tick = 0.0
    for begin in range(0, len(data), piece):
        tick += 1.0
        for progress in sampler.feed(data[begin : begin + piece], tick):
            tracker.observe(progress, wall=tick, tick=tick)
    for progress in sampler.end():
        tracker.observe(progress, wall=tick, tick=tick)
    return tracker


# step, total, epoch, loss, kind; the first step
SAID = {
    "tqdm_plain": (60, 60, None, None, Kind.BAR, 5),
    "tqdm_postfix": (60, 60, None, 0.0167, Kind.BAR, 15),
    "tqdm_slow": (3, 3, None, 0.333, Kind.STEP, 1),
    "tqdm_samples": (None, None, None, 0.02, None, None),
    "tqdm_scaled": (25000, 25000, None, 0.02, Kind.BAR, 2500),
    "tqdm_nested": (90, 90, 3, 0.0333, Kind.COUNTED, 9),
    "tqdm_epochs": (90, None, 3, 0.0333, Kind.COUNTED, 10),
    "tqdm_unknown": (60, None, None, 0.0167, Kind.BAR, 5),
    "tqdm_resumed": (60, 60, None, None, Kind.BAR, 30),
    "tqdm_among_lines": (60, 60, None, 0.0167, Kind.BAR, 5),
    "rich_track": (None, None, None, None, None, None),
    "keras_verbose_1": (72, 72, 3, 1.4457, Kind.ITERATION, 1),
    "keras_verbose_2": (72, 72, 3, 1.4457, Kind.ITERATION, 24),
    "hf_trainer": (60, 60, 3.75, 3.9, Kind.BAR, 2),
    "hf_trainer_resumed": (60, 60, 3.75, 3.9, Kind.BAR, 41),
    "lightning": (90, None, 2, 0.67, Kind.ITERATION, 6),
    "lightning_resumed": (90, None, 2, None, Kind.ITERATION, 66),
    "lightning_rich": (60, 60, 1, 0.465, Kind.ITERATION, 1),
    "lightning_rich_file": (90, 90, 2, 0.67, Kind.ITERATION, 90),
}


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLES.glob("*.txt")))
def test_real_output(name: str) -> None:
    """A form that a real program prints and the parser does not know, or takes for something else."""
    found = read(name)
    step, total, epoch, loss, kind, first = SAID[name]
    assert (found.step, found.total, found.epoch, found.kind) == (step, total, epoch, kind)
    assert found.first_step == first
    assert loss is None or found.loss == pytest.approx(loss, abs=6e-4)


@pytest.mark.parametrize("name", sorted(SAID))
def test_no_step_is_ever_beyond_what_was_done_nor_goes_back(name: str) -> None:
    """A step of another bar (an evaluation, the epochs) that is taken for the training's own."""
    sampler, tracker = LineSampler(), ProgressTracker()
    seen: list[int] = []
    for tick, line in enumerate((SAMPLES / f"{name}.txt").read_bytes().splitlines(keepends=True)):
        for progress in sampler.feed(line, float(tick)):
            kind = tracker.kind
            tracker.observe(progress, wall=float(tick), tick=float(tick))
            if tracker.kind is not kind:
                seen.clear()
            if tracker.step is not None:
                seen.append(tracker.step)
    assert seen == sorted(seen)
    assert all(step <= (SAID[name][0] or 0) for step in seen)
