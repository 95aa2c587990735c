"""The broker between agents and controllers: in order for each sender, at least once, and late."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from runctl_shared.messages.base import Body

if TYPE_CHECKING:
    from runctl_testing.sim.agent import SimAgent
    from runctl_testing.sim.controller import SimController
    from runctl_testing.sim.world import World


class Event(msgspec.Struct, frozen=True):
    tag: int
    agent: str
    sequence: int
    body: Body


class Command(msgspec.Struct, frozen=True):
    id: str
    attempt: int
    body: Body
    expires_at: float


class Wire:
    """`up` is the broker; an agent's own link can be cut besides. What the broker has confirmed it keeps,
    except for what `lose` takes (a broker that lost its disk)."""

    def __init__(self, world: World) -> None:
        self.world, self.line = world, world.line
        self.up = True
        self._tags = 0
        self._arrivals: dict[str, float] = {}
        self._waiting: deque[Event] = deque()
        self._unsettled: dict[int, Event] = {}
        self._consumer: SimController | None = None
        self._boxes: dict[str, deque[Command]] = {}

    # -- events -------------------------------------------------------------------------------

    def send_event(self, agent: str, sequence: int) -> None:
        world = self.world
        if world.chance("lose"):
            world.facts.trouble()
            self.line.note("wire", f"loses event {sequence} of {agent}")
            return
        body = world.facts.events[agent, sequence]
        delay = world.rng.uniform(2.0, 25.0) if world.chance("slow") else world.rng.uniform(0.01, 0.3)
        # In order for each sender; between senders anything may overtake anything.
        when = max(self._arrivals.get(agent, 0.0), self.line.now + delay)
        self._arrivals[agent] = when
        self.line.at(when, lambda: self._arrive(agent, sequence, body))
        if world.chance("double"):
            again = when + world.rng.uniform(0.0, 20.0)
            self.line.at(again, lambda: self._arrive(agent, sequence, body))

    def _arrive(self, agent: str, sequence: int, body: Body) -> None:
        self._tags += 1
        event = Event(self._tags, agent, sequence, body)
        if self._consumer is None or not self.up:
            self._waiting.append(event)
        else:
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        if self._consumer is not None:
            self._unsettled[event.tag] = event
            self._consumer.on_event(event)

    def acknowledge(self, tag: int) -> None:
        self._unsettled.pop(tag, None)

    def consume(self, controller: SimController) -> None:
        """The single active consumer from now on: gets what was not settled by the one before first."""
        self.release()
        self._consumer = controller
        self._drain()

    def release(self) -> None:
        """The consumer is gone: what it had not settled goes back to the head of the queue, in order."""
        self._consumer = None
        self._waiting.extendleft(reversed(self._unsettled.values()))
        self._unsettled = {}

    def _drain(self) -> None:
        while self._waiting and self._consumer is not None and self.up:
            self._deliver(self._waiting.popleft())

    def heartbeat(self, agent: str) -> None:
        if self._consumer is not None and self.up:
            self._consumer.on_heartbeat(agent)

    # -- commands -----------------------------------------------------------------------------

    def declare(self, agent: str) -> None:
        self._boxes.setdefault(agent, deque())

    def remove(self, agent: str) -> None:
        self._boxes.pop(agent, None)

    def send_command(self, agent: str, command: str, body: Body, expires: float | None) -> None:
        box = self._boxes.get(agent)
        if box is None:
            return
        if self.world.chance("lose_command"):
            self.world.facts.trouble()
            self.line.note("wire", f"loses {type(body).__name__} for {agent}")
            return
        until = float("inf") if expires is None else self.line.now + expires
        item = Command(command, int(agent.rsplit("-", 1)[1]), body, until)
        box.append(item)
        self._soon(agent)
        if self.world.chance("double_command"):
            self.line.after(self.world.rng.uniform(0.5, 60.0), lambda: self._again(agent, item))

    def _again(self, agent: str, item: Command) -> None:
        box = self._boxes.get(agent)
        if box is not None:
            box.append(item)
            self._soon(agent)

    def _soon(self, agent: str) -> None:
        slow = self.world.chance("slow")
        delay = self.world.rng.uniform(1.0, 15.0) if slow else self.world.rng.uniform(0.01, 0.3)
        self.line.after(delay, lambda: self._hand_over(agent))

    def _hand_over(self, agent: str) -> None:
        found = self.world.agents.get(agent)
        if found is not None:
            self.flush(found)

    def flush(self, agent: SimAgent) -> None:
        """Hand over what lies in the agent's queue; it is settled once the agent has stored it."""
        box = self._boxes.get(agent.id)
        while box and self.up and agent.alive and agent.connected:
            item = box[0]
            if item.expires_at < self.line.now:
                box.popleft()
                continue
            if not agent.command(item):
                return
            box.popleft()

    # -- outages ------------------------------------------------------------------------------

    def set_up(self, up: bool) -> None:
        self.up = up
        for agent in self.world.agents.values():
            agent.link(up)
        if up:
            self._drain()
