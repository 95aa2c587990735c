"""What every test can ask for, and the promise that a test run leaves nothing behind."""

from __future__ import annotations

import os
import random
import secrets
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl_testing.broker import Broker, Unavailable, new_broker
from runctl_testing.eventually import eventually
from runctl_testing.guard import Guard
from runctl_testing.leftovers import SESSION, describe, marked

_GUARD = pytest.StashKey[Guard]()
_LEFT = pytest.StashKey[list[str]]()
_FOLDER = pytest.StashKey[Path]()


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a RabbitMQ that all tests share: name what you declare so that nobody else's test has it."""
    given = os.environ.get("RUNCTL_TEST_AMQP_URL")
    if given:
        yield given
        return
    broker = _broker(request)
    try:
        broker.start()
        yield broker.url
    finally:
        broker.close()


@pytest.fixture
def private_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A started RabbitMQ of this test alone, to stop, kill and start again. Takes some 5-10 s to boot."""
    broker = _broker(request)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="module")
def module_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A started RabbitMQ that the tests of one module share, to ill-treat as they like: they leave it running
    and well."""
    broker = _broker(request)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


def _broker(request: pytest.FixtureRequest) -> Broker:
    folder = Path(tempfile.mkdtemp(prefix="broker-", dir=request.config.stash[_FOLDER]))
    try:
        return new_broker(folder)
    except Unavailable as error:
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"in CI the broker must be there: {error}", pytrace=False)
        pytest.skip(str(error))


def pytest_configure() -> None:
    """The seed of the faults' dice (tests/faults): with `-n`, all processes must draw the same."""
    os.environ.setdefault("RUNCTL_TEST_FAULT_SEED", str(random.randrange(10**6)))


def pytest_sessionstart(session: pytest.Session) -> None:
    mark = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="runctl-tests-"))
    os.environ[SESSION] = mark
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background by a shell: what the tests start must be able to be interrupted.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Started by `nohup`: a handler, unlike that, is not inherited by what the tests start.
        signal.signal(signal.SIGHUP, lambda *_: None)
    # What the developer has set for herself must neither be read nor written.
    for name in [
        name
        for name in os.environ
        if name.startswith("RUNCTL_") and not name.startswith(("RUNCTL_TEST", "RUNCTL_SIM"))
    ]:
        del os.environ[name]
    for kind in ("CACHE", "CONFIG", "STATE"):
        os.environ[f"XDG_{kind}_HOME"] = str(folder / kind.lower())
    session.config.stash[_FOLDER] = folder
    session.config.stash[_GUARD] = Guard(SESSION, mark, folder)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whatever a test started must have ended by now; what has not fails the run, by name, and is ended."""
    mark = os.environ[SESSION]
    left = session.config.stash.setdefault(_LEFT, [])
    try:
        # What was told to end a moment ago may still be at it.
        eventually(lambda: not list(marked(SESSION, mark)), timeout=10)
    except AssertionError:
        left += [describe(process) for process in marked(SESSION, mark)]
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = left
    session.config.stash[_GUARD].close()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """With `-n`: what a worker process found left behind fails the whole run."""
    node.config.stash.setdefault(_LEFT, []).extend(getattr(node, "workeroutput", {}).get("left", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left = config.stash.get(_LEFT, [])
    if left:
        terminalreporter.section("processes left behind by the tests", red=True)
        for line in left:
            terminalreporter.line(line)
