"""What the fuzzer found worth keeping, and the poison that was thought of by hand: replayed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from runctl_testing.fuzzing import corpus, decode_any, listener, pieces


@pytest.mark.parametrize("path", corpus("decode"), ids=lambda path: path.name)
def test_decode(path: Path) -> None:
    """An input that once made `decode` raise something else, or take memory without bound, does so again."""
    data = path.read_bytes()
    tracemalloc.start()
    try:
        decode_any(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (16 << 20) + 100 * len(data)


def test_hear(tmp_path: Path) -> None:
    """A life that once made the loop, the core or the store raise, does so again."""
    with listener(tmp_path) as listening:
        for path in corpus("hear"):
            listening.hear(path.read_bytes())


def test_the_corpus_is_small_and_says_something() -> None:
    """A corpus that has grown without end, or that holds nothing any more."""
    for name, least in (("decode", 40), ("hear", 10)):
        found = corpus(name)
        assert least <= len(found) <= 500
        assert sum(path.stat().st_size for path in found) < 1 << 20
    lives = [[decode_any(piece) for piece in pieces(path.read_bytes())] for path in corpus("hear")]
    kinds = {message.envelope.kind for life in lives for message in life if message is not None}
    assert {"Registered", "TrainingStarted", "CheckpointCommitted", "NoticeReceived", "AttemptEnded"} <= kinds
