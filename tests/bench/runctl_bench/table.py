"""What is printed: figure beside limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Figure(NamedTuple):
    """`value` in `unit`, to be at most `limit` (at least, where `at_least`). `limit` None: for comparison."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def held(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Left(NamedTuple):
    """What was not measured, and why."""

    what: str
    why: str
    held: bool = True


class Failed(NamedTuple):
    """A row that could not be measured though it should have been."""

    what: str
    why: str
    held: bool = False


Line = Figure | Left | Failed


def show(lines: Iterable[Line]) -> Iterator[Line]:
    """Print each line as it comes, and pass it on."""
    print(f"{'what':<58}{'figure':>12}  {'limit':<14}")
    for line in lines:
        print(_text(line), flush=True)
        yield line


def _text(line: Line) -> str:
    if isinstance(line, Figure):
        return _figure(line)
    return f"{line.what:<58}{'FAILED' if isinstance(line, Failed) else '-':>12}  {line.why}"


def _figure(figure: Figure) -> str:
    sign = "≥" if figure.at_least else "≤"
    limit = "" if figure.limit is None else f"{sign} {figure.limit:g} {figure.unit}"
    mark = "" if figure.held else "  BEYOND THE LIMIT"
    return f"{figure.what:<58}{_number(figure.value) + ' ' + figure.unit:>12}  {limit:<14}{mark}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
