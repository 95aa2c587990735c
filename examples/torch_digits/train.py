"""Train a small PyTorch network on handwritten digits, and survive being interrupted, bit for bit.

The PyTorch sister of examples/digits: what `torch.save`, a DataLoader with workers, an optimizer, a
scheduler and dropout need, so that the final weights do not show that anything happened. It knows nothing
of runctl beyond two environment variables.

Exit codes: 0 trained to the end; 1 could not save; 2 the options or the checkpoint to resume from are no
good; 143 (128 + 15) saved and stopped on SIGTERM; 130 the same on Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

try:
    import torch
    from torch.utils.data import DataLoader

    from digits_model import Batches, Digits, Shaken, accuracy, load_data
    from digits_state import (
        Recipe,
        Refused,
        State,
        find_checkpoint,
        fresh_state,
        load_checkpoint,
        save,
        save_final,
    )
except ModuleNotFoundError as error:
    sys.exit(f"train.py: cannot import {error.name}: pip install torch scikit-learn, keep the files together")


class StopRequest:
    """Remembers that we were asked to stop; the loop saves at the end of the step, when the state is
    whole."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number


def build_parser() -> argparse.ArgumentParser:
    environment = os.environ.get
    parser = argparse.ArgumentParser(
        "train.py", description="Train on handwritten digits; can be interrupted."
    )
    add = parser.add_argument
    add("--epochs", type=int, default=20, help="passes over the images (default: 20, about a minute)")
    add("--seed", type=int, default=1, help="another seed, another training")
    add("--hidden", type=int, default=64, help="size of the hidden layer")
    add("--workers", type=int, default=2, help="processes that load the images (0: none)")
    add("--step-time", type=float, default=0.05, help="seconds to wait in each step, as a bigger model would")
    add("--log-every", type=int, default=10, help="steps between two lines")
    add("--save-every", type=float, default=3.0, help="seconds between two checkpoints")
    add("--keep", type=int, default=3, help="how many checkpoints to keep")
    add(
        "--out",
        type=Path,
        default=environment("RUNCTL_CHECKPOINT_DIR") or "checkpoints",
        help="where checkpoints go (default: $RUNCTL_CHECKPOINT_DIR, else ./checkpoints)",
    )
    add(
        "--resume",
        type=Path,
        default=environment("RUNCTL_RESUME_FROM") or None,
        help="a checkpoint, or a folder of which the newest (default: $RUNCTL_RESUME_FROM)",
    )
    return parser


def start(options: argparse.Namespace, recipe: Recipe) -> State:
    """The state to train on from: a new one, or that of the checkpoint we were given."""
    if options.resume is None:
        return fresh_state(recipe)
    path = find_checkpoint(options.resume)
    state = load_checkpoint(path, recipe)
    print(f"resumed from {path}", flush=True)
    return state


def outlive_signals(_worker: int) -> None:
    """In a worker: a signal to stop is for the loop, which still needs its workers until it has saved.
    Ctrl-C, and whoever ends a process group, send it to them as well."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def make_loader(state: State, digits: Digits, recipe: Recipe, options: argparse.Namespace) -> DataLoader:
    """Everything from here to the end of the training."""
    return DataLoader(
        Shaken(digits, recipe.seed),
        batch_sampler=Batches(recipe.seed, recipe.batch_size, state.epoch, state.position, options.epochs),
        num_workers=options.workers,
        worker_init_fn=outlive_signals,
        # Its own: from the common one it would draw a seed each time it begins, so once more after a resume.
        generator=torch.Generator(),
    )


def train_step(state: State, images: torch.Tensor, labels: torch.Tensor, trained_on: int) -> float:
    """Train on a batch and return its loss. Afterwards the state can be saved."""
    state.optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(state.model(images), labels)
    loss.backward()
    state.optimizer.step()
    state.scheduler.step()
    state.step += 1
    state.position += len(labels)
    if state.position == trained_on:
        state.epoch, state.position = state.epoch + 1, 0
    return float(loss.item())


def report(state: State, loss: float, digits: Digits) -> None:
    epoch = state.epoch if state.position == 0 else state.epoch + 1
    line = f"step={state.step} epoch={epoch} loss={loss:.4f}"
    if state.position == 0:
        line += f" accuracy={accuracy(state.model, digits):.4f}"
    print(line, flush=True)


def train(options: argparse.Namespace, recipe: Recipe, stop: StopRequest) -> int:
    """Train to the end, or until asked to stop. Returns the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    state, digits = start(options, recipe), load_data(recipe.seed)
    first, saved_at = state.step + 1, time.monotonic()
    for images, labels in make_loader(state, digits, recipe, options):
        loss = train_step(state, images, labels, len(digits.train_labels))
        time.sleep(options.step_time)
        if state.position == 0 or state.step % options.log_every == 0 or state.step == first:
            report(state, loss, digits)
        if state.epoch == options.epochs:
            break  # nothing is left to stop, and final.pt is the last checkpoint
        stopped_by = stop.signal  # read once: it may come between the save and the question why we saved
        if stopped_by or time.monotonic() - saved_at >= options.save_every:
            print(f"saved {save(options.out, state, recipe, options.keep)}", flush=True)
            saved_at = time.monotonic()
        if stopped_by:
            print(
                f"stopped by {signal.Signals(stopped_by).name}: --resume {options.out} continues", flush=True
            )
            return 128 + stopped_by
    print(f"finished: wrote {save_final(options.out, state, recipe)}", flush=True)
    return 0


def main() -> int:
    options = build_parser().parse_args()
    # One thread, and only algorithms that add in the same order each time: else the last bits differ.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    stop = StopRequest()
    try:
        return train(options, Recipe(seed=options.seed, hidden=options.hidden), stop)
    except Refused as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"train.py: cannot save to {str(options.out)!r} ({error.strerror}): mend that", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
