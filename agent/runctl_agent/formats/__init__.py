"""How checkpoints of different kinds show that they are complete, and what step they hold.

One small module per layout; `choose` asks them in order, the generic one takes what is left.
"""

from __future__ import annotations

from runctl_agent.formats.base import Entry, Format
from runctl_agent.formats.generic import Generic
from runctl_agent.formats.npz import Npz
from runctl_agent.formats.torch_zip import TorchZip

FORMATS: tuple[Format, ...] = (Npz(), TorchZip(), Generic())


def choose(entry: Entry) -> Format:
    """The format of `entry`. Raises OSError when it cannot be looked into."""
    return next(fmt for fmt in FORMATS if fmt.recognise(entry))
