"""Errors that people read: what was wrong, and what to do about it.

The class says what the caller does next; `exit_code` is what the command line exits with.
"""

from __future__ import annotations


class RunctlError(Exception):
    """Base of every error that runctl raises on purpose.

    `what` is one sentence saying what is wrong; `mend` is one saying what to do (may be empty).
    """

    exit_code = 125
    code = "error"

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what} {self.mend}".strip()


class UsageError(RunctlError):
    """The request itself is wrong: change it."""

    exit_code = 2
    code = "usage"


class NotFound(RunctlError):
    """What was named does not exist."""

    exit_code = 3
    code = "not_found"


class RefusedByGuard(RunctlError):
    """A guard refused: it would lose work or money, or nobody knows that it would not."""

    exit_code = 4
    code = "refused"


class ProviderFailed(RunctlError):
    """The provider (or the checkpoint store) failed or refused."""

    exit_code = 5
    code = "provider"


class NoController(RunctlError):
    """No controller answered."""

    exit_code = 6
    code = "no_controller"


class StoreUnusable(RunctlError):
    """A state file or checkpoint store cannot be used: damaged, newer than this version, not writable."""

    exit_code = 125
    code = "store"


BY_CODE: dict[str, type[RunctlError]] = {
    kind.code: kind
    for kind in (
        RunctlError,
        UsageError,
        NotFound,
        RefusedByGuard,
        ProviderFailed,
        NoController,
        StoreUnusable,
    )
}


def wire_code(error: RunctlError) -> str:
    """The code under which `error` travels: its own if that means the same to the receiver (who knows only
    BY_CODE), else the one with the same exit code."""
    own = BY_CODE.get(error.code)
    if own is not None and own.exit_code == error.exit_code:
        return error.code
    same = (kind.code for kind in BY_CODE.values() if kind.exit_code == error.exit_code)
    return next(same, RunctlError.code)


def from_code(code: str, what: str, mend: str) -> RunctlError:
    """The error that travelled over the wire as (`code`, `what`, `mend`)."""
    return BY_CODE.get(code, RunctlError)(what, mend)
