"""The live tail: only while somebody asks, from where he asks, and never a backlog without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl_agent.edges.follow import BACKLOG, PIECE, Follower


class Tail:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.sent: list[tuple[int, bytes]] = []
        self.follower = Follower(path, lambda offset, data: self.sent.append((offset, data)))

    def prints(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def taken(self) -> list[tuple[int, bytes]]:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def tail(tmp_path: Path) -> Tail:
    return Tail(tmp_path / "output.log")


def test_nobody_asks_and_nothing_is_sent(tail: Tail) -> None:
    tail.prints(b"abc")
    tail.follower.pump(10.0)
    assert tail.sent == []


def test_from_the_present_end_on(tail: Tail) -> None:
    tail.prints(b"old")
    tail.follower.follow(15.0, None, 10.0)
    tail.follower.pump(10.0)
    tail.prints(b"new")
    tail.follower.pump(11.0)
    tail.follower.pump(12.0)
    assert tail.sent == [(3, b"new")]


def test_from_an_offset_on(tail: Tail) -> None:
    tail.prints(b"0123456789")
    tail.follower.follow(15.0, 4, 10.0)
    tail.follower.pump(10.0)
    assert tail.sent == [(4, b"456789")]


def test_it_ends_when_nobody_asks_any_more(tail: Tail) -> None:
    tail.follower.follow(15.0, 0, 10.0)
    tail.prints(b"a")
    tail.follower.pump(25.0)
    tail.prints(b"b")
    tail.follower.pump(25.1)
    assert tail.sent == [(0, b"a")]


def test_asking_again_goes_on_where_it_was_without_a_gap(tail: Tail) -> None:
    tail.follower.follow(15.0, 0, 10.0)
    tail.prints(b"a")
    tail.follower.pump(10.0)
    tail.prints(b"b")
    tail.follower.follow(15.0, None, 20.0)
    tail.follower.pump(30.0)
    assert tail.sent == [(0, b"a"), (1, b"b")]


def test_a_shorter_wish_does_not_end_a_longer_one(tail: Tail) -> None:
    tail.follower.follow(60.0, 0, 10.0)
    tail.follower.follow(1.0, None, 10.0)
    tail.prints(b"a")
    tail.follower.pump(50.0)
    assert tail.sent == [(0, b"a")]


def test_after_a_pause_it_begins_at_the_present_end_again(tail: Tail) -> None:
    tail.follower.follow(1.0, 0, 10.0)
    tail.prints(b"nobody was there")
    tail.follower.follow(15.0, None, 100.0)
    tail.prints(b"now")
    tail.follower.pump(100.0)
    assert tail.sent == [(16, b"now")]


def test_pieces_are_small_enough_for_a_message_and_join_without_a_gap(tail: Tail) -> None:
    data = bytes(range(256)) * 1000
    tail.prints(data)
    tail.follower.follow(15.0, 0, 10.0)
    tail.follower.pump(10.0)
    assert max(len(piece) for _, piece in tail.sent) <= PIECE
    assert b"".join(piece for _, piece in tail.sent) == data
    assert all(data[offset : offset + len(piece)] == piece for offset, piece in tail.sent)


def test_a_long_backlog_is_skipped(tail: Tail) -> None:
    tail.prints(b"x" * (BACKLOG + 1) + b"end")
    tail.follower.follow(15.0, 0, 10.0)
    tail.follower.pump(10.0)
    assert tail.sent[0][0] > BACKLOG // 2
    assert tail.sent[-1][1].endswith(b"end")


def test_a_file_that_is_not_there_yet_or_cannot_be_read_is_no_error(tail: Tail) -> None:
    tail.follower.follow(15.0, None, 10.0)
    tail.follower.pump(10.0)
    tail.path.mkdir()
    tail.follower.follow(15.0, 0, 10.0)
    tail.follower.pump(10.0)
    assert tail.sent == []
