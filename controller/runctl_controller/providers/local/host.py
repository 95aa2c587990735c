"""The host process of one local machine: hypervisor and init in one.

    python -m runctl_controller.providers.local.host FOLDER LOCK

It outlives the controller that started it. LOCK is the descriptor of the locked `host.lock`; holding it is
what makes the machine a living one; children do not inherit it. The host sleeps until the bell rings, a child
ends, or something is due.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil

from runctl_controller.access.files import read_login
from runctl_controller.providers.local.home import Home, Plan, Record, read_secrets, replace_file
from runctl_controller.providers.local.imds import Metadata, MetadataServer
from runctl_controller.providers.local.scratch import short_name
from runctl_controller.providers.local.tags import FAIL_BOOT, KEEP_DISK
from runctl_controller.providers.local.tree import MARK, adopt_orphans, end_all, members
from runctl_controller.providers.local.watch import Watch
from runctl_controller.providers.port import EndCause, MachineState
from runctl_shared.clock import Clock, SystemClock

log = logging.getLogger("runctl.local.host")

_PORT_TRIES = 20
_PORT_PAUSE = 0.25
_SLOW_START = 60.0
"""Seconds between the launch and this process that are believed."""


class Host:
    """Runs the machine in `home` until it ends."""

    def __init__(self, home: Home, plan: Plan, record: Record, clock: Clock) -> None:
        self._home = home
        self._plan = plan
        self._order = plan.order
        self._clock = clock
        self._record = record
        now = clock.monotonic()
        # Its whole life is told by one clock, as a provider would: the time of day may be set meanwhile.
        self._born = now - min(_SLOW_START, max(0.0, clock.now() - record.launched_at))
        self._watch = Watch(
            boot_by=now + self._order.boot_limit,
            end_by=now + self._order.hard_end + plan.save_margin,
            start_at=None if FAIL_BOOT in self._order.tags else now,
        )
        self._interrupt_at: float | None = None
        self._imds: MetadataServer | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self._tmp = home.disk / "tmp"
        self._bell = -1
        self._child_ended = -1

    def run(self) -> None:
        """Boot, live, end. Whatever goes wrong in here ends the machine as failed, with nothing left."""
        try:
            self._boot()
            cause = self._live()
        except Exception:
            log.exception("host.failed machine=%s", self._order.machine)
            cause = EndCause.FAILED
        self._end(cause)

    def _boot(self) -> None:
        adopt_orphans()
        self._take_signals()
        # Opened for writing too, so that it never comes to an end when the last ringer leaves.
        self._bell = os.open(self._home.bell_file, os.O_RDWR | os.O_NONBLOCK)
        self._lay_out_disk()
        self._imds = self._serve_metadata()
        self._note(
            state=MachineState.RUNNING, host_pid=os.getpid(), host_started=psutil.Process().create_time()
        )

    def _take_signals(self) -> None:
        self._child_ended, write_end = os.pipe()
        for end in (self._child_ended, write_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        # Handled, not ignored: what is ignored here would be ignored in every training as well.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self._watch, "broken", True))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _lay_out_disk(self) -> None:
        disk = self._home.disk
        for folder in (disk, disk / "agent", disk / "checkpoints", disk / "tmp"):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._tmp = short_name(disk / "tmp", self._home.short_tmp_note)
        try:
            values = read_secrets(Path(self._plan.secrets_file), self._order.secrets)
            login = read_login(Path(self._plan.login_file)) if self._order.login else None
        except ValueError as error:
            self._give_up_boot(str(error))
            return
        replace_file(disk / "secrets.json", msgspec.json.encode(values))
        if login is not None:
            replace_file(disk / "login.json", msgspec.json.encode(login))
        replace_file(disk / "boot.json", self._order.boot)

    def _give_up_boot(self, why: str) -> None:
        log.error("machine.cannot-boot machine=%s why=%s", self._order.machine, why)
        with open(self._home.agent_log, "a", encoding="utf-8") as file:
            file.write(f"{why}\n")
        self._watch.unbootable = True

    def _serve_metadata(self) -> MetadataServer:
        metadata = Metadata(
            instance_id=self._order.machine,
            zone=self._order.offer.place,
            instance_type=self._order.offer.kind,
            launched_at=self._record.launched_at,
        )
        for _ in range(_PORT_TRIES):
            try:
                server = MetadataServer(metadata, self._clock)
            except OSError as error:  # no port, no descriptors: others give theirs back
                log.warning("imds.no-port machine=%s error=%s", self._order.machine, error)
                select.select([], [], [], _PORT_PAUSE)
            else:
                server.start()
                return server
        raise OSError("no port can be had on the loopback interface")

    def _live(self) -> EndCause:
        while True:
            self._hear()
            self._collect()
            now = self._clock.monotonic()
            cause = self._watch.verdict(now, self._home.started_file.exists)
            if cause is not None:
                return cause
            if self._watch.agent_due(now):
                self._start_agent(now)
            else:
                self._sleep(self._watch.next_look() - now)

    def _hear(self) -> None:
        wanted = self._home.wanted()
        self._watch.asked = wanted.end
        if wanted.interrupt_at != self._interrupt_at:
            self._interrupt_at = at = wanted.interrupt_at
            now = self._clock.monotonic()
            self._watch.taken_at = None if at is None else now + at - self._clock.now()
        if self._imds is not None:
            self._imds.metadata = msgspec.structs.replace(
                self._imds.metadata,
                taken_at=wanted.interrupt_at,
                rebalance_at=wanted.rebalance_at,
                maintenance=wanted.maintenance,
            )

    def _collect(self) -> None:
        """Take leave of every child that has ended, adopted ones included."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                if self._agent is not None and ended[0] == self._agent.pid:
                    self._agent.returncode = code = os.waitstatus_to_exitcode(ended[1])
                    self._agent = None
                    log.warning("agent.ended machine=%s exit_code=%d", self._order.machine, code)
                    self._watch.agent_ended(self._clock.monotonic(), code)

    def _start_agent(self, now: float) -> None:
        disk = self._home.disk
        environment = {
            **os.environ,
            "RUNCTL_MACHINE": self._order.machine,
            MARK: str(self._home.path),
            "TMPDIR": str(self._tmp),
        }
        if self._imds is not None:
            environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = self._imds.endpoint
        environment.pop("AWS_EC2_METADATA_DISABLED", None)
        try:
            with open(self._home.agent_log, "ab") as output:
                self._agent = subprocess.Popen(
                    [*self._plan.agent_command, "--machine", str(disk)],
                    cwd=disk,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            self._agent_unstartable(error, now)
        else:
            self._watch.agent_began(now)

    def _agent_unstartable(self, error: OSError, now: float) -> None:
        why = f"The agent cannot be started: {error.strerror}: {self._plan.agent_command[0]}"
        lasting = error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
        if lasting and not self._home.started_file.exists():
            self._give_up_boot(why)
        else:  # no process or memory to be had now, or an agent that ran before
            log.warning("agent.unstartable machine=%s why=%s", self._order.machine, why)
            self._watch.agent_ended(now, exit_code=127)

    def _sleep(self, seconds: float) -> None:
        # Never longer than a day at once: what a select() takes has a limit, what a user asks for has none.
        ready, _, _ = select.select([self._bell, self._child_ended], [], [], max(0.0, min(seconds, 86400.0)))
        for descriptor in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)

    def _end(self, cause: EndCause) -> None:
        """End every process and remove the disk; only then say that it is over."""
        try:
            self._note(state=MachineState.ENDING, cause=cause)
        except OSError as error:  # a full disk must not keep anything alive
            log.warning("machine.not-noted machine=%s error=%s", self._order.machine, error)
        mark = str(self._home.path)
        gone = False
        while not gone:
            end_all(lambda: members(mark, host=os.getpid()))
            gone = self._childless()
        if self._imds is not None:
            self._imds.stop()
        ended_at = self._record.launched_at + self._clock.monotonic() - self._born
        self._home.bury(self._record, ended_at, keep_disk=KEEP_DISK in self._order.tags)

    def _childless(self) -> bool:
        """Whether no child is left, dead ones laid to rest. Exact where orphans come to us: every
        descendant has an ancestor among our children."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return True
        return False

    def _note(
        self,
        state: MachineState,
        cause: EndCause | None = None,
        host_pid: int | None = None,
        host_started: float | None = None,
    ) -> None:
        self._record = msgspec.structs.replace(
            self._record,
            state=state,
            cause=cause,
            host_pid=host_pid or self._record.host_pid,
            host_started=host_started or self._record.host_started,
        )
        self._home.write_record(self._record)


def main() -> int:
    folder, _lock = sys.argv[1:]
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    home = Home(Path(folder))
    plan, record = home.plan(), home.record()
    if plan is None or record is None:
        log.error("host.nothing-to-run folder=%s", folder)
        return 1
    Host(home, plan, record, SystemClock()).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
