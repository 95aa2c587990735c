"""The checkpoint store, and the simulation's own idea of which checkpoints count."""

from __future__ import annotations

from collections.abc import Callable

from runctl_shared.checkpoints.manifest import NameParts, parse_claim_name, parse_name
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStoreError


class Vault(MemoryStore):
    """`down`: every call fails. `chains`: for each run what may be restored, oldest first, kept without the
    product's help; `claims`: the attempt that holds the lineage."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self._fresh = 0
        self.chains: dict[str, list[NameParts]] = {}
        self.claims: dict[str, int] = {}
        self.on_claim: Callable[[str, int, bytes], None] = lambda run, attempt, data: None

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        super().put(key, data, if_absent=if_absent)
        run, _, name = key.partition("/")
        commit, claim = parse_name(name), parse_claim_name(name)
        if commit is not None and commit.attempt == self.claims.get(run):
            self.chains.setdefault(run, []).append(commit)
        elif claim is not None:
            self.on_claim(run, claim, data)
            self.claims[run] = claim

    def fresh(self) -> int:
        self._fresh += 1
        return self._fresh

    def newest(self, run: str) -> NameParts | None:
        chain = self.chains.get(run)
        return chain[-1] if chain else None

    def _begin(self, operation: str, key: str) -> None:
        if self.down:
            raise ObjectStoreError("The store does not answer.")
