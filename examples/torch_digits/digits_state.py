"""Checkpoints: the whole state of a PyTorch training in one file, written whole or not at all."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from digits_model import make_model

CHECKPOINT_NAME = re.compile(r"step-(\d+)\.pt")
FINAL_NAME = "final.pt"


class Refused(Exception):
    """What was asked for cannot be done; the message is one sentence for the person who asked."""


@dataclass(frozen=True)
class Recipe:
    """Every option that changes the numbers; saved along, so that nobody continues under others unawares."""

    seed: int
    hidden: int
    batch_size: int = 32
    learning_rate: float = 0.002


@dataclass
class State:
    """Everything that the rest of the training depends on, beside PyTorch's own random numbers."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    position: int = 0  # how many images the present epoch has used
    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed


def fresh_state(recipe: Recipe) -> State:
    """The state before the first step."""
    torch.manual_seed(recipe.seed)
    model = make_model(recipe.hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    return State(model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.999))


def to_saved(state: State, recipe: Recipe) -> dict[str, Any]:
    """Tensors, numbers and texts only: what `weights_only` may load, and so nothing that is run when
    loaded."""
    return {
        "step": state.step,
        "epoch": state.epoch,
        "position": state.position,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "recipe": asdict(recipe),
    }


def read_saved(path: Path) -> dict[str, Any]:
    """One checkpoint's content. Raises Refused when it cannot be read or is damaged."""
    try:
        # torch.load itself overlooks damaged numbers; the file is a zip archive, and that knows their
        # checksums.
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(bad)
        content = torch.load(path, weights_only=True)
    except OSError as error:
        raise Refused(
            f"cannot read the checkpoint {str(path)!r} ({error.strerror or error}): resume from another one"
        ) from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise Refused(
            f"the checkpoint {str(path)!r} is damaged: delete it, or resume from another one"
        ) from error
    if not isinstance(content, dict):
        raise Refused(f"{str(path)!r} is not a checkpoint of this script: resume from another one")
    return content


def load_checkpoint(path: Path, recipe: Recipe) -> State:
    """Continue where `path` was written. Raises Refused unless all of it fits this training."""
    saved, state = read_saved(path), fresh_state(recipe)
    try:
        for name, asked in asdict(recipe).items():
            if (written := saved["recipe"][name]) != asked:
                raise Refused(
                    f"the checkpoint {str(path)!r} was written with {name} = {written}: give the same"
                )
        state.model.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scheduler.load_state_dict(saved["scheduler"])
        state.step, state.epoch, state.position = saved["step"], saved["epoch"], saved["position"]
        torch.set_rng_state(saved["rng"])  # last: making the model has drawn from it
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Refused(f"{str(path)!r} is not a checkpoint of this script: resume from another one") from error
    return state


def find_checkpoint(path: Path) -> Path:
    """`path` itself if it is a file; the newest checkpoint in it if it is a folder."""
    if not path.is_dir():
        return path
    if (path / FINAL_NAME).exists():
        return path / FINAL_NAME
    named = [file for file in path.iterdir() if CHECKPOINT_NAME.fullmatch(file.name)]
    if not named:
        raise Refused(f"the folder {str(path)!r} holds no checkpoint: name one that does")
    return max(named, key=_step_of)


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """Written aside, forced to the disk, then renamed: whoever looks finds all of it or nothing. torch.save
    alone writes in place, and a SIGKILL in the middle of it costs the checkpoint before as well."""
    aside = path.with_name(".saving.tmp")
    try:
        with aside.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself lasts once the folder is synced
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(folder: Path, state: State, recipe: Recipe, keep: int) -> Path:
    """Save under the step, and remove what is too old."""
    path = folder / f"step-{state.step:06d}.pt"
    write_whole(path, to_saved(state, recipe))
    named = [file for file in folder.iterdir() if CHECKPOINT_NAME.fullmatch(file.name)]
    for old in sorted((file for file in named if _step_of(file) <= state.step), key=_step_of)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def save_final(folder: Path, state: State, recipe: Recipe) -> Path:
    """At the end of the training: a checkpoint like the others, should anyone want more epochs."""
    write_whole(folder / FINAL_NAME, to_saved(state, recipe))
    return folder / FINAL_NAME


def _step_of(path: Path) -> int:
    found = CHECKPOINT_NAME.fullmatch(path.name)
    return int(found[1]) if found else -1
