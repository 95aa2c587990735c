"""Life-cycles as tables: the only transitions are those of the table."""

from __future__ import annotations

from enum import Enum

import pytest

from runctl_agent.core.phases import PHASES
from runctl_controller.core.tables import ATTEMPTS, MACHINES, RUNS
from runctl_shared.states import IllegalTransition, LifeCycle


class Door(Enum):
    OPEN = "open"
    SHUT = "shut"
    GONE = "gone"


DOORS = LifeCycle("door", {Door.OPEN: {Door.SHUT}, Door.SHUT: {Door.OPEN, Door.GONE}, Door.GONE: ()})


def test_only_what_is_in_the_table_is_legal() -> None:
    DOORS.check(Door.OPEN, Door.SHUT)
    with pytest.raises(IllegalTransition, match="door: open -> gone"):
        DOORS.check(Door.OPEN, Door.GONE)
    with pytest.raises(IllegalTransition):
        DOORS.check(Door.GONE, Door.OPEN)


def test_to_stay_is_always_legal() -> None:
    for state in Door:
        DOORS.check(state, state)


def test_final_states_are_those_that_nothing_follows() -> None:
    assert [state for state in Door if DOORS.is_final(state)] == [Door.GONE]


def test_a_state_without_a_row_is_a_mistake_at_once() -> None:
    with pytest.raises(ValueError, match=r"no row for \['GONE'\]"):
        LifeCycle("door", {Door.OPEN: {Door.GONE}})


def test_the_diagram_has_every_transition_once() -> None:
    assert DOORS.mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> open",
        "    open --> shut",
        "    shut --> open",
        "    shut --> gone",
        "    gone --> [*]",
    ]


@pytest.mark.parametrize("cycle", [RUNS, ATTEMPTS, MACHINES, PHASES], ids=lambda cycle: cycle.name)
def test_every_state_is_in_the_table_and_can_be_reached_and_left(cycle: LifeCycle[Enum]) -> None:
    states = list(type(next(iter(cycle.after))))
    assert set(cycle.after) == set(states)
    reached = {states[0]}
    while more := {after for state in reached for after in cycle.after[state]} - reached:
        reached |= more
    assert reached == set(states)
    ends = {state for state in states if cycle.is_final(state)}
    assert ends
    # From everywhere, an end can be reached.
    leading = set(ends)
    while more := {s for s in states if cycle.after[s] & leading} - leading:
        leading |= more
    assert leading == set(states)
