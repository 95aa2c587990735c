"""Life-cycles as tables: which state may follow which. An illegal transition raises.

The diagrams in ``docs/lifecycles.md`` are generated from these tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Generic, TypeVar

S = TypeVar("S", bound=Enum)


class IllegalTransition(Exception):
    """A life-cycle was asked to do what its table forbids: a bug, never a user's mistake."""


class LifeCycle(Generic[S]):
    """The table of one life-cycle: `after[state]` are the states that may follow it; final ones have none.

    `believed`: states that are ends as far as anybody knows, though later evidence may show otherwise.
    """

    def __init__(self, name: str, after: Mapping[S, Iterable[S]], believed: Iterable[S] = ()) -> None:
        self.name = name
        self._believed = frozenset(believed)
        self.after: dict[S, frozenset[S]] = {state: frozenset(nexts) for state, nexts in after.items()}
        missing = {s for nexts in self.after.values() for s in nexts} - self.after.keys()
        if missing:
            raise ValueError(f"{name}: no row for {sorted(s.name for s in missing)}")

    def check(self, old: S, new: S) -> None:
        """Raises IllegalTransition unless `new` may follow `old`. Staying is always legal."""
        if new is not old and new not in self.after[old]:
            raise IllegalTransition(f"{self.name}: {old.value} -> {new.value}")

    def is_final(self, state: S) -> bool:
        """Whether nothing follows `state`, as far as anybody knows."""
        return not self.after[state] or state in self._believed

    def mermaid(self) -> str:
        """The table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {next(iter(self.after)).value}"]
        for state, nexts in self.after.items():
            lines += [f"    {state.value} --> {n.value}" for n in self.after if n in nexts]
            if self.is_final(state):
                lines.append(f"    {state.value} --> [*]")
        return "\n".join(lines)
