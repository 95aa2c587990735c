"""What a provider does of its own accord to the machines of a house, whatever its controller thinks."""

from __future__ import annotations

from pathlib import Path

from runctl_controller.providers.local.home import Home
from runctl_controller.providers.local.provider import LocalProvider
from runctl_controller.providers.port import LaunchOrder
from runctl_shared.clock import SystemClock
from runctl_shared.ids import agent_id
from runctl_shared.messages.events import NoticeKind
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually


class ProviderSide:
    """Serves notices to machines in any state; `InterruptRun` asks for one only while a training runs."""

    def __init__(self, house: House) -> None:
        self._root = house.state / "machines"
        self._provider = LocalProvider(self._root, SystemClock())

    def folder(self, run: str, attempt: int = 1) -> Path:
        return self._root / "machines" / agent_id(run, attempt)

    def interrupt(
        self, run: str, attempt: int = 1, *, notice: float = 4.0, kind: NoticeKind = "interruption"
    ) -> None:
        self._provider.interrupt(self._order(run, attempt), notice, kind)

    def withdraw(self, run: str, attempt: int = 1, *, kind: NoticeKind = "interruption") -> None:
        self._provider.withdraw(self._order(run, attempt), kind)

    def end(self, run: str, attempt: int = 1) -> None:
        """End the machine, if it is not over already."""
        if Home(self.folder(run, attempt)).plan() is not None:
            self._provider.terminate(self._order(run, attempt))

    def _order(self, run: str, attempt: int) -> LaunchOrder:
        home = Home(self.folder(run, attempt))
        eventually(home.record, what=f"the machine of attempt {attempt}")
        plan = home.plan()
        assert plan is not None
        return plan.order
