"""When a local machine ends and when its agent is started again: decided without a process."""

from __future__ import annotations

from runctl_controller.providers.local.watch import LONGEST_PAUSE, MOST_CRASHES, Watch
from runctl_controller.providers.port import EndCause

NEVER = 1e9


def no() -> bool:
    return False


def watch(boot_by: float | None = NEVER, end_by: float = NEVER) -> Watch:
    return Watch(boot_by=boot_by, end_by=end_by, start_at=0.0)


def test_the_boot_limit_ends_only_what_never_started() -> None:
    assert watch(boot_by=10).verdict(9.9, no) is None
    assert watch(boot_by=10).verdict(10, no) is EndCause.BOOT_FAILED
    started = watch(boot_by=10)
    assert started.verdict(10, lambda: True) is None
    assert started.verdict(11, no) is None
    assert started.next_look() == 0.0


def test_the_hard_end_and_the_interruption_come_in_time() -> None:
    machine = watch(end_by=100)
    machine.agent_began(0)
    machine.taken_at = 50
    assert machine.next_look() == 50
    assert machine.verdict(49.9, no) is None
    assert machine.verdict(50, no) is EndCause.INTERRUPTED
    machine.taken_at = None
    assert machine.next_look() == 100
    assert machine.verdict(100, no) is EndCause.ITSELF


def test_what_we_asked_for_is_not_called_an_interruption() -> None:
    machine = watch()
    machine.taken_at, machine.asked = 1, True
    assert machine.verdict(2, no) is EndCause.ASKED


def test_pauses_between_crashes_grow_and_begin_again() -> None:
    machine, now, pauses = watch(), 0.0, []
    for _ in range(8):
        machine.agent_began(now)
        machine.agent_ended(now, exit_code=1)
        assert machine.start_at is not None
        pauses.append(machine.start_at - now)
        assert not machine.agent_due(machine.start_at - 0.01)
        now = machine.start_at
        assert machine.agent_due(now)
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    machine.agent_began(now)
    machine.agent_ended(now + 3600, exit_code=-9)
    assert machine.start_at == now + 3601
    assert machine.verdict(now, no) is None
    machine.agent_ended(now, exit_code=0)
    assert machine.verdict(now, no) is EndCause.ITSELF


def test_an_agent_that_cannot_stay_up_ends_the_machine() -> None:
    machine, now = watch(), 0.0
    for crash in range(1, MOST_CRASHES + 1):
        assert machine.verdict(now, no) is None, crash
        machine.agent_began(now)
        machine.agent_ended(now + 59, exit_code=1)
        now += 100
    assert machine.verdict(now, no) is EndCause.FAILED


def test_crashes_far_apart_are_forgiven() -> None:
    machine = watch()
    for crash in range(5 * MOST_CRASHES):
        machine.agent_began(crash * 1000)
        machine.agent_ended(crash * 1000 + (60 if crash % 5 == 0 else 1), exit_code=1)
    assert machine.verdict(1e6, no) is None
