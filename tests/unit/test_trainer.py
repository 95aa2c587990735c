"""Real trainings: how they start, what they are given, and how their end is told."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runctl_agent.trainer import record
from runctl_agent.trainer.start import TrainerCannotStart, start
from runctl_shared.clock import SystemClock
from runctl_testing.trainings import PATIENCE, PYTHON, Bench, new_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with new_bench(tmp_path) as it:
        yield it


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
        assert not bench.state.exists()
        assert not record.exit_path(bench.state).exists()
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
