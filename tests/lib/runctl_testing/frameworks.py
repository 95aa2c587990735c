"""What tests of real training frameworks share: where these live, and how their runs are judged."""

from __future__ import annotations

from pathlib import Path

from runctl_shared.messages.replies import RunDetail
from runctl_testing.aftermath import Witness

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "tests" / "frameworks" / "programs"
TORCH_DIGITS = ROOT / "examples" / "torch_digits"
BIN = ROOT / ".venv-frameworks" / "bin"


class Watched(Witness):
    """A witness of trainings that are real: what they print need not name each step that they do."""

    def _report_is_true(self, run: str, detail: RunDetail) -> None:
        for told in detail.attempts:
            own = [line for line in self.diary() if line.attempt == told.attempt]
            steps = [line.value for line in own if line.kind == "step"]
            began = [line.value for line in own if line.kind == "began"]
            if told.restored_step is not None and began:
                assert began == [told.restored_step], "it did not begin where its checkpoint ends"
            if told.first_step is not None:
                assert told.first_step >= steps[0], told
                assert told.first_step >= (told.restored_step or 0), told
            if told.last_step is not None:
                assert told.last_step <= steps[-1], told
        finished = [line for line in self.diary() if line.kind == "finished"]
        assert len(finished) == (detail.run.state == "succeeded")


def environment() -> dict[str, str]:
    """One thread each, or two cores would be fought for; the diary's code; nothing from any hub."""
    return {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "tests" / "lib"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
