"""Dollars are what the provider bills: no second is missing, none is counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_controller.core.ledger import dollars, fit, mark_lost, switch
from runctl_controller.core.model import Interval, Machine
from runctl_testing.records import new_run, with_attempt

RECORD = with_attempt(with_attempt(new_run("run-abcd1234")))
MACHINE, OTHER = RECORD.machines
USES = ["boot", "staging", "waiting", "training", "saving", "idle"]
TIMES = st.integers(0, 1000).map(float)
SWITCHES = st.lists(st.tuples(st.sampled_from(USES), TIMES), min_size=1, max_size=8)


def switched(*steps: tuple[str | None, float], machine: Machine = MACHINE) -> tuple[Interval, ...]:
    intervals: tuple[Interval, ...] = ()
    for use, at in steps:
        intervals = switch(intervals, machine, use, at)
    return intervals


def shown(intervals: Sequence[Interval]) -> list[tuple[str, float, float | None]]:
    return [(i.use, i.start, i.end) for i in intervals]


def without_gap_or_overlap(intervals: Sequence[Interval]) -> bool:
    return all(a.end == b.start for a, b in pairwise(intervals)) and all(
        i.end is None or i.end > i.start for i in intervals
    )


class TestSwitch:
    def test_one_use_after_the_other(self) -> None:
        found = switched(("boot", 10.0), ("training", 40.0), (None, 100.0))
        assert shown(found) == [("boot", 10.0, 40.0), ("training", 40.0, 100.0)]
        assert {(i.machine, i.attempt, i.price) for i in found} == {(MACHINE.id, 1, 0.25)}

    def test_two_switches_at_one_moment_leave_no_empty_interval(self) -> None:
        assert shown(switched(("boot", 10.0), ("staging", 10.0))) == [("staging", 10.0, None)]

    def test_a_clock_that_was_set_back_makes_no_overlap(self) -> None:
        found = switched(("boot", 100.0), ("training", 50.0), (None, 20.0))
        assert shown(found) == []
        found = switched(("boot", 100.0), ("training", 200.0), ("idle", 150.0))
        assert shown(found) == [("boot", 100.0, 200.0), ("idle", 200.0, None)]

    def test_another_machine_is_left_alone(self) -> None:
        both = switch(switched(("boot", 10.0)), OTHER, "boot", 20.0)
        both = switch(both, OTHER, "training", 30.0)
        assert shown([i for i in both if i.machine == MACHINE.id]) == [("boot", 10.0, None)]

    @given(SWITCHES)
    def test_whatever_the_clock_says_there_is_no_gap_and_no_overlap(
        self, steps: list[tuple[str, float]]
    ) -> None:
        found = switched(*steps)
        assert without_gap_or_overlap(found)
        assert [i.end for i in found].count(None) == 1
        assert found[-1].use == steps[-1][0]
        assert found[0].start >= min(at for _, at in steps)


class TestFit:
    def test_the_providers_times_count(self) -> None:
        recorded = switched(("boot", 10.0), ("training", 40.0), ("idle", 100.0))
        assert shown(fit(recorded, MACHINE.id, 7.0, 110.0)) == [
            ("boot", 7.0, 40.0),
            ("training", 40.0, 100.0),
            ("idle", 100.0, 110.0),
        ]

    def test_what_was_closed_too_soon_is_paid_for_to_the_end(self) -> None:
        recorded = switched(("training", 10.0), (None, 50.0))
        assert shown(fit(recorded, MACHINE.id, 10.0, 60.0)) == [("training", 10.0, 60.0)]

    def test_a_machine_that_ended_before_it_began_costs_nothing(self) -> None:
        assert fit(switched(("boot", 10.0)), MACHINE.id, 20.0, 20.0) == ()

    @given(SWITCHES, TIMES, TIMES)
    def test_the_intervals_cover_exactly_the_machines_life(
        self, steps: list[tuple[str, float]], launched: float, ended: float
    ) -> None:
        found = fit(switched(*steps), MACHINE.id, launched, ended)
        if ended <= launched:
            assert found == ()
            return
        assert without_gap_or_overlap(found)
        assert (found[0].start, found[-1].end) == (launched, ended)
        assert dollars(found, 5000.0) == pytest.approx((ended - launched) / 3600 * 0.25)

    @given(SWITCHES, TIMES)
    def test_of_a_machine_that_goes_on_the_last_interval_stays_open(
        self, steps: list[tuple[str, float]], launched: float
    ) -> None:
        found = fit(switched(*steps), MACHINE.id, launched, None)
        assert without_gap_or_overlap(found)
        assert (found[0].start, found[-1].end) == (launched, None)

    @given(SWITCHES, TIMES, TIMES)
    def test_twice_is_once_and_others_are_left_alone(
        self, steps: list[tuple[str, float]], launched: float, ended: float
    ) -> None:
        others = switched(("boot", 3.0), ("training", 9.0), machine=OTHER)
        once = fit((*others, *switched(*steps)), MACHINE.id, launched, ended)
        assert fit(once, MACHINE.id, launched, ended) == once
        assert once[: len(others)] == others


class TestMarkLost:
    def test_training_since_the_checkpoint_was_undone(self) -> None:
        found = mark_lost(
            switched(("boot", 0.0), ("training", 10.0), ("saving", 50.0), ("idle", 60.0)), 1, 30.0
        )
        assert shown(found) == [
            ("boot", 0.0, 10.0),
            ("training", 10.0, 30.0),
            ("lost", 30.0, 50.0),
            ("lost", 50.0, 60.0),
            ("idle", 60.0, None),
        ]

    def test_without_a_checkpoint_all_of_it_was(self) -> None:
        found = mark_lost(switched(("staging", 0.0), ("training", 10.0), (None, 60.0)), 1, 10.0)
        assert shown(found) == [("staging", 0.0, 10.0), ("lost", 10.0, 60.0)]

    def test_other_attempts_are_left_alone(self) -> None:
        found = switched(("training", 10.0), (None, 60.0))
        assert mark_lost(found, 2, 0.0) == found

    @given(SWITCHES, TIMES, st.booleans())
    def test_it_changes_what_it_is_called_and_never_what_it_costs(
        self, steps: list[tuple[str, float]], since: float, closed: bool
    ) -> None:
        before = switched(*steps, *([(None, 1001.0)] if closed else []))
        after = mark_lost(before, 1, since)
        assert without_gap_or_overlap(after)
        assert dollars(after, 2000.0) == pytest.approx(dollars(before, 2000.0))
        assert all(i.start >= since for i in after if i.use == "lost")
        assert all(i.end is not None and i.end <= since for i in after if i.use in ("training", "saving"))
        assert mark_lost(after, 1, since) == after


class TestDollars:
    def test_per_second_at_the_price_per_hour(self) -> None:
        found = switched(("boot", 0.0), ("training", 1800.0), (None, 5400.0))
        assert dollars(found, 0.0) == pytest.approx(0.375)

    def test_what_goes_on_costs_until_now_and_never_less_than_nothing(self) -> None:
        found = switched(("training", 3600.0))
        assert dollars(found, 7200.0) == pytest.approx(0.25)
        assert dollars(found, 0.0) == 0.0

    def test_nothing_costs_nothing(self) -> None:
        assert dollars((), 100.0) == 0.0
