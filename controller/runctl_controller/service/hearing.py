"""Who was heard when. Heartbeats end here: they bypass the core unless they change something."""

from __future__ import annotations

from collections.abc import Iterable

from runctl_controller.store.port import Beat

MISSED = 4
"""Heartbeats that may be missing in a row before an agent counts as unheard."""


class Hearing:
    """One thread's. All times are monotonic seconds, so that a jump of the clock silences nobody.

    What is told by `heard` and `gone_silent` is told again until `recorded` says that the store has it: a
    transaction that failed must neither hide a silence nor have a living machine taken for a silent one.
    """

    def __init__(self, heartbeat: float) -> None:
        self._limit = heartbeat * MISSED
        self._heard: dict[str, float] = {}
        self._recorded: dict[str, bool] = {}
        """Whether the store has an agent as silent; not in it: nobody knows, as after a start of ours."""
        self._expected: dict[str, frozenset[str]] = {}
        self._fresh: dict[str, Beat] = {}
        self._newest: dict[str, Beat] = {}

    def heard(self, agent: str, at: float, beat: Beat | None = None) -> bool:
        """Note a sign of life; True if the store has the agent as silent, or may have.

        One of which nothing is expected is passed over: what comes of strangers is not kept.
        """
        if agent not in self._heard:
            return False
        self._heard[agent] = at
        if beat is not None:
            self._fresh[agent] = self._newest[agent] = beat
        return self._recorded.get(agent, True)

    def expect_of(self, run: str, agents: Iterable[str], at: float) -> None:
        """Of `run`, these agents should be heard from now on; its others are forgotten."""
        wanted, known = set(agents), self._expected.get(run, frozenset())
        for agent in known - wanted:
            self._heard.pop(agent, None)
            self._recorded.pop(agent, None)
            self._newest.pop(agent, None)
        for agent in wanted - known:
            self._heard.setdefault(agent, at)
        if wanted:
            self._expected[run] = frozenset(wanted)
        else:
            self._expected.pop(run, None)

    def give_time(self, at: float) -> None:
        """After a sleep of ours, silence counts from now: it was we who did not listen."""
        self._heard = dict.fromkeys(self._heard, at)

    def gone_silent(self, at: float) -> list[tuple[str, float]]:
        """Agents that are silent while the store does not have them so, each with the seconds since it was
        heard."""
        return [
            (agent, at - heard)
            for agent, heard in self._heard.items()
            if at - heard > self._limit and not self._recorded.get(agent, False)
        ]

    def recorded(self, agent: str, *, silent: bool) -> None:
        """The store has it so."""
        if agent in self._heard:
            self._recorded[agent] = silent

    def newest(self, agent: str) -> Beat | None:
        return self._newest.get(agent)

    def take_fresh(self) -> list[Beat]:
        """Heartbeats that are not in the store yet, the newest of each agent."""
        fresh, self._fresh = list(self._fresh.values()), {}
        return fresh
