"""Real processes, started, watched and ended. Each test's training is a program of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from runctl_agent.trainer import procfs, record
from runctl_agent.trainer.adopt import adopt
from runctl_agent.trainer.process import Trainer
from runctl_agent.trainer.start import TrainerCannotStart, start
from runctl_shared.clock import SystemClock
from runctl_shared.errors import StoreUnusable
from runctl_testing.eventually import eventually

PATIENCE = 60.0
PYTHON = sys.executable


class Bench:
    """A folder with a training in it, and what is known of its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output, self.state = folder / "out.log", folder / "trainer"
        self.marks = {"RUNCTL_RUN": f"r-{folder.name}", "RUNCTL_ATTEMPT": "1"}
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", **self.marks}
        self.exits: list[tuple[int | None, int | None]] = []
        self.trainers: list[Trainer] = []

    def start(self, argv: Sequence[str], **options: float) -> Trainer:
        trainer = start(
            argv,
            self.env,
            self.folder,
            self.output,
            self.state,
            on_exit=lambda code, number: self.exits.append((code, number)),
            clock=SystemClock(),
            **options,
        )
        self.trainers.append(trainer)
        return trainer

    def python(self, source: str) -> Trainer:
        (self.folder / "train.py").write_text(source)
        return self.start([PYTHON, "train.py"])

    def adopt(self) -> Trainer | None:
        trainer = adopt(
            self.state,
            marks=self.marks,
            on_exit=lambda code, number: self.exits.append((code, number)),
            clock=SystemClock(),
        )
        if trainer is not None:
            self.trainers.append(trainer)
        return trainer

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def waits_for(self, word: str, times: int = 1) -> None:
        eventually(lambda: self.text().count(word) >= times, PATIENCE, what=f"{times} x {word!r}")

    def living(self) -> list[psutil.Process]:
        """Every process of this training that runs, found independently of the code under test."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RUNCTL_RUN") == self.marks["RUNCTL_RUN"]:
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    for trainer in it.trainers:
        trainer.kill()
        assert trainer.join(PATIENCE)


class TestExit:
    @pytest.mark.parametrize("code", [0, 3, 255])
    def test_codes(self, bench: Bench, code: int) -> None:
        assert bench.start(["sh", "-c", f"echo hello; exit {code}"]).join(PATIENCE)
        assert bench.exits == [(code, None)]
        assert bench.text() == "hello\n"

    def test_signals(self, bench: Bench) -> None:
        trainer = bench.python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        assert trainer.join(PATIENCE)
        assert bench.exits == [(None, signal.SIGSEGV)]

    def test_what_it_left_behind_is_ended_first(self, bench: Bench) -> None:
        trainer = bench.start(["sh", "-c", "sleep 1000 & (setsid sleep 1000 &) ; exit 0"])
        assert trainer.join(PATIENCE)
        assert bench.living() == []
        assert bench.exits == [(0, None)]

    def test_a_state_can_be_used_again(self, bench: Bench) -> None:
        assert bench.start(["sh", "-c", "exit 3"]).join(PATIENCE)
        assert bench.start(["sh", "-c", "exit 4"]).join(PATIENCE)
        assert bench.exits == [(3, None), (4, None)]

    def test_no_two_at_once(self, bench: Bench) -> None:
        bench.start(["sleep", "1000"])
        with pytest.raises(TrainerCannotStart, match="still running"):
            bench.start(["sleep", "1000"])

    def test_an_on_exit_that_raises_is_no_hang(self, tmp_path: Path, bench: Bench) -> None:
        def broken(code: int | None, number: int | None) -> None:
            raise RuntimeError("on purpose")

        trainer = start(
            ["true"], bench.env, tmp_path, bench.output, bench.state, on_exit=broken, clock=SystemClock()
        )
        assert trainer.join(PATIENCE)


class TestWhatTheTrainingGets:
    def test_its_own_session_no_input_the_environment_and_nothing_else(self, bench: Bench) -> None:
        bench.env["ODD"] = "a=b\nü\udcff"
        source = (
            "import os, sys, signal\n"
            "assert os.getsid(0) == os.getpid() == os.getpgid(0)\n"
            "assert sys.stdin.read() == ''\n"
            "assert os.environ['ODD'] == 'a=b\\nü\\udcff', os.environ['ODD']\n"
            "assert os.getcwd() == os.path.dirname(os.path.abspath('train.py'))\n"
            "handlers = {s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN}\n"
            "assert handlers <= {signal.SIGPIPE, signal.SIGXFSZ}, handlers\n"  # Python's own doing
            "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()\n"
            "open_ones = {int(fd) for fd in os.listdir('/proc/self/fd')}\n"
            "assert len(open_ones) == 4, open_ones\n"  # three and the listing itself
            "print('to stdout'); print('to stderr', file=sys.stderr)\n"
        )
        assert bench.python(source).join(PATIENCE)
        assert bench.text() == "to stdout\nto stderr\n"
        assert bench.exits == [(0, None)]

    def test_output_is_private_and_appended(self, bench: Bench) -> None:
        bench.output.write_text("earlier\n")
        bench.output.chmod(0o600)
        assert bench.start(["echo", "now"]).join(PATIENCE)
        assert bench.text() == "earlier\nnow\n"
        for path in (bench.output, bench.state, record.exit_path(bench.state)):
            assert path.stat().st_mode & 0o777 == 0o600

    def test_words_reach_it_unchanged(self, bench: Bench) -> None:
        words = ["a b", "$HOME", "*", "", "'\"", "\n", "-x", "ü\udcff"]
        code = f"import sys; assert sys.argv[1:] == {words!r}, sys.argv"
        assert bench.start([PYTHON, "-c", code, *words]).join(PATIENCE)
        assert bench.exits == [(0, None)], bench.text()

    def test_the_minder_is_light(self, bench: Bench) -> None:
        bench.start(["sleep", "1000"])
        found = record.read_record(bench.state)
        assert found is not None
        assert psutil.Process(found.minder).memory_info().rss < 16 * 2**20


class TestCannotStart:
    def refused(self, bench: Bench, *argv: str, cwd: Path | None = None) -> TrainerCannotStart:
        bench.folder = cwd or bench.folder
        with pytest.raises(TrainerCannotStart) as caught:
            bench.start(argv)
        assert bench.living() == []
        assert bench.text() == ""
        assert caught.value.mend
        return caught.value

    def test_no_such_program(self, bench: Bench) -> None:
        error = self.refused(bench, "no-such-program-here", "x")
        assert (error.exit_code, error.what) == (
            127,
            "There is no program 'no-such-program-here' on the PATH.",
        )
        assert "There is no program './no' in" in self.refused(bench, "./no").what

    def test_not_executable(self, bench: Bench) -> None:
        (bench.folder / "train.py").write_text("print(1)")
        error = self.refused(bench, "./train.py")
        assert (error.exit_code, error.what) == (126, "'./train.py' may not be executed.")
        assert "python train.py" in error.mend

    def test_a_folder(self, bench: Bench) -> None:
        (bench.folder / "sub").mkdir()
        error = self.refused(bench, "./sub")
        assert (error.exit_code, error.what) == (126, "'./sub' is a folder, not a program.")

    def test_no_first_line(self, bench: Bench) -> None:
        (bench.folder / "t.sh").write_text("echo 1")
        (bench.folder / "t.sh").chmod(0o755)
        assert "no #! line" in self.refused(bench, "./t.sh").what

    def test_a_missing_interpreter(self, bench: Bench) -> None:
        (bench.folder / "t.sh").write_text("#!/no/such/bash\necho 1")
        (bench.folder / "t.sh").chmod(0o755)
        assert "interpreter named in the first line" in self.refused(bench, "./t.sh").what

    def test_no_such_working_directory(self, bench: Bench) -> None:
        error = self.refused(bench, "true", cwd=bench.folder / "gone")
        assert "cannot be entered: No such file or directory." in error.what

    def test_a_command_that_is_none(self, bench: Bench) -> None:
        assert self.refused(bench).exit_code == 127
        assert "NUL byte" in self.refused(bench, "true", "a\0b").what

    def test_an_output_that_cannot_be_written(self, bench: Bench) -> None:
        bench.output = bench.folder / "sub"
        bench.output.mkdir()
        with pytest.raises(TrainerCannotStart, match="cannot write") as caught:
            bench.start(["true"])
        assert caught.value.exit_code == 125

    def test_after_a_refusal_it_can_be_tried_again(self, bench: Bench) -> None:
        self.refused(bench, "no-such-program-here")
        assert bench.start(["true"]).join(PATIENCE)
        assert bench.exits == [(0, None)]


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
import os, subprocess, threading
def child(*argv, **options): subprocess.Popen(argv, **options)
child('sleep', '1001')
child('setsid', 'sleep', '1002')
child('sh', '-c', '(setsid sleep 1003 &)')
child('sh', '-c', '(setsid env -i /bin/sleep 1004 &)')
child('sh', '-c', 'trap "" TERM INT HUP; while :; do sleep 1005; done')
child('sh', '-c', 'while :; do sleep 0.05 & done', stderr=subprocess.DEVNULL)
print('up')
while True: threading.Event().wait(1)
"""


def sleepers(bench: Bench) -> list[str]:
    """The sleeps of the hydra, by command line, since one of them hides from its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1:] in [[f"100{n}"] for n in range(1, 6)] and _runs(process):
                found.append(process.cmdline()[-1])
        except psutil.Error:
            continue
    return sorted(found)


class TestKill:
    def test_nothing_is_left(self, bench: Bench) -> None:
        trainer = bench.python(_HYDRA)
        bench.waits_for("up")
        eventually(lambda: sleepers(bench) == ["1001", "1002", "1003", "1004", "1005"], PATIENCE)
        assert trainer.kill(timeout=PATIENCE) == ()
        assert sleepers(bench) == []
        assert bench.living() == []
        assert trainer.join(PATIENCE)
        assert bench.exits == [(None, signal.SIGKILL)]
        assert trainer.kill() == ()

    def test_others_are_spared(self, bench: Bench) -> None:
        other = {**bench.env, "RUNCTL_ATTEMPT": "2"}
        with subprocess.Popen(["sleep", "1000"], env=other) as bystander:
            trainer = bench.start(["sleep", "1000"])
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


_AGENT = """
import os, sys, threading
from pathlib import Path
from runctl_agent.trainer.start import start
from runctl_shared.clock import SystemClock
folder = Path(sys.argv[1])
marks = {'RUNCTL_RUN': sys.argv[2], 'RUNCTL_ATTEMPT': '1'}
start(sys.argv[3:], {**os.environ, **marks}, folder, folder / 'out.log', folder / 'trainer',
      on_exit=lambda *_: None, clock=SystemClock())
print('started', flush=True)
threading.Event().wait()
"""


@pytest.fixture
def dying_agent(bench: Bench) -> Callable[[Sequence[str]], None]:
    """Starts a training from another process, and SIGKILLs that one, its group and all."""

    def run(argv: Sequence[str]) -> None:
        command = [PYTHON, "-c", _AGENT, str(bench.folder), bench.marks["RUNCTL_RUN"], *argv]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True) as agent:
            assert agent.stdout is not None
            assert agent.stdout.readline() == b"started\n"
            os.killpg(agent.pid, signal.SIGKILL)

    return run


_GOES_ON = """
import os, threading
print('up')
n = 0
while not os.path.exists('stop'):
    threading.Event().wait(0.02); n += 1; print('tick', n)
os._exit(5)
"""


class TestAdopt:
    def test_the_training_outlives_its_agent_and_is_taken_over(
        self, bench: Bench, dying_agent: Callable[[Sequence[str]], None]
    ) -> None:
        (bench.folder / "x.py").write_text(_GOES_ON)
        dying_agent([PYTHON, "x.py"])
        ticks = bench.text().count("tick")
        bench.waits_for("tick", ticks + 5)
        trainer = bench.adopt()
        assert trainer is not None
        assert trainer.is_running()
        assert bench.exits == []
        (bench.folder / "stop").touch()
        assert trainer.join(PATIENCE)
        assert bench.exits == [(5, None)]
        assert bench.living() == []

    def test_what_ended_meanwhile_is_told(
        self, bench: Bench, dying_agent: Callable[[Sequence[str]], None]
    ) -> None:
        dying_agent(["sh", "-c", "sleep 1000 & exit 6"])
        trainer = bench.adopt()
        assert trainer is not None
        assert trainer.join(PATIENCE)
        assert bench.exits == [(6, None)]
        assert bench.living() == []

    def test_the_minder_ignores_who_ends_gracefully(
        self, bench: Bench, dying_agent: Callable[[Sequence[str]], None]
    ) -> None:
        dying_agent(["sleep", "1000"])
        found = record.read_record(bench.state)
        assert found is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(found.minder, number)
        trainer = bench.adopt()
        assert trainer is not None
        trainer.ask_to_save("SIGTERM")
        assert trainer.join(PATIENCE)
        assert bench.exits == [(None, signal.SIGTERM)]

    def test_it_is_killed_like_one_s_own(
        self, bench: Bench, dying_agent: Callable[[Sequence[str]], None]
    ) -> None:
        dying_agent(["sh", "-c", "(setsid env -i sleep 1000 &); echo up; sleep 1000 & wait"])
        bench.waits_for("up")
        trainer = bench.adopt()
        assert trainer is not None
        trainer.kill(timeout=PATIENCE)
        assert bench.living() == []
        assert trainer.join(PATIENCE)
        assert bench.exits == [(None, signal.SIGKILL)]

    def test_nothing_there(self, bench: Bench) -> None:
        assert bench.adopt() is None

    def test_a_record_of_another_boot_or_of_a_process_id_given_away_again(self, bench: Bench) -> None:
        with subprocess.Popen(["sleep", "1000"], env={**os.environ, "RUNCTL_RUN": "x"}) as stranger:
            stat = procfs.read_stat(stranger.pid)
            assert stat is not None
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            for start_time, its_boot in ((stat.start, "another"), (stat.start - 1, boot)):
                bench.state.write_text(
                    f"pid={stranger.pid}\nstart={start_time}\nminder={stranger.pid}\n"
                    f"minder_start={start_time}\nboot={its_boot}\n"
                )
                trainer = bench.adopt()
                assert trainer is not None
                assert not trainer.is_running()
                assert trainer.join(PATIENCE)
                assert trainer.ask_to_save("SIGTERM").pids == ()
            assert stranger.poll() is None
            stranger.kill()
        assert bench.exits == [(None, None)] * 2

    def test_a_damaged_record(self, bench: Bench) -> None:
        bench.state.write_text("pid=x\n")
        with pytest.raises(StoreUnusable, match="cannot be read"):
            bench.adopt()

    def test_a_minder_that_is_still_at_it_is_waited_for(self, bench: Bench) -> None:
        """The agent died after it had started the minder and before there was a record."""
        lock = record.take_lock(bench.state)
        adopted: list[Trainer | None] = []
        thread = threading.Thread(target=lambda: adopted.append(bench.adopt()))
        thread.start()
        os.close(lock)
        thread.join(PATIENCE)
        assert adopted == [None]


def test_a_minder_whose_order_was_cut_short_starts_nothing(bench: Bench) -> None:
    """The agent died while it wrote the order, by chance at the end of a word."""
    import runctl_agent.trainer.minder as minder

    lock = record.take_lock(bench.state)
    words = [str(bench.state), str(bench.folder), "2", "1", "touch", "made"]
    order = b"".join(word.encode() + b"\0" for word in words)
    command = [PYTHON, "-I", "-S", minder.__file__, str(lock)]
    subprocess.run(command, input=order, pass_fds=(lock,), check=False, timeout=PATIENCE)
    os.close(lock)
    assert not (bench.folder / "made").exists()
    assert bench.adopt() is None


def test_room_for_the_exit_is_taken_beforehand(bench: Bench) -> None:
    """A training that fills the disk must not end unseen."""
    bench.start(["sleep", "1000"])
    reserved = record.exit_path(bench.state)
    reserved = reserved.with_name(reserved.name + ".tmp")
    assert reserved.stat().st_size >= len("signal=64\n")
    inode = reserved.stat().st_ino
    bench.trainers[0].kill()
    assert bench.trainers[0].join(PATIENCE)
    assert record.exit_path(bench.state).stat().st_ino == inode
