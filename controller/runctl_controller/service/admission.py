"""Whether a run that is asked for can be taken: known before anything is on record or paid for."""

from __future__ import annotations

import msgspec

from runctl_controller.providers.port import Refused, Throttled
from runctl_shared.checkpoints.objects import FOR_A_PERSON, ObjectStoreError
from runctl_shared.checkpoints.open import open_store
from runctl_shared.checkpoints.probe import probe_conditional_put
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.errors import RefusedByGuard, RunctlError
from runctl_shared.spec import RunSpec, check_spec

PROVIDERS = ("local",)


def admit(spec: RunSpec, installation: str) -> None:
    """Check the spec and prepare its checkpoint store. Asking again for the same run changes nothing.

    Raises what is wrong first: UsageError, RefusedByGuard, Refused, or Throttled, when it may be later.
    """
    for error in check_spec(spec):
        raise error
    if spec.provider not in PROVIDERS:
        raise RefusedByGuard(
            f"The provider {spec.provider!r} is not supported yet.", "Only the local one is, so far."
        )
    prepare_store(msgspec.structs.replace(spec, installation=installation))


def prepare_store(spec: RunSpec) -> None:
    """Put the run's identity into its checkpoint store, before the first machine is paid for.

    From then on an empty store is a wrong or missing one, never "nothing to resume". Raises Refused when the
    store cannot be used, or lets two writers win the same conditional put; Throttled when it may be later.
    """
    try:
        store = open_store(spec.store)
        if not probe_conditional_put(store):
            raise Refused(
                f"The checkpoint store {spec.store} does not honour conditional puts.",
                "Use a store that does: without them a cut-off machine could overwrite newer work.",
            )
        RunRepository(store, spec.run).write_spec(spec)
    except Refused:
        raise
    except (RunctlError, OSError) as error:
        passing = isinstance(error, ObjectStoreError) and not isinstance(error, FOR_A_PERSON)
        kind = Throttled if passing else Refused
        raise kind(f"The checkpoint store {spec.store} cannot be used: {error}") from error
