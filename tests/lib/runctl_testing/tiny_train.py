"""A training for tests: needs nothing but Python, saves `.npz` files, and can behave well or badly.

Run as a script. Each step adds to a running checksum, so that the last line proves that no step was left out,
done twice or begun from the wrong state.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import resource
import signal
import struct
import sys
import threading
import zipfile
from pathlib import Path


def npy(value: int) -> bytes:
    """A NumPy file that holds one 64-bit number."""
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (), }"
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + struct.pack("<q", value)


def save(folder: Path, step: int, total: int, size: int = 0) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("step.npy", npy(step))
        archive.writestr("total.npy", npy(total))
        archive.writestr("filler", bytes(size))
    temporary = folder / ".saving.tmp"
    temporary.write_bytes(data.getvalue())
    os.replace(temporary, folder / f"step-{step:06d}.npz")


def load(path: str) -> tuple[int, int]:
    with zipfile.ZipFile(path) as archive:
        step, total = (struct.unpack("<q", archive.read(f"{name}.npy")[-8:])[0] for name in ("step", "total"))
    return step, total


class Diary:
    """What this training knows of itself, for a test to hold the report against (see `aftermath`).

    Kept in the file that `TINY_DIARY` names, which every attempt appends to and which lies outside all
    machines. While it trains it holds a lock on it, so that a second training of the run shows.
    """

    def __init__(self) -> None:
        path = os.environ.get("TINY_DIARY")
        self._file = open(path, "a", buffering=1) if path else None  # noqa: SIM115  # kept as long as it trains
        if self._file is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note("two", os.getpid())

    def share(self) -> None:
        """Whatever this training starts from now on holds the lock as well, for as long as it lives."""
        if self._file is not None:
            os.set_inheritable(self._file.fileno(), True)

    def note(self, kind: str, value: int) -> None:
        if self._file is not None:
            self._file.write(f"{os.environ['RUNCTL_ATTEMPT']} {kind} {value}\n")


def expected(steps: int) -> int:
    """The last total of an undisturbed training of so many steps."""
    total = 0
    for step in range(1, steps + 1):
        total = (total * 31 + step) % 1_000_003
    return total


def hog() -> None:
    """Take memory until somebody does something about it, or a gigabyte is taken."""
    taken: list[bytearray] = []
    while len(taken) < 1024:
        taken.append(bytearray(os.urandom(1)) * 2**20)


def hog_in_a_worker() -> None:
    """As a data loader's worker would; the training fails because of it."""
    pid = os.fork()
    if pid == 0:
        hog()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    raise RuntimeError(f"DataLoader worker (pid {pid}) is killed by signal: {os.WTERMSIG(status)}.")


def trouble(kind: str) -> None:
    """What a training can do or meet in the middle of its work."""
    if kind == "hog":
        hog()
    elif kind == "hog-worker":
        hog_in_a_worker()
    elif kind == "no-memory":
        resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))
        bytearray(2**31)
    elif kind == "cuda":
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.77 GiB total)")
    elif kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "error":
        raise ValueError("the shapes do not match")
    elif kind == "hang":
        threading.Event().wait()
    elif kind == "validate":
        over = threading.Event()
        threading.Timer(5.0, over.set).start()
        while not over.is_set():
            pass


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--step-time", type=float, default=0.02)
    options.add_argument("--save-every", type=int, default=10)
    options.add_argument("--size", type=int, default=0, help="bytes to make each checkpoint larger by")
    options.add_argument("--exit", type=int, default=0, help="exit code at the end")
    options.add_argument("--ignore-term", action="store_true")
    options.add_argument("--forget", action="store_true", help="begin again at 0 whatever there is to resume")
    options.add_argument("--trouble", help="see trouble()")
    options.add_argument("--trouble-at", type=int, default=20, help="the step before which it comes")
    options.add_argument("--trouble-until", type=int, default=1, help="the last attempt that has it")
    args = options.parse_args()
    troubled = args.trouble and int(os.environ["RUNCTL_ATTEMPT"]) <= args.trouble_until
    asked = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if args.ignore_term else lambda *_: asked.set())
    folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    resume = os.environ.get("RUNCTL_RESUME_FROM")
    step, total = load(resume) if resume and not args.forget else (0, 0)
    diary = Diary()
    diary.note("began", step)
    while step < args.steps:
        asked.wait(args.step_time)
        if asked.is_set():
            save(folder, step, total, args.size)
            diary.note("saved", step)
            return 143
        step += 1
        if troubled and step == args.trouble_at:
            if args.trouble == "deaf":  # hangs, but for its signal handler
                step -= asked.wait()
                continue
            trouble(args.trouble)
        total = (total * 31 + step) % 1_000_003
        diary.note("step", step)
        print(f"step={step} loss={1 / step:.4f}", flush=True)
        if args.save_every and step % args.save_every == 0:
            save(folder, step, total, args.size)
            diary.note("saved", step)
    diary.note("finished", step)
    print(f"finished total={total}", flush=True)
    code: int = args.exit
    return code


if __name__ == "__main__":
    sys.exit(main())
