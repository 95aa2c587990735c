"""What SQLite and the system say when the bus file cannot be used, in words for people."""

from __future__ import annotations

from runctl_shared.bus.port import BusError, BusRefused, BusUnavailable

_MOVE = "Stop runctl and move it away: a new one is made, and agents and controller send again what matters."
_LATER = "Nothing is lost: what is unconfirmed is sent again."
# SQLite's own texts: its error codes can be read from Python only since 3.11.
_KNOWN: tuple[tuple[str, type[BusError], str, str], ...] = (
    ("locked", BusUnavailable, "The bus file {path} is locked by another process.", _LATER),
    (
        "is full",
        BusUnavailable,
        "The disk that holds the bus file {path} is full.",
        f"Free some space. {_LATER}",
    ),
    (
        "not a database",
        BusRefused,
        "The bus file {path} is damaged, or is no bus file.",
        _MOVE,
    ),
    (
        "malformed",
        BusRefused,
        "The bus file {path} is damaged.",
        _MOVE,
    ),
    (
        "readonly",
        BusRefused,
        "The bus file {path} cannot be written.",
        "Make it and its folder writable for you.",
    ),
    (
        "unable to open",
        BusRefused,
        "The bus file {path} cannot be opened.",
        "Make it and its folder readable and writable for you.",
    ),
)


def explain(error: Exception, path: str) -> BusError:
    """`error` as the caller of a bus is to see it."""
    if isinstance(error, BusError):
        return error
    if isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError)):
        return BusRefused(
            f"The bus file {path} cannot be made or opened ({error.strerror}).",
            "See that its folder exists and is writable for you.",
        )
    for words, kind, what, mend in _KNOWN:
        if words in str(error):
            return kind(what.format(path=path), mend)
    return BusUnavailable(f"The bus file {path} cannot be used now ({error}).", _LATER)


def passes(error: Exception) -> bool:
    """Whether the file is as good as before `error`, so that what we hold of it stays ours."""
    return "locked" in str(error)  # said before anything is done, not in the midst of it
