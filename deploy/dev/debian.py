"""What the other scripts here need from Debian's own package tools, with and without root."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

_POLICY = pathlib.Path("/usr/sbin/policy-rc.d")


class Unavailable(Exception):
    """The package tools are missing or said no; the text is one sentence for the user."""


def present() -> bool:
    """Whether this machine has apt and dpkg at all."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


def install(*packages: str) -> None:
    """Install `packages` system-wide (root only) without starting any service of theirs."""
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    with _no_service_starts():
        _run(["apt-get", "update", "-qq"], env)
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], env)


def unpack(package: str, tree: pathlib.Path, with_dependencies: bool) -> None:
    """Unpack `package` under the folder `tree`, touching nothing of the system.

    With `with_dependencies`, everything that the system lacks comes along, and the Erlang packages even
    where it has some of them: an Erlang of two halves in two places does not start.
    """
    debs = tree / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    try:
        _download(package, debs, with_dependencies)
        for deb in sorted(debs.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(deb), str(tree)])
    finally:
        shutil.rmtree(debs, ignore_errors=True)


def _download(package: str, folder: pathlib.Path, with_dependencies: bool) -> None:
    try:
        _run(["apt-get", "download", "-qq", *_closure(package, with_dependencies, [])], cwd=folder)
    except Unavailable:
        # No lists of packages yet, or old ones: only root may refresh the system's, so fetch our own.
        private = _private_lists(folder)
        _run(["apt-get", *private, "update", "-qq"])
        _run(
            ["apt-get", *private, "download", "-qq", *_closure(package, with_dependencies, private)],
            cwd=folder,
        )


def _private_lists(folder: pathlib.Path) -> list[str]:
    state, cache = folder / "apt-state", folder / "apt-cache"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    return [
        "-o", f"Dir::State={state}",
        "-o", f"Dir::Cache={cache}",
        "-o", "Dir::State::status=/var/lib/dpkg/status",
        "-o", "Debug::NoLocking=1",
    ]  # fmt: skip


def _closure(package: str, with_dependencies: bool, options: list[str]) -> list[str]:
    if not with_dependencies:
        return [package]
    missing = _simulated(package, options)
    from_nothing = _simulated(package, [*options, "-o", "Dir::State::status=/dev/null"])
    return sorted(missing | {name for name in from_nothing if name.startswith("erlang-")} | {package})


def _simulated(package: str, options: list[str]) -> set[str]:
    command = [
        "apt-get",
        *options,
        "-o",
        "Debug::NoLocking=1",
        "-s",
        "--no-install-recommends",
        "install",
        package,
    ]
    return {line.split()[1] for line in _run(command).splitlines() if line.startswith("Inst ")}


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    if _POLICY.exists():  # the administrator has decided already
        yield
        return
    _POLICY.write_text(
        "#!/bin/sh\n# Put here by runctl's `make` for the length of one apt-get install.\nexit 101\n"
    )
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _run(command: list[str], env: dict[str, str] | None = None, cwd: pathlib.Path | None = None) -> str:
    env = dict(env or os.environ, LC_ALL="C")
    try:
        done = subprocess.run(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not on this machine") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(f"`{' '.join(command)}` failed: {said[-1] if said else done.returncode}")
    return done.stdout
