"""Wiring: which edge gets what. Exit 0 means that the attempt is over and the machine is to end; anything
else that whoever boots the machine should start the agent again."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from pathlib import Path

from runctl_agent import __version__
from runctl_agent.edges.late_store import LateStore
from runctl_agent.edges.place import Place
from runctl_agent.engine import event_bytes
from runctl_agent.notices.imds import ImdsSource
from runctl_agent.service import Service
from runctl_agent.spool.sqlite import SqliteSpool
from runctl_agent.trainer.minder import boot_id
from runctl_shared.bus.connect import connect
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import SystemClock
from runctl_shared.errors import RunctlError
from runctl_shared.messages.base import PROTOCOL
from runctl_shared.messages.commands import COMMANDS
from runctl_shared.messages.events import Registered

log = logging.getLogger("runctl.agent")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="runctl-agent", description="Serves one attempt on one machine.")
    parser.add_argument("--machine", type=Path, required=True, help="the machine's folder, with boot.json")
    parser.add_argument("--version", action="version", version=__version__)
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    try:
        serve(Place(args.machine))
    except (RunctlError, OSError) as error:
        print(f"runctl-agent: {error}", file=sys.stderr)
        return 1
    return 0


def serve(place: Place) -> None:
    """One attempt, from boot to end."""
    clock = SystemClock()
    boot = place.read_boot()
    place.prepare()
    spool = SqliteSpool(place.spool, lambda body, sequence, at: event_bytes(boot, body, sequence, at))
    bus = connect(place.bus(boot), clock=clock, name=boot.agent)
    repository = RunRepository(LateStore(boot.spec.store), boot.spec.run, clock=clock)
    service = Service(boot, place, clock, bus, spool, repository)
    notices = ImdsSource(
        clock,
        service.on_notice,
        poll=boot.timing.notice_poll,
        standing=service.standing,
        on_trouble=lambda sentence: log.warning("notices.unseen %s", sentence),
    )
    notices.start()
    try:
        service.run(
            Registered(
                protocol=PROTOCOL,
                version=__version__,
                capabilities=tuple(command.__name__ for command in COMMANDS),
                hostname=platform.node(),
                boot_id=boot_id(),
            )
        )
    finally:
        notices.stop()
        bus.close()
        spool.close()
