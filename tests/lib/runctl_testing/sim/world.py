"""One seed's world: everything that is there, how it begins, and how it must end."""

from __future__ import annotations

from random import Random

from runctl_controller.core.inputs import World as Config
from runctl_controller.core.model import Attempt, Record
from runctl_controller.core.tables import OPEN_RUN, RunState
from runctl_controller.store.memory import Disk
from runctl_shared.checkpoints.repository import RunRepository
from runctl_testing.sim.agent import SimAgent
from runctl_testing.sim.checks import AT_THE_END, ON_RECORD
from runctl_testing.sim.cloud import OFFER, Cloud, SimMachine
from runctl_testing.sim.controller import SimController
from runctl_testing.sim.facts import Broken, Facts
from runctl_testing.sim.faults import Faults
from runctl_testing.sim.scenario import HORIZON, INSTALLATION, Bias, draw
from runctl_testing.sim.timeline import START, Timeline
from runctl_testing.sim.user import SimUser
from runctl_testing.sim.vault import Vault
from runctl_testing.sim.wire import Wire

PATIENCE = 4000.0
"""Seconds of calm within which everything must have come to its end."""
MOST_STEPS = 20_000
MOST_INPUTS_IDLE = 60
"""Decisions that may still be taken once everything is over: timers that find nothing left to do."""

CONFIG = Config(
    installation=INSTALLATION,
    bus="sim://",
    offers=(OFFER,),
    heartbeat=20.0,
    lease=180.0,
    boot_limit=60.0,
    look=2.0,
)


class World:
    def __init__(self, seed: int, bias: Bias) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.scenario = draw(self.rng, bias)
        self.plans = {plan.spec.run: plan for plan in self.scenario.runs}
        self.forgets = self.scenario.forgets
        self.config = CONFIG
        self.calm = False
        self.clock_offset = self.clock_moved = 0.0
        self.line = Timeline()
        self.facts = Facts(self)
        self.disk = Disk()
        self.vault = Vault()
        self.vault.on_claim = self.facts.claimed
        self.wire = Wire(self)
        self.cloud = Cloud(self)
        self.controller: SimController | None = None
        self.caller: SimController | None = None
        self._controllers = 0
        self._fresh = 0
        self._checked: dict[str, Record] = {}
        for run, plan in self.plans.items():
            RunRepository(self.vault, run).write_spec(plan.spec)
        self.start_controller()
        self.users = {run: SimUser(self, plan) for run, plan in self.plans.items()}
        Faults(self)

    # -- what there is ------------------------------------------------------------------------

    @property
    def agents(self) -> dict[str, SimAgent]:
        machines = self.cloud.machines.values()
        return {m.boot.agent: m.agent for m in machines if m.agent is not None}

    def attempt(self, run: str, number: int) -> Attempt | None:
        record = self.disk.tables.records.get(run)
        return record.attempt(number) if record is not None else None

    @property
    def stale_call(self) -> bool:
        """Whether who calls now is a controller that was replaced while it slept."""
        return self.caller is not None and self.caller.epoch != self.disk.leadership.epoch

    def machine(self, record: Record, name: str) -> SimMachine | None:
        found = record.machine(name)
        return self.cloud.machines.get(found.order.token) if found is not None else None

    def state(self, run: str) -> RunState | None:
        record = self.disk.tables.records.get(run)
        return record.run.state if record is not None else None

    def chance(self, rate: str) -> bool:
        """Whether it happens this time; never once all is calm."""
        likely: float = getattr(self.scenario.rates, rate)
        return likely > 0.0 and not self.calm and self.rng.random() < likely

    def fresh(self, prefix: str) -> str:
        self._fresh += 1
        return f"{prefix}-sim{self._fresh:06d}"

    # -- controllers --------------------------------------------------------------------------

    def start_controller(self) -> None:
        self._controllers += 1
        controller = self.controller = SimController(self, self._controllers)
        controller.begin()
        if controller.alive:
            self.wire.consume(controller)

    def controller_died(self, controller: SimController) -> None:
        if self.controller is controller:
            self.controller = None
            self.wire.release()
            self.facts.trouble()

    def restart_controller(self) -> None:
        self.facts.begin_trouble()
        self.line.after(self.rng.uniform(1.0, 40.0), self._restarted)

    def _restarted(self) -> None:
        self.facts.end_trouble()
        if self.controller is None:
            self.start_controller()

    # -- from the beginning to the end --------------------------------------------------------

    def play(self) -> None:
        """All of it. Raises Broken, or whatever the product raises that it must not."""
        while self.line.next_at < START + HORIZON:
            self._step()
        self._calm_down()
        limit = START + HORIZON + PATIENCE
        look = START + HORIZON
        while not self._settled():
            look += 60.0
            if look > limit:
                raise Broken(f"not over after {PATIENCE:.0f} s of calm: {self._open_ends()}")
            while self.line.next_at < look:
                self._step()
            for user in self.users.values():
                user.insist()
        self._idle()
        for record in self.disk.tables.records.values():
            for check in AT_THE_END:
                check(self, record)

    def _step(self) -> None:
        self.line.step()
        if self.line.steps > MOST_STEPS:
            raise Broken(f"{MOST_STEPS} steps and no end")
        for run, record in self.disk.tables.records.items():
            if self._checked.get(run) is not record:
                for check in ON_RECORD:
                    check(self, record)
                self._checked[run] = record

    def _calm_down(self) -> None:
        self.calm = True
        self.line.note("world", "is calm from now on")
        self.vault.down = False
        self.wire.set_up(True)
        if self.controller is None:
            self.start_controller()
        self.controller_awake()
        for user in self.users.values():
            user.insist()

    def controller_awake(self) -> None:
        if self.controller is not None:
            self.controller.awake()

    def _settled(self) -> bool:
        records = self.disk.tables.records.values()
        if len(records) < len(self.plans):
            return False
        return not self.disk.tables.outbox and not any(r.busy or r.run.state in OPEN_RUN for r in records)

    def _open_ends(self) -> str:
        tables = self.disk.tables
        runs = {run: (r.run.state.value, r.run.why) for run, r in tables.records.items()}
        records = tables.records.values()
        attempts = [(a.agent, a.state.value, a.permitted) for r in records for a in r.attempts if a.open]
        machines = [(m.id, m.state.value) for r in records for m in r.machines]
        return f"{runs}, open {attempts}, machines {machines}, outbox {list(tables.outbox.values())}"

    def _idle(self) -> None:
        """Everything is over: nothing may keep the controller busy."""
        before, until = self.facts.inputs, self.line.now + 1500.0
        while self.line.next_at < until:
            self._step()
        idle = self.facts.inputs - before
        if idle > MOST_INPUTS_IDLE or self.disk.tables.timers:
            raise Broken(f"{idle} decisions after the end, timers {self.disk.tables.timers}")


def failure(world: World, problem: BaseException, last: int = 60) -> str:
    """For people: what broke, what came before it, and how to see it again."""
    return (
        f"seed {world.seed}: {type(problem).__name__}: {problem}\n"
        f"scenario: {world.scenario}\n{world.line.tail(last)}\n"
        f"again: pytest tests/simulation/test_promises.py -k no_seed --sim-seed={world.seed}"
    )


def play(seed: int, bias: Bias | None = None) -> World:
    """Play one seed. Raises Broken with the trace if a promise is broken, or if the product raises."""
    world = World(seed, bias or Bias())
    try:
        world.play()
    except Exception as problem:
        raise Broken(failure(world, problem)) from problem
    return world
