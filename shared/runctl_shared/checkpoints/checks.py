"""Reading what a store holds as what it is: input that may be damaged or forged."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runctl_shared.checkpoints.keys import key_problem
from runctl_shared.checkpoints.manifest import Manifest, ManifestDamaged, decode_manifest
from runctl_shared.checkpoints.objects import ObjectMissing, ObjectStore, StoreRefused

SPEC = "run.json"
ITSELF = "."
"""The `root` of a checkpoint whose files lie in the checkpoint directory itself."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_PATH = 700  # bytes: leaves room for the run's and the checkpoint's id in the key
LATEST = 1 << 62  # nanoseconds: the year 2116, and what every file system takes


def require_run(store: ObjectStore, run: str) -> None:
    """Raise StoreRefused when `store` does not hold the run's own description.

    What is missing in such a store proves nothing: a folder whose file system is not mounted is empty too,
    and must never look like a run with nothing to resume.
    """
    try:
        store.get_range(SPEC, 0, 1)
    except ObjectMissing:
        raise StoreRefused(
            f"There is nothing of {run} in {store.url}.",
            "Check the URL, and that the file system is mounted.",
        ) from None


def load_manifest(store: ObjectStore, run: str, name: str) -> Manifest:
    """The manifest stored under `name`, safe to act on: of this run, and with no path that leads out of the
    checkpoint. Raises ManifestDamaged, ObjectMissing."""
    manifest = decode_manifest(store.get(name), name)
    if manifest.run != run:
        raise ManifestDamaged(f"{name} is of another run, {manifest.run!r}.")
    problem = layout_problem(manifest.root, manifest.single_file, [entry.path for entry in manifest.files])
    if problem is not None:
        raise ManifestDamaged(f"{name}: {problem}.")
    for entry in manifest.files:
        good = entry.size >= 0 and 0 <= entry.mtime_ns < LATEST and _SHA256.fullmatch(entry.sha256)
        if not good:
            raise ManifestDamaged(f"{name}: what it says of {entry.path!r} is not possible.")
    return manifest


def layout_problem(root: str, single_file: bool, paths: Sequence[str]) -> str | None:
    """Why these cannot be the files of one checkpoint; None when they can.

    Paths are relative to the checkpoint directory. `root` is one of them, or a folder above all of them.
    """
    if not paths:
        return "there are no files in it"
    if root != ITSELF and (bad := key_problem(root)):
        return f"its root {root!r} {bad}"
    for path in paths:
        if bad := key_problem(path):
            return f"its file {path!r} {bad}"
        if len(path.encode()) > _LONGEST_PATH:
            return f"its file {path!r} has too long a path (at most {_LONGEST_PATH} bytes)"
    folders = {path[: at.start()] for path in paths for at in re.finditer("/", path)}
    if len(set(paths)) != len(paths) or not folders.isdisjoint(paths):
        return "two of its files have one name"
    if single_file:
        return None if root in paths else f"its file {root!r} is not among its files"
    outside = root != ITSELF and any(not path.startswith(root + "/") for path in paths)
    return f"a file of it is not in its folder {root!r}" if outside else None
