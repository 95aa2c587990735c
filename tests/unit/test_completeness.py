"""The rules of completeness, without files: any order of events, and never a half-written checkpoint."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runctl_agent.formats.base import COMPLETE, FileStamp, Verdict, incomplete
from runctl_agent.watcher.completeness import BUSY_MOST, REJECTED_FIRST, Completeness, Look, Seen
from runctl_agent.watcher.lease import Lease
from runctl_agent.watcher.mounts import filesystem_type, is_far
from runctl_agent.watcher.scan import is_temporary

QUIET = 2.0
NAME = "checkpoint-5"


def stamp(size: int, path: str = NAME) -> FileStamp:
    return FileStamp(path, size, size, 1)


class Hands:
    """Completeness of one candidate, with its lease and its verdict in the test's hand."""

    def __init__(self, *, signed: bool) -> None:
        self.completeness = Completeness(QUIET)
        self.now = 100.0
        self.files: tuple[FileStamp, ...] = (stamp(1),)
        self.signed = signed
        self.known = False
        self.lease = Lease.FREE
        self.verdict = COMPLETE
        self.checks = 0
        self.asked = False

    def look(self, *, woken: bool = False, writer_gone: bool = False) -> Look:
        seen = {NAME: Seen(self.files, self.signed, self.known)} if self.files else {}
        self.asked = False
        return self.completeness.look(
            self.now, seen, self._lease, self._check, woken=woken, writer_gone=writer_gone
        )

    def _lease(self, name: str) -> Lease:
        self.asked = True
        return self.lease

    def _check(self, name: str) -> Verdict:
        self.checks += 1
        return self.verdict

    def ready_after(self, seconds: float) -> bool:
        self.now += seconds
        return bool(self.look().ready)


def test_a_signed_one_is_ready_at_once_where_there_are_leases() -> None:
    assert Hands(signed=True).look() == Look([NAME], None)


def test_without_leases_even_a_signed_one_has_to_be_quiet() -> None:
    hands = Hands(signed=True)
    hands.lease = Lease.UNKNOWN
    assert hands.look() == Look([], 102.0)
    assert hands.ready_after(QUIET)


def test_the_quiet_period_begins_anew_with_every_change() -> None:
    hands = Hands(signed=False)
    for size in range(2, 10):
        assert hands.look().next_look == hands.now + QUIET
        hands.now += QUIET - 0.01
        hands.files = (stamp(size),)
    assert hands.look().ready == []
    assert hands.ready_after(QUIET)


def test_what_is_written_again_and_again_is_told_from_what_was_left_alone() -> None:
    """Would tell somebody who saves all the time that he never saves."""
    hands = Hands(signed=False)
    for size in range(2, 14):
        hands.look()
        hands.now += QUIET / 4
        hands.files = (stamp(size),)
    hands.look(writer_gone=True)
    assert hands.completeness.restless(NAME) == "it was written to for 6 seconds, and never left alone for 2"

    hands = Hands(signed=False)
    for size in range(2, 14):
        hands.look()
        assert hands.ready_after(QUIET)
        hands.files = (stamp(size),)
    hands.look(writer_gone=True)
    assert hands.completeness.restless(NAME) is None


def test_the_quiet_period_begins_when_the_last_writer_has_gone() -> None:
    hands = Hands(signed=False)
    hands.lease = Lease.BUSY
    hands.look()
    assert not hands.ready_after(60)
    hands.lease = Lease.FREE
    assert not hands.ready_after(BUSY_MOST)
    assert not hands.ready_after(QUIET - 0.1)
    assert hands.ready_after(0.1)


def test_a_busy_one_is_asked_about_less_and_less_but_at_once_when_something_happens() -> None:
    hands = Hands(signed=True)
    hands.lease = Lease.BUSY
    waits = []
    for _ in range(10):
        next_look = hands.look().next_look
        assert next_look is not None
        waits.append(round(next_look - hands.now, 3))
        hands.now = next_look
        hands.files = (stamp(len(waits) + 1),)
    assert waits[0] == 0.05
    assert waits == sorted(waits)
    assert waits[-1] == BUSY_MOST
    hands.look()
    hands.now += 0.01
    hands.lease = Lease.FREE
    assert hands.look().ready == []
    assert hands.look(woken=True).ready == [NAME]


def test_one_that_is_not_whole_is_not_read_again_at_every_event() -> None:
    hands = Hands(signed=True)
    hands.verdict = incomplete("torn")
    for _ in range(100):
        hands.now += 0.02
        hands.look(woken=True)
    assert hands.checks == 1
    assert hands.completeness.waiting() == {NAME: "torn"}
    hands.verdict = COMPLETE
    assert hands.ready_after(REJECTED_FIRST)


def test_each_version_is_ready_once() -> None:
    hands = Hands(signed=True)
    assert hands.look().ready == [NAME]
    assert not hands.ready_after(1000)
    hands.files = (stamp(2),)
    assert hands.ready_after(0)
    hands.files = (FileStamp(NAME, 2, 2, 77),)
    assert hands.ready_after(0), "a new inode is a new file"


def test_a_known_version_is_never_ready() -> None:
    hands = Hands(signed=True)
    hands.known = True
    assert hands.look() == Look([], None)
    assert hands.look(writer_gone=True).ready == []


def test_one_that_only_loses_files_is_being_deleted() -> None:
    hands = Hands(signed=False)
    hands.files = tuple(stamp(size, f"{NAME}/{size}") for size in range(5))
    hands.look()
    assert hands.ready_after(QUIET)
    hands.files = hands.files[2:]
    for _ in range(3):
        assert not hands.ready_after(QUIET)
    assert hands.look(writer_gone=True).ready == []
    hands.files = (*hands.files, stamp(9, f"{NAME}/new"))
    hands.look()
    assert hands.ready_after(QUIET)


def test_what_was_not_taken_is_ready_again_unless_it_is_being_deleted() -> None:
    hands = Hands(signed=True)
    hands.files = (stamp(1, f"{NAME}/1"), stamp(2, f"{NAME}/2"))
    hands.look()
    hands.completeness.reopen(NAME, hands.now + 5)
    assert not hands.ready_after(4)
    assert hands.look(woken=True).ready == [], "whatever else happens"
    assert hands.ready_after(1)
    hands.files = hands.files[1:]
    hands.look()
    hands.completeness.reopen(NAME, 0.0)
    assert not hands.ready_after(10)


def test_with_the_writer_gone_nothing_is_waited_for_but_a_torn_one_stays_torn() -> None:
    hands = Hands(signed=False)
    hands.lease = Lease.UNKNOWN
    assert hands.look(writer_gone=True).ready == [NAME]
    torn = Hands(signed=True)
    torn.verdict = incomplete("torn")
    assert torn.look(writer_gone=True).ready == []
    open_still = Hands(signed=False)
    open_still.lease = Lease.BUSY
    assert open_still.look(writer_gone=True).ready == [], "some other process holds it open"


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: the promises are checked against a record kept by the test."""

    @initialize(signed=st.booleans())
    def begin(self, signed: bool) -> None:
        self.hands = Hands(signed=signed)
        self.changes = 1
        self.quiet_since: float | None = None  # first look at which it was seen as it is, with nobody writing
        self.handed: set[tuple[FileStamp, ...]] = set()

    @rule(seconds=st.sampled_from([0.0, 0.04, 0.5, 1.0, 1.99, 2.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.hands.now += seconds

    @rule(lease=st.sampled_from(Lease))
    def lease_becomes(self, lease: Lease) -> None:
        self.hands.lease = lease

    @rule(whole=st.booleans())
    def verdict_becomes(self, whole: bool) -> None:
        self.hands.verdict = COMPLETE if whole else incomplete("torn")

    @rule(count=st.integers(0, 3))
    def files_become(self, count: int) -> None:
        self.changes += 1
        self.hands.files = tuple(stamp(self.changes, f"{NAME}/{n}") for n in range(count))
        self.quiet_since = None

    @precondition(lambda self: len(self.hands.files) > 1)
    @rule()
    def one_file_is_deleted(self) -> None:
        self.hands.files = self.hands.files[1:]
        self.quiet_since = None

    @rule(woken=st.booleans())
    def look(self, woken: bool) -> None:
        hands = self.hands
        ready = hands.look(woken=woken).ready
        # A look that is not due asks for no lease, so it neither sees a writer nor that there is none.
        if not hands.files or (hands.asked and hands.lease is Lease.BUSY):
            self.quiet_since = None
        elif self.quiet_since is None and hands.asked:
            self.quiet_since = hands.now
        if ready:
            self.must_have_been_right()

    def must_have_been_right(self) -> None:
        hands = self.hands
        assert hands.files, "it has vanished"
        assert hands.lease is not Lease.BUSY, "somebody is writing to it"
        assert hands.verdict.complete, "it is torn"
        if not hands.signed or hands.lease is Lease.UNKNOWN:
            assert self.quiet_since is not None
            assert hands.now - self.quiet_since >= QUIET, "it has not been quiet for long enough"
        assert hands.files not in self.handed, "it was handed over before"
        assert not any(set(hands.files) < set(before) for before in self.handed), "it is being deleted"
        self.handed.add(hands.files)

    @invariant()
    def a_whole_one_that_is_left_alone_is_found_by_sleeping_as_long_as_told(self) -> None:
        """On a copy: nobody writes any more, all is whole; whoever looks only when told to must get there."""
        hands = copy.deepcopy(getattr(self, "hands", None))
        if hands is None or not hands.files or any(set(hands.files) <= set(old) for old in self.handed):
            return
        hands.lease, hands.verdict = Lease.UNKNOWN, COMPLETE
        for _ in range(4):
            look = hands.look()
            if look.ready:
                return
            assert look.next_look is not None
            assert look.next_look > hands.now, "it would look in a tight loop"
            hands.now = look.next_look
        raise AssertionError("it was never found")


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.sampled_from(Lease), max_size=20), st.booleans())
def test_what_has_to_wait_always_says_when_to_look_again(leases: list[Lease], signed: bool) -> None:
    hands = Hands(signed=signed)
    hands.verdict = incomplete("torn")
    for lease in leases:
        hands.lease = lease
        next_look = hands.look().next_look
        assert next_look is not None
        assert next_look > hands.now
        hands.now = next_look


# -- what else is decided without files


def test_temporary_names_are_passed_over() -> None:
    temporary = [".tmpab12", "x.tmp", "x.part", "x~", ".hidden", "x.lock", "x.tmp.npz", "tmpk3j2h1ab.pt"]
    temporary += ["12.orbax-checkpoint-tmp", "12.orbax-checkpoint-tmp-17", "tmp-checkpoint-5", "x.incomplete"]
    assert [name for name in temporary if not is_temporary(name)] == []
    kept = ["step-5.npz", "tmpl.pt", "last.ckpt", "checkpoint-5", "5", "party", "template-5.pt", "a.b.c"]
    assert [name for name in kept if is_temporary(name)] == []


MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /mnt/efs rw,relatime shared:1 - nfs4 127.0.0.1:/ rw
24 22 0:22 / /mnt/with\040space rw - fuse.s3fs s3fs rw
25 22 0:23 / /mnt/local rw - nfs host:/x rw
26 25 254:1 / /mnt/local rw - xfs /dev/vdb rw
nonsense
"""


def test_the_kind_of_file_system_is_that_of_the_innermost_mount() -> None:
    kinds = {
        "/home/x": "ext4",
        "/mnt/efs": "nfs4",
        "/mnt/efs/run/1": "nfs4",
        "/mnt/efs2": "ext4",
        "/mnt/with space/x": "fuse.s3fs",
        "/mnt/local/x": "xfs",
    }
    assert {path: filesystem_type(path, MOUNTS) for path in kinds} == kinds
    assert [kind for kind in kinds.values() if is_far(kind)] == ["nfs4", "nfs4", "fuse.s3fs"]
    assert not is_far(filesystem_type("/x", ""))
