"""Real trainings, asked to save and ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from runctl_agent.trainer import procfs, record
from runctl_testing.eventually import eventually
from runctl_testing.trainings import PATIENCE, PYTHON, Bench, new_bench, runs


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with new_bench(tmp_path) as it:
        yield it


# The training prints `saving` when it is asked to, and its workers print `killed` should they be asked.
_MAIN_WITH_LOADERS = """
import multiprocessing, os, signal, sys, threading
def load(queue):
    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'worker killed\\n'), os._exit(1)))
    os.write(1, b'worker up\\n')
    threading.Event().wait()
def main():
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    workers = [context.Process(target=load, args=(queue,), daemon=True) for _ in range(3)]
    for worker in workers: worker.start()
    while not asked.wait(0.05): pass
    assert all(worker.is_alive() for worker in workers)
    os.write(1, b'saving\\n')
    for worker in workers: worker.kill()
    os._exit(7)
if __name__ == '__main__': main()
"""

_RANK = """
import os, signal, threading
rank = os.environ['RANK'].encode()
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'saved by %s\\n' % rank), os._exit(0)))
if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'worker killed\\n'), os._exit(1)))
os.write(1, b'up\\n')
while True: threading.Event().wait(1)
"""

_LAUNCHER = """
import os, signal, subprocess, sys
ranks = [subprocess.Popen([sys.executable, 'rank.py'], env={**os.environ, 'RANK': str(n)}) for n in range(2)]
def end(*_):
    os.write(1, b'launcher kills\\n')
    for rank in ranks: rank.kill()
signal.signal(signal.SIGTERM, end)
for rank in ranks: rank.wait()
"""


class TestAskToSave:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_the_python_in_a_script_and_none_of_its_workers(self, bench: Bench, method: str) -> None:
        (bench.folder / "x.py").write_text(_MAIN_WITH_LOADERS)
        trainer = bench.start(["bash", "-c", f"{PYTHON} x.py {method}; exit $?"])
        bench.waits_for("worker up", 3)
        report = trainer.ask_to_save("SIGTERM")
        assert report.names == (f"{Path(PYTHON).name} x.py",)
        assert trainer.pid not in report.pids
        assert trainer.join(PATIENCE)
        assert "saving" in bench.text()
        assert "killed" not in bench.text()
        assert bench.exits == [(7, None)]

    def test_the_ranks_and_not_the_launcher_that_would_kill_them(self, bench: Bench) -> None:
        (bench.folder / "rank.py").write_text(_RANK)
        (bench.folder / "launch.py").write_text(_LAUNCHER)
        trainer = bench.start([PYTHON, "launch.py"])
        bench.waits_for("up", 4)
        report = trainer.ask_to_save("SIGTERM")
        assert len(report.pids) == 2
        assert trainer.join(PATIENCE)
        assert sorted(bench.text().splitlines()[4:]) == ["saved by 0", "saved by 1"]
        assert bench.exits == [(0, None)]

    def test_a_pipeline(self, bench: Bench) -> None:
        (bench.folder / "x.py").write_text(_MAIN_WITH_LOADERS)
        trainer = bench.start(["bash", "-c", f"set -o pipefail; {PYTHON} x.py fork | tee copy"])
        bench.waits_for("worker up", 3)
        assert len(trainer.ask_to_save("SIGTERM").pids) == 1
        assert trainer.join(PATIENCE)
        assert "saving" in (bench.folder / "copy").read_text()
        assert bench.exits == [(7, None)]

    def test_other_signals_and_nobody_there(self, bench: Bench) -> None:
        trainer = bench.python(
            "import os, signal, threading\n"
            "signal.signal(signal.SIGUSR1, lambda *_: os._exit(9))\n"
            "print('up')\n"
            "while True: threading.Event().wait(1)\n"
        )
        bench.waits_for("up")
        with pytest.raises(ValueError, match="SIGNONE"):
            trainer.ask_to_save("SIGNONE")
        assert trainer.ask_to_save("SIGUSR1").pids == (trainer.pid,)
        assert trainer.join(PATIENCE)
        assert bench.exits == [(9, None)]
        assert trainer.ask_to_save("SIGUSR1").pids == ()


# Children that lose one trace after the other: their parent, their session, their environment.
_HYDRA = """
import os, subprocess, sys, threading
def child(*argv, **options): subprocess.Popen(argv, **options)
a, b, c, d, e = sys.argv[1:]
child('sleep', a)
child('setsid', 'sleep', b)
child('sh', '-c', f'(setsid sleep {c} &)')
child('sh', '-c', f'(setsid env -i /bin/sleep {d} &)')
child('sh', '-c', f'trap "" TERM INT HUP; while :; do sleep {e}; done')
child('sh', '-c', 'while :; do sleep 0.2 & sleep 0.005; done')
print('up')
while True: threading.Event().wait(1)
"""


def sleepers(names: Sequence[str]) -> list[psutil.Process]:
    """The sleeps of the hydra, by command line, since one of them hides its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "sleep" and process.cmdline()[-1] in names and runs(process):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Durations that no other process sleeps for."""
    those = [f"100{n}.{os.getpid()}" for n in range(5)]
    yield those
    for process in sleepers(those):
        process.kill()


class TestKill:
    def test_nothing_is_left(self, bench: Bench, names: list[str]) -> None:
        (bench.folder / "hydra.py").write_text(_HYDRA)
        trainer = bench.start([PYTHON, "hydra.py", *names])
        bench.waits_for("up")
        eventually(lambda: len(sleepers(names)) == len(names), PATIENCE)
        assert trainer.kill(timeout=PATIENCE) == ()
        assert sleepers(names) == []
        assert bench.living() == []
        assert trainer.join(PATIENCE)
        assert bench.exits == [(None, signal.SIGKILL)]
        assert trainer.kill() == ()

    def test_others_are_spared(self, bench: Bench) -> None:
        other = {**bench.env, "RUNCTL_ATTEMPT": "2"}
        trainer = bench.start(["sleep", "1000"])
        with subprocess.Popen(["sleep", "1000"], env=other) as bystander:
            trainer.kill(timeout=PATIENCE)
            assert bystander.poll() is None
            bystander.kill()

    def test_without_its_minder_too(self, bench: Bench) -> None:
        """The minder gone, orphans go to init: session and marks must do."""
        trainer = bench.start(["sh", "-c", "(setsid sleep 1000 &); echo up; sleep 1000 & wait"])
        bench.waits_for("up")
        found = record.read_record(bench.state)
        assert found is not None
        os.kill(found.minder, signal.SIGKILL)
        eventually(lambda: not procfs.is_alive(found.minder, found.minder_start), PATIENCE)
        assert trainer.is_running()
        assert not trainer.join(0.05)
        trainer.kill(timeout=PATIENCE)
        assert bench.living() == []
        assert trainer.join(PATIENCE)
        assert bench.exits == [(None, None)]

    def test_a_process_whose_main_thread_has_ended(self, bench: Bench) -> None:
        """It looks like a zombie, and holds its memory and its GPU all the same."""
        trainer = bench.python(
            "import ctypes, os, threading\n"
            "threading.Thread(target=threading.Event().wait).start()\n"
            "print('up')\n"
            "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n"
        )
        bench.waits_for("up")
        eventually(lambda: psutil.Process(trainer.pid).status() == psutil.STATUS_ZOMBIE, PATIENCE)
        assert trainer.is_running()
        assert trainer.kill(timeout=PATIENCE) == ()
        assert trainer.join(PATIENCE)
        assert bench.exits == [(None, signal.SIGKILL)]
