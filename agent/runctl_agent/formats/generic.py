"""Any file or folder: nothing in it says that it is complete, so the quiet period has to."""

from __future__ import annotations

import msgspec

from runctl_agent.formats.base import COMPLETE, Entry, Format, Verdict, incomplete
from runctl_agent.formats.naming import epoch_in, step_in
from runctl_agent.formats.npz import Npz
from runctl_agent.formats.shards import check_shards
from runctl_agent.formats.torch_zip import TorchZip

_UNFINISHED = "checkpoint-is-incomplete.txt"
"""What some trainers keep in the folder while they write to it."""


class Generic:
    """Complete unless something in it says otherwise: it is empty, is marked as unfinished, holds a file
    whose own format shows that it is not whole, or lacks some of its numbered parts or their index."""

    name = "generic"
    signed = False
    parts: tuple[Format, ...] = (Npz(), TorchZip())

    def recognise(self, entry: Entry) -> bool:
        return True

    def check(self, entry: Entry) -> Verdict:
        if not any(file.size for file in entry.files):
            return incomplete("it is empty")
        if entry.single_file:
            return COMPLETE
        for file in entry.files:
            name = file.path.rpartition("/")[2]
            if name == _UNFINISHED:
                return incomplete("it is marked as unfinished")
            part = Entry(entry.folder, name, True, (file,))
            verdict = self._check_part(part)
            if not verdict.complete:
                return msgspec.structs.replace(verdict, reason=f"{name[:80]}: {verdict.reason}")
        return check_shards(entry)

    def _check_part(self, part: Entry) -> Verdict:
        for kind in self.parts:
            if kind.recognise(part):
                return kind.check(part)
        return COMPLETE

    def step(self, entry: Entry) -> int | None:
        return step_in(entry.name)

    def epoch(self, entry: Entry) -> float | None:
        return epoch_in(entry.name)
