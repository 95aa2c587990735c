"""What kind of file system a directory lies on: events and leases mean nothing on those of other machines."""

from __future__ import annotations

import os
import re
from pathlib import Path

_FAR = re.compile(
    r"nfs\d?|cifs|smb.*|smbfs|fuse(\..*)?|9p|virtiofs|ceph|lustre|gpfs|beegfs|afs|glusterfs|orangefs|pvfs2"
    r"|gfs2|ocfs2|vboxsf|prl_fs|acfs|panfs"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def filesystem_type(path: str, mountinfo: str) -> str | None:
    """The type of the file system that the absolute `path` lies on, by the text of /proc/self/mountinfo."""
    best, found = -1, None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = point == "/" or path == point or path.startswith(point + "/")
        # Of two mounts on one point, the later one covers the earlier.
        if inside and len(point) >= best:
            best, found = len(point), after.split(" ")[0]
    return found


def is_far(kind: str | None) -> bool:
    """Whether other machines may write to such a file system, or its leases and events are not the kernel's
    own. NFS, for one, refuses every lease without a delegation, which would look like a writer."""
    return kind is not None and _FAR.fullmatch(kind) is not None


def far(path: Path) -> bool:
    """Whether `path` lies on such a file system; False where that cannot be found out."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    return is_far(filesystem_type(os.path.realpath(path), mountinfo))
