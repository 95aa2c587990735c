"""When a standby may take over: judged by its own clock alone."""

from __future__ import annotations

import msgspec

from runctl_controller.core.leadership import LOOKS, Leadership, Watch, has_run_out, look

LED = Leadership(epoch=3, pid=7, since=1.0, seconds=15.0, renewals=100)


def _looks(times: list[float], seen: Leadership = LED, watch: Watch | None = None) -> Watch | None:
    for now in times:
        watch = look(watch, seen, now)
    return watch


def _every(seconds: float, until: float, start: float = 0.0) -> list[float]:
    return [start + seconds * n for n in range(int((until - start) / seconds) + 1)]


def test_a_leader_that_stands_still_for_its_whole_time_has_run_out() -> None:
    assert not has_run_out(_looks(_every(3.0, until=15.0)))
    assert has_run_out(_looks(_every(3.0, until=18.0)))


def test_each_renewal_begins_the_time_anew() -> None:
    """A standby that counts from its first look takes over from a healthy leader."""
    watch = _looks(_every(3.0, until=15.0))
    watch = look(watch, msgspec.structs.replace(LED, renewals=101), 18.0)
    assert not has_run_out(_looks(_every(3.0, until=33.0, start=18.0), watch.seen, watch))


def test_another_leader_begins_the_time_anew() -> None:
    watch = _looks(_every(3.0, until=15.0))
    assert not has_run_out(look(watch, msgspec.structs.replace(LED, epoch=4), 18.0))


def test_one_look_proves_nothing_however_old_the_record_is() -> None:
    """The record's own time is of another clock: a standby must not compare it with its own."""
    assert not has_run_out(look(None, LED, 1e9))


def test_who_was_asleep_itself_calls_nobody_else_silent() -> None:
    """All of a machine is stopped for an hour and goes on: the leader must get its turn before it is
    judged."""
    watch = _looks(_every(3.0, until=12.0))
    watch = look(watch, LED, 3612.0)
    assert not has_run_out(watch)
    assert has_run_out(_looks(_every(3.0, until=3630.0, start=3615.0), LED, watch))


def test_a_leader_that_says_no_time_is_never_judged_by_it() -> None:
    """One of a version without leases renews nothing: it would be replaced while it is well."""
    assert not has_run_out(_looks(_every(3.0, until=1e4), Leadership(epoch=1)))
    assert not has_run_out(None)


def test_looks_are_frequent_enough_not_to_count_as_sleep() -> None:
    assert 1 / LOOKS < 1 / 2
