"""Make `.venv` at the repository's root hold everything: `make env` runs this.

Standard library only, and any Python 3.7 or newer may run it: it looks for one that runctl can use.
The only downloads are those of the machine's own package clients (pip, apt-get, uv) as they are set up.
"""

from __future__ import annotations

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import debian

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
OLDEST = (3, 11)
# Newest last in preference: the one that Debian 12 carries is the one that is tested most.
CANDIDATES = ("python3.11", "python3.12", "python3.13", "python3.14", "python3", "python")


class Failed(Exception):
    """One sentence for the user: what is wrong and how to mend it."""


def main() -> None:
    try:
        if not _is_new_enough(VENV / "bin" / "python"):
            _make_venv(_find_python())
        if not (VENV / "bin" / "uv").exists():
            _install_uv()
        _sync()
    except (Failed, debian.Unavailable) as error:
        sys.exit(f"make env: {error}")


def _find_python() -> str:
    for name in CANDIDATES:
        path = shutil.which(name)
        if path and _is_new_enough(path):
            return path
    raise Failed(
        "no Python 3.11 or newer on the PATH: install one (Debian 12: apt-get install python3 python3-venv)."
    )


def _is_new_enough(python: str | pathlib.Path) -> bool:
    # Asked rather than read from the name: pyenv puts a python3.12 on the PATH that only prints an error.
    code = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def _make_venv(python: str) -> None:
    """A virtual environment, with pip in it where the system allows that."""
    if _venv(python):
        return
    if os.geteuid() == 0 and debian.present():
        print(
            "make env: this Python cannot make virtual environments; installing Debian's python3-venv",
            flush=True,
        )
        try:
            debian.install("python3-venv")
        except debian.Unavailable as error:
            print(f"make env: {error}", flush=True)
        if _venv(python):
            return
    if not _venv(python, "--without-pip"):
        raise Failed(f"`{python} -m venv .venv` failed: install Python's venv module, then `make env` again.")


def _venv(python: str, *options: str) -> bool:
    shutil.rmtree(VENV, ignore_errors=True)  # a half-made one is worse than none
    command = [python, "-m", "venv", *options, str(VENV)]
    return subprocess.run(command, capture_output=True).returncode == 0


def _install_uv() -> None:
    python = VENV / "bin" / "python"
    said = "no pip"
    with tempfile.TemporaryDirectory(prefix="runctl-env-") as scratch:
        for pip in _pips(python, pathlib.Path(scratch)):
            command = [*pip, "install", "--quiet", "--disable-pip-version-check", _uv_requirement()]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return
            said = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    raise Failed(
        f"uv could not be installed ({said}): install pip (Debian: python3-venv), then `make env` again."
    )


def _pips(python: pathlib.Path, scratch: pathlib.Path) -> Iterator[list[str]]:
    """Ways to run a pip that installs into `.venv`, the cheapest first."""
    if subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0:
        yield [str(python), "-m", "pip"]
    system = shutil.which("pip3") or shutil.which("pip")
    if system:
        yield [system, "--python", str(python)]
    if debian.present():
        # Debian ships pip as a wheel for venv's own use. A wheel runs without being installed.
        debian.unpack("python3-pip-whl", scratch, with_dependencies=False)
        for wheel in scratch.glob("usr/share/python-wheels/pip-*.whl"):
            yield [str(python), str(wheel / "pip")]


def _uv_requirement() -> str:
    """The range of uv as the root pyproject.toml states it: stated once, read here."""
    found = re.search(r'^\s*"(uv[<>=!~][^"]*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    if not found:
        raise Failed("pyproject.toml names no range for uv in its dev group.")
    return found.group(1)


def _sync() -> None:
    env = dict(os.environ, UV_PYTHON_DOWNLOADS="never", UV_SYSTEM_CERTS="1", VIRTUAL_ENV=str(VENV))
    env.pop("UV_PROJECT_ENVIRONMENT", None)  # `.venv` at the root, whatever the user's shell prefers
    _speak_pips_settings(env)
    command = [
        str(VENV / "bin" / "uv"),
        "sync",
        "--quiet",
        "--all-packages",
        "--python",
        str(VENV / "bin" / "python"),
    ]
    if subprocess.run(command, cwd=str(ROOT), env=env).returncode != 0:
        raise Failed("uv could not install what runctl needs; its own message stands above.")


def _speak_pips_settings(env: dict[str, str]) -> None:
    """uv reads none of pip's settings; people behind a mirror have usually set up pip only."""
    if not env.keys() & {"UV_DEFAULT_INDEX", "UV_INDEX_URL"}:
        index = env.get("PIP_INDEX_URL") or _from_pip_conf(env, "index-url")
        if index:
            env["UV_DEFAULT_INDEX"] = index
    if "SSL_CERT_FILE" not in env:
        bundle = env.get("PIP_CERT") or env.get("REQUESTS_CA_BUNDLE") or _from_pip_conf(env, "cert")
        if bundle:
            env["SSL_CERT_FILE"] = bundle


def _from_pip_conf(env: dict[str, str], key: str) -> str | None:
    home = pathlib.Path.home()
    files = [pathlib.Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"]
    if env.get("PIP_CONFIG_FILE"):
        files.append(pathlib.Path(env["PIP_CONFIG_FILE"]))
    settings = configparser.RawConfigParser(strict=False)
    try:
        settings.read(files)
    except (configparser.Error, UnicodeDecodeError):
        return None  # pip itself will say what is wrong with it
    for section in ("install", "global"):
        if settings.has_option(section, key):
            return settings.get(section, key).strip()
    return None


if __name__ == "__main__":
    main()
