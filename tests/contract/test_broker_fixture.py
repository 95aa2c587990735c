"""The broker that the tests stand on: a kill loses nothing durable, a stop is one, the end leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pika
import psutil
import pytest

from runctl_testing.broker import Broker, PrivateNode
from runctl_testing.eventually import eventually
from runctl_testing.leftovers import SESSION, marked

pytestmark = pytest.mark.amqp

_LIB = Path(__file__).resolve().parents[1] / "lib"


def test_a_killed_broker_keeps_its_durable_queue_and_its_url(private_broker: Broker) -> None:
    url = private_broker.url
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True)
        persistent = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", "kept", b"still here", persistent, mandatory=True)

        private_broker.settle()
        private_broker.kill()
        with pytest.raises(pika.exceptions.StreamLostError):
            connection.process_data_events(time_limit=30)
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            pika.BlockingConnection(pika.URLParameters(url))

    private_broker.start()

    assert private_broker.url == url
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        _, _, body = connection.channel().basic_get("kept", auto_ack=True)
        assert body == b"still here"

        private_broker.stop()
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
            connection.process_data_events(time_limit=30)
        assert closed.value.reply_code == 320


def test_it_listens_on_this_machine_only_and_close_leaves_nothing(private_broker: Broker) -> None:
    if not isinstance(private_broker, PrivateNode):
        pytest.skip("its processes are the container engine's")

    def of_it() -> list[psutil.Process]:
        # Other tests' broker may be there as well.
        folder = str(private_broker.folder)
        return [p for p in marked(SESSION, os.environ[SESSION]) if folder in str(p.environ())]

    processes = of_it()
    assert any("beam" in process.name() for process in processes)
    listening = {
        address.laddr.ip
        for process in processes
        for address in process.net_connections("tcp")
        if address.status == psutil.CONN_LISTEN
    }
    # Erlang's port mapper takes ::1 as well, whatever it is told.
    assert listening <= {"127.0.0.1", "::1"}

    private_broker.close()
    assert not of_it()


def test_a_sigkilled_pytest_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    # What conftest.py does, in a process of its own that is then killed as the out-of-memory killer would.
    program = """
        import os, subprocess, sys, pathlib
        from runctl_testing.guard import Guard
        from runctl_testing.leftovers import SESSION
        os.environ[SESSION] = sys.argv[1]
        folder = pathlib.Path(sys.argv[2])
        (folder / "data").mkdir(parents=True)
        guard = Guard(SESSION, sys.argv[1], folder)
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        print("up", flush=True)
        sys.stdin.read()
    """
    folder = tmp_path / "session"
    victim = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), "a-mark-of-its-own", str(folder)],
        env={**os.environ, "PYTHONPATH": str(_LIB)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"up\n"
        assert any(process.name() == "sleep" for process in marked(SESSION, "a-mark-of-its-own"))

        victim.send_signal(signal.SIGKILL)

        eventually(
            lambda: not list(marked(SESSION, "a-mark-of-its-own")), what="the guard to end the sleeper"
        )
        eventually(lambda: not folder.exists(), what="the guard to remove the folder")
