"""A training that is not as it should be, but as many are: each oddity by name. Run it as a module.

It keeps the diary and the checksum of `tiny_train`, so that the same witness can speak for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

from runctl_testing import tiny_train
from runctl_testing.tiny_train import Diary

SHARDS = 200
FLOOD = 100_000_000
"""Bytes that `--talk flood` prints, all steps together."""

ESCAPES = (
    b"\x1b]0;pwned\x07"  # a window title
    b"\x1b]52;c;cHduZWQ=\x1b\\"  # into the clipboard
    b"\x1bP+q544e\x1b\\\x1b_G\x1b\\\x1b^x\x1b\\"  # device control, application, privacy
    b"\x1b[2J\x1b[H\x1b[?1049h\x1b[8m\x1b[6n\x1b[21t\x1bc\x1b#8\x1b(0\x0e"  # screens, questions, charsets
    b"\xc2\x9b31m\xc2\x9d0;pwned\xc2\x9c\x9b5n"  # the same by C1, in UTF-8 and raw
    b"\xe2\x80\xae reversed \xe2\x80\xac\x08\x08\x05\x7f\x00\xff\xfe\n"
)


class Folder:
    """Where it saves. `kind` names how; `pause` are seconds that a slow way takes."""

    def __init__(self, path: Path, kind: str, pause: float, note: Callable[[str, int], None]) -> None:
        self._path, self._pause, self._note = path, pause, note
        self._ways = {"quickly": tiny_train.save, "slowly": self._slowly, "shards": self._shards}
        self._kind = kind

    def save(self, step: int, total: int) -> None:
        self._note("saving", step)
        self._ways[self._kind](self._path, step, total)
        self._note("saved", step)

    def _slowly(self, folder: Path, step: int, total: int) -> None:
        """In place, piece by piece, each of them on the disk before the next."""
        whole = folder / ".whole"
        whole.mkdir(exist_ok=True)
        tiny_train.save(whole, step, total)
        data = (whole / f"step-{step:06d}.npz").read_bytes()
        with open(folder / f"step-{step:06d}.npz", "wb", buffering=0) as file:
            for begin in range(0, len(data), len(data) // 5):
                file.write(data[begin : begin + len(data) // 5])
                os.fsync(file.fileno())
                threading.Event().wait(self._pause / 5)

    def _shards(self, folder: Path, step: int, total: int) -> None:
        """Many files, and long after them the one that makes sense of them."""
        target = folder / f"step-{step:06d}"
        target.mkdir()
        names = [f"model-{n + 1:05d}-of-{SHARDS:05d}.bin" for n in range(SHARDS)]
        for number, name in enumerate(names):
            (target / name).write_text(f"{step} {number} {total}")
        threading.Event().wait(self._pause)
        (target / "model.bin.index.json").write_text(json.dumps({"weight_map": {n: n for n in names}}))


def load(path: str) -> tuple[int, int]:
    """Whatever `Folder` saved; raises for what is not whole."""
    if not os.path.isdir(path):
        return tiny_train.load(path)
    index = json.loads((Path(path) / "model.bin.index.json").read_text())
    shards = [(Path(path) / name).read_text().split() for name in index["weight_map"]]
    (step,) = {int(shard[0]) for shard in shards}
    (total,) = {int(shard[2]) for shard in shards}
    assert sorted(int(shard[1]) for shard in shards) == list(range(SHARDS))
    return step, total


class Loader:
    """Batches out of worker processes, which die of a SIGTERM as most do; then the loader fails."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("fork")
        self._queue: Queue[int] = context.Queue(maxsize=4)
        self._workers = [
            context.Process(target=_load, args=(self._queue,), daemon=True) for _ in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def batch(self) -> None:
        if self._workers:
            self._queue.get(timeout=60)
        if not all(worker.is_alive() for worker in self._workers):
            raise RuntimeError("a data-loader worker was killed")


def _load(queue: Queue[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        queue.put(os.getpid())


def leave_daemons(diary: Diary) -> None:
    """Processes that left family, session and environment behind, and are deaf to SIGTERM."""
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    for bare in (False, True):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            diary.note("daemon", os.getpid())
            environment = {} if bare else dict(os.environ)
            os.execve(sys.executable, [sys.executable, "-I", "-c", code], environment)  # noqa: S606  no shell
        os.wait()


def talk(kind: str, step: int, steps: int) -> None:
    """What it prints besides its steps."""
    if kind == "flood":
        line = b"x" * 99 + b"\n"
        sys.stdout.buffer.write(line * (FLOOD // len(line) // steps))
    elif kind == "no-newline":
        sys.stdout.buffer.write(b"y" * 200_000)
    elif kind == "escapes":
        sys.stdout.buffer.write(ESCAPES)
    elif kind == "closed" and step == 5:
        sys.stdout.close()
        for number in (1, 2):
            os.close(number)
    if not sys.stdout.closed:
        sys.stdout.flush()


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=20, help="in each attempt, at the least")
    options.add_argument("--until", default="", help="and until this file is there, or for ever")
    options.add_argument("--step-time", type=float, default=0.02)
    options.add_argument("--save-every", type=int, default=10)
    options.add_argument("--save", choices=["quickly", "slowly", "shards"], default="quickly")
    options.add_argument("--pause", type=float, default=0.5, help="seconds that a slow save takes")
    options.add_argument("--pauses-until", type=int, default=99, help="the last attempt that saves slowly")
    options.add_argument("--when-asked", choices=sorted(ANSWERS), default="exit-143")
    options.add_argument("--signal", default="SIGTERM")
    options.add_argument("--workers", type=int, default=0)
    options.add_argument("--daemons", action="store_true")
    options.add_argument("--talk", choices=["flood", "no-newline", "escapes", "closed"], default="")
    return Training(options.parse_args()).run()


class Training:
    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._asked = threading.Event()
        number = signal.Signals[args.signal]
        signal.signal(number, signal.SIG_IGN if args.when_asked == "ignore" else lambda *_: self._asked.set())
        self.diary = Diary()
        folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        pause = args.pause if int(os.environ["RUNCTL_ATTEMPT"]) <= args.pauses_until else 0.0
        self._folder = Folder(folder, args.save, pause, self.diary.note)
        resume = os.environ.get("RUNCTL_RESUME_FROM")
        self.step, self._total = load(resume) if resume else (0, 0)
        self.diary.note("began", self.step)
        self.loader = Loader(args.workers)
        if args.daemons:
            self.diary.share()
            leave_daemons(self.diary)

    def run(self) -> int:
        last = self.step + self._args.steps
        while self.step < last or not os.path.exists(self._args.until):
            self._asked.wait(self._args.step_time)
            if self._asked.is_set():
                self._asked.clear()
                self.diary.note("asked", self.step)
                code = ANSWERS[self._args.when_asked](self)
                if code is not None:
                    return code
            self._one_step()
        self.diary.note("finished", self.step)
        self._say(f"finished total={self._total}")
        return 0

    def save(self) -> None:
        self._folder.save(self.step, self._total)

    def finish_the_batches(self) -> None:
        """As a training that accumulates gradients, and does not save in between."""
        for _ in range(10 if self._args.workers else 0):
            self.loader.batch()
            threading.Event().wait(0.02)

    def _one_step(self) -> None:
        self.loader.batch()
        self.step += 1
        self._total = (self._total * 31 + self.step) % 1_000_003
        self.diary.note("step", self.step)
        self._say(f"step={self.step} loss={1 / self.step:.4f}")
        talk(self._args.talk, self.step, self._args.steps)
        if self.step % self._args.save_every == 0:
            self.save()

    def _say(self, line: str) -> None:
        if not sys.stdout.closed:
            print(line, end="" if self._args.talk == "no-newline" else "\n", flush=True)


def _exit(code: int | None) -> Callable[[Training], int | None]:
    def answer(training: Training) -> int | None:
        training.finish_the_batches()
        training.save()
        return code

    return answer


def _fail(training: Training) -> int | None:
    training.save()
    raise RuntimeError("something went wrong after the save")


def _break(training: Training) -> int | None:
    raise KeyError("something went wrong before the save")


ANSWERS: dict[str, Callable[[Training], int | None]] = {
    "exit-143": _exit(143),
    "exit-0": _exit(0),
    "go-on": _exit(None),
    "save-and-fail": _fail,
    "fail": _break,
    "ignore": lambda training: None,
}


if __name__ == "__main__":
    sys.exit(main())
