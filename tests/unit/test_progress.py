"""What a training's output says about progress, and what it only seems to say."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl_agent.progress.feed import ProgressFeed
from runctl_agent.progress.model import Kind, Progress
from runctl_agent.progress.parse import MAX_LINE, is_whole_bar, may_hold_progress, parse_line
from runctl_agent.progress.sampler import LineSampler
from runctl_agent.progress.tracker import ProgressTracker
from runctl_shared.clock import FakeClock

BAR = "45%|████▌     | 450/1000 [00:10<00:12, 43.2it/s, loss=0.12]"

SAID = {
    "step=17 loss=0.25 epoch=2": (17, 2, 0.25),
    "step: 17, loss: 2.5e-1": (17, None, 0.25),
    "STEP 17 | LOSS 0.25": (17, None, 0.25),
    "steps: 10/100": (10, None, None),
    "Step 120/1000": (120, None, None),
    "Epoch 3": (None, 3, None),
    "Epoch [3/10], Step [120/1000], Loss: 0.1234": (120, 3, 0.1234),
    "[epoch 2] step 17": (17, 2, None),
    "global_step=9 (step 3 of the epoch)": (9, None, None),
    "global step 9": (9, None, None),
    "saved at step 100.": (100, None, None),
    "step 12,500: loss 1,0": (12500, None, None),
    "iter 100: loss 1.5, time 12ms, mfu 3.2%": (100, None, 1.5),
    "step 250: train loss 1.25, val loss 1.5": (250, None, 1.25),
    "val loss 1.5, train_loss 1.25": (None, None, 1.25),
    " iteration  100/  5000 | time per iteration (ms): 12.5 | lm loss: 1.5E+00 | loss scale: 1.0 |": (
        100,
        None,
        1.5,
    ),
    "Epoch: [3][ 120/1000]\tTime 0.1 (0.1)\tLoss 1.5e+00 (2.5e+00)": (120, 3, 1.5),
    "2024-01-01 10:11:12,123 - INFO - Epoch(train)  [1][ 50/391]  lr: 1e-2  loss: 2.5": (50, 1, 2.5),
    "{'loss': 0.5, 'grad_norm': 1.5, 'learning_rate': 5e-05, 'epoch': 0.02}": (None, 0.02, 0.5),
    "{'loss': '0.5', 'epoch': '0.02'}": (None, 0.02, 0.5),
    'INFO:root:{"step": 17, "loss": 0.5}': (17, None, 0.5),
    '{"step": 1, "train/loss": 0.5}': (1, None, 0.5),
    '{"step": 1, "metrics": {"loss": 0.5, "step": 7}, "epoch": 2}': (1, 2, 0.5),
    '{"Global_Step": 5.0, "val_loss": 3}': (5, None, None),
    "loss=nan step=3": (3, None, math.nan),
    "loss: inf": (None, None, math.inf),
    "loss=-inf": (None, None, -math.inf),
    '{"step": 3, "loss": NaN}': (3, None, math.nan),
    "loss: tensor(0.5, device='cuda:0') step 2": (2, None, 0.5),
    "\x1b[1;32mstep\x1b[0m: \x1b[36m17\x1b[0m": (17, None, None),
    BAR: (450, None, 0.12),
    f"\x1b[AEpoch 3: {BAR}": (450, 3, 0.12),
    f"Epochs: {BAR}": (None, 450, 0.12),
    "Steps:  3%|3  | 450/15000 [00:10<00:12,  2.1s/it, lr=0.1, step_loss=0.5]": (450, None, 0.5),
    "45%|4 | 450/1000 [00:10<00:12, 43.2it/s, loss=0.12, step=8450]": (8450, None, 0.12),
    "450it [00:10, 43.2it/s, loss=0.5]": (450, None, 0.5),
    "450/1000 [=====>......] - 12s 23ms/step - accuracy: 0.9 - loss: 0.5": (450, None, 0.5),
}  # fmt: skip

UNSAID = [
    "timestep=5",
    "lr_step=5 loss_scale=65536",
    "loss scale: 65536.0",
    "max_steps=1000 total_steps: 5 warmup_steps=3",
    "max steps: 1000, total steps 5",
    "Namespace(epochs=50, steps=1000, batch=32)",
    "  Num Epochs = 3",
    "  Total optimization steps = 1000",
    "evaluating every 100 steps",
    "step_time=0.5 steps/sec: 3.5 step 30% step 3s step 0.5",
    "epoch: 1700000000.123",
    "GET https://example.org/train?step=3&epoch=4",
    "wrote out/step=17.ckpt and out/epoch=2-step=17.ckpt",
    "step 2024-01-01",
    "val_loss=0.5 eval/loss: 0.25 best loss 0.1",
    "Resumed from checkpoint: step=450 loss=0.1",
    '{"event": "restored", "step": 450}',
    "loading checkpoint of step 450",
    "model.safetensors: 45%|4 | 450/1000 [00:10<00:12, 43.2MB/s]",
    "Loading checkpoint shards: 100%|#| 2/2 [00:01<00:00, 1.5it/s]",
    "Evaluating: 45%|4 | 450/1000 [00:10<00:12, 43.2it/s, loss=3.0]",
    "  0%|          | 0/1000 [00:00<?, ?it/s]",
    "Map: 45%|4 | 450/1000 [00:10<00:12, 43.2 examples/s]",
    '{"steps": 10, "loss": "low", "epoch": true, "step": -3}',
    "step",
    "",
]


@pytest.mark.parametrize("line", SAID)
def test_said(line: str) -> None:
    found = parse_line(line.encode())
    assert found is not None
    step, epoch, loss = SAID[line]
    assert (found.step, found.epoch) == (step, epoch)
    assert repr(found.loss) == repr(loss)  # NaN is no equal of itself


@pytest.mark.parametrize("line", UNSAID)
def test_unsaid(line: str) -> None:
    assert parse_line(line.encode()) is None


def test_the_kind_of_a_step_says_what_it_is_worth() -> None:
    lines = ["step 1", "iter 1", "batch 1/9", BAR, f"steps: {BAR}"]
    kinds = [found.kind for found in map(parse_line, (line.encode() for line in lines)) if found]
    assert kinds == [Kind.STEP, Kind.ITERATION, Kind.BATCH, Kind.BAR, Kind.STEP]


_PIECES = 'step loss epoch = : 1 9999999999 . e nan / %| | [ ] { } " train_ \x1b[ \x1b] \r it/s 00:0 , load é'
_WORDS = st.sampled_from([*_PIECES.split(" "), " "])


@given(st.one_of(st.binary(max_size=300), st.lists(_WORDS, max_size=60).map(lambda w: "".join(w).encode())))
@settings(max_examples=600, deadline=None)
def test_never_raises_and_the_cheap_look_misses_nothing(line: bytes) -> None:
    found = parse_line(line)
    is_whole_bar(line)
    assert found is None or (may_hold_progress(line) and found.says_something())
    assert found is None or found.step is None or 0 <= found.step < 2**63


@given(st.integers(0, 2**63 - 1), st.floats(), st.sampled_from(["step={} loss={}", "Step: {} - loss: {}"]))
def test_numbers_come_back_as_printed(step: int, loss: float, form: str) -> None:
    number = step % 10**18  # as many digits as anybody's steps have
    for line in (form.format(number, loss), json.dumps({"step": number, "loss": loss})):
        found = parse_line(line.encode())
        assert found is not None
        assert found.step == number
        assert repr(found.loss) == repr(loss)


@pytest.mark.parametrize(
    "piece",
    ["a", "1", " ", "step", "step ", "step=", "step=1,", "loss 1", "loss=1.", "1%|", "1%||1/1[", "1it [0:",
     "load", "loading ", "\x1b[", "\x1b]", "\x1b[0", "epoch [1][", "{", '{"a":', "[", "-", "e" * 9, "1/",
     "global_"],
)  # fmt: skip
@pytest.mark.timeout(30)
def test_the_worst_lines_take_no_time(piece: str) -> None:
    """A regular expression gone wild takes minutes for such lines; a good one milliseconds."""
    for prefix, suffix in (("step", ""), ("loss=", "x"), ("{", "}"), ("", " loss: ")):
        line = (prefix + piece * (MAX_LINE // len(piece)) + suffix).encode()[:MAX_LINE]
        parse_line(line)
        parse_line(line[:4096])


def feed(sampler: LineSampler, text: str, tick: float = 0.0) -> list[int | None]:
    return [progress.step for progress in sampler.feed(text.encode(), tick)]


class TestSampler:
    def test_lines_come_together_across_chunks(self) -> None:
        sampler = LineSampler()
        assert feed(sampler, "step=1\nste") == [1]
        assert feed(sampler, "p=12") == []
        assert feed(sampler, "34\r\nstep=5") == [1234]
        assert sampler.pause() == []  # may go on to be step=57
        assert [progress.step for progress in sampler.end()] == [5]

    def test_bars_end_at_carriage_returns_and_the_newest_is_read_while_it_waits(self) -> None:
        sampler = LineSampler()
        assert feed(sampler, f"\r{BAR}\r{BAR.replace('450', '451')}") == [450]
        assert [progress.step for progress in sampler.pause()] == [451]
        assert sampler.pause() == []
        assert feed(sampler, f"\r{BAR.replace('450', '452')}\n") == [452]

    def test_half_a_bar_is_left_alone(self) -> None:
        sampler = LineSampler()
        feed(sampler, f"\r{BAR[:-9]}")
        assert sampler.pause() == []

    def test_a_burst_is_sampled_with_its_first_and_last_line(self) -> None:
        sampler = LineSampler()
        steps = feed(sampler, "".join(f"step={n}\n" for n in range(5000)))
        assert steps[0] == 0
        assert steps[-1] == 4999
        assert len(steps) <= 20
        # The allowance is spent; the last line is read all the same.
        assert feed(sampler, "".join(f"step={n}\n" for n in range(5000, 9000)), 0.01) == [8999]
        assert len(feed(sampler, "step=1\n" * 30, 10.0)) == 20

    def test_the_last_line_of_progress_counts_not_the_last_line(self) -> None:
        assert feed(LineSampler(), "step=1\n" + "step=2\nsaved\nhello\n")[-1] == 2

    def test_the_last_step_counts_though_the_traceback_below_it_speaks_of_steps(self) -> None:
        """Else the report of a training that failed says less than it did."""
        sampler = LineSampler()
        feed(sampler, "step=1\n" * 30)
        burst = "".join(f"step={n}\n" for n in range(2, 90)) + "loss: 0.5\n"
        frame = '  File "train.py", line 7, in main\n    save(folder, step, total)\n'
        assert feed(sampler, burst + "Traceback (most recent call last):\n" + frame * 10, 0.01) == [89, None]

    def test_an_endless_line_costs_no_memory_and_ends(self) -> None:
        sampler = LineSampler()
        for _ in range(100):
            assert feed(sampler, "." * MAX_LINE) == []
            assert len(sampler._rest) <= MAX_LINE
        assert feed(sampler, " step=1\nstep=2\n") == [2]

    def test_a_hundred_megabytes_at_once_are_passed_over_with_little_work(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A training that prints without end: each line of it that the agent looks at is taken from the
        training."""
        parsed: list[int] = []

        def counted(line: bytes) -> Progress | None:
            parsed.append(len(line))
            return parse_line(line)

        monkeypatch.setattr("runctl_agent.progress.sampler.parse_line", counted)
        sampler = LineSampler()
        block = b"".join(b"step=%08d loss=0.5 and some more of this\n" % n for n in range(6000))[: 256 << 10]
        last = None
        for n in range(400):
            found = sampler.feed(block + b"\nstep=%d\n" % n, n / 100)  # 100 MB in four seconds
            last = found[-1].step
        assert last == 399  # and yet where it is now is known
        assert sampler.looked_at < 6 << 20
        assert len(parsed) < 600
        assert sum(parsed) < 60_000

    def test_in_a_large_piece_the_beginning_and_the_end_are_looked_at(self) -> None:
        """The first step of an attempt is what proves a resume."""
        text = "step=41\n" + "x" * 200_000 + "\nstep=42\n" + "y" * 200_000 + "\nstep=43\n"
        assert feed(LineSampler(), text) == [41, 43]

    @given(st.lists(st.integers(0, 99), max_size=15), st.data())
    def test_wherever_chunks_are_cut(self, steps: list[int], data: st.DataObject) -> None:
        text = b"".join(b"step=%d\n" % step for step in steps)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
        sampler = LineSampler()
        found: list[int | None] = []
        for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            found += [progress.step for progress in sampler.feed(text[begin:end], float(end))]
        assert found == steps


def track(*sightings: tuple[float, Progress]) -> ProgressTracker:
    tracker = ProgressTracker()
    for at, progress in sightings:
        tracker.observe(progress, wall=1000.0 + at, tick=at)
    return tracker


class TestTracker:
    def test_values_stay_until_told_anew(self) -> None:
        tracker = track((0, Progress(step=5, loss=0.5)), (1, Progress(epoch=2.0)), (2, Progress(step=6)))
        assert (tracker.step, tracker.epoch, tracker.loss, tracker.first_step) == (6, 2.0, 0.5, 5)

    def test_a_named_step_outranks_a_bar_from_then_on(self) -> None:
        bar = Progress(step=3, kind=Kind.BAR, total=10)
        tracker = track((0, bar), (1, Progress(step=100)), (2, bar), (3, Progress(step=101)))
        assert (tracker.step, tracker.first_step, tracker.kind) == (101, 100, Kind.STEP)
        assert tracker.step_before(1000.5) is None  # the bar's counter is no step

    def test_a_shorter_bar_is_an_evaluation(self) -> None:
        tracker = track(
            (0, Progress(step=450, kind=Kind.BAR, total=1000)), (1, Progress(step=2, kind=Kind.BAR, total=10))
        )
        assert tracker.step == 450

    def test_step_before(self) -> None:
        tracker = track(*((float(n), Progress(step=n * 10)) for n in range(5)))
        assert tracker.step_before(999.0) is None
        assert tracker.step_before(1002.0) == 20
        assert tracker.step_before(1002.9) == 20
        assert tracker.step_before(9999.0) == 40

    def test_a_long_history_errs_low_and_stays_small(self) -> None:
        tracker = track(*((float(n), Progress(step=n)) for n in range(50_000)))
        assert len(tracker._history) <= 2048
        for wall in (1010.0, 5000.0, 30_000.0, 50_900.0):
            step = tracker.step_before(wall)
            assert step is not None
            assert step <= wall - 1000

    def test_rate(self) -> None:
        assert track((0, Progress(step=1))).rate(0) is None
        assert track((0, Progress(step=0)), (2, Progress(step=10)), (4, Progress(step=20))).rate(4) == 5.0
        # Only the last minute counts, and a restart begins anew.
        minutes = track(*((n * 20.0, Progress(step=n * n)) for n in range(7)))
        assert minutes.rate(120) == pytest.approx(27 / 60)
        assert track((0, Progress(step=900)), (1, Progress(step=3)), (2, Progress(step=4))).rate(2) == 1.0

    def test_the_rate_falls_while_nothing_is_reported(self) -> None:
        """A training that hangs and is shown as fast as ever."""
        tracker = track((0, Progress(step=0)), (4, Progress(step=20)))
        assert tracker.rate(13) == 5.0
        assert tracker.rate(40) == 0.5

    def test_the_length_of_an_epochs_bar_is_not_the_trainings(self) -> None:
        """An ETA that is an epoch's."""
        bar = [Progress(step=n, kind=Kind.BAR, total=10) for n in (5, 10, 5)]
        assert track((0, bar[0]), (1, bar[1])).total == 10
        assert track(*enumerate(bar)).total is None
        assert track((0, Progress(epoch=1, epochs=3)), (1, bar[0])).total is None

    def test_batches_of_epochs_are_counted_through(self) -> None:
        """A step that begins anew with each epoch; an epoch's number that is believed to be one too high."""
        bars = [
            Progress(step=9, epoch=epoch, kind=Kind.BAR, total=10, epochs=5, within=True)
            for epoch in (1, 2, 0)
        ]
        assert (track((0, bars[1])).step, track((0, bars[1])).kind) == (19, Kind.COUNTED)
        known = track((0, bars[2]), (1, bars[0]))
        assert (known.step, known.kind, known.total) == (19, Kind.ITERATION, 50)

    def test_an_epochs_line_that_was_not_read(self) -> None:
        batches = [Progress(step=n, kind=Kind.BATCH, total=10, within=True, first_epoch=1) for n in (3, 9, 2)]
        tracker = track((0, Progress(epoch=1, epochs=2)), *enumerate(batches))
        assert (tracker.step, tracker.epoch) == (12, 2)


def test_the_feed_tells_of_news_only() -> None:
    clock = FakeClock()
    news: list[int] = []
    feeder = ProgressFeed(clock, lambda: news.append(1))
    feeder.chunk(0, b"hello\nstep=3 loss=1.5\n")
    feeder.chunk(22, b"nothing\nstep=4")
    assert (feeder.tracker.step, news) == (3, [1])
    feeder.end()
    assert (feeder.tracker.step, news) == (4, [1, 1])
    assert feeder.tracker.step_before(clock.now()) == 4
