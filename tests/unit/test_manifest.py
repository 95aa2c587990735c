"""Names and contents of manifests and claims: exact there and back, and nothing else gets in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_shared.checkpoints.checks import load_manifest
from runctl_shared.checkpoints.manifest import (
    NO_STEP,
    Claim,
    FileEntry,
    Manifest,
    ManifestDamaged,
    NameParts,
    claim_name,
    decode_claim,
    decode_manifest,
    encode,
    end_name,
    manifest_name,
    parse_claim_name,
    parse_name,
)
from runctl_shared.checkpoints.memory import MemoryStore

ATTEMPTS, SEQUENCES = st.integers(0, 99_999), st.integers(0, 999_999)
STEPS = st.none() | st.integers(0, NO_STEP - 1)
SHA = "0" * 64
RUN = "run-1234"


def manifest(*paths: str, root: str = "ck", single_file: bool = False, **other: object) -> Manifest:
    files = tuple(FileEntry(path, 3, SHA, 1) for path in paths or ("ck/a", "ck/b/c"))
    plain = Manifest(
        id="ck-1a",
        run=RUN,
        attempt=2,
        sequence=7,
        step=4100,
        format="generic",
        root=root,
        single_file=single_file,
        files=files,
        written_at=1.0,
        committed_at=2.0,
    )
    return msgspec.structs.replace(plain, **other)


@given(attempt=ATTEMPTS, sequence=SEQUENCES, step=STEPS)
def test_names_there_and_back(attempt: int, sequence: int, step: int | None) -> None:
    made = manifest_name(attempt, sequence, step, "ck-0z")
    assert parse_name(made) == NameParts(attempt, sequence, step, "ck-0z", made)
    assert parse_claim_name(claim_name(attempt)) == attempt
    assert parse_claim_name(end_name(attempt)) is None


@given(
    left=st.tuples(ATTEMPTS, SEQUENCES), right=st.tuples(ATTEMPTS, SEQUENCES), steps=st.tuples(STEPS, STEPS)
)
def test_one_listing_orders_them(
    left: tuple[int, int], right: tuple[int, int], steps: tuple[int | None, int | None]
) -> None:
    if left != right:
        first, second = (
            manifest_name(*at, step, "ck-1") for at, step in zip((left, right), steps, strict=True)
        )
        assert (first < second) == (left < right)


@given(st.text(st.sampled_from("manifests/0123456789-ck.jon\n٣"), max_size=50) | st.text())
def test_other_keys_are_not_taken_for_manifests(key: str) -> None:
    parts = parse_name(key)
    assert parts is None or parts.name == key == manifest_name(
        parts.attempt, parts.sequence, parts.step, parts.id
    )
    assert parse_name(manifest_name(1, 2, 3, "ck-1") + key) is None or not key
    assert parse_name(manifest_name(1, 2, 3, "ck-1").replace("1", "١")) is None


def test_contents_there_and_back() -> None:
    made = manifest(step=None, epoch=1.5)
    assert decode_manifest(encode(made), made.name) == made
    assert made.size == 6
    taken = Claim(run=RUN, attempt=3, agent="agent-1-3", parent=made.name, claimed_at=1.0)
    assert decode_claim(encode(taken), 3) == taken


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"\0" * 100, b"[" * 100_000, b'{"id": 1}']
)
def test_damage_is_damage(data: bytes) -> None:
    with pytest.raises(ManifestDamaged):
        decode_manifest(data, "manifests/x")
    with pytest.raises(ManifestDamaged):
        decode_claim(data, 1)


def test_anothers_content_is_damage() -> None:
    made = manifest()
    other = manifest(sequence=8)
    with pytest.raises(ManifestDamaged, match="holds the manifest of"):
        decode_manifest(encode(made), other.name)
    taken = Claim(run=RUN, attempt=3, agent="agent-1-3", parent=None, claimed_at=1.0)
    with pytest.raises(ManifestDamaged, match="holds the claim of attempt 3"):
        decode_claim(encode(taken), 4)


def load(made: Manifest) -> Manifest:
    store = MemoryStore()
    store.put(made.name, encode(made))
    return load_manifest(store, RUN, made.name)


@pytest.mark.parametrize(
    "good",
    [
        manifest(),
        manifest("model.npz", root="model.npz", single_file=True),
        manifest("a.npz", "b.npz", root="."),
        manifest("deep/er/a", "deep/er/b", root="deep/er"),
        manifest("ck/a b", "ck/é\n", "ck/…", "ck/..a"),
    ],
)
def test_what_is_sound_is_loaded(good: Manifest) -> None:
    assert load(good) == good


@pytest.mark.parametrize(
    "forged",
    [
        manifest("../../evil"),
        manifest("/etc/evil", root="."),
        manifest("ck/../../evil"),
        manifest("ck/..", root="."),
        manifest("ck//a"),
        manifest("ck/a\0"),
        manifest("ck/" + "x" * 300),
        manifest("ck/" + "x/" * 400 + "x"),
        manifest("ck/a", root=".."),
        manifest("ck/a", root="/"),
        manifest("ck/a", root=""),
        manifest("ck/a", "ck/a"),
        manifest("ck/a", "ck/a/b"),
        manifest("ckx/a"),
        manifest("ck/a", root="ck", single_file=True),
        manifest("ck", root="ck"),
        manifest(files=()),
        manifest(run="run-other"),
        manifest(files=(FileEntry("ck/a", -1, SHA, 1),)),
        manifest(files=(FileEntry("ck/a", 1, "0" * 63 + "g", 1),)),
        manifest(files=(FileEntry("ck/a", 1, SHA + "\n", 1),)),
        manifest(files=(FileEntry("ck/a", 1, SHA, 1 << 70),)),
        manifest(files=(FileEntry("ck/a", 1, SHA, -1),)),
    ],
)
def test_what_is_forged_is_refused(forged: Manifest) -> None:
    with pytest.raises(ManifestDamaged) as refused:
        load(forged)
    assert str(refused.value).startswith(forged.name)
