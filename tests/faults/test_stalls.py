"""A training that shows nothing any more: noticed, ended only if the user asked for that, not for ever."""

from __future__ import annotations

import random

from runctl_shared.messages.replies import RunDetail
from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House


def kinds(detail: RunDetail, kind: str) -> list[str]:
    return [item.text for item in detail.story if item.kind == kind]


def test_a_hung_training_is_ended_and_goes_on_elsewhere(
    house: House, witness: Witness, dice: random.Random
) -> None:
    """A hung training is paid for for ever; or its stall uses up a restart that is for errors only."""
    at = str(dice.randint(22, 28))
    run = house.submit(
        "--steps", "30", "--ignore-term", "--trouble", "hang", "--trouble-at", at,
        env=witness.env, stall_after=1.5, grace=0.5,
    )  # fmt: skip
    house.wait_final(run)
    detail = witness.check(run)
    first, second = detail.attempts
    assert (first.reason, second.reason, detail.run.state) == ("stalled", "succeeded", "succeeded")
    (told,) = kinds(detail, "stalled")
    assert "0.00 cores in use" in told
    assert "sleeping" in told
    assert "it is ended, as --stall-after says" in told


def test_one_that_stalls_again_and_again_is_given_up_though_it_saves_each_time(
    house: House, witness: Witness
) -> None:
    """A training that hangs at the same step for ever, at the user's expense: it saves when it is asked to
    end, and each checkpoint looks like progress."""
    run = house.submit(
        "--steps", "30", "--trouble", "deaf", "--trouble-at", "25", "--trouble-until", "99",
        env=witness.env, stall_after=1.5,
    )  # fmt: skip
    house.wait_final(run)
    detail = witness.check(run)
    assert detail.run.state == "stuck"
    assert "2 times in a row" in detail.run.why
    assert [a.reason for a in detail.attempts] == ["stalled"] * len(detail.attempts)
    assert [a.saved_step for a in detail.attempts] == [24] * len(detail.attempts)


def test_one_that_works_in_silence_is_left_its_time(house: House, witness: Witness) -> None:
    """A long validation that is ended because it prints nothing."""
    run = house.submit(
        "--steps", "30", "--trouble", "validate", "--trouble-at", "25", env=witness.env, stall_after=3.0
    )
    house.wait_final(run)
    detail = witness.check(run)
    assert [a.reason for a in detail.attempts] == ["succeeded"]
    assert kinds(detail, "stalled") == []
