"""Output in pieces, terminals that must not be taken over, and lines for people."""

from __future__ import annotations

import io
import json
import math
import random

import pytest

from runctl_controller.cli.exits import exit_code
from runctl_controller.cli.output import clean, table, to_json
from runctl_controller.cli.phases import Teller, at_risk, end_line, status_line
from runctl_controller.cli.screen import Screen
from runctl_controller.cli.terminal import Sanitizer
from runctl_controller.client.output import MOST_WAITING, OutputStream
from runctl_shared.messages.replies import AttemptView, RunDetail, RunView, StoryView
from runctl_shared.spec import RunSpec


def test_pieces_in_any_order_doubled_and_overlapping_make_the_output() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        whole = bytes(rng.randrange(256) for _ in range(300))
        cuts = sorted(rng.sample(range(1, 300), 12))
        pieces = [(a, whole[a:b]) for a, b in zip([0, *cuts], [*cuts, 300], strict=True)]
        begin = rng.randrange(200)
        pieces += [(begin, whole[begin : begin + rng.randrange(1, 100)]), *rng.sample(pieces, 5)]
        rng.shuffle(pieces)
        stream = OutputStream()
        assert b"".join(stream.take(1, offset, data) for offset, data in pieces) == whole
        assert not stream.gap


def test_a_gap_waits_and_can_be_given_up() -> None:
    stream = OutputStream()
    assert stream.take(1, 0, b"abc") == b"abc"
    assert stream.take(1, 5, b"fgh") == b""
    assert stream.gap
    assert stream.skip() == (2, b"fgh")
    assert (stream.offset, stream.gap) == (8, False)
    assert stream.skip() == (0, b"")


def test_a_later_attempt_waits_for_its_turn() -> None:
    stream = OutputStream()
    assert stream.take(2, 0, b"second") == b""
    assert not stream.gap
    assert stream.take(1, 0, b"first") == b"first"
    assert stream.begin(2) == b"second"
    assert stream.take(1, 5, b"too late") == b""


def test_what_waits_is_bounded() -> None:
    """A fast training and a hole: memory stays flat, and what was dropped can come again."""
    stream = OutputStream()
    piece = b"x" * 1_000_000
    for n in range(100):
        assert stream.take(1, 1 + n * len(piece), piece) == b""
    shown = len(stream.take(1, 0, b"!"))
    assert len(piece) <= shown <= MOST_WAITING + 1
    assert stream.take(1, stream.offset, piece) == piece


_HARMFUL = [
    b"\x1b]0;title\x07",
    b"\x1b]52;c;aGVsbG8=\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1b[2J",
    b"\x1b[?1049h",
    b"\x1b[6n",
    b"\x1bc",
    b"\x9b2J".replace(b"\x9b", b"\xc2\x9b"),
    b"\x07\x05\x0e",
    b"\x1b(0",
    b"\x1b#8",
]


@pytest.mark.parametrize("harmful", _HARMFUL)
def test_what_could_take_over_a_terminal_is_dropped(harmful: bytes) -> None:
    text = b"before " + harmful + b"after"
    assert Sanitizer().feed(text) in (b"before after", b"before 2Jafter")
    for cut in range(len(text)):  # in two pieces, cut anywhere
        parts = Sanitizer()
        together = parts.feed(text[:cut]) + parts.feed(text[cut:])
        assert together in (b"before after", b"before 2Jafter")


def test_colours_progress_bars_and_letters_stay() -> None:
    for text in (
        b"\x1b[1;31mred\x1b[0m",
        b"\r 43%|###\x1b[K",
        b"\x1b[A\x1b[2K\tgr\xc3\xbc\xc3\x9fe \xe2\x9c\x93\n\x08",
    ):
        parts = Sanitizer()
        assert b"".join(parts.feed(bytes([byte])) for byte in text) == text


@pytest.mark.parametrize("broken", [b"\x1b\n", b"\x1b[3\n1m", b"\x1b[31", b"\x1b]0;title\n", b"\x1b"])
def test_what_follows_half_an_escape_is_shown(broken: bytes) -> None:
    """Held back for ever, waiting for an end that does not come: it may be the last lines of a training."""
    screen = Sanitizer()
    shown = screen.feed(broken + b"Error: out of memory\n") + screen.end()
    assert shown.endswith(b"rror: out of memory\n")  # the E may end the sequence
    assert b"\x1b" not in shown


def test_bytes_that_are_no_text_are_no_commands() -> None:
    """On a terminal that is not set to UTF-8, 0x9b begins a command."""
    screen = Sanitizer()
    shown = b"".join(screen.feed(bytes([byte])) for byte in b"a\x9b5nb\xff\xc3\xbcc\xc3") + screen.end()
    assert shown.decode() == "a\ufffd5nb\ufffd\u00fcc\ufffd"


def test_colours_do_not_outlive_the_training() -> None:
    """A training that dies in the middle of red, or of hidden, text and leaves the user's shell so."""
    for output, ended in ((b"\x1b[1;31mred", True), (b"\x1b[8m", True), (b"\x1b[31mred\x1b[0m", False)):
        stream = Sanitizer()
        assert stream.feed(output) == output
        assert stream.end() == (b"\x1b[0m" if ended else b"")
    screen, out, err = _screen(True)
    screen.output(b"\x1b[31mred\n")
    screen.say("ours")
    screen.close()
    assert out.getvalue() == b"\x1b[31mred\n\x1b[0m"
    assert err.getvalue() == "runctl: ours\n"


def test_an_escape_that_never_ends_is_none() -> None:
    shown = Sanitizer().feed(b"\x1b]" + b"x" * 5000)
    assert shown == b"]" + b"x" * 5000


def test_clean_leaves_no_control_characters() -> None:
    nasty = "a\x1b[31mb\nc\rd\x00e\x9bf\u202eg\u2028h\ud800"
    assert clean(nasty) == "abcdefgh"


def _screen(terminal: bool) -> tuple[Screen, io.BytesIO, io.StringIO]:
    out, err = io.BytesIO(), io.StringIO()
    return Screen(out, err, out_is_terminal=terminal, err_is_terminal=terminal, width=lambda: 40), out, err


def test_piped_output_is_untouched_and_has_no_status() -> None:
    screen, out, err = _screen(terminal=False)
    screen.output(b"\x1b]0;x\x07\xff no newline")
    screen.status("training")
    screen.say("hello\x1b[2J")
    screen.close()
    assert out.getvalue() == b"\x1b]0;x\x07\xff no newline"
    assert err.getvalue() == "runctl: hello\n"


def test_the_status_line_comes_after_everything_else() -> None:
    screen, out, err = _screen(terminal=True)
    screen.status("at step 1 " + "." * 100)
    screen.output(b"a line\n")
    assert err.getvalue() == ("at step 1 " + "." * 100)[:39] + "\r\x1b[K" + ("at step 1 " + "." * 100)[:39]
    screen.close()
    assert err.getvalue().endswith("\r\x1b[K")
    assert out.getvalue() == b"a line\n"


def test_the_status_line_stays_out_of_a_line_that_is_begun() -> None:
    screen, _, err = _screen(terminal=True)
    screen.output(b"\r 43%")
    screen.status("training")
    assert err.getvalue() == ""
    screen.say("saved")
    assert err.getvalue() == "\nrunctl: saved\ntraining"


def test_json_that_no_terminal_obeys() -> None:
    """JSON escapes only what is below a space: 0x9b begins a command as well."""
    nasty = {"out": b"\x1b[2J\xc2\x9b2J\x7f\xe2\x80\xae\xc3\xbc"}
    text = to_json(nasty)
    assert json.loads(text) == {"out": "\x1b[2J\x9b2J\x7f\u202e\u00fc"}
    assert not [each for each in text if each != "\n" and (each < " " or "\x7f" <= each <= "\x9f")]
    assert "\u202e" not in text


def test_json_that_every_parser_takes() -> None:
    text = to_json({"a": math.nan, "b": [math.inf, 1.5], "c": b"\xff!", "d": "ü"})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5],
        "c": "\ufffd!",
        "d": "ü",
    }


def test_a_plain_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    table(["NAME", "STEP"], [["a", "1"], ["longer\x1b[1m", "100"]], right=(1,))
    assert capsys.readouterr().out == "NAME    STEP\na          1\nlonger   100\n"


# -- lines -------------------------------------------------------------------------------------


def _story(kind: str, text: str = "", at: float = 0.0, attempt: int = 1, **data: object) -> StoryView:
    return StoryView(at=at, attempt=attempt, kind=kind, text=text, actor="agent", data=data)


def _view(**changes: object) -> RunView:
    fields: dict[str, object] = {"run": "run-1111", "name": "cats", "project": "p", "state": "training"}
    return RunView(**(fields | changes))  # type: ignore[arg-type]  # a test's own fields


def _detail(view: RunView, *attempts: AttemptView) -> RunDetail:
    spec = RunSpec(run="run-1111", name="cats", command=("x",), workdir="/", store="file:///s")
    return RunDetail(run=view, spec=spec, attempts=attempts, machines=(), ledger=(), story=())


def test_periodic_checkpoints_are_told_seldom_and_others_always() -> None:
    teller = Teller()

    def told(at: float, trigger: str, attempt: int = 1) -> bool:
        item = _story("checkpoint", at=at, attempt=attempt, step=5, size=10, trigger=trigger)
        return teller.line(item) is not None

    assert [told(0, "periodic"), told(10, "periodic"), told(61, "periodic")] == [True, False, True]
    assert told(62, "notice")
    assert told(63, "periodic", attempt=2)


def test_lines_about_what_matters() -> None:
    teller = Teller()
    assert teller.line(_story("training", "training started from step 7", attempt=2)) == (
        "attempt 2: training started from step 7"
    )
    assert teller.line(_story("first_step", "first step: 1")) is None
    resumed = teller.line(_story("first_step", "first step: 8 (restored 7)", step=8, restored_step=7))
    assert resumed == "attempt 1: resumed, first step: 8 (restored 7)"
    assert teller.line(_story("run", "queued → provisioning")) is None
    assert teller.line(_story("claimed", "attempt 1 holds the lineage")) is None
    assert teller.line(_story("something new", "text")) is None
    assert teller.line(_story("machine", "gone", cause="interrupted")) == "gone"
    assert teller.line(_story("machine", "gone", cause="asked")) is None


def test_at_risk_says_seconds_and_steps() -> None:
    view = _view(at_risk_seconds=12.0, step=140, saved_step=100)
    assert at_risk(view) == "12s, 40 steps"
    assert at_risk(view, waited=3.0) == "15s, 40 steps"
    assert at_risk(_view(at_risk_seconds=12.0, step=1)) == "12s, 1 step"
    assert at_risk(_view(at_risk_seconds=12.0)) == "12s"
    assert at_risk(_view(state="failed", at_risk_seconds=12.0, step=3)) == ""


def test_the_status_line() -> None:
    view = _view(
        attempt=2, phase="training", step=5, loss=0.123456, saved_step=4, at_risk_seconds=2.0, unheard=True
    )
    assert status_line(view) == (
        "cats · training · attempt 2 · step 5 · loss 0.1235 · saved 4 · at risk 2.0s, 1 step · not heard"
    )
    fast = _view(phase="training", step=5, total_steps=90, steps_per_second=2.5, eta=34.0)
    assert status_line(fast) == "cats · training · step 5/90 · 2.5 steps/s · 34s left"
    assert "4.0s a step" in status_line(_view(phase="training", steps_per_second=0.25))
    assert status_line(_view(state="provisioning", phase="")) == "cats · provisioning"
    stalled = _view(phase="training", stalled_seconds=100.0)
    assert status_line(stalled, waited=5.0) == "cats · training · nothing for 1m 45s"


def test_the_end_is_told_once() -> None:
    detail = _detail(_view(state="stuck", why="no room", step=3))
    assert end_line(detail) == "cats is stuck and needs you: no room (step 3)"
    assert (
        end_line(detail, told="attempt 1 ended: refused (no room)") == "cats is stuck and needs you (step 3)"
    )


@pytest.mark.parametrize(
    ("state", "attempt", "code"),
    [
        ("succeeded", {"exit_code": 0}, 0),
        ("failed", {"exit_code": 7}, 7),
        ("failed", {"signal": "SIGSEGV"}, 139),
        ("failed", {"signal": "signal 35"}, 163),
        ("failed", {"exit_code": 127}, 127),
        ("cancelled", {"signal": "SIGKILL"}, 137),
        ("cancelled", {}, 125),
        ("cancelled", {"exit_code": 0}, 125),
        ("paused", {"exit_code": 143}, 75),
        ("stuck", {"exit_code": 1}, 125),
    ],
)
def test_exit_codes(state: str, attempt: dict[str, object], code: int) -> None:
    first = AttemptView(attempt=1, state="ended", exit_code=99)
    last = AttemptView(attempt=2, state="ended", **attempt)  # type: ignore[arg-type]  # a test's own fields
    attempts = (first, last) if attempt else ()
    assert exit_code(_detail(_view(state=state), *attempts)) == code
