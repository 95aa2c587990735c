"""`make bench`: a table, figure beside limit; exits 1 when one is beyond its limit.

Words on the command line choose rows: `make bench ROWS='start idle'`.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from runctl_bench import agent, commands, controller, scale, watched
from runctl_bench.table import Failed, Left, Line, show

Row = Callable[[Path], Iterator[Line]]


def left(folder: Path) -> Iterator[Line]:
    """Rows of the promised numbers that nothing measures yet."""
    yield Left("upload and restore beside s5cmd", "object stores are not there yet")


ROWS: dict[str, Row] = {
    "start": commands.start,
    "ls": commands.listing,
    "idle": agent.idle,
    "notice": agent.notice,
    "upload": agent.upload,
    "heartbeats": controller.heartbeats,
    "runs": controller.many_runs,
    "watched": watched.overhead,
    "left": left,
}
BY_HAND: dict[str, Row] = {"scale": scale.ten_minutes}
"""Too long for every time."""


def lines(names: Iterable[str]) -> Iterator[Line]:
    for name in names:
        with tempfile.TemporaryDirectory(prefix="runctl-bench-") as folder:
            try:
                yield from (ROWS | BY_HAND)[name](Path(folder))
            except Exception as error:  # one that cannot be measured must not hide the others
                yield Failed(name, f"{type(error).__name__}: {error}")


def main(names: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is cleared away
    unknown = set(names) - ROWS.keys() - BY_HAND.keys()
    if unknown:
        print(
            f"No such row: {', '.join(sorted(unknown))}. There are: {', '.join(ROWS | BY_HAND)}.",
            file=sys.stderr,
        )
        return 2
    return 0 if all(line.held for line in list(show(lines(names or ROWS)))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
