"""The series of losses: small however long the training, whole whatever becomes of the agent."""

from __future__ import annotations

import math

import pytest

from runctl_agent.edges.losses import StoredLosses
from runctl_agent.progress.feed import ProgressFeed
from runctl_agent.progress.model import Kind, Progress
from runctl_agent.progress.series import LossSeries
from runctl_agent.progress.tracker import ProgressTracker
from runctl_shared.checkpoints.checks import SPEC
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.checkpoints.series import LONGEST_LINE, SEGMENT, Point, RunSeries
from runctl_shared.clock import FakeClock


class Lab:
    """A series, told of a loss each second, and the store that it goes to."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.store.put(SPEC, b"")
        self.runs = RunSeries(self.store, "run-abcd1234")
        self.tracker, self.series = ProgressTracker(), LossSeries()
        self.kept = StoredLosses(self.series, self.runs, 2)
        self.tick = 0.0

    def say(self, progress: Progress, after: float = 1.0) -> None:
        self.tick += after
        self.tracker.observe(progress, wall=1000.0 + self.tick, tick=self.tick)
        self.series.observe(progress, self.tracker, wall=1000.0 + self.tick, tick=self.tick)

    def steps(self, begin: int, end: int, after: float = 1.0) -> None:
        for step in range(begin, end):
            self.say(Progress(step=step, loss=1 / step), after)

    def read(self) -> list[int | None]:
        self.kept.bring_up()
        return [point.step for point in self.runs.read(2)]


def test_each_second_one_loss() -> None:
    lab = Lab()
    lab.steps(1, 41, after=0.25)
    assert lab.read() == list(range(1, 41, 4))
    lab.steps(41, 49, after=0.25)
    assert lab.read() == list(range(1, 49, 4))


def test_a_month_is_kept_in_a_few_megabytes() -> None:
    """A store that fills up, or an agent, by what a training prints."""
    lab = Lab()
    lab.steps(1, 5001)
    lab.kept.bring_up()
    for begin in range(5001, 105_001, 4000):
        lab.steps(begin, begin + 4000, after=26.0)
        lab.kept.bring_up()
    points = lab.runs.read(2)
    assert lab.tick > 30 * 86400 - 1e4
    assert 10_000 < len(points) < 45_000
    assert sum(info.size for info in lab.store.list("series/")) < len(points) * LONGEST_LINE
    assert points[-1].step is not None
    assert points[-1].step > 104_900
    assert [p.step for p in points[:100]] == list(range(1, 101))  # what came first is as fine as ever
    assert all(len(lab.store.get(i.key).splitlines()) <= SEGMENT + 1 for i in lab.store.list("series/"))


def test_a_loss_that_is_no_number_any_more_is_never_left_out() -> None:
    lab = Lab()
    lab.steps(1, 5)
    lab.say(Progress(step=5, loss=math.nan), after=0.01)
    lab.kept.bring_up()
    assert math.isnan(lab.runs.read(2)[-1].loss)


def test_a_store_that_is_away_costs_neither_points_nor_memory_without_end() -> None:
    lab = Lab()
    lab.store.fail_once("list", ObjectStoreError("away"))
    lab.steps(1, 600)
    with pytest.raises(ObjectStoreError):
        lab.kept.bring_up()
    assert lab.read() == list(range(1, 600))
    for _ in range(100):
        lab.steps(1, 20_000, after=5.0)
    assert sum(len(points) for _, points in lab.series.unstored()) <= 17 * SEGMENT


def test_an_agent_that_restarts_goes_on_where_the_one_before_was() -> None:
    """Points twice, or a segment of the agent before that is written over: its successor reads the output
    again from the beginning."""
    before = Lab()
    before.steps(1, 21)
    before.read()
    after = Lab(before.store)
    after.steps(1, 31)
    assert after.read() == list(range(1, 31))
    after.steps(31, 33)
    assert after.read() == list(range(1, 33))


def test_the_loss_before_its_bar_is_of_the_bars_step() -> None:
    """As the Hugging Face Trainer prints them."""
    lab = Lab()
    lab.say(Progress(step=5, kind=Kind.BAR))
    lab.say(Progress(loss=0.5, epoch=1.0))
    lab.say(Progress(step=10, kind=Kind.BAR))
    lab.say(Progress(loss=0.25))
    lab.series.end(lab.tracker, lab.tick)
    assert lab.read() == [10, 10]


def test_what_was_tampered_with_is_passed_over() -> None:
    store = Lab().store
    runs = RunSeries(store, "run-abcd1234")
    runs.put_segment(1, 0, [Point(step=None, time=1.5, loss=math.inf)])
    data = store.get("series/00001/000000.csv")
    store.put("series/00001/000001.csv", data + b"1,2,3\n\xff,1,1,1\n" + b"9" * 9999 + b"\n7,8.0,,0.5\n")
    assert [(p.step, p.loss) for p in runs.read(1)] == [(None, math.inf), (None, math.inf), (7, 0.5)]
    assert (runs.attempts(), runs.read(3)) == ([1], [])


def test_the_feed_takes_the_losses() -> None:
    feed = ProgressFeed(FakeClock())
    feed.chunk(0, b"step=3 loss=1.5\n")
    assert feed.losses.news
