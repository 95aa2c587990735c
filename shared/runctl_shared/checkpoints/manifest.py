"""What a checkpoint is made of, and the names under which a run keeps its things.

::

    run.json                                     what was asked for (identity outlives the disk)
    record.json                                  the controller's record: attempts, machines, ledger
    attempts/00002.json                          the claim of attempt 2: names the checkpoint it starts from
    attempts/00002.end.json                      its final record
    manifests/00002-000007-000000004100-<id>.json    attempt, sequence, step, id: one listing orders them
    data/<id>/<files as they were>
    logs/00002/000000.log                        the training's output, in segments
    series/00002/000000.csv                      the losses that it reported, in segments
"""

from __future__ import annotations

import re

import msgspec

from runctl_shared.errors import RunctlError

MANIFESTS = "manifests/"
CLAIMS = "attempts/"
RECORD = "record.json"
NO_STEP = 999_999_999_999
"""Stands in a manifest's name where the step is not known."""

_NAME = re.compile(r"manifests/(\d{5})-(\d{6})-(\d{12})-(ck-[0-9a-z]+)\.json")
_END = re.compile(r"attempts/(\d{5})\.end\.json")
_CLAIM = re.compile(r"attempts/(\d{5})\.json")


class ManifestDamaged(RunctlError):
    """A manifest or claim cannot be read, or contradicts its own name."""

    code = "damaged"


class FileEntry(msgspec.Struct, frozen=True):
    """One file: `path` relative to the checkpoint's folder (/-separated), `size` in bytes, `sha256` in hex,
    `mtime_ns` as it was on the machine."""

    path: str
    size: int
    sha256: str
    mtime_ns: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A committed checkpoint. It exists once this is stored, and not before.

    `root` is the name (relative to the checkpoint directory) that is handed to the training on resume: a
    file if `single_file`, else a folder. `trigger` says why it was taken: periodic, notice, stop, final.
    Times are UTC seconds, durations seconds.
    """

    version: int = 1
    id: str
    run: str
    attempt: int
    sequence: int
    step: int | None
    epoch: float | None = None
    format: str
    root: str
    single_file: bool
    files: tuple[FileEntry, ...]
    trigger: str = "periodic"
    written_at: float
    committed_at: float
    upload_seconds: float = 0.0
    world_size: int = 1
    runctl: str = ""

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(entry.size for entry in self.files)

    @property
    def name(self) -> str:
        """The key under which this manifest is stored."""
        return manifest_name(self.attempt, self.sequence, self.step, self.id)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts/<n>.json`: attempt n trains from `parent` (a manifest's name) or from the beginning (None).

    Whoever stores it first holds the run's lineage from then on. `installation`: whose agent it is ("": not
    told), for two may come to count attempts alike, when one has imported the other's run.
    """

    version: int = 1
    run: str
    attempt: int
    agent: str
    installation: str = ""
    parent: str | None
    claimed_at: float


class NameParts(msgspec.Struct, frozen=True, order=True):
    """What a manifest's name says: ordered by attempt, then sequence."""

    attempt: int
    sequence: int
    step: int | None
    id: str
    name: str


def manifest_name(attempt: int, sequence: int, step: int | None, checkpoint: str) -> str:
    return (
        f"{MANIFESTS}{attempt:05d}-{sequence:06d}-{NO_STEP if step is None else step:012d}-{checkpoint}.json"
    )


def parse_name(name: str) -> NameParts | None:
    """The parts of a manifest's name; None for any other key."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    step = int(match[3])
    return NameParts(int(match[1]), int(match[2]), None if step == NO_STEP else step, match[4], name)


def claim_name(attempt: int) -> str:
    return f"{CLAIMS}{attempt:05d}.json"


def parse_claim_name(key: str) -> int | None:
    """The attempt whose claim `key` is; None for any other key."""
    match = _CLAIM.fullmatch(key)
    return int(match[1]) if match else None


def end_name(attempt: int) -> str:
    return f"{CLAIMS}{attempt:05d}.end.json"


def parse_end_name(key: str) -> int | None:
    """The attempt whose final record `key` is; None for any other key."""
    match = _END.fullmatch(key)
    return int(match[1]) if match else None


def data_key(checkpoint: str, path: str) -> str:
    return f"data/{checkpoint}/{path}"


def log_key(attempt: int, segment: int) -> str:
    return f"logs/{attempt:05d}/{segment:06d}.log"


def encode(value: Manifest | Claim) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def decode_manifest(data: bytes, name: str) -> Manifest:
    """The manifest stored under `name`. Raises ManifestDamaged when it is not one, or another's."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestDamaged(f"{name} is not a manifest: {error}.") from error
    if manifest.name != name:
        raise ManifestDamaged(f"{name} holds the manifest of {manifest.name}.")
    return manifest


def decode_claim(data: bytes, attempt: int) -> Claim:
    """The claim of `attempt`. Raises ManifestDamaged when it is not one, or another's."""
    try:
        claim = msgspec.json.decode(data, type=Claim)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestDamaged(f"{claim_name(attempt)} is not a claim: {error}.") from error
    if claim.attempt != attempt:
        raise ManifestDamaged(f"{claim_name(attempt)} holds the claim of attempt {claim.attempt}.")
    return claim
