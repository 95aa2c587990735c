"""Durations and sizes, as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_shared.errors import UsageError
from runctl_shared.units import LONGEST, format_bytes, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("90s", 90.0),
        (" 2m ", 120.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1m250ms", 60.25),
        ("2d", 172800.0),
        ("0.5h", 1800.0),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "90x", "-5", "-5s", "1 0s", "1h 30", "h1", "1e3", "nan", "inf", "1..5s", "9" * 400, "٣s"],
)
def test_anything_else_is_refused_with_a_mend(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "1h30m" in caught.value.mend
    assert len(str(caught.value)) < 300


@given(st.text(alphabet="0123456789.smhd ", max_size=12) | st.text(max_size=20))
def test_a_duration_is_one_that_a_message_can_hold_or_an_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except UsageError:
        return
    assert 0 <= seconds <= LONGEST


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (0.42, "0.4s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (12, "12s"),
        (59.6, "1m 00s"),
        (125, "2m 05s"),
        (3599.7, "1h 00m"),
        (11400, "3h 10m"),
        (86399.9, "1d 0h"),
        (187200, "2d 4h"),
        (-125, "-2m 05s"),
    ],
)
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (1_400_000, "1.4 MB"),
        (999_960, "1.0 MB"),  # and not "1000.0 kB"
        (3_000_000_000, "3.0 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (-1_400_000, "-1.4 MB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_no_size_below_a_thousand_terabytes_has_more_than_three_digits_before_the_point(count: int) -> None:
    assert len(format_bytes(count).split(" ")[0].split(".")[0]) <= 3 or count >= 999_950_000_000_000
