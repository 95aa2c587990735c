"""A machine's folder for temporary files, under a name that is short enough.

Programs bind sockets in TMPDIR (Python's multiprocessing, and so every DataLoader with workers), and the
path of a socket has at most 107 bytes. The folder itself stays on the machine's disk: there it has room,
and what is moved from it to the checkpoints is renamed and not copied.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from pathlib import Path

log = logging.getLogger("runctl.local")

LONGEST = 64
"""Bytes of a TMPDIR below which programs find room for names of their own."""


def short_name(folder: Path, note: Path) -> Path:
    """`folder`, or a short link to it that is written down in `note` before it is made. Never raises
    OSError: a long name is better than no machine."""
    if len(os.fsencode(folder)) <= LONGEST:
        return folder
    link = Path(tempfile.gettempdir()) / f"runctl-{secrets.token_hex(6)}"
    if len(os.fsencode(link)) > LONGEST:
        return folder
    try:
        note.write_text(str(link), encoding="utf-8")
        link.symlink_to(folder)
    except OSError as error:
        log.warning("machine.long-tmpdir path=%s error=%s", folder, error)
        return folder
    return link


def remove_short_name(note: Path) -> None:
    """Remove the link that `note` tells of, and nothing else that may be there by now."""
    with contextlib.suppress(OSError):
        link = Path(note.read_text(encoding="utf-8"))
        if link.is_symlink() and os.readlink(link).startswith(str(note.parent)):
            link.unlink()
