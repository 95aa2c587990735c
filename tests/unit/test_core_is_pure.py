"""The cores decide and do nothing else. The import contracts see modules; this sees what needs no import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PURE = (
    "agent/runctl_agent/core",
    "controller/runctl_controller/core",
    "shared/runctl_shared/messages",
    "shared/runctl_shared/spec.py",
    "shared/runctl_shared/spec",
)
# Built in, so no import gives them away; and an id drawn inside a core would make a replay differ.
_FORBIDDEN = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint", "new_id"}


def _sources() -> list[Path]:
    found: list[Path] = []
    for place in _PURE:
        path = _ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


def _calls(source: str) -> list[tuple[int, str]]:
    """Line and name of each call of a bare or dotted name, by its last part."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                calls.append((node.lineno, node.func.id))
            elif isinstance(node.func, ast.Attribute):
                calls.append((node.lineno, node.func.attr))
    return calls


def test_the_cores_are_there_to_be_checked() -> None:
    assert {path.parts[len(_ROOT.parts)] for path in _sources()} == {"agent", "controller", "shared"}


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(_ROOT)))
def test_a_core_calls_nothing_that_reaches_outside(path: Path) -> None:
    reached = [f"{path}:{line} {name}" for line, name in _calls(path.read_text()) if name in _FORBIDDEN]
    assert reached == []


def test_the_check_sees_a_call() -> None:
    seen = {name for _, name in _calls("import ids\nids.new_id('run')\nprint(open('x').read())")}
    assert {"new_id", "print", "open"} <= seen
