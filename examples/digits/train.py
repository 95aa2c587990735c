"""Train a small neural network on handwritten digits, and survive being interrupted.

The point is not the network. It is what a training script has to do so that its machine can be taken away at
any moment and nothing is lost: save often, save whole, save when told to, and continue so exactly that the
final weights do not show that anything happened. It knows nothing of runctl beyond two environment
variables, and runs as well without it.

Exit codes: 0 trained to the end; 1 could not save (a full disk) or a package is missing; 2 the options or the
checkpoint to resume from are no good; 143 (128 + 15) saved and stopped on SIGTERM; 130 the same on Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

# One thread for linear algebra, decided before NumPy loads its library. Threads split a sum into as many
# parts as there are cores, floating-point addition in another order gives other last bits, and the machine
# that continues a run may have another number of cores. Whoever sets these variables decides otherwise.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

try:
    from checkpoints import Folder, Refused, find_checkpoint, load_checkpoint
    from network import Digits, Recipe, State, accuracy, fresh_state, load_data, train_step
except ModuleNotFoundError as error:
    sys.exit(
        f"train.py: cannot import {error.name}: pip install numpy scikit-learn, and keep the files together"
    )


class StopRequest:
    """Remembers that we were asked to stop. The handler does nothing else, because it may run in the middle
    of a step: saving has to wait for a moment at which the state is whole."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number


class OneLineParser(argparse.ArgumentParser):
    """Answers a mistake in one line; the whole list of options is for those who ask for it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def whole(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86400:  # which nan is not either
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        "train.py", description="Train a small network on handwritten digits; can be interrupted."
    )
    add = parser.add_argument
    add(
        "--epochs",
        type=whole,
        default=60,
        metavar="N",
        help="passes over the images (default: 60, about a minute)",
    )
    add("--seed", type=whole, default=1, metavar="N", help="another seed, another training (default: 1)")
    add(
        "--hidden",
        type=whole,
        default=128,
        metavar="N",
        help="size of the hidden layer; more of it makes bigger checkpoints (default: 128)",
    )
    add(
        "--step-time",
        type=seconds,
        default=0.02,
        metavar="SECONDS",
        help="wait this long in each step, as a bigger model would need it (default: 0.02)",
    )
    add("--log-every", type=whole, default=25, metavar="STEPS", help="print a line this often (default: 25)")
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--save-every",
        type=seconds,
        default=3.0,
        metavar="SECONDS",
        help="save a checkpoint this often (default: 3)",
    )
    when.add_argument("--save-every-steps", type=whole, metavar="STEPS", help="the same, counted in steps")
    add("--keep", type=whole, default=3, metavar="N", help="keep this many checkpoints (default: 3)")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        default=os.environ.get("RUNCTL_CHECKPOINT_DIR") or "checkpoints",
        help="where checkpoints and final.npz go (default: $RUNCTL_CHECKPOINT_DIR, else ./checkpoints)",
    )
    add(
        "--resume",
        type=Path,
        metavar="PATH",
        default=os.environ.get("RUNCTL_RESUME_FROM") or None,
        help="continue from this checkpoint, or the newest in this folder (default: $RUNCTL_RESUME_FROM)",
    )
    return parser


def start(options: argparse.Namespace, recipe: Recipe) -> State:
    """The state to train on from: a new one, or that of the checkpoint we were given."""
    if options.resume is None:
        return fresh_state(recipe)
    path = find_checkpoint(options.resume)
    state = load_checkpoint(path, recipe)
    if (state.epoch, state.position) > (options.epochs, 0):
        raise Refused(f"the checkpoint {str(path)!r} is past --epochs {options.epochs}: ask for more epochs")
    print(f"resumed from {path}", flush=True)
    return state


def report(state: State, epoch: int, loss: float, digits: Digits) -> None:
    """One line on how it goes, and how well at the end of an epoch."""
    line = f"step={state.step} epoch={epoch} loss={loss:.4f}"
    if state.position == 0:
        line += f" accuracy={accuracy(state.weights, digits):.4f}"
    print(line, flush=True)  # a pipe would hold it back, and whoever watches would see us stand still


def train(options: argparse.Namespace, recipe: Recipe, folder: Folder, stop: StopRequest) -> int:
    """Train to the end, or until asked to stop. Returns the exit code."""
    state = start(options, recipe)
    digits = load_data(recipe.seed)
    first, saved_at = state.step + 1, time.monotonic()
    while state.epoch < options.epochs:
        epoch = state.epoch + 1
        loss = train_step(state, digits, recipe)
        time.sleep(options.step_time)
        if state.position == 0 or state.step % options.log_every == 0 or state.step == first:
            report(state, epoch, loss, digits)
        if state.epoch == options.epochs:
            break  # nothing is left to stop, and final.npz is the last checkpoint
        stopped_by = stop.signal  # read once: it may come between the save and the question why we saved
        if options.save_every_steps:
            due = state.step % options.save_every_steps == 0
        else:
            due = time.monotonic() - saved_at >= options.save_every
        if due or stopped_by:
            print(f"saved {folder.save(state, recipe)}", flush=True)
            saved_at = time.monotonic()
        if stopped_by:
            print(
                f"stopped by {signal.Signals(stopped_by).name}: --resume {options.out} continues", flush=True
            )
            return 128 + stopped_by
    print(f"finished: wrote {folder.save_final(state, recipe)}", flush=True)
    return 0


def main() -> int:
    options = build_parser().parse_args()
    stop = StopRequest()
    try:
        folder = Folder(options.out, options.keep)
        return train(options, Recipe(seed=options.seed, hidden=options.hidden), folder, stop)
    except Refused as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except (
        BrokenPipeError
    ):  # nobody reads our output any more: nothing to say, at the interpreter's end neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(
            f"train.py: cannot save to {str(options.out)!r} ({error.strerror}): mend that and resume",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
