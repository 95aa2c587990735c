"""Make sure that the tests find a RabbitMQ server to start privately: `make test` runs this.

Says what it did or what stays left out, and never fails: the tests themselves decide whether a missing
broker is a skip (a laptop) or a failure (CI).
"""

from __future__ import annotations

import os
import pathlib
import shutil
import stat

import debian

ROOT = pathlib.Path(__file__).resolve().parents[2]
TREE = ROOT / ".venv" / "rabbitmq"  # controller/runctl_controller/broker/server.py looks here
DEBIANS = pathlib.Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def main() -> None:
    if os.environ.get("RUNCTL_TEST_AMQP_URL") or _found():
        return
    if not debian.present():
        print("make test: no rabbitmq-server on the PATH and no apt-get to install it with.")
        return
    try:
        if os.geteuid() == 0:
            print(
                "make test: installing Debian's rabbitmq-server; its system service is not started",
                flush=True,
            )
            debian.install("rabbitmq-server")
        else:
            print(f"make test: unpacking Debian's rabbitmq-server under {TREE.relative_to(ROOT)}", flush=True)
            _unpack()
    except debian.Unavailable as error:
        print(f"make test: no broker could be had: {error}")


def _found() -> bool:
    return DEBIANS.exists() or shutil.which("rabbitmq-server") is not None or (TREE / "complete").exists()


def _unpack() -> None:
    shutil.rmtree(TREE, ignore_errors=True)
    debian.unpack("rabbitmq-server", TREE, with_dependencies=True)
    # These two scripts name the folder that Erlang would have been installed to.
    for script in ("usr/lib/erlang/bin/erl", "usr/lib/erlang/bin/start_erl"):
        _move_root(TREE / script)
    for program in (TREE / "usr/lib/erlang").glob("erts-*/bin/erl"):
        _move_root(program)
    (TREE / "complete").touch()


def _move_root(script: pathlib.Path) -> None:
    if script.is_symlink() or not script.exists():
        return
    text = script.read_text()
    script.write_text(text.replace("/usr/lib/erlang", str(TREE / "usr/lib/erlang")))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


if __name__ == "__main__":
    main()
