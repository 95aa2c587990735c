"""Logins of agents: how they lie here, how they travel, and what is told when one cannot be had."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_agent.edges.place import Place
from runctl_controller.access.files import agents_with_login, login_file, read_login, write_login
from runctl_controller.access.open import open_access
from runctl_controller.access.port import AccessFailed, AccessRefused, Agents
from runctl_controller.access.shared import LoginFiles, NoLogins, SharedLogin
from runctl_controller.access.sweeper import Sweeper, living
from runctl_controller.core import effects, inputs
from runctl_controller.core.tables import MachineState
from runctl_controller.providers.fake import FakeProvider
from runctl_controller.providers.local.provider import LocalProvider
from runctl_controller.providers.port import LaunchOrder, Refused, Sighting
from runctl_controller.service.config import ControllerConfig
from runctl_controller.service.executor import Executor, TryLater
from runctl_controller.store.memory import MemoryStore
from runctl_shared.bus.amqp.target import parse
from runctl_shared.bus.login import Login, login_in, wants_login, with_login, without_login
from runctl_shared.clock import FakeClock, SystemClock
from runctl_shared.errors import StoreUnusable, UsageError
from runctl_shared.spec import Boot
from runctl_testing.buses import Buses
from runctl_testing.records import change_machine, new_run, with_attempt

AGENT = "agent-abcd1234-1"
BROKER = "amqps://me:hunter2@h:5671/v?prefix=p&heartbeat=5&keyfile=/k&certfile=/c"
LOGIN = Login("me/you", "p@ss:w/ö?d#")


class TestUrls:
    def test_a_url_for_boot_files_holds_nothing_of_ours(self) -> None:
        """A password, or the path of the controller's own certificate, in a boot file."""
        assert without_login(BROKER) == "amqps://h:5671/v?prefix=p&heartbeat=5"
        assert wants_login(without_login(BROKER))
        assert not wants_login(BROKER)

    def test_the_embedded_bus_has_no_logins(self) -> None:
        url = "sqlite:///tmp/bus.db"
        assert (without_login(url), login_in(url), wants_login(url)) == (url, None, False)
        with pytest.raises(UsageError):
            with_login(url, LOGIN)

    @given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=900))
    def test_any_login_comes_through_a_url(self, user: str, password: str) -> None:
        """A character of a password or token that means something in a URL."""
        url = with_login("amqp://h/v?prefix=p", Login(user, password))
        target = parse(url)
        assert (target.user, target.password, target.vhost, target.prefix) == (user, password, "v", "p")
        assert login_in(url) == Login(user, password)

    def test_it_is_not_shown(self) -> None:
        assert LOGIN.password not in f"{LOGIN} {LOGIN!r} {[LOGIN]}"


class TestFiles:
    def test_only_the_owner_reads_it(self, tmp_path: Path) -> None:
        write_login(tmp_path, AGENT, Login("a", "old"))
        write_login(tmp_path, AGENT, LOGIN)
        path = login_file(tmp_path, AGENT)
        assert read_login(path) == LOGIN
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert list(agents_with_login(tmp_path)) == [AGENT]
        path.chmod(0o644)
        with pytest.raises(ValueError, match="Others may read the login"):
            read_login(path)

    def test_a_folder_that_cannot_be_made_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "access").write_text("in the way")
        with pytest.raises(AccessFailed, match="cannot be kept in"):
            write_login(tmp_path, AGENT, LOGIN)

    def test_a_damaged_one_is_told_without_what_it_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "login.json"
        path.write_text('{"user": "a", "password": 5, "hunter2"')
        path.chmod(0o600)
        with pytest.raises(ValueError, match="cannot be read") as told:
            read_login(path)
        assert "hunter2" not in str(told.value)


class TestWays:
    def config(self, folder: Path, agents: Agents, **fields: object) -> ControllerConfig:
        return ControllerConfig(state_dir=folder, bus=BROKER.partition("&key")[0], agents=agents, **fields)  # type: ignore[arg-type]

    def test_the_embedded_bus_needs_none(self, tmp_path: Path) -> None:
        config = ControllerConfig(state_dir=tmp_path, bus="sqlite:///bus.db", agents=Agents.TOKEN)
        access = open_access(config, "inst-1", SystemClock())
        assert isinstance(access, NoLogins)
        assert (access.bus, access.gives_logins) == ("sqlite:///bus.db", False)

    @pytest.mark.parametrize("agents", [Agents.TOKEN, Agents.USER])
    def test_what_a_way_lacks_is_told(self, tmp_path: Path, agents: Agents) -> None:
        """An agent that would get the controller's own login because nothing else is there."""
        with pytest.raises(UsageError, match=r"RUNCTL_BUS_(TOKEN_KEY|MANAGEMENT)"):
            open_access(self.config(tmp_path, agents), "inst-1", SystemClock())

    def test_to_share_the_controllers_login_is_told_at_the_start(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        access = open_access(self.config(tmp_path, Agents.SHARED), "inst-1", SystemClock())
        access.admit(AGENT, 5.0)
        assert read_login(login_file(tmp_path, AGENT)) == Login("me", "hunter2")
        assert "hunter2" not in access.bus
        (told,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert "RUNCTL_BUS_AGENTS" in told
        assert "hunter2" not in told

    @pytest.mark.parametrize(
        ("content", "mode", "words"),
        [
            (None, 0, "cannot be read: No such file"),
            ("hunter2", 0o600, "holds no private RSA key"),
            ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----", 0o600, "no private RSA key"),
            ("hunter2", 0o640, "Others may read the key"),
        ],
    )
    def test_a_key_that_cannot_be_used_is_told(
        self, tmp_path: Path, content: str | None, mode: int, words: str
    ) -> None:
        key = tmp_path / "key.pem"
        if content is not None:
            key.write_text(content)
            key.chmod(mode)
        with pytest.raises(AccessRefused, match=words) as told:
            open_access(self.config(tmp_path, Agents.TOKEN, token_key=key), "inst-1", SystemClock())
        assert "hunter2" not in str(told.value)
        assert told.value.mend


class Refusing(LoginFiles):
    """Fails as long as it is told to."""

    def __init__(self, state: Path) -> None:
        super().__init__("amqp://h/v", state)
        self.failures = 1
        self.done = threading.Event()

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise AccessFailed("The API at h cannot be reached: no answer.", "Check it.")

    def admit(self, agent: str, seconds: float) -> None:
        self._fail()
        write_login(self._state, agent, LOGIN)

    def revoke(self, agent: str) -> None:
        self._fail()
        super().revoke(agent)

    def sweep(self, living: Callable[[str], bool]) -> None:
        self._fail()
        super().sweep(living)
        self.done.set()


class Watching(FakeProvider):
    """Looks for the login at the moment of the launch."""

    def __init__(self, state: Path) -> None:
        super().__init__(FakeClock(), name="local")
        self.state = state
        self.seen: list[tuple[bool, bool]] = []

    def launch(self, order: LaunchOrder) -> Sighting:
        self.seen.append((order.login, login_file(self.state, order.machine).exists()))
        return super().launch(order)


class TestLaunching:
    def test_the_login_is_there_before_the_machine_and_goes_after_it(self, tmp_path: Path) -> None:
        """A machine that is paid for and cannot speak; a failure of the API that ends a run."""
        access, provider = Refusing(tmp_path), Watching(tmp_path)
        buses = Buses(f"sqlite://{tmp_path / 'bus.db'}")
        executor = Executor(buses.controller(), {"local": provider}, FakeClock(), access=access)
        record = with_attempt(new_run("run-abcd1234"))
        answer = executor.carry_out(record, effects.Launch(machine=AGENT))
        assert isinstance(answer, inputs.LaunchAnswered)
        # Throttled: the core tells it in the run's story, and asks again.
        assert (answer.error, answer.detail) == (
            "throttled",
            "The API at h cannot be reached: no answer. Check it.",
        )
        assert provider.seen == []
        executor.carry_out(record, effects.Launch(machine=AGENT))
        assert provider.seen == [(True, True)]
        access.failures = 1
        with pytest.raises(TryLater, match="cannot be reached"):
            executor.carry_out(record, effects.ForgetAgent(agent=AGENT))
        assert login_file(tmp_path, AGENT).exists()
        executor.carry_out(record, effects.ForgetAgent(agent=AGENT))
        assert not login_file(tmp_path, AGENT).exists()
        buses.close()

    def test_a_local_machine_without_its_login_is_not_launched(self, tmp_path: Path) -> None:
        """A machine whose agent falls back to some other login."""
        provider = LocalProvider(tmp_path / "machines", SystemClock())
        order = with_attempt(new_run("run-abcd1234")).machines[0].order
        order = msgspec.structs.replace(order, login=True, secrets=())
        with pytest.raises(Refused, match="login to the bus is not to be had"):
            provider.launch(order)


class TestSweeping:
    def test_what_is_left_of_the_dead_goes_and_the_living_stay(self, tmp_path: Path) -> None:
        """A login that outlives its machine because of a crash; a sweep that is not tried again."""
        store = MemoryStore()
        store.take_over()
        alive = with_attempt(new_run("run-abcd1234"))
        dead = change_machine(with_attempt(new_run("run-dead1234")), 1, state=MachineState.TERMINATED)
        with store.transaction() as tx:
            tx.save(alive)
            tx.save(dead)
        for agent in (AGENT, "agent-dead1234-1", "agent-unknown1-1"):
            write_login(tmp_path, agent, LOGIN)
        assert [living(store)(one) for one in (AGENT, "agent-dead1234-1", "agent-none1-1")] == [
            True,
            False,
            False,
        ]
        access = Refusing(tmp_path)
        sweeper = Sweeper(access, store, SystemClock())
        sweeper.start()
        assert access.done.wait(60)
        sweeper.close()
        assert list(agents_with_login(tmp_path)) == [AGENT]


class TestOnTheMachine:
    def boot(self, bus: str) -> Boot:
        run = new_run("run-abcd1234").run
        return Boot(agent=AGENT, attempt=1, spec=run.spec, bus=bus, hard_end=5.0)

    def test_the_agent_takes_its_login(self, tmp_path: Path) -> None:
        (tmp_path / "login.json").write_bytes(msgspec.json.encode(LOGIN))
        url = Place(tmp_path).bus(self.boot("amqp://h/v?prefix=p"))
        assert login_in(url) == LOGIN
        assert without_login(url) == "amqp://h/v?prefix=p"

    @pytest.mark.parametrize("content", [None, b"", b'{"user": "hunter2"}', b"\xff"])
    def test_without_it_there_is_no_other(self, tmp_path: Path, content: bytes | None) -> None:
        """An agent that comes as guest, because that is what a URL without a login means to pika."""
        if content is not None:
            (tmp_path / "login.json").write_bytes(content)
        with pytest.raises(StoreUnusable, match="The login to the bus") as told:
            Place(tmp_path).bus(self.boot("amqp://h/v"))
        assert "hunter2" not in str(told.value)

    def test_a_bus_without_logins_needs_none(self, tmp_path: Path) -> None:
        assert Place(tmp_path).bus(self.boot("sqlite:///b")) == "sqlite:///b"


def test_shared_access_of_a_bus_without_a_login_in_its_url(tmp_path: Path) -> None:
    """RabbitMQ's own guest, as the URL means it, is handed on as such."""
    access = SharedLogin("amqp://h/v", tmp_path)
    access.admit(AGENT, 5.0)
    assert read_login(login_file(tmp_path, AGENT)) == Login("guest", "guest")
