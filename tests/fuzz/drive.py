"""Drives a function of any bytes, with the coverage of our own code as the guide. `make fuzz` calls this.

    drive.py fuzz NAME SECONDS WORK     in .venv-fuzz, which has atheris
    drive.py replay NAME FOLDER…        anywhere: without a guide, and with msgpack's own C code

What reaches further than all before goes to WORK; the small ones of it are worth copying into the corpus. An
input that raises is left there too, as crash-…, and the exit status is not 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_LEN = 1 << 14
OURS = ["runctl_shared.messages", "runctl_controller.core", "runctl_controller.service", "msgpack"]


def main() -> int:
    sys.path.insert(0, str(HERE.parent / "lib"))
    what, name, *rest = sys.argv[1:]
    if what == "replay":
        return _replay(name, [Path(folder) for folder in rest])
    os.environ["MSGPACK_PUREPYTHON"] = "1"  # what is written in C tells nothing about the way taken
    import atheris

    with atheris.instrument_imports(include=OURS):
        import runctl_testing.fuzzing  # noqa: F401 -- all that is to be watched comes with it
    kept = HERE / "corpus" / name
    work = Path(rest[-1])
    work.mkdir(parents=True, exist_ok=True)
    flags = [f"-max_total_time={rest[0]}", f"-artifact_prefix={work}/", str(work), str(kept)]
    with _target(name) as act:
        limits = [f"-max_len={MAX_LEN}", "-timeout=20", "-rss_limit_mb=1500", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *limits, *flags], act)
        atheris.Fuzz()
    return 0


@contextmanager
def _target(name: str) -> Iterator[Callable[[bytes], object]]:
    from runctl_testing.fuzzing import decode_any, listener

    if name == "decode":
        yield decode_any
    else:
        with listener() as listening:
            yield listening.hear


def _replay(name: str, folders: list[Path]) -> int:
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    with _target(name) as act:
        for path in paths:
            try:
                act(path.read_bytes())
            except BaseException:
                print(f"{path} raises", file=sys.stderr)
                raise
    print(f"{name}: {len(paths)} inputs replayed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
