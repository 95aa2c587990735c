"""Judging a rehearsal: every verdict, and every row of the report."""

from __future__ import annotations

from typing import Any

import pytest

from runctl_controller.cli.output import to_json
from runctl_controller.rehearsal import advice
from runctl_controller.rehearsal.evidence import successor
from runctl_controller.rehearsal.report import Finding, Verdict, judge
from runctl_controller.rehearsal.show import show
from runctl_shared.messages.replies import AttemptView, RunDetail, RunView, StoryView
from runctl_shared.spec import RunSpec

SPEC = RunSpec(run="run-abcd1234", name="digits", command=("true",), workdir="/", store="file:///c")


def told(at: float, attempt: int, kind: str, **data: Any) -> StoryView:
    return StoryView(at=at, attempt=attempt, kind=kind, text=kind, actor="agent", data=data)


def before(**changes: Any) -> AttemptView:
    """The attempt that was interrupted: it reached step 120 and saved 118."""
    fields: dict[str, Any] = {
        "attempt": 1, "state": "ended", "reason": "interrupted", "started_at": 10.0, "ended_at": 130.0,
        "last_step": 120, "saved_step": 118, "lost_seconds": 2.0,
    }  # fmt: skip
    return AttemptView(**(fields | changes))


def after(**changes: Any) -> AttemptView:
    """The one that resumed at 118 and reported 119 first."""
    fields: dict[str, Any] = {
        "attempt": 2, "state": "training", "started_at": 140.0, "resumed_from": "manifests/118",
        "restored_step": 118, "first_step": 119,
    }  # fmt: skip
    return AttemptView(**(fields | changes))


DRILL = told(100.0, 1, "drill")
NOTICE = told(100.8, 1, "notice")
ASKED = told(101.0, 1, "save", cause="notice", seconds_after_cause=0.2)
SAVED = told(
    105.0, 1, "checkpoint", trigger="notice", save_seconds=1.5, upload_seconds=0.5, size=2000,
    manifest="manifests/118",
)  # fmt: skip
FIRST = told(150.0, 2, "first_step")
STORY = (DRILL, NOTICE, ASKED, SAVED, FIRST)


def detail(
    *attempts: AttemptView, story: tuple[StoryView, ...] = STORY, state: str = "training", **run: Any
) -> RunDetail:
    view = RunView(run=SPEC.run, name="digits", project="default", state=state, **run)
    return RunDetail(run=view, spec=SPEC, attempts=attempts, machines=(), ledger=(), story=story)


def found(*attempts: AttemptView, story: tuple[StoryView, ...] = STORY) -> Finding:
    (finding,) = judge(detail(*attempts, story=story), 1).findings
    return finding


class TestVerdicts:
    def test_it_saved_in_time_and_resumed_where_it_was(self) -> None:
        finding = found(before(), after())
        assert (finding.verdict, finding.advice) == (Verdict.PASS, ())

    def test_a_first_step_equal_to_the_restored_one_is_a_resume(self) -> None:
        assert found(before(), after(first_step=118)).verdict is Verdict.PASS

    def test_it_did_not_save_when_it_was_asked_to(self) -> None:
        """Periodic checkpoints do not make a pass: the work since the last one was lost."""
        periodic = told(90.0, 1, "checkpoint", trigger="periodic", manifest="manifests/118")
        finding = found(before(), after(), story=(periodic, DRILL, NOTICE, ASKED, FIRST))
        assert (finding.verdict, finding.advice) == (Verdict.WARNING, (advice.SAVE_ON_SIGNAL,))
        assert (finding.save_took, finding.upload_took, finding.size) == (None, None, None)

    def test_it_saved_but_an_older_one_was_restored(self) -> None:
        finding = found(before(), after(resumed_from="manifests/90", restored_step=90, first_step=91))
        assert finding.verdict is Verdict.WARNING
        assert "older" in finding.why
        assert finding.steps_lost == 30

    def test_it_began_again_below_what_was_restored(self) -> None:
        story = (*STORY[:-1], told(150.0, 2, "not_resumed"))
        finding = found(before(), after(first_step=1), story=story)
        assert (finding.verdict, finding.advice) == (Verdict.FAIL, (advice.RESUME_ARGUMENT,))
        assert "step 1, below the restored 118" in finding.why

    def test_no_step_was_reported(self) -> None:
        finding = found(before(), after(first_step=None), story=STORY[:-1])
        assert (finding.verdict, finding.advice) == (Verdict.FAIL, (advice.PRINT_STEPS,))

    def test_the_step_of_the_checkpoint_is_not_known(self) -> None:
        finding = found(before(), after(restored_step=None))
        assert (finding.verdict, finding.advice) == (Verdict.FAIL, (advice.PRINT_STEPS,))
        assert finding.steps_lost is None  # and not all of them

    @pytest.mark.parametrize("reason", ["user_error", "out_of_memory"])
    def test_it_failed_when_it_resumed(self, reason: str) -> None:
        failed = after(state="ended", reason=reason, detail="KeyError: 'optimizer'", first_step=None)
        finding = found(before(), failed, story=STORY[:-1])
        assert (finding.verdict, finding.advice) == (Verdict.FAIL, (advice.LOADS,))
        assert "KeyError: 'optimizer'" in finding.why

    def test_there_was_no_checkpoint_at_all(self) -> None:
        finding = found(
            before(saved_step=None), after(resumed_from=None, restored_step=None, first_step=1),
            story=(DRILL, NOTICE, ASKED, FIRST),
        )  # fmt: skip
        assert (finding.verdict, finding.advice) == (Verdict.FAIL, (advice.SAVE_AT_ALL,))
        assert finding.steps_lost == 120

    def test_there_was_one_and_nothing_was_restored(self) -> None:
        finding = found(before(), after(resumed_from=None, restored_step=None, first_step=1))
        assert finding.verdict is Verdict.FAIL
        assert "nothing was restored" in finding.why

    def test_no_new_attempt(self) -> None:
        finding = found(before(reason="user_error"))
        assert finding.verdict is Verdict.FAIL
        assert "no new attempt was made (user_error)" in finding.why

    def test_the_machine_was_never_taken(self) -> None:
        finding = found(before(state="training", reason=None, ended_at=None), story=(DRILL,))
        assert (finding.verdict, finding.why) == (Verdict.FAIL, "the interruption did not happen")

    def test_it_ended_before_it_could_be_interrupted(self) -> None:
        report = judge(
            detail(before(reason="user_error", detail="No such file"), story=(), state="failed"), 1
        )
        (finding,) = report.findings
        assert (finding.verdict, finding.advice) == (Verdict.FAIL, (advice.INTERRUPT_EARLIER,))
        assert "failed" in finding.why
        assert "No such file" in finding.why

    def test_without_a_single_attempt_there_is_still_a_report(self) -> None:
        report = judge(detail(story=(), state="stuck"), 1)
        assert (report.verdict, report.findings[0].attempt) == (Verdict.FAIL, 0)


class TestSuccessor:
    def test_a_replacement_that_never_trained_is_passed_over(self) -> None:
        dead = AttemptView(attempt=2, state="ended", reason="boot_failed")
        third = after(attempt=3)
        run = detail(before(), dead, third)
        assert successor(run, 1) == third
        story = (*STORY[:-1], told(150.0, 3, "first_step"))
        assert found(before(), dead, third, story=story).verdict is Verdict.PASS

    def test_if_none_has_trained_it_is_the_last(self) -> None:
        second = AttemptView(attempt=2, state="ended", reason="boot_failed")
        third = AttemptView(attempt=3, state="booting")
        assert successor(detail(before(), second, third), 1) == third
        assert successor(detail(before()), 1) is None


class TestReport:
    def test_the_worst_of_several_is_the_verdict(self) -> None:
        second = after(ended_at=230.0, state="ended", reason="interrupted", last_step=200, saved_step=150)
        third = after(attempt=3, resumed_from="manifests/150", restored_step=150, first_step=151)
        story = (*STORY, told(200.0, 2, "drill"), told(250.0, 3, "first_step"))
        report = judge(detail(before(), second, third, story=story), 2)
        assert [f.verdict for f in report.findings] == [Verdict.PASS, Verdict.WARNING]
        assert report.verdict is Verdict.WARNING
        assert judge(detail(before(), second, third, story=story), 3).verdict is Verdict.FAIL

    def test_an_attempt_that_was_drilled_twice_is_one_column(self) -> None:
        report = judge(detail(before(), after(), story=(DRILL, *STORY)), 1)
        assert len(report.findings) == 1

    def test_whether_it_finished(self) -> None:
        report = judge(detail(before(), after(), state="succeeded", exit_code=0), 1)
        assert (report.finished, report.exit_code, report.run, report.name) == (True, 0, SPEC.run, "digits")
        assert not judge(detail(before(), after(), state="cancelled"), 1).finished

    def test_the_numbers(self) -> None:
        finding = found(before(), after())
        assert finding.notice_seen_after == pytest.approx(0.8)
        assert finding.signal_after == pytest.approx(1.0)
        assert (finding.save_took, finding.upload_took, finding.size) == (1.5, 0.5, 2000)
        assert (finding.step_saved, finding.step_restored, finding.first_step) == (118, 118, 119)
        assert finding.steps_lost == 2
        assert finding.seconds_lost == pytest.approx(20.0 + 2.0)

    def test_what_is_not_known_is_left_out(self) -> None:
        finding = found(before(), after(), story=(DRILL, FIRST))
        assert (finding.notice_seen_after, finding.signal_after, finding.save_took) == (None, None, None)

    def test_odd_data_in_the_story_is_no_crash(self) -> None:
        odd = told(105.0, 1, "checkpoint", trigger="notice", save_seconds="soon", size=None)
        finding = found(before(), after(), story=(DRILL, NOTICE, odd, FIRST))
        assert (finding.save_took, finding.size) == (0.0, 0)


class TestShown:
    def rows(self, text: str) -> dict[str, str]:
        lines = [line for line in text.splitlines() if line and not line.startswith((" ", "verdict:"))]
        return {line.rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[1].strip() for line in lines}

    def test_every_row(self, capsys: pytest.CaptureFixture[str]) -> None:
        show(judge(detail(before(), after()), 1))
        out = capsys.readouterr().out
        assert self.rows(out) == {
            "notice seen after": "800 ms",
            "signal delivered after": "1.0s",
            "save took": "1.5s",
            "upload took": "500 ms",
            "ended after the signal": "-",
            "notice needed": "3.0s",
            "bytes": "2.0 kB",
            "step saved": "118",
            "step restored": "118",
            "first step after resume": "119",
            "steps lost": "2",
            "seconds lost": "22s",
            "verdict": "pass",
        }
        assert "verdict: pass" in out.splitlines()

    def test_the_advice_comes_once_and_nothing_reaches_the_terminal_unescaped(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        story = (*STORY[:-1], told(199.0, 2, "drill"))
        bad = after(
            detail="\x1b[2Jboom\x07", state="ended", reason="user_error", first_step=None, ended_at=200.0
        )
        worse = after(attempt=3, reason="user_error", detail="\x1b[31mred", first_step=None)
        show(judge(detail(before(), bad, worse, story=story), 2))
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\x07" not in out
        assert out.count(advice.LOADS) == 1
        assert "verdict: fail" in out

    def test_as_json(self) -> None:
        text = to_json(judge(detail(before(), after()), 1))
        assert '"verdict": "pass"' in text
        assert '"steps_lost": 2' in text
