"""Real trainings whose agent dies."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from runctl_agent.trainer import minder, procfs, record
from runctl_agent.trainer.process import Trainer
from runctl_shared.errors import StoreUnusable
from runctl_testing.trainings import PATIENCE, PYTHON, Bench, new_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with new_bench(tmp_path) as it:
        yield it


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


def test_an_exit_of_an_earlier_training_is_not_this_one_s(bench: Bench) -> None:
    assert bench.start(["sh", "-c", "exit 3"]).join(PATIENCE)
    trainer = bench.start(["sleep", "1000"])
    found = record.read_record(bench.state)
    assert found is not None
    os.kill(found.minder, signal.SIGKILL)
    trainer.kill(timeout=PATIENCE)
    assert trainer.join(PATIENCE)
    assert bench.exits == [(3, None), (None, None)]
