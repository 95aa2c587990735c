"""Which checkpoints the formats call complete, and what step they find, on files as they really are."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runctl_agent.formats import choose, npy, zips
from runctl_agent.formats.base import Entry, Verdict
from runctl_agent.formats.naming import epoch_in, step_in
from runctl_agent.watcher.scan import look_at


class Bomb:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return pytest.fail, ("something was unpickled",)


def npz_bytes(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **{name: np.asarray(value) for name, value in arrays.items()})
    return buffer.getvalue()


def torch_bytes(pickled: bytes | None = None) -> bytes:
    """What torch.save writes: a pickle and the tensors' bytes in a zip archive, uncompressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Bomb()) if pickled is None else pickled)
        archive.writestr("model/byteorder", "little")
        archive.writestr("model/data/0", bytes(range(256)) * 64)
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


def entry(folder: Path, name: str) -> Entry:
    found = look_at(folder, name)
    assert found is not None
    return found


def put(folder: Path, name: str, data: bytes) -> Entry:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return entry(folder, name.partition("/")[0])


def check(found: Entry) -> Verdict:
    return choose(found).check(found)


WHOLE = {"ckpt.npz": npz_bytes(w=np.arange(3000.0), step=7), "ckpt.pt": torch_bytes()}


@pytest.mark.parametrize(("name", "kind"), [("ckpt.npz", "npz"), ("ckpt.pt", "torch")])
def test_a_whole_archive_is_complete(tmp_path: Path, name: str, kind: str) -> None:
    found = put(tmp_path, name, WHOLE[name])
    assert choose(found).name == kind
    assert choose(found).signed
    assert check(found) == Verdict(True)


@pytest.mark.parametrize("name", list(WHOLE))
def test_a_truncated_archive_never_is(tmp_path: Path, name: str) -> None:
    whole = WHOLE[name]
    for length in [*range(4, len(whole), 97), *range(len(whole) - 100, len(whole))]:
        found = put(tmp_path, name, whole[:length])
        assert not check(found).complete, length


@pytest.mark.parametrize("name", list(WHOLE))
def test_a_hole_in_the_data_is_found(tmp_path: Path, name: str) -> None:
    whole = bytearray(WHOLE[name])
    whole[8192:12288] = bytes(4096)
    verdict = check(put(tmp_path, name, bytes(whole)))
    assert not verdict.complete
    assert "damaged" in verdict.reason


@pytest.mark.parametrize("name", list(WHOLE))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 30_000),
    flips=st.lists(st.tuples(st.integers(0, 30_000), st.binary(min_size=1, max_size=40))),
)
@example(cut=0, flips=[(3, b"\x01")])  # members that begin before the file does
def test_garbage_gets_a_verdict_and_never_an_exception(
    tmp_path: Path, name: str, cut: int, flips: list[tuple[int, bytes]]
) -> None:
    data = bytearray(WHOLE[name])
    for at, value in flips:
        # Most of what zipfile believes stands at the end.
        at = len(data) - 1 - at % 600 if at % 2 else at % len(data)
        data[at : at + len(value)] = value
    found = put(tmp_path, name, bytes(data[: len(data) - cut % 50] if cut % 3 else data) or b"x")
    kind = choose(found)
    kind.check(found)
    kind.step(found)
    kind.epoch(found)


def test_a_large_archive_is_not_read_whole_but_its_members_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "ALL_BYTES", 1000)
    assert check(put(tmp_path, "a.npz", WHOLE["ckpt.npz"])).complete
    broken = bytearray(WHOLE["ckpt.npz"])
    broken[0:30] = bytes(30)  # where the first member begins
    assert not check(put(tmp_path, "a.npz", bytes(broken))).complete


def test_an_npz_that_holds_something_else_is_not_complete(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w.npy", b"no array at all")
    assert not check(put(tmp_path, "a.npz", buffer.getvalue())).complete
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert not check(put(tmp_path, "b.npz", empty.getvalue())).complete


def test_a_zip_without_a_pickle_is_not_a_whole_torch_file(tmp_path: Path) -> None:
    assert not check(put(tmp_path, "a.pt", WHOLE["ckpt.npz"])).complete


def test_an_old_torch_file_is_left_to_the_generic_format(tmp_path: Path) -> None:
    found = put(tmp_path, "step_5.pt", pickle.dumps(Bomb()))
    assert (choose(found).name, choose(found).signed) == ("generic", False)
    assert check(found).complete
    assert choose(found).step(found) == 5


def test_arrays_of_objects_are_looked_at_but_not_unpickled(tmp_path: Path) -> None:
    bombs = np.array([Bomb()], dtype=object)
    data = npz_bytes(step=np.array([Bomb()], dtype=object), w=bombs)
    found = put(tmp_path, "step-12.npz", data)
    assert check(found).complete
    assert choose(found).step(found) == 12


# -- folders


def test_a_folder_is_complete_unless_something_in_it_says_otherwise(tmp_path: Path) -> None:
    put(tmp_path, "checkpoint-5/model.safetensors", b"x" * 100)
    found = put(tmp_path, "checkpoint-5/rng/state_0.pth", WHOLE["ckpt.pt"])
    assert (choose(found).name, choose(found).step(found)) == ("generic", 5)
    assert check(found).complete
    verdict = check(put(tmp_path, "checkpoint-5/optimizer.pt", WHOLE["ckpt.pt"][:-10]))
    assert not verdict.complete
    assert verdict.reason.startswith("optimizer.pt: ")


@pytest.mark.parametrize(
    ("part", "index"),
    [
        ("model-{:05d}-of-00003.safetensors", "model.safetensors.index.json"),
        ("diffusion_pytorch_model.fp16-{:05d}-of-00003.bin", "diffusion_pytorch_model.bin.index.fp16.json"),
        ("ckpt-7.data-{:05d}-of-00003", "ckpt-7.index"),
        ("unet/model-{:05d}-of-00003.safetensors", "unet/model.safetensors.index.json"),
    ],
)
def test_numbered_parts_want_all_the_others_and_their_index(tmp_path: Path, part: str, index: str) -> None:
    """A checkpoint of many files that is stored before the one that makes sense of them is there."""
    put(tmp_path, "checkpoint-5/config.json", b"{}")
    put(tmp_path, "checkpoint-5/model.index.json", b"")  # of another folder, or not written yet
    for number in (1, 2):
        found = put(tmp_path, f"checkpoint-5/{part.format(number)}", b"x")
    assert check(found).reason.endswith("2 of its 3 parts are there")
    found = put(tmp_path, f"checkpoint-5/{part.format(3)}", b"x")
    assert check(found).reason.endswith("the index of its 3 parts is not there")
    assert check(put(tmp_path, f"checkpoint-5/{index}", b"{}")).complete


@pytest.mark.parametrize("name", ["part-1-of-4.pt", "data-00000-of-00004.npy", "model-00001-of-00004.pt"])
def test_parts_by_another_habit_are_not_judged(tmp_path: Path, name: str) -> None:
    """A checkpoint that would never be stored, for want of a file that nobody writes."""
    assert check(put(tmp_path, f"checkpoint-5/{name}", WHOLE["ckpt.pt"])).complete


def test_a_folder_that_is_marked_as_unfinished_is_not_complete(tmp_path: Path) -> None:
    put(tmp_path, "checkpoint-5/model.bin", b"x")
    found = put(tmp_path, "checkpoint-5/checkpoint-is-incomplete.txt", b"")
    assert not check(found).complete


def test_nothing_is_no_checkpoint(tmp_path: Path) -> None:
    assert not check(put(tmp_path, "model.pt", b"")).complete
    put(tmp_path, "d/one", b"")
    assert not check(put(tmp_path, "d/two", b"")).complete


def test_what_vanishes_is_an_ordinary_error(tmp_path: Path) -> None:
    found = put(tmp_path, "a.npz", WHOLE["ckpt.npz"])
    kind = choose(found)
    (tmp_path / "a.npz").unlink()
    with pytest.raises(FileNotFoundError):
        kind.check(found)


# -- steps


@pytest.mark.parametrize(
    ("name", "step", "epoch"),
    [
        ("step-000123", 123, None),
        ("step-000123.npz", 123, None),
        ("checkpoint_500", 500, None),
        ("checkpoint-500", 500, None),
        ("model.step=120.pt", 120, None),
        ("epoch=3-step=400.ckpt", 400, 3.0),
        ("epoch=3-step=400-v1.ckpt", 400, 3.0),
        ("global_step100", 100, None),
        ("iter_0000100", 100, None),
        ("model_17.ubj", 17, None),
        ("ckpt-12.npz", 12, None),
        ("120", 120, None),
        ("model-epoch03-loss0.25.ckpt", None, 3.0),
        ("checkpoint_epoch_3.pt", None, 3.0),
        ("final.npz", None, None),
        ("resnet-50.pt", None, None),
        ("llama-7b", None, None),
        ("model-7b.pt", None, None),
        ("model-1.5.pt", None, None),
        ("model-2024-01-31.pt", None, None),
        ("checkpoint-20240131120000999", None, None),
        ("misstep9x.pt", None, None),
        ("step-" + "9" * 11, 99_999_999_999, None),
        ("step-٣", None, None),
    ],
)
def test_the_step_that_a_name_tells(name: str, step: int | None, epoch: float | None) -> None:
    assert (step_in(name), epoch_in(name)) == (step, epoch)


@pytest.mark.parametrize("member", ["step", "global_step", "iteration"])
@pytest.mark.parametrize("kind", ["<i8", ">i8", "<i4", "<u2", "|u1", "<f8", "<f4"])
def test_the_step_inside_an_npz_counts_more_than_its_name(tmp_path: Path, member: str, kind: str) -> None:
    data = npz_bytes(**{member: np.array(42, dtype=kind), "epoch": np.array([3], dtype=kind)})
    found = put(tmp_path, "step-7.npz", data)
    assert (choose(found).step(found), choose(found).epoch(found)) == (42, 3.0)


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), float("inf"), [1, 2], "12", True, 1e300, 2**62])
def test_what_cannot_be_a_step_is_none(tmp_path: Path, value: object) -> None:
    found = put(tmp_path, "step-7.npz", npz_bytes(step=value))
    assert choose(found).step(found) == 7


def test_numpy_agrees_on_headers() -> None:
    arrays = (np.zeros((2, 3), ">f4"), np.array(1), np.zeros(2, [("a", "<i4")]), np.zeros((1,), "U5"))
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array)
        buffer.seek(0)
        header = npy.read_header(buffer)
        assert header.shape == array.shape
        assert header.descr in (array.dtype.str, None)


@pytest.mark.parametrize(
    "text",
    [
        b"__import__('os').abort()",
        b"(" * 60_000,
        b"{'descr': 1}",
        b"{'descr':'<i8','fortran_order':0,'shape':3}",
    ],
)
def test_a_hostile_header_is_only_refused(text: bytes) -> None:
    data = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
    with pytest.raises(ValueError, match="its"):
        npy.read_header(io.BytesIO(data))
