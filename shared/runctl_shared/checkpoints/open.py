"""From the URL that a user gives to the store that it means."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.objects import ObjectStore
from runctl_shared.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LATER = {
    "s3": "S3 buckets",
    "gs": "Google Cloud Storage buckets",
    "az": "Azure containers",
    "r2": "R2 buckets",
}
_MEND = "Give a folder, e.g. ./checkpoints or file:///mnt/checkpoints."


def open_store(url: str, *, create: bool = True) -> ObjectStore:
    """The store at `url`: ``file:///folder``, or a path.

    `create`: make the folder when it is missing; whoever expects something in it says False, so that a file
    system that is not mounted is an error and not an empty store. Raises UsageError for a URL that cannot be
    used, StoreRefused for a folder that cannot.
    """
    return DirectoryStore(store_folder(url), create=create)


def store_folder(url: str) -> Path:
    """The folder that `url` means, absolute. Raises UsageError when it means none; touches nothing."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        path = url
    elif scheme[1].lower() == "file":
        path = _file_path(url, url[scheme.end() :])
    else:
        raise _unknown(scheme[1].lower())
    if not path or "\0" in path:
        raise UsageError(f"{url!r} does not name a folder for the checkpoints.", _MEND)
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # ~somebody who is not a user here
        raise UsageError(f"{url!r} names the home of an unknown user.", _MEND) from None


def _file_path(url: str, rest: str) -> str:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise UsageError(
            f"{url!r} names a folder on another machine, {host!r}.",
            "Mount it, and write three slashes: file:///folder.",
        )
    return "/" + unquote(path) if "/" in rest else ""


def _unknown(scheme: str) -> UsageError:
    if scheme in _LATER:
        return UsageError(f"{_LATER[scheme]} ({scheme}://) are not supported yet.", _MEND)
    return UsageError(
        f"Checkpoints cannot be kept at {scheme}:// URLs; known are file:// and plain paths.",
        _MEND,
    )
