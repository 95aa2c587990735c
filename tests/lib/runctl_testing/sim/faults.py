"""What goes wrong, and goes right again after a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from runctl_agent.core.inputs import HardwareFaultSeen
from runctl_controller.providers.port import EndCause
from runctl_shared.checkpoints.manifest import manifest_name
from runctl_shared.checkpoints.repository import ClaimRefused, RunRepository
from runctl_shared.ids import agent_id
from runctl_shared.messages.commands import SaveNow
from runctl_testing.sim.facts import Broken
from runctl_testing.sim.scenario import Fault

if TYPE_CHECKING:
    from runctl_testing.sim.cloud import SimMachine
    from runctl_testing.sim.world import World


class Faults:
    """Each fault finds its victim when its time has come; none left means that nothing happens."""

    def __init__(self, world: World) -> None:
        self.world, self.line, self.rng = world, world.line, world.rng
        acts: dict[Fault, Callable[[], None]] = {
            "controller_crash": self._controller_crash,
            "takeover": self._takeover,
            "controller_sleeps": self._controller_sleeps,
            "clock_jump": self._clock_jump,
            "partition": self._partition,
            "broker_down": self._broker_down,
            "store_down": self._store_down,
            "agent_crash": self._agent_crash,
            "notice": lambda: self._notice(None),
            "withdrawn": lambda: self._notice(self.rng.uniform(1.0, 30.0)),
            "rebalance": self._rebalance,
            "kill": self._kill,
            "save_now": self._save_now,
            "zombie_claims": self._zombie_claims,
            "zombie_commits": self._zombie_commits,
            "gpu_lost": self._gpu_lost,
        }
        for when, kind in world.scenario.faults:
            self.line.after(when, self._logged(kind, acts[kind]))

    def _logged(self, kind: str, act: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            self.line.note("fault", kind)
            act()

        return run

    def _for_a_while(self, seconds: float, end: Callable[[], None]) -> None:
        self.world.facts.begin_trouble()

        def over() -> None:
            self.world.facts.end_trouble()
            end()

        self.line.after(seconds, over)

    def _victim(self) -> SimMachine | None:
        living = [m for m in self.world.cloud.living if m.agent is not None]
        return self.rng.choice(living) if living else None

    def _controller_crash(self) -> None:
        controller = self.world.controller
        if controller is not None:
            controller.die("is killed")
            self.world.restart_controller()

    def _takeover(self) -> None:
        """It hangs, another one takes over, and it wakes up to find that it is not wanted any more; maybe in
        the midst of a call, which it then makes as if nothing had been."""
        old = self.world.controller
        if old is None or old.asleep:
            return

        def asleep() -> None:
            self.line.note("fault", f"{old.name} stands still")
            self.line.after(self.rng.uniform(0.5, 20.0), self.world.start_controller)
            self._for_a_while(self.rng.uniform(21.0, 250.0), old.awake)

        if self.rng.random() < 0.6:
            old.sleep_in_a_call(asleep)
        else:
            old.sleep()
            asleep()

    def _controller_sleeps(self) -> None:
        controller = self.world.controller
        if controller is not None and not controller.asleep:
            controller.sleep()
            self._for_a_while(self.rng.uniform(11.0, 250.0), controller.awake)

    def _clock_jump(self) -> None:
        self.world.facts.trouble()
        moved = self.rng.choice((-200.0, -30.0, 30.0, 200.0, 900.0))
        self.world.clock_offset += moved
        self.world.clock_moved += abs(moved)
        if self.world.controller is not None:
            self.world.controller.clock_jumped()

    def _partition(self) -> None:
        victim = self._victim()
        agent = victim.agent if victim is not None else None
        if agent is not None:
            agent.link(False)
            self._for_a_while(self.rng.choice((20.0, 100.0, 400.0)), lambda: agent.link(True))

    def _broker_down(self) -> None:
        self.world.wire.set_up(False)
        self._for_a_while(self.rng.uniform(5.0, 150.0), lambda: self.world.wire.set_up(True))

    def _store_down(self) -> None:
        self.world.vault.down = True

        def mend() -> None:
            self.world.vault.down = False

        self._for_a_while(self.rng.uniform(5.0, 120.0), mend)

    def _agent_crash(self) -> None:
        victim = self._victim()
        if victim is not None and victim.agent is not None:
            self.world.facts.trouble()
            victim.agent.crash()

    def _notice(self, withdrawn_after: float | None) -> None:
        victim = self._victim()
        if victim is not None:
            warning = self.rng.choice((4.0, 30.0, 60.0, 120.0))
            if withdrawn_after is not None and withdrawn_after >= warning:
                withdrawn_after = warning / 2
            self.world.cloud.interrupt(victim, warning, withdrawn_after)

    def _rebalance(self) -> None:
        victim = self._victim()
        if victim is not None:
            self.world.cloud.rebalance(victim)

    def _kill(self) -> None:
        victim = self._victim()
        if victim is not None:
            victim.end(self.rng.choice((EndCause.INTERRUPTED, EndCause.FAILED, EndCause.UNKNOWN)))

    def _gpu_lost(self) -> None:
        """A GPU falls off the bus; the training fails with an error of its own, or hangs for ever."""
        training = [m for m in self.world.cloud.living if m.trainer is not None and m.trainer.alive]
        if not training:
            return
        victim = self.rng.choice(training)
        fault = HardwareFaultSeen(
            at=victim.monotonic, device="0000:3b:00", code=79, blame="hardware", meaning="lost", gone=True
        )
        victim.faults.append(fault)
        if victim.agent is not None:
            victim.agent.give(fault)
        trainer, dies = victim.trainer, self.rng.random() < 0.6
        if trainer is not None:
            trainer.broken = True
            self.line.after(self.rng.uniform(0.0, 20.0), lambda: trainer.lose_gpu(dies))

    def _save_now(self) -> None:
        """An automation of somebody's asks for a checkpoint, by a message of its own."""
        victim = self._victim()
        if victim is not None:
            self.world.wire.send_command(victim.boot.agent, self.world.fresh("cmd"), SaveNow(), None)

    def _cut_off(self) -> tuple[str, int] | None:
        """A run and its attempt before the one that holds the lineage."""
        found = [(run, attempt - 1) for run, attempt in self.world.vault.claims.items() if attempt > 1]
        return self.rng.choice(found) if found and not self.world.vault.down else None

    def _zombie_claims(self) -> None:
        """A machine that was stopped and forgotten wakes up and goes on where it was: about to claim."""
        found = self._cut_off()
        if found is None:
            return
        run, attempt = found
        try:
            RunRepository(self.world.vault, run).claim(attempt, agent_id(run, attempt), None, self.line.now)
        except ClaimRefused:
            return
        raise Broken(f"attempt {attempt} may claim again although a newer one has claimed")

    def _zombie_commits(self) -> None:
        """It wakes up and goes on where it was: about to commit what nobody needs any more."""
        found = self._cut_off()
        if found is not None:
            run, attempt = found
            number = self.world.vault.fresh()
            name = manifest_name(attempt, 900 + number, 59, f"ck-zombie{number}")
            self.world.vault.put(f"{run}/{name}", b"{}")
