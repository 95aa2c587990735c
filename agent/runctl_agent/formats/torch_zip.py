"""torch.save since 1.6: a zip archive with the pickle `<name>/data.pkl` and the tensors' bytes beside it."""

from __future__ import annotations

from runctl_agent.formats import zips
from runctl_agent.formats.base import Entry, Verdict, incomplete
from runctl_agent.formats.naming import epoch_in, step_in

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


class TorchZip:
    """Complete when its table of contents is there, names a data.pkl, and every CRC is right.

    torch.save writes in place and the table of contents last. The older form, a bare pickle, carries no
    sign and is left to the generic format. Nothing is unpickled: the step comes from the name.
    """

    name = "torch"
    signed = True

    def recognise(self, entry: Entry) -> bool:
        named = entry.single_file and entry.name.lower().endswith(_SUFFIXES)
        return named and zips.looks_like_zip(entry.path_of(entry.files[0]))

    def check(self, entry: Entry) -> Verdict:
        [file] = entry.files
        try:
            with zips.opened(entry.path_of(file)) as archive:
                if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                    return incomplete("it holds no data.pkl")
                return zips.check_members(archive, file.size)
        except zips.DAMAGED as error:
            return incomplete(f"not a whole torch archive: {error}"[:200])

    def step(self, entry: Entry) -> int | None:
        return step_in(entry.name)

    def epoch(self, entry: Entry) -> float | None:
        return epoch_in(entry.name)
