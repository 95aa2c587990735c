"""Which checkpoints may be restored, whatever attempts were cut off and went on committing."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runctl_shared.checkpoints.lineage import eligible
from runctl_shared.checkpoints.manifest import Claim, manifest_name


def claim(attempt: int, parent: str | None) -> Claim:
    return Claim(run="run-1", attempt=attempt, agent=f"agent-1-{attempt}", parent=parent, claimed_at=0.0)


def name(attempt: int, sequence: int, step: int | None = None) -> str:
    return manifest_name(attempt, sequence, step, f"ck-{attempt}x{sequence}")


def names_of(claims: dict[int, Claim], names: list[str]) -> list[str]:
    return [parts.name for parts in eligible(claims, names)]


class Lineage(RuleBasedStateMachine):
    """Attempts claim, commit, are cut off, and commit all the same. `expected` is what the newest claimant
    itself would say: what it committed, on top of what it started from."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: dict[int, Claim] = {}
        self.names: list[str] = []
        self.sequences: dict[int, int] = {}
        self.expected: list[str] = []
        self.attempt = 0

    @rule(back=st.integers(0, 3), skipped=st.integers(0, 2))
    def claim_from_what_is_eligible(self, back: int, skipped: int) -> None:
        # Not always from the newest one: that may be damaged. Attempts may also end before they claim.
        self.attempt += 1 + skipped
        self.expected = self.expected[back:]
        parent = self.expected[0] if self.expected else None
        self.claims[self.attempt] = claim(self.attempt, parent)

    @precondition(lambda self: self.claims)
    @rule()
    def the_newest_commits(self) -> None:
        self.expected.insert(0, self.commit(self.attempt))

    @precondition(lambda self: len(self.claims) > 1)
    @rule(data=st.data())
    def a_cut_off_attempt_commits(self, data: st.DataObject) -> None:
        self.commit(data.draw(st.sampled_from(sorted(self.claims)[:-1])))

    @rule(data=st.data())
    def an_attempt_that_never_claims_commits(self, data: st.DataObject) -> None:
        skipped = [attempt for attempt in range(1, self.attempt) if attempt not in self.claims]
        self.commit(data.draw(st.sampled_from([*skipped, 99_999])))

    def commit(self, attempt: int) -> str:
        sequence = self.sequences[attempt] = self.sequences.get(attempt, 0) + 1
        self.names.append(name(attempt, sequence, step=sequence if sequence % 2 else None))
        return self.names[-1]

    @invariant()
    def only_the_newest_claims_lineage_is_eligible(self) -> None:
        listed = [*self.names, "run.json", "attempts/00001.json", "manifests/odd"]
        random.Random(len(listed)).shuffle(listed)
        found = names_of(self.claims, listed)
        assert found == self.expected
        assert found == sorted(found, reverse=True)


TestLineage = Lineage.TestCase
TestLineage.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


@given(
    parents=st.dictionaries(
        st.integers(0, 6),
        st.none()
        | st.builds(name, st.integers(0, 7), st.integers(0, 4))
        | st.sampled_from(["", "../x", "\0"]),
    ),
    names=st.lists(st.builds(name, st.integers(0, 7), st.integers(0, 4)), unique=True),
)
def test_forged_claims_come_to_an_end(parents: dict[int, str | None], names: list[str]) -> None:
    claims = {attempt: claim(attempt, parent) for attempt, parent in parents.items()}
    found = names_of(claims, names)
    assert found == sorted(set(found), reverse=True)
    assert set(found) <= set(names)
    assert all(int(made[10:15]) in claims for made in found)


def test_a_claim_that_names_itself_or_a_later_one_has_no_ancestors() -> None:
    names = [name(1, 1), name(2, 1), name(3, 1)]
    assert names_of({1: claim(1, name(2, 1)), 2: claim(2, name(1, 1))}, names) == [name(2, 1), name(1, 1)]
    assert names_of({2: claim(2, name(2, 1))}, names) == [name(2, 1)]
    assert names_of({2: claim(2, name(3, 1))}, names) == [name(2, 1)]


def test_a_cut_off_attempts_later_commits_are_not_restored() -> None:
    claims = {1: claim(1, None), 2: claim(2, name(1, 2))}
    names = [name(1, 1), name(1, 2), name(1, 3), name(2, 1)]
    assert names_of(claims, names) == [name(2, 1), name(1, 2), name(1, 1)]


def test_a_new_beginning_forgets_what_was() -> None:
    assert names_of({1: claim(1, None), 2: claim(2, None)}, [name(1, 1)]) == []
    assert names_of({}, [name(1, 1)]) == []
