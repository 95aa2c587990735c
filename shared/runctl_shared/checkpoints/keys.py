"""What may be a key. One rule for every store, and for the file names inside manifests."""

from __future__ import annotations

TEMPORARIES = ".runctl-tmp"
"""Where a directory store keeps what it has not finished writing; never the first part of a key."""

_LONGEST_KEY = 1024
_LONGEST_PART = 255


def key_problem(key: str) -> str | None:
    """Why `key` cannot be one (the end of a sentence that begins with it); None when it can."""
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    parts = encoded.split(b"/")
    if b"\0" in encoded:
        return "holds a NUL byte"
    if any(part in (b"", b".", b"..") for part in parts):
        return "is not a plain relative path"
    if len(encoded) > _LONGEST_KEY or any(len(part) > _LONGEST_PART for part in parts):
        return f"is too long (at most {_LONGEST_KEY} bytes, {_LONGEST_PART} in each part)"
    if parts[0] == TEMPORARIES.encode():
        return "is reserved"
    return None


def check_key(key: str) -> None:
    """Raise ValueError unless `key` names an object inside the store."""
    problem = key_problem(key)
    if problem is not None:
        raise ValueError(f"{key!r} {problem}")


def check_prefix(prefix: str) -> None:
    """Raise ValueError when keys that begin with `prefix` would lie outside the store."""
    folder, slash, start = prefix.rpartition("/")
    if slash:
        check_key(folder)
    if "\0" in start:
        raise ValueError(f"{prefix!r} holds a NUL byte")
