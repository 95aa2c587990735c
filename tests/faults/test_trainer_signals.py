"""Trainings that take our signal otherwise than they should, however they are started."""

from __future__ import annotations

import random
import shutil
import sys

import psutil
import pytest

from runctl_shared.messages.replies import Done
from runctl_shared.messages.requests import InterruptRun, StopRun
from runctl_testing.ward import ODD, Ward


def _interrupt(ward: Ward, run: str, notice: float = 3.5) -> None:
    ward.house.client.ask(InterruptRun(run=run, notice=notice), Done)


@pytest.mark.parametrize("answer", ["exit-0", "save-and-fail", "exit-143", "go-on"])
def test_what_it_saved_when_asked_counts_however_it_ends(
    ward: Ward, answer: str, dice: random.Random
) -> None:
    """An exit code of 0, or an error, after our own signal, taken for a success or for its own fault."""
    run = ward.start("--when-asked", answer)
    ward.until("step", dice.randrange(11, 30))
    _interrupt(ward, run)
    first, second = ward.interrupted(run)
    saved = max(line.value for line in ward.witness.diary() if (line.attempt, line.kind) == (1, "asked"))
    assert second.restored_step is not None
    assert second.restored_step >= saved
    if answer != "go-on":
        assert first.saved_step == first.last_step == saved
        assert first.lost_steps == 0


@pytest.mark.parametrize("answer", ["ignore", "fail"])
def test_without_a_save_the_newest_checkpoint_counts(ward: Ward, answer: str, dice: random.Random) -> None:
    """A training that does not save when asked, and a report that hides what it cost."""
    run = ward.start("--when-asked", answer)
    ward.until("step", 12)
    ward.until_saved(run, 10)
    ward.until("step", dice.randrange(13, 19))
    _interrupt(ward, run, 1.5)
    first, second = ward.interrupted(run)
    assert (second.restored_step or 0) >= 10
    # What was stored in the machine's last moment may be told by nobody but the store.
    assert (second.restored_step or 0) >= (first.saved_step or 0)
    assert first.lost_steps == (first.last_step or 0) - (first.saved_step or 0)
    assert (first.lost_seconds or 0.0) > 0.0


@pytest.mark.parametrize("answer", ["exit-0", "save-and-fail"])
def test_a_stop_is_a_stop_however_it_ends(ward: Ward, answer: str, dice: random.Random) -> None:
    """A stopped run that is told to have succeeded, or to have failed."""
    run = ward.start("--when-asked", answer)
    ward.until("step", dice.randrange(1, 30))
    ward.house.client.ask(StopRun(run=run), Done)
    (attempt,) = ward.end(run, "paused", taken=1).attempts
    assert (attempt.reason, attempt.lost_steps) == ("stopped", 0)


def test_what_it_forks_goes_with_it(ward: Ward, dice: random.Random) -> None:
    """A daemon that hides from its family, its session and its environment, and trains on beside the next
    attempt: it holds the diary's lock for as long as it lives."""
    run = ward.start("--daemons")
    ward.until("step", dice.randrange(1, 30))
    ward.provider.interrupt(run, kind="rebalance")  # nobody takes the machine, and with it the daemons
    ward.until_ended(run)
    daemons = [line.value for line in ward.witness.diary() if (line.attempt, line.kind) == (1, "daemon")]
    assert len(daemons) == 2
    assert not [pid for pid in daemons if psutil.pid_exists(pid)]
    ward.interrupted(run)


def test_the_workers_live_until_it_has_saved(ward: Ward, dice: random.Random) -> None:
    """A signal to the whole group, which kills the data loader's workers and with them the save."""
    run = ward.start("--workers", "2")
    ward.until("step", dice.randrange(5, 25))
    _interrupt(ward, run)
    first, second = ward.interrupted(run)
    assert first.saved_step == first.last_step == second.restored_step
    assert "data-loader worker" not in ward.house.log(run, 1)


# -- how it is started ---------------------------------------------------------------------------

_RANKS = """
import os, signal, subprocess, sys
# As launchers are: its ranks are given no time once it is told to end, and it ends with the first that fails.
base = {name: value for name, value in os.environ.items() if name != 'TINY_DIARY'}
ranks = []
for rank in range(2):
    own = os.environ if rank == 0 else base  # the diary is rank 0's
    env = {**own, 'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2'}
    if rank:
        env['RUNCTL_CHECKPOINT_DIR'] = os.environ['RUNCTL_CHECKPOINT_DIR'] + '/.rank-1'
        os.makedirs(env['RUNCTL_CHECKPOINT_DIR'], exist_ok=True)
    words = [sys.executable, '-m', 'runctl_testing.odd_train', *sys.argv[1:]]
    said = subprocess.DEVNULL if rank else None  # as rank 0 keeps the diary, it alone says where it is
    ranks.append(subprocess.Popen(words, env=env, stdout=said))
def end(*_):
    print('the launcher was signalled', flush=True)
    for rank in ranks: rank.kill()
signal.signal(signal.SIGTERM, end)
codes = [rank.wait() for rank in ranks]
sys.exit(next((code % 256 for code in codes if code), 0))
"""


def _launcher(ward: Ward, kind: str) -> tuple[str, ...]:
    if kind == "ranks":
        return (sys.executable, ward.script("launch.py", _RANKS))
    words = " ".join(ODD)
    if kind == "bash":
        # Without `set -e`, and with something to do afterwards: the training's end is not the script's.
        return ("bash", ward.script("train.sh", f'{words} "$@"\ncode=$?\necho over\nexit $code\n'))
    if kind == "bash, and something after it":
        return ("bash", ward.script("train.sh", f'{words} "$@" || sleep 1000\n'))
    if kind == "a pipeline":
        return ("bash", ward.script("train.sh", f'set -o pipefail\n{words} "$@" 2>&1 | tee -a copy.log\n'))
    uv = shutil.which("uv") or shutil.which("uv", path=str(sys.prefix) + "/bin")
    if uv is None:
        pytest.skip("there is no uv here")
    return (uv, "run", "--offline", "--no-project", "--python", sys.executable, "python", *ODD[1:])


@pytest.mark.parametrize("kind", ["bash", "bash, and something after it", "a pipeline", "uv run", "ranks"])
def test_who_trains_is_asked_and_not_who_started_it(ward: Ward, kind: str, dice: random.Random) -> None:
    """A signal to the launcher, which kills what it launched or dies without telling it."""
    run = ward.start("--workers", "1", launcher=_launcher(ward, kind))
    ward.until("step", dice.randrange(1, 30))
    _interrupt(ward, run)
    first, second = ward.interrupted(run)
    assert first.saved_step == first.last_step == second.restored_step
    assert "the launcher was signalled" not in ward.house.log(run, 1)
