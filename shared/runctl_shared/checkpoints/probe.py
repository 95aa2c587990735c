"""Does a store keep the one promise that everything else stands on?"""

from __future__ import annotations

from contextlib import suppress

from runctl_shared.checkpoints.objects import AlreadyExists, ObjectStore, ObjectStoreError
from runctl_shared.draw import new_id


def probe_conditional_put(store: ObjectStore) -> bool:
    """Whether `store` honours `if_absent`: a second conditional put is refused, and changes nothing.

    Writes a scratch object and removes it. Raises ObjectStoreError when the store fails.
    """
    key = f"probe/{new_id('probe')}"
    try:
        store.put(key, b"first", if_absent=True)
        try:
            store.put(key, b"second", if_absent=True)
        except AlreadyExists:
            return store.get(key) == b"first"
        return False
    finally:
        with suppress(ObjectStoreError):
            store.delete(key)
