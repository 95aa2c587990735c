"""The report for people."""

from __future__ import annotations

from runctl_controller.cli.output import clean, table
from runctl_controller.rehearsal.report import Finding, Report
from runctl_shared.units import format_bytes, format_duration


def show(report: Report) -> None:
    """Print the findings, one column for each interruption, then the verdict and the advice."""
    rows = [[label, *(value(f) for f in report.findings)] for label, value in _ROWS]
    headings = ["", *(f"attempt {f.attempt}" for f in report.findings)]
    table(headings, rows, right=range(1, len(headings)))
    print(f"\nverdict: {report.verdict.value}")
    for finding in report.findings:
        print(f"  attempt {finding.attempt}: {clean(finding.why)}")
    tips = [tip for finding in report.findings for tip in finding.advice]
    for tip in dict.fromkeys((*tips, *report.advice)):
        print(f"  advice: {clean(tip)}")


def _seconds(value: float | None) -> str:
    if value is not None and value < 0.9995:  # and not 1: it is rounded when it is shown
        return f"{1000 * value:.0f} ms"
    return "-" if value is None else format_duration(value)


def _whole(value: int | None) -> str:
    return "-" if value is None else str(value)


def _size(finding: Finding) -> str:
    return "-" if finding.size is None else format_bytes(finding.size)


_ROWS = (
    ("notice seen after", lambda f: _seconds(f.notice_seen_after)),
    ("signal delivered after", lambda f: _seconds(f.signal_after)),
    ("save took", lambda f: _seconds(f.save_took)),
    ("upload took", lambda f: _seconds(f.upload_took)),
    ("ended after the signal", lambda f: _seconds(f.exit_took)),
    ("bytes", _size),
    ("notice needed", lambda f: _seconds(f.notice_needed)),
    ("step saved", lambda f: _whole(f.step_saved)),
    ("step restored", lambda f: _whole(f.step_restored)),
    ("first step after resume", lambda f: _whole(f.first_step)),
    ("steps lost", lambda f: _whole(f.steps_lost)),
    ("seconds lost", lambda f: _seconds(f.seconds_lost)),
    ("verdict", lambda f: f.verdict.value),
)
