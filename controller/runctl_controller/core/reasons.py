"""Why attempts end, and what each reason means for the run: one table."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Next(StrEnum):
    """What happens after an attempt ended."""

    FINISH = "finish"  # the training is done
    RESTART = "restart"  # if the user granted restarts for his own errors, else the run failed
    AT_ONCE = "at once"  # a new attempt now
    ELSEWHERE = "elsewhere"  # a new attempt now, not there
    AFTER_WAIT = "after a wait"  # a new attempt later
    PAUSE = "pause"  # the user, or a limit of his, wanted it
    PERSON = "person"  # trying again cannot help


class Rule(msgspec.Struct, frozen=True):
    """`patience`: how many attempts in a row may end like this without any progress before the run is stuck
    (None: any number)."""

    next: Next
    sentence: str
    patience: int | None = None


RULES: dict[str, Rule] = {
    "succeeded": Rule(Next.FINISH, "the training finished"),
    "user_error": Rule(Next.RESTART, "the training failed"),
    "out_of_memory": Rule(Next.RESTART, "the training ran out of memory"),
    "interrupted": Rule(Next.AT_ONCE, "the provider took the machine"),
    "lost": Rule(Next.AT_ONCE, "the machine was lost without a notice", 5),
    "hardware_fault": Rule(Next.ELSEWHERE, "the machine's hardware failed", 5),
    "no_capacity": Rule(Next.AFTER_WAIT, "no machine could be had"),
    "quota": Rule(Next.AFTER_WAIT, "the account's quota is used up", 20),
    "refused": Rule(Next.PERSON, "the provider refused the machine"),
    "boot_failed": Rule(Next.ELSEWHERE, "the machine did not boot", 3),
    "stage_failed": Rule(Next.AFTER_WAIT, "code or data could not be fetched", 3),
    "store_failed": Rule(Next.AFTER_WAIT, "the checkpoint store could not be used", 3),
    "agent_failed": Rule(Next.ELSEWHERE, "the agent failed", 3),
    "stalled": Rule(Next.ELSEWHERE, "the training made no progress", 2),
    "stopped": Rule(Next.PAUSE, "stopped on request"),
    "over_budget": Rule(Next.PAUSE, "the budget is used up"),
    "time_limit": Rule(Next.PAUSE, "the time limit is reached"),
    "replaced": Rule(Next.AT_ONCE, "another machine takes over"),
}


def wait_before(tries: int) -> float:
    """Seconds to wait before the next attempt, after `tries` (from 1) fruitless ones: 5, 10, 20 … 300."""
    return float(min(300, 5 * 2 ** (max(1, tries) - 1)))
