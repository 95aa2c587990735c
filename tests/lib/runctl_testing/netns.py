"""A network of its own for a machine, joined to ours by one cable: so that a silent cut is really silent.

Behind a proxy, the kernel on this side still acknowledges what nobody forwards; here it does not, as on a
real network. Needs root, `ip` and `tc`. The names say whose they are, so that what a killed test run leaves
is removed by its guard, or else by the next run.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_NAME = re.compile(r"runctl-test-(\d+)-(\d+)-(\d+)")


class Unavailable(Exception):
    """No network can be made here; the text says why."""


class Network:
    """What runs behind `prefix` reaches this machine at the address `here`, and nothing else."""

    def __init__(self, name: str, cable: str, here: str) -> None:
        self.name, self.here = name, here
        self._cable = cable

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that is to run inside; the process is then that command's own."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def silence(self, *, out: bool = True, back: bool = True) -> None:
        """Swallow every packet on its way `out` of the network and `back` into it. Nobody is told."""
        if out:
            _run("tc", "-n", self.name, "qdisc", "replace", "dev", "eth0", "root", "blackhole")
        if back:
            _run("tc", "qdisc", "replace", "dev", self._cable, "root", "blackhole")

    def restore(self) -> None:
        """Undo `silence`; what the kernels have kept is sent again."""
        for where in (("-n", self.name, "qdisc", "del", "dev", "eth0"), ("qdisc", "del", "dev", self._cable)):
            subprocess.run(["tc", *where, "root"], capture_output=True, check=False)  # there may be none


@contextmanager
def network() -> Iterator[Network]:
    """A new network, gone at the end with its cable. Raises Unavailable."""
    _require()
    remove_leftovers()
    name, cable, third, fourth = _free()
    here, there = (f"198.18.{third}.{fourth + host}" for host in (1, 2))
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "addr", "add", f"{here}/30", "dev", cable)
        _run("ip", "link", "set", cable, "up")
        for words in (
            ("addr", "add", f"{there}/30", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _run("ip", "-n", name, *words)
        # For ever: a neighbour that cannot be found would be told of, as a host that cannot be reached.
        _run("ip", "neigh", "replace", there, "lladdr", _mac("eth0", name), "dev", cable, "nud", "permanent")
        _run(
            *("ip", "-n", name, "neigh", "replace", here, "lladdr", _mac(cable)),
            *("dev", "eth0", "nud", "permanent"),
        )
        yield Network(name, cable, here)
    finally:
        _remove(name)


def remove_leftovers(of: int | None = None) -> None:
    """Remove the networks that the test process `of` has made; None: those of all that have ended."""
    for name in _ours():
        match = _NAME.fullmatch(name)
        assert match is not None
        owner = int(match.group(1))
        if owner == of or (of is None and not psutil.pid_exists(owner)):
            _remove(name)


def _ours() -> list[str]:
    folder = "/run/netns"
    return [name for name in os.listdir(folder) if _NAME.fullmatch(name)] if os.path.isdir(folder) else []


def _free() -> tuple[str, str, int, int]:
    """A name, a cable's name, and a piece of 198.18.0.0/15 (made for tests) that nobody uses."""
    taken = _run("ip", "-o", "addr", "show")
    while True:
        third, fourth = random.randrange(256), 4 * random.randrange(64)
        if f" 198.18.{third}.{fourth + 1}/" not in taken:
            return f"runctl-test-{os.getpid()}-{third}-{fourth}", f"rt{third}x{fourth}", third, fourth


def _mac(device: str, inside: str = "") -> str:
    told = _run("ip", *(("-n", inside) if inside else ()), "-o", "link", "show", "dev", device)
    found = re.search(r"link/ether ([0-9a-f:]{17})", told)
    assert found is not None, told
    return found.group(1)


def _remove(name: str) -> None:
    match = _NAME.fullmatch(name)
    assert match is not None
    # The cable first: the network itself lives for as long as a process in it does.
    for words in (("link", "del", f"rt{match.group(2)}x{match.group(3)}"), ("netns", "del", name)):
        subprocess.run(["ip", *words], capture_output=True, check=False)  # it may be gone


def _require() -> None:
    if sys.platform != "linux":
        raise Unavailable("networks of one's own are Linux's")
    if os.geteuid() != 0:
        raise Unavailable("only root may make a network of its own; the TCP proxy's faults run for everybody")
    missing = [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"no {', '.join(missing)} here (Debian: iproute2, util-linux)")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
