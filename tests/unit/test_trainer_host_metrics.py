"""Samples of the real machine, compared with what it is known to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from runctl_agent.host_metrics import HostMetrics


def test_a_sample(tmp_path: Path) -> None:
    metrics = HostMetrics(tmp_path / "not" / "made" / "yet")
    first, second = metrics.sample(None), metrics.sample(None)
    assert first.cpu_percent is None
    assert second.cpu_percent is not None
    assert 0 <= second.cpu_percent <= 100
    assert first.memory_total == psutil.virtual_memory().total
    assert 0 < first.memory_used < first.memory_total
    assert first.disk_free is not None
    assert abs(first.disk_free - shutil.disk_usage(tmp_path).free) < 2**30
    assert first.trainer_rss is None


def test_the_training_s_memory_includes_its_children_s(tmp_path: Path) -> None:
    size = 40 * 2**20
    hold = f"x = bytearray(b'x' * {size}); print('up', flush=True); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        rss = HostMetrics(tmp_path).sample(process.pid).trainer_rss
        process.communicate(b"\n")
    assert rss is not None
    assert size < rss < 4 * size
    assert HostMetrics(tmp_path).sample(process.pid).trainer_rss is None
