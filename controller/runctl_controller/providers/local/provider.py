"""Machines on this computer: a process tree each, with its own disk and its own metadata service.

It can be noticed, killed and made to fail like a rented one, and it goes on when the controller is gone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from runctl_controller.access.files import login_file, read_login
from runctl_controller.providers.local.drills import announced, withdrawn
from runctl_controller.providers.local.home import (
    Home,
    Plan,
    Record,
    Wanted,
    locked,
    read_secrets,
    replace_file,
)
from runctl_controller.providers.local.tags import INSTALLATION, KEEP_DISK
from runctl_controller.providers.port import (
    EndCause,
    LaunchOrder,
    MachineState,
    Offer,
    Refused,
    Sighting,
    Throttled,
)
from runctl_controller.settings.places import is_setting
from runctl_shared.clock import Clock
from runctl_shared.ids import is_id
from runctl_shared.messages.events import NoticeKind

log = logging.getLogger("runctl.local")


class _Spec(msgspec.Struct):
    run: str = ""


class _Boot(msgspec.Struct):
    """Of a boot file, what tells where the secrets are."""

    spec: _Spec = msgspec.field(default_factory=_Spec)


# -P: a file of the user's that lies in the current folder must not be taken for one of ours.
AGENT_COMMAND = (sys.executable, "-P", "-m", "runctl_agent")
HOST_COMMAND = (sys.executable, "-P", "-m", "runctl_controller.providers.local.host")
_SAVE_MARGIN = 60.0
_BURIAL_ROUNDS = 8
_OFFER = Offer(provider="local", kind="local", place="local", price=0.0, spot=True, notice=120.0)
_PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EIO}


class LocalProvider:
    """Keeps its machines under `root`; the secrets of a run are in `root`'s sibling folder `secrets`, agents'
    logins in its sibling folder `access`.

    `save_margin` is how many seconds beyond its hard end a machine is left for the agent's own saving.
    """

    name = "local"

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        agent_command: Sequence[str] = AGENT_COMMAND,
        host_command: Sequence[str] = HOST_COMMAND,
        save_margin: float = _SAVE_MARGIN,
    ) -> None:
        self._root = root.absolute()
        self._clock = clock
        self._agent_command = tuple(agent_command)
        self._host_command = tuple(host_command)
        self._save_margin = save_margin
        self._lock = self._root / "lock"

    def offers(self) -> Sequence[Offer]:
        return (_OFFER,)

    def launch(self, order: LaunchOrder) -> Sighting:
        if not is_id(order.machine):
            raise Refused(f"{order.machine!r} cannot be the id of a machine.", "This is a defect: report it.")
        with self._errors(), locked(self._lock):
            home = self._find(order)
            if home is None:
                return self._create(order).sighting()
            return self._now(home)

    def describe(self, orders: Sequence[LaunchOrder]) -> Sequence[Sighting]:
        with self._errors():
            return [self._describe(order) for order in orders]

    def terminate(self, order: LaunchOrder) -> None:
        with self._errors():
            self._want(order, lambda wanted: msgspec.structs.replace(wanted, end=True))

    def list_ours(self, installation: str) -> Sequence[Sighting]:
        with self._errors():
            found = []
            live = self._root / "live"
            for mark in sorted(live.iterdir()) if live.is_dir() else ():
                record = self._settle(self._home(mark.name))
                if record is not None and record.state is MachineState.TERMINATED:
                    mark.unlink(missing_ok=True)  # its host was killed before it could
                elif record is not None and record.installation == installation:
                    found.append(record.sighting())
            return found

    def interrupt(self, order: LaunchOrder, notice: float, kind: NoticeKind = "interruption") -> None:
        """Raises Refused for a machine that was never launched."""
        now = self._clock.now()
        self._drill(order, lambda wanted: announced(wanted, kind, now, notice))

    def withdraw(self, order: LaunchOrder, kind: NoticeKind = "interruption") -> None:
        """Raises Refused for a machine that was never launched. One that is taken already stays so."""
        self._drill(order, lambda wanted: withdrawn(wanted, kind))

    def _drill(self, order: LaunchOrder, change: Callable[[Wanted], Wanted]) -> None:
        with self._errors():
            known = self._want(order, change)
        if not known:
            raise Refused(f"There is no machine {order.machine}.", "Look at the list of machines.")

    def console(self, order: LaunchOrder) -> str:
        """What the agent of a failed machine said last; empty when it said nothing, or did not fail."""
        with self._errors():
            home = self._find(order)
            if home is None or not home.console_file.exists():
                return ""
            return home.console_file.read_text(encoding="utf-8", errors="replace")

    def _home(self, machine: str) -> Home:
        return Home(self._root / "machines" / machine)

    def _token_file(self, token: str) -> Path:
        return self._root / "tokens" / hashlib.blake2b(token.encode(), digest_size=20).hexdigest()

    def _find(self, order: LaunchOrder) -> Home | None:
        """The machine that the order's token started, dead or alive."""
        home = self._home(order.machine)
        record = home.record() if is_id(order.machine) else None
        if record is not None and record.token == order.token:
            return home
        try:
            return self._home(self._token_file(order.token).read_text())
        except FileNotFoundError:
            return None

    def _create(self, order: LaunchOrder) -> Record:
        home = self._home(order.machine)
        if home.record() is not None:
            raise Refused(
                f"Another order has launched {order.machine} already.", "This is a defect: report it."
            )
        plan = Plan(
            order=order,
            agent_command=self._agent_command,
            save_margin=self._save_margin,
            secrets_file=str(self._secrets_file(order)),
            login_file=str(login_file(self._root.parent, order.machine)),
        )
        try:
            read_secrets(Path(plan.secrets_file), order.secrets)
            if order.login:
                read_login(Path(plan.login_file))
        except ValueError as error:
            raise Refused(str(error), "Give them again with --secret.") from None
        record = Record(
            token=order.token,
            machine=order.machine,
            installation=order.tags.get(INSTALLATION, ""),
            state=MachineState.PENDING,
            launched_at=self._clock.now(),
        )
        try:
            self._start(home, plan, record)
        except BaseException:
            home.discard()
            self._token_file(order.token).unlink(missing_ok=True)
            raise
        return record

    def _start(self, home: Home, plan: Plan, record: Record) -> None:
        lock = home.make()
        try:
            replace_file(home.order_file, msgspec.json.encode(plan))
            home.write_record(record)
            self._token_file(record.token).parent.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._token_file(record.token), record.machine.encode())
            with open(home.host_log, "ab") as output:
                host = subprocess.Popen(
                    [*self._host_command, str(home.path), str(lock)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=(lock,),
                    # Ours may hold the controller's own logins.
                    env={name: value for name, value in os.environ.items() if not is_setting(name)},
                )
        finally:
            os.close(lock)
        # While this process lives it is the host's parent; unless it waits, a dead host stays a zombie.
        threading.Thread(target=host.wait, name=f"wait-{record.machine}", daemon=True).start()

    def _secrets_file(self, order: LaunchOrder) -> Path:
        try:
            run = msgspec.json.decode(order.boot, type=_Boot).spec.run
        except msgspec.DecodeError:
            run = ""
        return self._root.parent / "secrets" / f"{run if is_id(run) else 'none'}.json"

    def _describe(self, order: LaunchOrder) -> Sighting:
        home = self._find(order)
        if home is None:
            return Sighting(
                token=order.token, machine=order.machine, provider_id="", state=MachineState.ABSENT
            )
        return self._now(home)

    def _now(self, home: Home) -> Sighting:
        record = self._settle(home)
        if record is None:
            raise Throttled(f"The machine in {home.path} has no record.", "Remove the folder.")
        return record.sighting()

    def _settle(self, home: Home) -> Record | None:
        """The machine's record; when its host is dead, only after everything else of it is dead as well."""
        record = home.record()
        if record is None or record.state is MachineState.TERMINATED:
            return record
        with home.host_lock() as host_is_dead:
            if not host_is_dead:
                return record
            record = home.record()  # again: it may have ended in good order since
            if record is None or record.state is MachineState.TERMINATED:
                return record
            return self._bury(home, record)

    def _bury(self, home: Home, record: Record) -> Record:
        # Costs a look at every process of this computer, so it is imported and done for the dead only.
        from runctl_controller.providers.local.tree import end_all, members

        log.warning("machine.host-died machine=%s", record.machine)
        plan = home.plan()
        cause = record.cause or (EndCause.ASKED if home.wanted().end else EndCause.FAILED)
        record = msgspec.structs.replace(record, state=MachineState.ENDING, cause=cause)
        home.write_record(record)
        if not end_all(lambda: members(str(home.path)), rounds=_BURIAL_ROUNDS):
            return record  # still something there: not terminated, asked again
        return home.bury(
            record, self._clock.now(), keep_disk=plan is not None and KEEP_DISK in plan.order.tags
        )

    def _want(self, order: LaunchOrder, change: Callable[[Wanted], Wanted]) -> bool:
        """Tell the host. False when that machine was never launched."""
        if not self._root.is_dir():
            return False
        with locked(self._lock):
            home = self._find(order)
            record = None if home is None else home.record()
            if home is None or record is None:
                return False
            if record.state is not MachineState.TERMINATED:
                home.want(change)
        return True

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the file system says into what the caller does next."""
        try:
            yield
        except msgspec.DecodeError as error:
            raise Refused(
                f"A file of a machine under {self._root} is damaged: {error}", "Remove it."
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Refused(f"There is no room left on the disk of {self._root}.", "Free some.") from error
            where = error.filename or self._root
            what = f"A local machine cannot be kept in {where}: {error.strerror or error}."
            if error.errno in _PASSING:
                raise Throttled(what, "Try again when this computer has less to do.") from error
            raise Refused(what, "Make the folder writable, or name another.") from error
