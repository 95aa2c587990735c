"""Which committed checkpoints a run may be resumed from. Pure: works on names and claims alone.

Eligible is the newest claim's lineage only: its own commits, its parent, that one's ancestors. What a cut-off
older attempt commits after a newer one has claimed is kept and shown, and never restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runctl_shared.checkpoints.manifest import Claim, NameParts, parse_name


def eligible(claims: Mapping[int, Claim], names: Iterable[str]) -> list[NameParts]:
    """Names of the checkpoints that may be restored, newest first.

    `claims` by attempt; `names` as listed (others than manifests' are passed over). Commits of an attempt
    that never claimed are not eligible: it had no permission to train.
    """
    by_attempt: dict[int, list[NameParts]] = {}
    for name in names:
        parts = parse_name(name)
        if parts is not None:
            by_attempt.setdefault(parts.attempt, []).append(parts)
    result: list[NameParts] = []
    attempt: int | None = max(claims, default=None)
    limit: int | None = None
    while attempt is not None and attempt in claims:
        own = (p for p in by_attempt.get(attempt, ()) if limit is None or p.sequence <= limit)
        result.extend(sorted(own, reverse=True))
        attempt, limit = _ancestor(claims[attempt])
    return result


def _ancestor(claim: Claim) -> tuple[int | None, int | None]:
    """Attempt and highest sequence of the claim's parent. A parent of its own or a later attempt is no
    ancestor: a forged or damaged claim must not lead round in circles."""
    parent = parse_name(claim.parent) if claim.parent else None
    if parent is None or parent.attempt >= claim.attempt:
        return None, None
    return parent.attempt, parent.sequence
