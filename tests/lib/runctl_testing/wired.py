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

    def agent_says(self, run: str, words: str) -> str:
        """The log of the run's first agent, once it holds `words`."""
        machine = self.house.state / "machines" / "machines" / f"agent-{run.removeprefix('run-')}-1"
        log = machine / "disk" / "agent" / "agent.log"

        def said() -> str:
            text = log.read_text() if log.exists() else ""
            assert words in text, text[-2000:]
            return text

        return eventually(said, 60)

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
