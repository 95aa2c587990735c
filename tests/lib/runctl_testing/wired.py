"""A house whose controller and whose agents have a wire each to the broker; and what must hold of a run that
was ill-treated by wire or broker."""

from __future__ import annotations

from typing import NamedTuple

from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually
from runctl_testing.tcp_proxy import TcpProxy


class Wired(NamedTuple):
    house: House
    witness: Witness
    agents: TcpProxy
    controllers: TcpProxy

    def submit(self, *arguments: str) -> str:
        return self.house.submit(*arguments, env=self.witness.env)

    def agent_says(self, run: str, words: str) -> None:
        """Returns once the log of the run's first agent holds `words`."""
        machine = self.house.state / "machines" / "machines" / f"agent-{run.removeprefix('run-')}-1"
        log = machine / "disk" / "agent" / "agent.log"
        eventually(lambda: log.exists() and words in log.read_text(), 60, what=f"{words} in {log}")

    def trained(self, step: int) -> None:
        """Returns once the training has made so many steps, by its own word."""
        eventually(
            lambda: any(line.kind == "step" and line.value >= step for line in self.witness.diary()), 60
        )

    def told_once(self, run: str) -> None:
        told_once(self.house, self.witness, run)


def told_once(house: House, witness: Witness, run: str) -> None:
    """The run succeeds on its first machine, each of its checkpoints is told of once, in order, and all that
    must hold after a fault does."""
    house.wait_final(run)
    detail = witness.check(run)
    assert (detail.run.state, len(detail.attempts)) == ("succeeded", 1)
    told = [int(str(item.data["step"])) for item in detail.story if item.kind == "checkpoint"]
    assert told == [line.value for line in witness.diary() if line.kind == "saved"]
    assert told == sorted(set(told))
