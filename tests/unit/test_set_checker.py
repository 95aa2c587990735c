"""The checker of the faults itself: one that sees nothing passes everything."""

from __future__ import annotations

from runctl_testing.set_checker import verdict


def test_each_kind_is_seen() -> None:
    """A checker that takes a loss for a delay, or a message out of nowhere for one that was sent."""
    found = verdict(
        attempted=["a", "b", "c", "d"], confirmed=["a", "b", "c"], processed=["a", "b", "b", "d", "x"]
    )
    assert found.lost == {"c"}
    assert found.duplicated == {"b"}
    assert found.unexpected == {"x"}
    assert found.recovered == {"d"}


def test_nothing_is_wrong_with_what_is_right() -> None:
    """One that cries wolf."""
    found = verdict([1, 2], [1, 2], [2, 1])
    assert not any(found)
