"""The order in which checkpoints were handed over, which decides which of them counts as the newest."""

from __future__ import annotations

from runctl_agent.edges.versions import REMEMBERED, Versions


def test_however_many_wait_each_keeps_its_place() -> None:
    versions = Versions()
    names = [f"version-{n}" for n in range(3 * REMEMBERED)]
    for name in names:
        versions.number(name)
    # The first one is stored: if it had lost its place, it would count as newer than all that wait.
    first = versions.done(names[0])
    assert all(first < versions.number(name) for name in names[1:])


def test_failures_are_not_remembered_without_bound() -> None:
    versions = Versions()
    for n in range(REMEMBERED + 10):
        versions.failed(f"version-{n}", "no room")
    news, _ = versions.failed("version-0", "no room")
    assert news, "it was forgotten, so it is news again"
    news, _ = versions.failed(f"version-{REMEMBERED + 9}", "no room")
    assert not news
