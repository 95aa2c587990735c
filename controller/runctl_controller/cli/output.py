"""Printing: JSON for programs, tables for people; plain and without colour where nobody looks."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

# Escape sequences, control characters, and what turns the direction of text: it could show a lie.
_MISLEADING = r"\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(rf"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f{_MISLEADING}]")
_UNSAFE = re.compile(rf"[{_MISLEADING}]")


def emit(
    value: msgspec.Struct | dict[str, Any] | list[Any], as_json: bool, print_it: Callable[[], None]
) -> None:
    """`value` as one JSON document, or whatever `print_it` prints for people."""
    if as_json:
        print(to_json(value))
    else:
        print_it()


def to_json(value: Any) -> str:
    """JSON that every parser takes, and every terminal: NaN and infinities become null, bytes become text,
    and what a terminal would obey is written as an escape of JSON's own."""
    plain = msgspec.to_builtins(value, builtin_types=(bytes,))
    text = json.dumps(_plain(plain), indent=2, ensure_ascii=False)
    # JSON leaves those as they are; a terminal does not. They can stand in strings only.
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def to_json_line(value: Any) -> str:
    """The same on one line, for documents that follow one another."""
    return json.dumps(_plain(msgspec.to_builtins(value, builtin_types=(bytes,))))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def clean(text: str) -> str:
    """Without terminal escapes and control characters: what came in a message may hold anything."""
    return _CONTROL.sub("", text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A table; columns in `right` are aligned to the right."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(headings, cells, right)
        return
    widths = [max(len(row[i]) for row in [list(headings), *cells]) for i in range(len(headings))]
    for row in [list(headings), *cells]:
        parts = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(parts).rstrip())


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)
