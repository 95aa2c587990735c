"""Every provider keeps the port's promises. Fake and local go through the same tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from runctl_controller.providers.fake import FakeProvider
from runctl_controller.providers.local.tags import INSTALLATION
from runctl_controller.providers.port import (
    EndCause,
    LaunchOrder,
    MachineState,
    NoCapacity,
    Offer,
    Provider,
    Refused,
    Sighting,
    Throttled,
)
from runctl_shared.clock import FakeClock
from runctl_shared.messages.events import NoticeKind
from runctl_testing.eventually import eventually
from runctl_testing.machines import OURS, LocalMachines

THEIRS = "inst-00000002"


class Rig(Protocol):
    """A provider, and the few things that are different with each."""

    @property
    def provider(self) -> Provider: ...

    def order(self, machine: str, *, token: str = "", installation: str = OURS) -> LaunchOrder: ...

    def wait(self, check: Callable[[], bool]) -> None:
        """Let time pass until `check` holds."""

    def leave(self, order: LaunchOrder) -> None:
        """Have the machine of `order` shut itself down."""

    def machines(self) -> int:
        """How many machines there really are or were, whatever the provider says."""


class FakeRig:
    """A fake that takes its time, so that a caller who expects things at once is found out."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeProvider(self.clock)
        self.fake.pending_for = 5.0
        self.fake.ending_for = 7.0

    @property
    def provider(self) -> Provider:
        return self.fake

    def order(self, machine: str, *, token: str = "", installation: str = OURS) -> LaunchOrder:
        return LaunchOrder(
            token=token or f"token-{machine}",
            machine=machine,
            offer=self.fake.offers()[0],
            boot=b"{}",
            hard_end=3600.0,
            boot_limit=600.0,
            tags={INSTALLATION: installation},
        )

    def wait(self, check: Callable[[], bool]) -> None:
        for _ in range(1000):
            if check():
                return
            self.clock.advance(1.0)
        raise AssertionError("not within 1000 s of the fake's time")

    def leave(self, order: LaunchOrder) -> None:
        self.fake.take(order.machine, EndCause.ITSELF)

    def machines(self) -> int:
        return len({s.provider_id for s in self.fake.list_ours(OURS)})


class LocalRig:
    def __init__(self, folder: Path) -> None:
        self.local = LocalMachines(folder)

    @property
    def provider(self) -> Provider:
        return self.local.provider

    def order(self, machine: str, *, token: str = "", installation: str = OURS) -> LaunchOrder:
        return self.local.order(
            machine, token=token, installation=installation, do=("start", "leave-when-told")
        )

    def wait(self, check: Callable[[], bool]) -> None:
        eventually(check)

    def leave(self, order: LaunchOrder) -> None:
        self.local.said("did-start")
        (self.local.out / "leave").touch()

    def machines(self) -> int:
        eventually(self.local.begun)
        return len(list((self.local.root / "machines").iterdir()))


@pytest.fixture(params=["fake", "local"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "fake":
        yield FakeRig()
        return
    local = LocalRig(tmp_path)
    try:
        yield local
    finally:
        local.local.end_all()


def sight(rig: Rig, order: LaunchOrder) -> Sighting:
    (sighting,) = rig.provider.describe([order])
    return sighting


def until(rig: Rig, order: LaunchOrder, state: MachineState) -> Sighting:
    rig.wait(lambda: sight(rig, order).state is state)
    return sight(rig, order)


def test_offers_are_cheapest_first(rig: Rig) -> None:
    offers: list[Offer] = list(rig.provider.offers())
    assert offers
    assert offers == sorted(offers, key=lambda offer: offer.price)


def test_a_launched_machine_comes_up(rig: Rig) -> None:
    order = rig.order("agent-aaaa-1")
    first = rig.provider.launch(order)
    assert (first.token, first.machine) == (order.token, order.machine)
    assert first.state in (MachineState.PENDING, MachineState.RUNNING)
    up = until(rig, order, MachineState.RUNNING)
    assert up.provider_id == first.provider_id
    assert up.launched_at == first.launched_at
    assert (up.cause, up.ended_at) == (None, None)


def test_the_same_token_is_the_same_machine(rig: Rig) -> None:
    first = rig.provider.launch(rig.order("agent-aaaa-1", token="one"))
    again = rig.provider.launch(rig.order("agent-aaaa-1", token="one"))
    other_name = rig.provider.launch(rig.order("agent-bbbb-1", token="one"))
    assert first.provider_id == again.provider_id == other_name.provider_id
    assert other_name.machine == "agent-aaaa-1"
    assert rig.machines() == 1


def test_the_same_token_at_the_same_moment_is_the_same_machine(rig: Rig) -> None:
    order, barrier = rig.order("agent-aaaa-1"), threading.Barrier(4)

    def launch() -> str:
        barrier.wait()
        return rig.provider.launch(order).provider_id

    with ThreadPoolExecutor(4) as pool:
        ids = {future.result() for future in [pool.submit(launch) for _ in range(4)]}
    assert len(ids) == 1
    assert rig.machines() == 1


def test_a_dead_machine_is_not_started_again(rig: Rig) -> None:
    order = rig.order("agent-aaaa-1")
    rig.provider.launch(order)
    rig.provider.terminate(order)
    over = until(rig, order, MachineState.TERMINATED)
    assert rig.provider.launch(order) == over
    assert sight(rig, order) == over


def test_terminate_is_asked_then_confirmed(rig: Rig) -> None:
    order = rig.order("agent-aaaa-1")
    launched = rig.provider.launch(order)
    until(rig, order, MachineState.RUNNING)
    rig.provider.terminate(order)
    rig.provider.terminate(order)
    over = until(rig, order, MachineState.TERMINATED)
    assert over.cause is EndCause.ASKED
    assert over.ended_at is not None
    assert launched.launched_at is not None
    assert over.ended_at >= launched.launched_at
    rig.provider.terminate(order)
    assert sight(rig, order) == over


def test_a_machine_that_was_never_launched(rig: Rig) -> None:
    order = rig.order("agent-aaaa-1")
    rig.provider.terminate(order)
    unseen = sight(rig, order)
    assert (unseen.state, unseen.machine, unseen.token) == (MachineState.ABSENT, order.machine, order.token)
    with pytest.raises(Refused, match="agent-aaaa-1"):
        rig.provider.interrupt(order, 120.0)
    with pytest.raises(Refused, match="agent-aaaa-1"):
        rig.provider.withdraw(order)
    assert list(rig.provider.list_ours(OURS)) == []


def test_describe_answers_in_the_order_of_the_question(rig: Rig) -> None:
    one, two, three = (rig.order(f"agent-{name}-1") for name in ("aaaa", "bbbb", "cccc"))
    rig.provider.launch(one)
    rig.provider.launch(three)
    seen = rig.provider.describe([three, two, one])
    assert [s.machine for s in seen] == [three.machine, two.machine, one.machine]
    assert [s.state is MachineState.ABSENT for s in seen] == [False, True, False]
    assert list(rig.provider.describe([])) == []


def test_only_this_installations_machines_are_listed(rig: Rig) -> None:
    ours, gone = rig.order("agent-aaaa-1"), rig.order("agent-aaaa-2")
    theirs = rig.order("agent-bbbb-1", installation=THEIRS)
    nobodys = rig.order("agent-cccc-1", installation="")
    for order in (ours, gone, theirs, nobodys):
        rig.provider.launch(order)
    rig.provider.terminate(gone)
    until(rig, gone, MachineState.TERMINATED)
    assert [s.machine for s in rig.provider.list_ours(OURS)] == [ours.machine]
    assert [s.machine for s in rig.provider.list_ours(THEIRS)] == [theirs.machine]


def test_ending_one_machine_leaves_the_others(rig: Rig) -> None:
    one, two = rig.order("agent-aaaa-1"), rig.order("agent-aaaa-2")
    rig.provider.launch(one)
    rig.provider.launch(two)
    until(rig, two, MachineState.RUNNING)
    rig.provider.terminate(one)
    until(rig, one, MachineState.TERMINATED)
    assert sight(rig, two).state is MachineState.RUNNING


def test_a_machine_that_shuts_down_ended_by_itself(rig: Rig) -> None:
    order = rig.order("agent-aaaa-1")
    rig.provider.launch(order)
    until(rig, order, MachineState.RUNNING)
    rig.leave(order)
    assert until(rig, order, MachineState.TERMINATED).cause is EndCause.ITSELF


def test_an_interrupted_machine_lives_until_its_time(rig: Rig) -> None:
    order = rig.order("agent-aaaa-1")
    rig.provider.launch(order)
    until(rig, order, MachineState.RUNNING)
    rig.provider.interrupt(order, 3600.0)
    assert sight(rig, order).state is MachineState.RUNNING
    rig.provider.interrupt(order, 1.0)
    rig.provider.interrupt(order, 3600.0)  # said again, as after a crash: it must not put the end off
    over = until(rig, order, MachineState.TERMINATED)
    assert over.cause is EndCause.INTERRUPTED
    rig.provider.interrupt(order, 1.0)
    assert sight(rig, order) == over


@pytest.mark.parametrize("kind", ["rebalance", "maintenance"])
def test_a_machine_outlives_a_notice_that_is_no_interruption(rig: Rig, kind: NoticeKind) -> None:
    """A hint that ends the machine, or that hides the interruption which follows."""
    order = rig.order("agent-aaaa-1")
    rig.provider.launch(order)
    until(rig, order, MachineState.RUNNING)
    rig.provider.interrupt(order, 0.0, kind)
    rig.provider.withdraw(order)  # there is none of that kind: no error, and no end of the other
    assert sight(rig, order).state is MachineState.RUNNING
    rig.provider.interrupt(order, 0.0)
    assert until(rig, order, MachineState.TERMINATED).cause is EndCause.INTERRUPTED


def test_a_machine_whose_notice_is_withdrawn_stays(rig: Rig) -> None:
    """A notice that is taken back, and a machine that goes all the same, or that can never be taken again."""
    order, other = rig.order("agent-aaaa-1"), rig.order("agent-bbbb-1")
    for each in (order, other):
        rig.provider.launch(each)
        until(rig, each, MachineState.RUNNING)
    rig.provider.interrupt(order, 1.0)
    rig.provider.withdraw(order)
    rig.provider.interrupt(order, 3600.0)  # had the first one been kept, the earlier time would count
    rig.provider.interrupt(other, 1.0)
    until(rig, other, MachineState.TERMINATED)
    assert sight(rig, order).state is MachineState.RUNNING
    rig.provider.withdraw(order)
    rig.provider.interrupt(order, 0.0)
    over = until(rig, order, MachineState.TERMINATED)
    assert over.cause is EndCause.INTERRUPTED
    rig.provider.withdraw(order)
    assert sight(rig, order) == over


def test_one_can_end_a_machine_that_is_about_to_be_taken(rig: Rig) -> None:
    order = rig.order("agent-aaaa-1")
    rig.provider.launch(order)
    until(rig, order, MachineState.RUNNING)
    rig.provider.interrupt(order, 3600.0)
    rig.provider.terminate(order)
    assert until(rig, order, MachineState.TERMINATED).cause is EndCause.ASKED


# What only the fake promises: it is what other tests stand on.


def test_the_fake_fails_once_and_does_nothing_then() -> None:
    rig = FakeRig()
    order = rig.order("agent-aaaa-1")
    rig.fake.calls.clear()
    rig.fake.fail_once("launch", NoCapacity("none"))
    with pytest.raises(NoCapacity):
        rig.fake.launch(order)
    assert rig.fake.burning() == []
    rig.fake.launch(order)
    assert rig.fake.burning() == [order.machine]
    assert rig.fake.calls == [("launch", order.machine)] * 2


def test_the_fake_loses_an_answer_but_not_the_machine() -> None:
    rig = FakeRig()
    order = rig.order("agent-aaaa-1")
    rig.fake.lose_answer_once()
    with pytest.raises(Throttled):
        rig.fake.launch(order)
    assert rig.fake.burning() == [order.machine]
    assert rig.fake.launch(order).state is MachineState.PENDING
    assert rig.machines() == 1


def test_the_fake_hides_a_new_machine_for_a_while() -> None:
    rig = FakeRig()
    rig.fake.hidden_for = 2
    order = rig.order("agent-aaaa-1")
    rig.fake.launch(order)
    assert list(rig.fake.list_ours(OURS)) == []
    states = [sight(rig, order).state for _ in range(3)]
    assert states == [MachineState.ABSENT, MachineState.ABSENT, MachineState.PENDING]
    assert len(rig.fake.list_ours(OURS)) == 1


def test_the_fake_takes_its_time() -> None:
    rig = FakeRig()
    order = rig.order("agent-aaaa-1")
    rig.fake.launch(order)
    rig.clock.advance(5.0)
    assert sight(rig, order).state is MachineState.RUNNING
    rig.fake.terminate(order)
    rig.clock.advance(6.0)
    assert sight(rig, order).state is MachineState.ENDING
    assert rig.fake.burning() == [order.machine]
    rig.clock.advance(1.0)
    assert sight(rig, order).state is MachineState.TERMINATED
    assert rig.fake.burning() == []


def test_the_fake_takes_a_machine_at_the_time_it_told() -> None:
    rig = FakeRig()
    order = rig.order("agent-aaaa-1")
    rig.fake.launch(order)
    assert rig.fake.notice(order.machine) is None
    rig.fake.interrupt(order, 120.0)
    at = rig.clock.now() + 120.0
    assert rig.fake.notice(order.machine) == at
    rig.clock.advance(500.0)  # nobody looked meanwhile
    over = sight(rig, order)
    assert (over.cause, over.ended_at) == (EndCause.INTERRUPTED, at)
    with pytest.raises(KeyError):
        rig.fake.take(order.machine, EndCause.FAILED)
