"""The advice of a rehearsal: each bad kind of training, told from the record of its run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runctl_controller.rehearsal import advice
from runctl_controller.rehearsal.interval import best_interval, lost_share
from runctl_controller.rehearsal.report import Finding, Verdict, judge
from runctl_shared.messages.replies import AttemptView, RunDetail, RunView, StoryView
from runctl_shared.spec import RunSpec

SPEC = RunSpec(run="run-abcd1234", name="digits", command=("true",), workdir="/", store="file:///c")
MB = 1_000_000


def told(at: float, attempt: int, kind: str, **data: Any) -> StoryView:
    return StoryView(at=at, attempt=attempt, kind=kind, text=kind, actor="agent", data=data)


def before(**changes: Any) -> AttemptView:
    fields: dict[str, Any] = {
        "attempt": 1, "state": "ended", "reason": "interrupted", "started_at": 10.0, "ended_at": 130.0,
        "last_step": 120, "saved_step": 100, "lost_seconds": 2.0,
    }  # fmt: skip
    return AttemptView(**(fields | changes))


def after(**changes: Any) -> AttemptView:
    fields: dict[str, Any] = {
        "attempt": 2, "state": "training", "started_at": 140.0, "resumed_from": "manifests/100",
        "restored_step": 100, "first_step": 101,
    }  # fmt: skip
    return AttemptView(**(fields | changes))


DRILL = told(100.0, 1, "drill", notice=30.0)
NOTICE = told(101.0, 1, "notice")
ASKED = told(101.0, 1, "save", cause="notice", signal="SIGTERM", seconds_after_cause=0.0)
FIRST = told(150.0, 2, "first_step")


def ended(exit_seconds: float | None = 0.1, storing_seconds: float = 0.0) -> StoryView:
    return told(130.0, 1, "ended", exit_seconds=exit_seconds, storing_seconds=storing_seconds)


def saved(save: float = 1.0, upload: float = 1.0, size: int = MB, manifest: str = "100") -> StoryView:
    return told(
        120.0, 1, "checkpoint", trigger="notice", save_seconds=save, upload_seconds=upload, size=size,
        manifest=f"manifests/{manifest}",
    )  # fmt: skip


def periodic(at: float, upload: float = 1.0, size: int = MB) -> StoryView:
    return told(at, 1, "checkpoint", trigger="periodic", upload_seconds=upload, size=size, manifest="m")


def incomplete(save: float | None, size: int = MB) -> StoryView:
    return told(130.0, 1, "incomplete", root="big.pt", reason="torn", size=size, save_seconds=save)


def detail(
    *more: StoryView, one: AttemptView | None = None, two: AttemptView | None = None, **spec: Any
) -> RunDetail:
    view = RunView(run=SPEC.run, name="digits", project="default", state="training")
    return RunDetail(
        run=view,
        spec=msgspec.structs.replace(SPEC, **spec),
        attempts=(one or before(), two or after()),
        machines=(),
        ledger=(),
        story=(DRILL, NOTICE, ASKED, *more, *(() if any(m.attempt == 2 for m in more) else (FIRST,))),
    )


def found(run: RunDetail) -> Finding:
    (finding,) = judge(run, 1).findings
    return finding


@pytest.mark.parametrize(
    ("one", "story", "words", "tip"),
    [
        pytest.param(
            before(signal="SIGTERM"), (ended(),), "SIGTERM ended it (0.1s after it)", advice.ADD_HANDLER,
            id="died-at-once",
        ),
        pytest.param(
            before(exit_code=143), (ended(),), "no handler", advice.ADD_HANDLER, id="died-under-a-shell"
        ),
        pytest.param(
            before(signal="SIGKILL"), (ended(27.0),), "was killed (27s after it)", advice.DO_NOT_IGNORE,
            id="ignored",
        ),
        pytest.param(
            before(exit_code=0), (ended(0.3),), "ended with exit code 0 (0.3s after it), but saved nothing",
            advice.SAVE_IN_HANDLER, id="handled-unsaved",
        ),
        pytest.param(
            before(signal="SIGKILL"), (ended(27.0), incomplete(26.0)),
            "still writing big.pt (1.0 MB after 26s)", advice.SMALLER, id="too-slow",
        ),
        pytest.param(
            before(exit_code=0), (ended(2.0, storing_seconds=27.0),), "still being stored", advice.SMALLER,
            id="not-stored",
        ),
        pytest.param(
            before(signal="SIGKILL"), (ended(27.0), saved()), "went on training", advice.END_AFTER_SAVE,
            id="saved-and-went-on",
        ),
    ],
)  # fmt: skip
def test_what_it_did_with_the_signal(
    one: AttemptView, story: tuple[StoryView, ...], words: str, tip: str
) -> None:
    """Would catch one mistake of a training being told as another."""
    finding = found(detail(*story, one=one))
    assert finding.verdict is Verdict.WARNING
    assert words in finding.why
    assert tip in finding.advice


def test_an_old_torn_file_is_no_sign_of_a_slow_save() -> None:
    """Would blame the notice for a file that was torn long before."""
    finding = found(detail(ended(27.0), incomplete(None), one=before(signal="SIGKILL")))
    assert "still writing" not in finding.why
    assert any("big.pt: torn" in tip for tip in finding.advice)
    assert finding.incomplete == ("big.pt: torn",)


def test_one_that_saves_but_never_wholly_is_not_told_to_save() -> None:
    """Would send somebody to look for a folder that he writes to all the time."""
    nothing: dict[str, Any] = {"saved_step": None}
    two = after(resumed_from=None, restored_step=None, first_step=1)
    run = detail(ended(27.0), incomplete(None), one=before(signal="SIGKILL", **nothing), two=two)
    finding = found(run)
    assert finding.verdict is Verdict.FAIL
    assert finding.why == "no checkpoint was ever complete (big.pt): everything was lost"
    assert advice.SAVE_AT_ALL not in finding.advice
    assert {"Never complete, and so not stored: big.pt: torn.", advice.WHOLE} <= {*finding.advice}

    finding = found(detail(ended(27.0), one=before(signal="SIGKILL", **nothing), two=two))
    assert "no checkpoint at all" in finding.why
    assert advice.SAVE_AT_ALL in finding.advice


class TestNotice:
    def test_what_fits_every_notice_needs_no_word(self) -> None:
        finding = found(detail(saved(), ended(), one=before(exit_code=0)))
        assert (finding.verdict, finding.advice) == (Verdict.PASS, ())
        assert finding.notice_needed == pytest.approx(3.0)

    def test_the_figures_and_whose_notice_is_too_short(self) -> None:
        """1 s until the signal, 20 s to write 400 MB, 40 s to store them at 10 MB/s: 61 s."""
        finding = found(detail(saved(20.0, 40.0, 400 * MB), ended(), one=before(exit_code=0)))
        assert finding.verdict is Verdict.PASS
        text = finding.advice[0]
        for words in (
            "1m 01s",
            "20s to write 400.0 MB",
            "10.0 MB a second",
            "EC2 (120 s)",
            "GCP (30 s) and Run",
        ):
            assert words in text
        assert text.index("more than") < text.index("GCP") < text.index("fits") < text.index("EC2")

    def test_a_save_that_was_cut_off_is_reckoned_from_a_whole_one(self) -> None:
        """A quarter of 400 MB in 25 s: 100 s for all of it, and 40 s to store it, after 1 s."""
        run = detail(
            periodic(50.0, 40.0, 400 * MB),
            ended(27.0),
            incomplete(25.0, 100 * MB),
            one=before(signal="SIGKILL"),
        )
        finding = found(run)
        assert finding.notice_needed == pytest.approx(141.0)
        assert any("2m 21s, as reckoned" in tip and "EC2 (120 s)" in tip for tip in finding.advice)


FAILED: dict[str, Any] = {"state": "ended", "reason": "user_error", "first_step": None}


class TestResumeArgument:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (2, "exit code 2"),
            (1, "train.py: error: unrecognized arguments: --resume /c/1"),
            (2, "exit code 2: bad_argparse.py: error: unrecognized arguments: --resume /c/1"),
            (1, "Error: No such option: --resume"),
            (1, "Unknown command line flag 'resume'"),
            (1, "ValueError: Some specified arguments are not used by the HfArgumentParser: ['--resume']"),
        ],
    )
    def test_a_command_that_refuses_it(self, code: int, words: str) -> None:
        """Would send somebody to look for a damaged checkpoint instead."""
        run = detail(
            saved(), told(141.0, 2, "ended"), two=after(exit_code=code, detail=words, **FAILED),
            resume_arg="--resume {path}",
        )  # fmt: skip
        finding = found(run)
        assert finding.verdict is Verdict.FAIL
        assert "did not understand its resume argument" in finding.why
        assert any("--resume {path}" in tip for tip in finding.advice)

    @pytest.mark.parametrize(
        ("argument", "words"), [(None, "exit code 2"), ("--resume {path}", "KeyError: 'optimizer'")]
    )
    def test_another_failure_is_not_blamed_on_it(self, argument: str | None, words: str) -> None:
        two = after(exit_code=2 if argument is None else 1, detail=words, **FAILED)
        finding = found(detail(saved(), told(141.0, 2, "ended"), two=two, resume_arg=argument))
        assert advice.LOADS in finding.advice

    @pytest.mark.parametrize(
        ("argument", "words"), [(None, advice.RESUME_ARGUMENT), ("-r {path}", "began again all the same")]
    )
    def test_one_that_begins_again(self, argument: str | None, words: str) -> None:
        run = detail(saved(), told(150.0, 2, "not_resumed"), two=after(first_step=1), resume_arg=argument)
        finding = found(run)
        assert finding.verdict is Verdict.FAIL
        assert any(words in tip for tip in finding.advice)


def test_several_writers_of_one_file_are_named_and_the_verdict_stays() -> None:
    rivals = told(110.0, 1, "shared_file", path="model.pt", writers=["rank 0", "rank 1"])
    finding = found(detail(saved(), rivals, ended(), one=before(exit_code=0)))
    assert finding.verdict is Verdict.PASS
    assert any("model.pt" in tip and "rank 0, rank 1" in tip for tip in finding.advice)


class TestInterval:
    def test_the_formula(self) -> None:
        """Young: 4 s a save and one interruption a day give 831 s; nothing near it is better."""
        best = best_interval(4.0, 86400.0)
        assert best == pytest.approx(831.4, abs=0.1)
        shares = [lost_share(best * by, 4.0, 60.0, 86400.0) for by in (0.8, 1.0, 1.25)]
        assert min(shares) == shares[1]

    def test_too_long_an_interval_is_told_with_both_costs(self) -> None:
        run = detail(periodic(20.0), periodic(7220.0), saved(save=4.0), ended(), one=before(exit_code=0))
        (text,) = judge(run, 1).advice
        assert "2h 00m apart" in text
        assert "one every 13m 51s costs least" in text
        assert "4.2 % of the time" in text
        assert "1.0 %" in text

    @pytest.mark.parametrize(
        "story", [(periodic(20.0), periodic(700.0), saved(save=4.0)), (periodic(20.0), periodic(7220.0))]
    )
    def test_nothing_is_said_when_it_is_short_enough_or_a_save_was_not_measured(
        self, story: tuple[StoryView, ...]
    ) -> None:
        assert judge(detail(*story, ended(), one=before(exit_code=0)), 1).advice == ()

    def test_the_rate_of_loss_is_the_users(self) -> None:
        run = detail(periodic(20.0), periodic(700.0), saved(save=4.0), ended(), one=before(exit_code=0))
        assert judge(run, 1, mtbf=3600.0).advice

    def test_none_at_all_is_as_long_as_it_trained(self) -> None:
        one = before(exit_code=0, started_at=0.0, ended_at=7200.0)
        (text,) = judge(detail(saved(save=4.0), ended(), one=one), 1).advice
        assert "at least 2h 00m apart" in text
