"""Notices at every moment of an attempt: a second one, one that is taken back, and those that are hints.

Times on the wire are whole seconds, cut so that nobody is late: of a notice of 3.5 s two may be left.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import psutil
import pytest

from runctl_shared.errors import RefusedByGuard
from runctl_shared.messages.events import NoticeKind
from runctl_shared.messages.replies import Done, RunDetail
from runctl_shared.messages.requests import InterruptRun
from runctl_testing.eventually import eventually
from runctl_testing.ward import Ward

HINTS = ["rebalance", "maintenance"]
SAVES_AND_GOES_ON = ("--when-asked", "go-on", "--signal", "SIGUSR1")


@contextlib.contextmanager
def _frozen_agent(ward: Ward, run: str, attempt: int = 1) -> Iterator[psutil.Process]:
    """The agent stands still, from when it is there: whatever happens meanwhile it hears at once after."""
    agent = _agent(ward, run, attempt)
    agent.suspend()
    yield agent
    agent.resume()


def _agent(ward: Ward, run: str, attempt: int) -> psutil.Process:
    """The agent, as soon as there is one."""
    words = ("runctl_agent", "--machine")
    return eventually(
        lambda: ward.house.find(run, *words, attempt=attempt), 60, 0.005, f"the agent of attempt {attempt}"
    )[0]


def _trained(detail: RunDetail) -> list[tuple[int, str | None]]:
    return [(a.attempt, a.reason) for a in detail.attempts]


def _goes_on(ward: Ward, run: str) -> None:
    """Until it is known to make steps after all the time it had to end, so that its end is its own."""
    step = ward.witness.diary()[-1].value + 50
    ward.house.wait(run, lambda d: (d.run.step or 0) > step, "it to be heard going on")


# -- when it comes -------------------------------------------------------------------------------


def test_before_anything_has_begun(ward: Ward, dice: random.Random) -> None:
    """A notice while the machine boots and stages, which no training is there to answer."""
    run = ward.start()
    with _frozen_agent(ward, run):
        ward.provider.interrupt(run, notice=dice.uniform(1.0, 3.0))
    detail = ward.end(run, taken=1)
    assert _trained(detail) == [(1, "interrupted"), (2, "succeeded")]
    assert [a.started_at is None for a in detail.attempts] == [True, False]


def test_while_it_restores(ward: Ward, dice: random.Random) -> None:
    """A notice while the checkpoint is fetched: half of it must not be trained from, nor lost."""
    run = ward.start()
    ward.until_saved(run, 10)
    ward.provider.interrupt(run, notice=1.5)
    claim = ward.house.state / "checkpoints" / run / "attempts" / "00002.json"
    eventually(claim.exists, interval=0.002, what="the second attempt's claim")
    with _frozen_agent(ward, run, 2):
        ward.provider.interrupt(run, 2, notice=dice.uniform(0.5, 2.0))
    detail = ward.end(run, taken=2)
    assert _trained(detail) == [(1, "interrupted"), (2, "interrupted"), (3, "succeeded")]
    assert (detail.attempts[2].restored_step or 0) >= (detail.attempts[0].saved_step or 0)


def test_before_the_first_checkpoint(ward: Ward, dice: random.Random) -> None:
    """A training that has nothing saved, and saves nothing: the next begins from the beginning."""
    saves = dice.random() < 0.5
    run = ward.start("--save-every", "1000", "--when-asked", "exit-143" if saves else "fail")
    ward.until("step", dice.randrange(1, 20))
    ward.provider.interrupt(run, notice=3.5)
    first, second = ward.interrupted(run)
    assert first.saved_step == (first.last_step if saves else None)
    assert first.lost_steps == (0 if saves else first.last_step)
    assert second.restored_step == first.saved_step


def test_while_it_saves(ward: Ward, dice: random.Random) -> None:
    """A save under way when the notice comes: it is finished and kept, and so is the one asked for."""
    run = ward.start("--save", "slowly", "--pause", "0.8")
    ward.until("saving", 10)
    ward.provider.interrupt(run, notice=dice.uniform(4.0, 5.0))
    first, second = ward.interrupted(run)
    saved = {line.value for line in ward.witness.diary() if (line.attempt, line.kind) == (1, "saved")}
    assert {c.step for c in ward.house.checkpoints(run).checkpoints if c.attempt == 1} == saved
    assert first.saved_step == second.restored_step == max(saved)


def test_at_any_moment_again_and_again(ward: Ward, dice: random.Random) -> None:
    """Notice after notice, each at some moment of the next attempt, whatever it is at."""
    run = ward.start()
    ward.until("step", dice.randrange(1, 30))
    for attempt in (1, 2, 3):
        _agent(ward, run, attempt)
        ward.provider.interrupt(run, attempt, notice=dice.uniform(0.3, 2.5))
        ward.until_ended(run, attempt)
    detail = ward.end(run)
    assert [a.reason for a in detail.attempts] == ["interrupted"] * 3 + ["succeeded"]


# -- a second one, and one that is withdrawn -----------------------------------------------------


def test_a_second_notice_may_only_bring_the_end_forward(ward: Ward, dice: random.Random) -> None:
    """A training that uses the time of the first notice when the second leaves it less; one told twice."""
    run = ward.start("--when-asked", "ignore")
    ward.until_saved(run, 10)
    ward.provider.interrupt(run, notice=600.0)
    ward.house.wait(run, lambda d: d.run.state == "saving", "the notice to be heard")
    ward.provider.interrupt(run, notice=dice.uniform(0.8, 2.0))
    ward.interrupted(run)
    told = [text for text in ward.said(run, "notice") if "interruption" in text]
    assert len(told) == 2, told
    assert ward.said(run, "save") == ["the training is asked to save (SIGTERM, notice)"]


def test_a_notice_that_is_withdrawn_while_it_trains_on(ward: Ward, dice: random.Random) -> None:
    """A training that is killed although nobody takes its machine; a replacement that goes on costing."""
    run = ward.start("--when-asked", dice.choice(["ignore", "go-on"]), grace=0.3)
    ward.until("step", dice.randrange(1, 20))
    ward.provider.interrupt(run, notice=600.0)
    ward.house.wait(run, lambda d: d.run.state == "saving", "the notice to be heard")
    ward.provider.withdraw(run)
    eventually(lambda: "the notice was withdrawn" in ward.said(run, "notice"), what="the withdrawal")
    _goes_on(ward, run)
    detail = ward.end(run)
    assert _trained(detail)[0] == (1, "succeeded")
    assert all((a.reason, a.started_at) == ("replaced", None) for a in detail.attempts[1:])
    assert "the notice was withdrawn" in ward.said(run, "notice")


def test_a_notice_that_is_withdrawn_after_it_has_ended(ward: Ward, dice: random.Random) -> None:
    """The training saved and left because of it: it goes on elsewhere, and the machine that now stays for
    ever is ended by us."""
    run = ward.start()
    ward.until("step", dice.randrange(1, 30))
    ward.provider.interrupt(run, notice=600.0)
    ward.until_ended(run)
    ward.provider.withdraw(run)
    first, second = ward.interrupted(run)
    assert second.restored_step == first.saved_step == first.last_step
    assert ward.house.show(run).machines[0].cause in ("itself", "asked")


def test_a_withdrawn_notice_may_come_again(ward: Ward, dice: random.Random) -> None:
    """The second notice of the same words, taken for the first that is over."""
    run = ward.start("--when-asked", "ignore")
    ward.until_saved(run, 10)
    ward.provider.interrupt(run, notice=600.0)
    ward.house.wait(run, lambda d: d.run.state == "saving", "the notice to be heard")
    ward.provider.withdraw(run)
    eventually(lambda: "the notice was withdrawn" in ward.said(run, "notice"), what="the withdrawal")
    ward.until("step", ward.witness.diary()[-1].value + dice.randrange(1, 20))
    ward.provider.interrupt(run, notice=1.0)
    detail = ward.end(run, taken=1)
    trained = [a for a in detail.attempts if a.started_at is not None]
    assert [a.reason for a in trained] == ["interrupted", "succeeded"]


# -- hints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HINTS)
def test_a_hint_alone_saves_and_trains_on(ward: Ward, kind: NoticeKind, dice: random.Random) -> None:
    """A hint that ends the training, launches a replacement, or is told again and again; by a drill."""
    run = ward.start(*SAVES_AND_GOES_ON, "--save-every", "1000", signal="SIGUSR1", grace=0.3)
    with pytest.raises(RefusedByGuard):
        ward.house.client.ask(InterruptRun(run=run, kind=kind), Done)
    ward.until("step", dice.randrange(1, 30))
    ward.house.wait_training(run)
    ward.house.client.ask(InterruptRun(run=run, notice=3600.0, kind=kind), Done)
    asked = ward.until("asked").value
    ward.house.wait(run, lambda d: (d.run.saved_step or 0) >= asked, "the save to be safe")
    ward.house.client.ask(InterruptRun(run=run, kind=kind, withdraw=True), Done)
    _goes_on(ward, run)
    detail = ward.end(run)
    assert _trained(detail) == [(1, "succeeded")]
    assert [line.value for line in ward.witness.diary() if line.kind == "asked"] == [asked]
    assert [text.split()[1] for text in ward.said(run, "notice") if text.startswith("notice: ")] == [kind]


@pytest.mark.parametrize("kind", HINTS)
def test_a_training_that_ends_at_a_hint_goes_on_elsewhere(
    ward: Ward, kind: NoticeKind, dice: random.Random
) -> None:
    """A training that saves and leaves when it is asked to save: no success, no error, no restart used up."""
    run = ward.start("--when-asked", dice.choice(["exit-0", "exit-143", "save-and-fail"]))
    ward.until("step", dice.randrange(1, 30))
    ward.provider.interrupt(run, notice=3600.0, kind=kind)
    first, second = ward.interrupted(run)
    assert second.restored_step == first.saved_step == first.last_step


@pytest.mark.parametrize("hint_first", [True, False], ids=["before", "after"])
def test_a_hint_before_or_after_the_interruption(ward: Ward, hint_first: bool, dice: random.Random) -> None:
    """A hint that hides the interruption that follows it, or that calls one off; an interruption that takes
    the save for the hint for its own."""
    run = ward.start(*SAVES_AND_GOES_ON, "--save-every", "1000", signal="SIGUSR1")
    ward.until("step", dice.randrange(1, 20))
    if hint_first:
        ward.provider.interrupt(run, kind="rebalance")
        hinted = ward.until("asked").value
        ward.until("step", hinted + dice.randrange(1, 20))
        ward.provider.interrupt(run, notice=3.5)
    else:
        ward.provider.interrupt(run, notice=3.5)
        ward.until("asked")
        ward.provider.interrupt(run, kind="rebalance")
    first, second = ward.interrupted(run)
    asked = [x.value for x in ward.witness.diary() if (x.attempt, x.kind) == (1, "asked")]
    assert len(asked) == (2 if hint_first else 1)
    assert first.saved_step == second.restored_step == asked[-1]


def test_both_at_once(ward: Ward, dice: random.Random) -> None:
    """They may come in one poll: the interruption counts, and the training is not signalled to death."""
    run = ward.start("--save", "slowly", "--pause", "0.5", "--save-every", "1000")
    ward.until("step", dice.randrange(1, 20))
    with _frozen_agent(ward, run):
        kinds: list[NoticeKind] = ["interruption", "rebalance", "maintenance"]
        for kind in dice.sample(kinds, 3):
            ward.provider.interrupt(run, notice=4.5, kind=kind)
    first, second = ward.interrupted(run)
    assert first.saved_step == first.last_step == second.restored_step
