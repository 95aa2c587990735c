"""Out of memory, told apart from the training's own errors: by evidence, never by a guess."""

from __future__ import annotations

import pytest

from runctl_agent.core import effects, inputs
from runctl_agent.core.decide import decide
from runctl_agent.core.model import MemoryTrace, Rules, State
from runctl_agent.core.phases import Phase
from runctl_agent.hardware.words import out_of_memory
from runctl_shared.messages import events

RULES = Rules(attempt=1, signal="SIGTERM", grace=20.0, lease=1e6, kill_margin=3.0)


def ended(
    *traces: MemoryTrace, code: int | None = None, signal: str | None = None, **changes: object
) -> events.AttemptEnded:
    """How a training is said to have ended at second 1000, of which the last step was seen at 990."""
    facts = {"started_at": 0.0, "stepped_at": 990.0, "last_step": 7} | changes
    state = State(
        rules=RULES,
        phase=Phase.TRAINING,
        permitted=True,
        lease_until=1e6,
        hard_end_at=1e6,
        **facts,  # type: ignore[arg-type]  # a test's own fields
    )
    exit_ = inputs.TrainingExited(at=1000.0, exit_code=code, signal=signal, detail="how", traces=traces)
    state = decide(state, exit_).state
    told = [e.body for e in decide(state, inputs.Flushed(at=1001.0)).effects if isinstance(e, effects.Report)]
    end = told[-1]
    assert isinstance(end, events.AttemptEnded)
    return end


def killed(memory: str = "limit", at: float = 995.0) -> MemoryTrace:
    return MemoryTrace(memory=memory, text="the kernel killed python3", at=at)  # type: ignore[arg-type]  # a literal


class TestTheVerdict:
    def test_killed_by_the_kernel(self) -> None:
        """A SIGKILL by the kernel that is called the user's error, with nothing said about memory."""
        end = ended(killed(), signal="SIGKILL")
        assert end.reason == "out_of_memory"
        assert end.detail.startswith("the kernel killed python3; raise the limit, or need less memory")

    def test_a_sigkill_of_unknown_origin_is_not_guessed_to_be_it(self) -> None:
        """Somebody's kill -9 told as out of memory."""
        assert ended(signal="SIGKILL").reason == "user_error"

    def test_a_worker_was_killed_and_the_training_failed_for_it(self) -> None:
        """The data loader's RuntimeError hides why its worker died."""
        assert ended(killed(), code=1).reason == "out_of_memory"

    def test_a_worker_was_killed_long_before_and_replaced(self) -> None:
        """An error of the training blamed on a kill that it survived."""
        assert ended(killed(at=500.0), code=1).reason == "user_error"

    def test_it_hung_after_the_kill_and_gave_up(self) -> None:
        """The other ranks wait ten minutes for the one that was killed."""
        assert ended(killed(at=500.0), code=1, stepped_at=480.0).reason == "out_of_memory"

    def test_a_kill_of_unknown_victim_counts_only_for_a_sigkill(self) -> None:
        """Another program of the machine was killed; the training failed by itself."""
        assert ended(killed("somewhere"), code=1).reason == "user_error"
        assert ended(killed("somewhere"), code=137).reason == "out_of_memory"
        assert ended(killed("somewhere"), signal="SIGKILL").reason == "out_of_memory"

    def test_what_it_says_itself_counts_for_an_exception_or_an_abort(self) -> None:
        """A CUDA error is told as any other error; or a kill -9 is blamed on what was printed before."""
        said = MemoryTrace(memory="gpu", text="the GPU's memory ran out: CUDA out of memory.", at=1000.0)
        end = ended(said, code=1)
        assert end.reason == "out_of_memory"
        assert "use a smaller batch, gradient accumulation" in end.detail
        assert ended(said, signal="SIGABRT").reason == "out_of_memory"
        assert ended(said, signal="SIGKILL").reason == "user_error"

    def test_success_stays_success(self) -> None:
        """A training that handled it, and finished."""
        assert ended(killed(), code=0).reason == "succeeded"

    def test_our_own_end_stays_ours(self) -> None:
        """An interruption told as out of memory, so that it uses up a restart."""
        end = ended(killed(), signal="SIGKILL", cause="notice", cause_at=900.0, signalled_at=900.0)
        assert end.reason == "interrupted"

    def test_memory_that_runs_out_while_saving_is_told(self) -> None:
        """Saving on request needs more memory than there is: that is no interruption."""
        assert ended(killed(), signal="SIGKILL", signalled_at=994.0).reason == "out_of_memory"

    def test_an_end_that_nobody_saw_and_a_kill(self) -> None:
        """The minder was killed together with the training."""
        assert ended(killed()).reason == "out_of_memory"


class TestTheWords:
    @pytest.mark.parametrize(
        ("line", "which"),
        [
            ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0)", "gpu"),
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 GiB.", "gpu"),
            ("[rank3]: RuntimeError: CUDA error: out of memory", "gpu"),
            ("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying", "gpu"),
            ("RuntimeError: MPS backend out of memory (MPS allocated: 9.0 GB)", "gpu"),
            ("MemoryError", "process"),
            ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB", "process"),
            ("numpy.core._exceptions.MemoryError: Unable to allocate 7.45 GiB", "process"),
            ("  what():  std::bad_alloc", "process"),
            ("OSError: [Errno 12] Cannot allocate memory", "process"),
            ("RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
             "process"),
            ("ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared "
             "memory (shm).", "shared"),
        ],
    )  # fmt: skip
    def test_are_understood(self, line: str, which: str) -> None:
        """The words of one framework that are not known."""
        found = out_of_memory(["step=1", "Traceback (most recent call last):", line, "other words"])
        assert found == (which, line)

    @pytest.mark.parametrize(
        "line",
        [
            "ValueError: MemoryErrorHandler is not set",
            "using 3 of 10 GB, out of which memory is pinned",
            "RESOURCE_EXHAUSTED: quota exceeded for requests",
            "DataLoader worker (pid 7) is killed by signal: Killed.",
            "handled a MemoryError, going on",
        ],
    )
    def test_others_are_not(self, line: str) -> None:
        """An error that only sounds like it."""
        assert out_of_memory([line]) is None

    def test_what_it_survived_does_not_count(self) -> None:
        """A training that finds its batch size by trying, and fails for another reason an hour later."""
        said = "torch.cuda.OutOfMemoryError: CUDA out of memory."
        assert out_of_memory([said, "step=5 loss=1", "step=6 loss=1", "ValueError: x"]) is None
        assert out_of_memory(["step=5 loss=1", "step=6 loss=1", said]) is not None
