"""Whether a training ended for want of memory, judged from what was found after its end.

Who has no memory has made no mistake in the code, and needs another remedy than a restart: so it is a reason
of its own. It takes evidence: a SIGKILL alone may be anybody's.
"""

from __future__ import annotations

from runctl_agent.core import faults
from runctl_agent.core.model import MemoryTrace, State

_KILLED = ("limit", "machine", "somewhere")
_MENDS = {
    "limit": "raise the limit, or need less memory: a smaller batch, fewer data-loader workers",
    "machine": "take a machine with more memory, or need less: a smaller batch, fewer data-loader workers",
    "somewhere": "take a machine with more memory, or need less: a smaller batch, fewer data-loader workers",
    "gpu": "use a smaller batch, gradient accumulation or checkpointing, or a GPU with more memory",
    "process": "need less memory at once, or raise the limit on it (ulimit -v, a machine with more memory)",
    "shared": "give the machine or container more shared memory (/dev/shm), or use fewer data-loader workers",
}


def ran_out(state: State) -> str | None:
    """Which memory ran out and what to do about it, in a sentence; None if nothing shows that any did."""
    for trace in sorted(state.traces, key=lambda t: tuple(_MENDS).index(t.memory)):
        if _fits(state, trace):
            return f"{trace.text}; {_MENDS[trace.memory]}"
    return None


def _fits(state: State, trace: MemoryTrace) -> bool:
    """Whether the training ended as it does from that."""
    killed = state.exit_signal == "SIGKILL" or state.exit_code == 128 + 9
    if trace.memory == "somewhere":  # a process of the machine's was killed: whose, nobody says
        return killed and faults.explains(state, trace.at)
    if trace.memory in _KILLED:
        # Also one whose data-loader worker was killed, and that failed because of it.
        return state.exit_code != 0 and faults.explains(state, trace.at)
    # It says so itself, and then ends by an exception, or aborts as C++ does.
    return not killed and state.exit_code != 0
