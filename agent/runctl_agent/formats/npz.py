"""NumPy's .npz: a zip archive of .npy arrays."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable

from runctl_agent.formats import npy, zips
from runctl_agent.formats.base import Entry, Verdict, incomplete
from runctl_agent.formats.naming import epoch_in, step_in

_STEP_MEMBERS = ("global_step", "step", "iteration")
_MOST_STEP = 999_999_999_998


class Npz:
    """Complete when its table of contents is there, every array's header reads and every CRC is right."""

    name = "npz"
    signed = True

    def recognise(self, entry: Entry) -> bool:
        return entry.single_file and entry.name.lower().endswith(".npz")

    def check(self, entry: Entry) -> Verdict:
        [file] = entry.files
        try:
            with zips.opened(entry.path_of(file)) as archive:
                if not archive.namelist():
                    return incomplete("it holds no array")
                for name in archive.namelist():
                    if name.endswith(".npy"):
                        with archive.open(name) as member:
                            npy.read_header(member)
                return zips.check_members(archive, file.size)
        except zips.DAMAGED as error:
            return incomplete(f"not a whole .npz archive: {error}"[:200])

    def step(self, entry: Entry) -> int | None:
        number = _first_number(entry, _STEP_MEMBERS)
        if number is not None and number == int(number) and 0 <= number <= _MOST_STEP:
            return int(number)
        return step_in(entry.name)

    def epoch(self, entry: Entry) -> float | None:
        number = _first_number(entry, ("epoch",))
        return float(number) if number is not None else epoch_in(entry.name)


def _first_number(entry: Entry, names: Iterable[str]) -> float | int | None:
    """The number in the first array of these names that holds one (a finite one)."""
    try:
        with zips.opened(entry.path_of(entry.files[0])) as archive:
            for name in names:
                number = _number(archive, f"{name}.npy")
                if number is not None and math.isfinite(number):
                    return number
    except zips.DAMAGED:
        return None
    return None


def _number(archive: zipfile.ZipFile, name: str) -> float | int | None:
    if name not in archive.namelist():
        return None
    with archive.open(name) as member:
        return npy.read_number(member)
