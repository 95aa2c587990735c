"""Checkpoints: the whole state in one .npz file, written so that a crash at any point costs nothing."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from network import Recipe, State, fresh_state

Arrays = dict[str, npt.NDArray[np.generic]]

CHECKPOINT_NAME = re.compile(r"step-(\d+)\.npz")
FINAL_NAME = "final.npz"


class Refused(Exception):
    """What was asked for cannot be done; the message is one sentence for the person who asked."""


def to_arrays(state: State, recipe: Recipe) -> Arrays:
    """The state as named arrays: nothing in a checkpoint needs to be unpickled."""
    arrays: Arrays = {
        "step": np.array(state.step, dtype=np.int64),
        "epoch": np.array(state.epoch, dtype=np.int64),
        "position": np.array(state.position, dtype=np.int64),
        "order": state.order,
        # JSON, because the generator's numbers have 128 bits
        "rng": np.array(json.dumps(state.rng.bit_generator.state)),
        "recipe": np.array(json.dumps(asdict(recipe))),
    }
    for name, weight in state.weights.items():
        arrays[name] = weight
        arrays[f"adam_mean_{name}"] = state.mean[name]
        arrays[f"adam_square_{name}"] = state.square[name]
    return arrays


def read_arrays(path: Path) -> Arrays:
    """All arrays of one checkpoint. The zip format checks each of them by its CRC.

    Raises Refused when the file cannot be read or is damaged.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("not an .npz archive")
        with archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise Refused(
            f"cannot read the checkpoint {str(path)!r} ({error.strerror or error}): resume from another one"
        ) from error
    # the ways in which NumPy and zipfile complain about bytes that are not what was written
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise Refused(
            f"the checkpoint {str(path)!r} is damaged: delete it, or resume from another one"
        ) from error


def load_checkpoint(path: Path, recipe: Recipe) -> State:
    """Continue where `path` was written. Raises Refused unless all of it fits this run."""
    stored = read_arrays(path)
    state = fresh_state(recipe)
    try:
        check_recipe(path, json.loads(str(stored["recipe"])), recipe)
        for name, expected in to_arrays(state, recipe).items():
            found = stored[name]  # of text, only the kind is always the same
            if found.shape != expected.shape or found.dtype.kind != expected.dtype.kind:
                raise ValueError(name)
        for name in state.weights:
            # in place: the same memory layout as in a run that was never interrupted
            state.weights[name][...] = stored[name]
            state.mean[name][...] = stored[f"adam_mean_{name}"]
            state.square[name][...] = stored[f"adam_square_{name}"]
        state.order[...] = stored["order"]
        state.rng.bit_generator.state = json.loads(str(stored["rng"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{str(path)!r} is not a checkpoint of this script: resume from another one") from error
    state.step, state.epoch = int(stored["step"]), int(stored["epoch"])
    state.position = int(stored["position"])
    return state


def check_recipe(path: Path, saved: dict[str, object], recipe: Recipe) -> None:
    """Refuse to continue one training with the options of another."""
    for name, asked in asdict(recipe).items():
        if saved[name] != asked:
            option = "--" + name.replace("_", "-")
            raise Refused(
                f"the checkpoint {str(path)!r} was written with {option} {saved[name]}: give the same"
            )


def step_of(path: Path) -> int:
    """The step that a checkpoint holds: from its name, for final.npz from its content."""
    named = CHECKPOINT_NAME.fullmatch(path.name)
    if named:
        return int(named[1])
    step = read_arrays(path).get("step")
    return int(step) if step is not None and step.shape == () else -1


def find_checkpoint(path: Path) -> Path:
    """`path` itself if it is a file; the newest checkpoint in it if it is a folder."""
    if not path.is_dir():
        return path
    try:
        names = os.listdir(path)
    except OSError as error:
        raise Refused(
            f"cannot read the folder {str(path)!r} ({error.strerror}): resume from another"
        ) from error
    found = [path / name for name in names if name == FINAL_NAME or CHECKPOINT_NAME.fullmatch(name)]
    if not found:
        raise Refused(f"the folder {str(path)!r} holds no checkpoint: name one that does")
    return max(found, key=step_of)


def write_whole(path: Path, arrays: Arrays) -> None:
    """Write a checkpoint so that whoever looks finds all of it under its name, or nothing.

    Written aside, forced to the disk, then renamed: a crash or a SIGKILL at any point leaves the checkpoints
    before it untouched. What a SIGKILL leaves behind is overwritten by the next save and never piles up,
    because there is only one name to write aside under.
    """
    aside = path.with_name(".saving.tmp")
    try:
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
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


class Folder:
    """Where one training saves: `step-000123.npz` of which the newest few stay, at the end `final.npz`."""

    def __init__(self, path: Path, keep: int) -> None:
        """Raises Refused at once if nothing can be saved to `path`: better now than after hours."""
        self.path, self.keep = path, keep
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"cannot make the folder {str(path)!r} ({error.strerror}): choose another with --out"
            ) from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise Refused(f"cannot write to the folder {str(path)!r}: choose another with --out")

    def save(self, state: State, recipe: Recipe) -> Path:
        """Save the state under its step and remove what is too old. Raises OSError when it cannot."""
        path = self.path / f"step-{state.step:06d}.npz"
        write_whole(path, to_arrays(state, recipe))
        self._remove_old(state.step)
        return path

    def save_final(self, state: State, recipe: Recipe) -> Path:
        """Save the state at the end of the training: a checkpoint as well, should anyone want more epochs."""
        path = self.path / FINAL_NAME
        write_whole(path, to_arrays(state, recipe))
        return path

    def _remove_old(self, step: int) -> None:
        """Checkpoints later than the one just written are of an earlier training, and not ours to remove."""
        named = [path for path in self.path.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)]
        ours = sorted((path for path in named if step_of(path) <= step), key=step_of)
        for path in ours[: -self.keep]:
            path.unlink(missing_ok=True)
