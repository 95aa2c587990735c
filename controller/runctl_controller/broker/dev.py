"""The private broker of a state folder, for trying things: `runctl broker dev`.

No process of ours needs to stay with it: it is found by its mark, so that another command can end it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runctl_controller.broker.node import (
    Identity,
    Node,
    kill,
    new_identity,
    processes,
    shut_down,
    write_privately,
)
from runctl_controller.broker.server import find_server, is_free, speaks_amqp
from runctl_shared.errors import NotFound, RefusedByGuard, StoreUnusable

USER = "runctl"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """In `broker.json` (mode 600), so that the URL and what is durable survive a restart."""

    identity: Identity
    password: str


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A broker that answers. `url` holds its password."""

    url: str
    port: int
    pid: int
    folder: str


class DevBroker:
    """The one below `state_dir`, whether it runs or not."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "broker"
        self._file = self._folder / "broker.json"

    def start(self, given_up: Callable[[], bool] = lambda: False) -> Node:
        """Start it; returns when it answers. Raises NotFound without a RabbitMQ, RefusedByGuard when it runs
        already, StoreUnusable when its folder cannot be used, RunctlError when it does not come up."""
        server = find_server()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            with self._held():
                running = self._view()
                if running is not None:
                    raise RefusedByGuard(
                        f"A broker runs already (port {running.port}).",
                        "`runctl broker status` shows it; `runctl broker stop` ends it.",
                    )
                kept = self._usable()
                own = f"default_user = {USER}\ndefault_pass = {kept.password}\n"
                node = Node(server, self._folder, kept.identity, settings=own)
                node.kill()  # what may be left of one whose node was killed
                node.prepare()
                node.start(given_up)
                return node
        except OSError as error:
            raise StoreUnusable(
                f"The broker's folder {self._folder} cannot be used: {error.strerror}.",
                "Choose another state folder with RUNCTL_STATE_DIR, or mend its permissions.",
            ) from error

    def status(self) -> View:
        """Raises NotFound when none answers."""
        view = self._view()
        if view is None:
            raise NotFound("No private broker runs.", "`runctl broker dev` starts one.")
        return view

    def stop(self) -> bool:
        """End it, with all its processes; whether there was any."""
        if not processes(self._folder):
            return False
        shut_down(self._folder)
        kill(self._folder)
        return True

    def _view(self) -> View | None:
        kept = self._read()
        if kept is None or not speaks_amqp(kept.identity.port):
            return None
        found = processes(self._folder)
        if not found:
            return None  # somebody else's has the port
        port = kept.identity.port
        return View(
            url=f"amqp://{USER}:{kept.password}@127.0.0.1:{port}/%2F",
            port=port,
            pid=min(process.pid for process in found),
            folder=str(self._folder),
        )

    def _usable(self) -> Kept:
        """As it was, unless somebody else has taken one of its ports."""
        kept = self._read()
        if kept is None:
            kept = Kept(identity=new_identity(), password=secrets.token_hex(20))
        elif not all(map(is_free, _ports(kept.identity))):
            fresh = msgspec.structs.replace(new_identity(), name=kept.identity.name)
            kept = msgspec.structs.replace(kept, identity=fresh)
        write_privately(self._file, msgspec.json.encode(kept).decode())
        return kept

    def _read(self) -> Kept | None:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreUnusable(
                f"{self._file} cannot be read: {error}.",
                f"Remove the folder {self._folder}: it holds nothing but this broker.",
            ) from error

    @contextmanager
    def _held(self) -> Iterator[None]:
        """While one is being started. The lock is not inherited: it ends with this process at the latest."""
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(file)
            yield
        finally:
            os.close(file)


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedByGuard(
            "Another command is starting the broker.", "`runctl broker status` shows it in a moment."
        ) from None


def _ports(identity: Identity) -> tuple[int, int, int]:
    return identity.port, identity.distribution_port, identity.mapper_port
