"""The GPUs through NVIDIA's own binding: over a library made for the test, and over none at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl_agent.hardware.nvml import LIBRARY
from runctl_testing.eventually import eventually

LIB = Path(__file__).parents[1] / "lib" / "runctl_testing"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that NVIDIA's binding takes for the driver's."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a stand-in for the driver's library with")
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / LIBRARY, LIB / "fake_nvml.c"], check=True, timeout=60
    )
    return folder


class Watch:
    """The watch in a process of its own. `machine`: where the test tells what happens to the GPUs."""

    def __init__(self, machine: Path, library: Path | None, **happened: str) -> None:
        machine.mkdir()
        self.machine, self._out = machine, machine / "out"
        for name, value in happened.items():
            self.happens(name, value)
        env = os.environ | {"FAKE_NVML": str(machine), "PYTHONPATH": str(LIB.parent)}
        env["LD_LIBRARY_PATH"] = "" if library is None else str(library)
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, LIB / "watch_gpus.py"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=env,
            )

    def happens(self, name: str, value: str = "1") -> None:
        (self.machine / name).write_text(value)

    @property
    def said(self) -> str:
        return self._out.read_text()

    def lines(self, kind: str) -> list[Any]:
        found = [line.partition(" ") for line in self.said.splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(rest) for word, _, rest in found if word == kind]

    def faults(self, count: int) -> list[Any]:
        eventually(lambda: len(self.lines("fault")) >= count, what=f"{count} faults")
        return self.lines("fault")

    def sampled(self, count: int) -> list[Any]:
        """The newest sample, once it is of so many GPUs."""
        eventually(lambda: len((self.lines("sample") or [[]])[-1]) == count, what=f"{count} GPUs")
        newest = self.lines("sample")[-1]
        assert isinstance(newest, list)
        return newest

    def close(self) -> str:
        self.process.communicate(timeout=30)
        return self.said


@pytest.fixture
def watch(tmp_path: Path, library: Path) -> Iterator[Watch]:
    it = Watch(tmp_path / "machine", library)
    yield it
    it.close()
    assert it.process.returncode == 0, it.said
    assert "Traceback" not in it.said


def test_without_a_driver_it_says_so_once_and_imports_nothing(tmp_path: Path) -> None:
    """An agent on a machine without GPUs that pays for their binding, or complains at each heartbeat."""
    if any(
        Path(folder, LIBRARY).exists() for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
    ):
        pytest.skip("this machine has an NVIDIA driver")
    watch = Watch(tmp_path / "machine", None)
    eventually(lambda: "gpus.none" in watch.said)
    said = watch.close()
    assert said.splitlines() == ["log gpus.none: there is no NVIDIA driver", "pynvml left alone"]


def test_a_driver_that_cannot_be_used_is_told_once(tmp_path: Path, library: Path) -> None:
    """A traceback, or a dead agent, where the kernel module and the library do not fit together."""
    watch = Watch(tmp_path / "machine", library, broken="1")
    eventually(lambda: "gpus.none" in watch.said)
    assert watch.close().splitlines() == [
        "log gpus.none: NVML cannot be used: Driver Not Loaded",
        "pynvml imported",
    ]


def test_what_the_driver_tells_of_them(watch: Watch) -> None:
    """A field of the binding read wrongly; a figure that this GPU does not have ends them all."""
    first, second = watch.sampled(2)
    assert first == {
        "index": 0, "device": "0000:3b:00", "name": "Pretend 0", "busy_percent": 40.0, "memory_used": 250,
        "memory_total": 1000, "celsius": 61.0, "watts": None, "ecc_errors": 0, "slowed_by": "heat",
    }  # fmt: skip
    assert (second["device"], second["busy_percent"], second["slowed_by"]) == ("0000:3c:00", 41.0, "")


def test_an_xid_is_told_as_it_comes(watch: Watch) -> None:
    """An error of a GPU that is noticed nowhere where the kernel's log may not be read."""
    watch.sampled(2)
    watch.happens("xid", "79")
    assert watch.faults(1) == [
        {
            "device": "0000:3c:00", "code": 79, "blame": "hardware",
            "meaning": "the GPU has fallen off the bus", "gone": True,
        }
    ]  # fmt: skip


def test_memory_errors_are_told_when_they_become_more(watch: Watch) -> None:
    """Errors of years ago taken for the reason of today's failure; new ones missed."""
    watch.sampled(2)
    watch.happens("ecc", "2")
    eventually(lambda: watch.sampled(2)[0]["ecc_errors"] == 2)
    (fault,) = watch.faults(1)
    assert (fault["meaning"], fault["code"], fault["gone"]) == (
        "2 uncorrectable memory errors (ECC)",
        None,
        False,
    )


def test_a_lost_gpu_is_told_once_and_the_other_is_still_watched(watch: Watch) -> None:
    """NVML answers at once, again and again, once a GPU is lost: a core burnt, and the same told for ever."""
    watch.sampled(2)
    watch.happens("lost")
    (fault,) = watch.faults(1)
    assert (fault["device"], fault["meaning"], fault["gone"]) == (
        "0000:3c:00",
        "the driver has lost the GPU",
        True,
    )
    watch.happens("ecc", "1")
    eventually(lambda: watch.sampled(1)[0]["ecc_errors"] == 1)
    assert [f["device"] for f in watch.faults(2)] == ["0000:3c:00", "0000:3b:00"]


def test_without_events_it_goes_on_at_its_pace(tmp_path: Path, library: Path) -> None:
    """GPUs whose driver has no events (a virtual one) are not watched at all."""
    watch = Watch(tmp_path / "machine", library, mute="1")
    watch.sampled(2)
    watch.happens("ecc", "3")
    eventually(lambda: watch.sampled(2)[0]["ecc_errors"] == 3)
    watch.close()
