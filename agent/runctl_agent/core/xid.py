"""NVIDIA's error numbers ("Xid"): what each means, whose fault it is, and whether the GPU is still of use.

After the Xid catalogue, https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html. Its immediate
action decides: a number with "restart the application" or "check the application" is the application's; one
that needs the GPU reset, the machine restarted, its links or its power mended, or that tells of memory that
failed, is the hardware's. Numbers that are not here, and those that only follow from another one, blame
nobody.
"""

from __future__ import annotations

import msgspec

from runctl_shared.messages.events import Blame


class Xid(msgspec.Struct, frozen=True):
    """`gone`: nothing runs on the GPU any more until it is reset."""

    meaning: str
    blame: Blame
    gone: bool = False


def _hardware(meaning: str, gone: bool = False) -> Xid:
    return Xid(meaning, "hardware", gone)


def _application(meaning: str) -> Xid:
    return Xid(meaning, "application")


_NVLINK5 = "an NVLink error"
XIDS: dict[int, Xid] = {
    8: _application("the GPU stopped processing"),
    11: _application("an invalid command stream"),
    13: _application("an exception in the program on the GPU, such as an index out of bounds"),
    25: _application("an illegal command stream"),
    31: _application("a GPU memory page fault, such as an illegal address in the program"),
    32: Xid("an invalid command stream; often the quality of the PCI link", "unknown"),
    43: _application("the program on the GPU was stopped after a fault of its own"),
    45: Xid(
        "the program on the GPU was cleaned up, after an earlier error or because it was ended", "unknown"
    ),
    46: _hardware("the GPU stopped processing and needs a reset", gone=True),
    48: _hardware("a double-bit memory error (ECC)"),
    54: _hardware("the power cable of the GPU is not connected"),
    62: _hardware("the GPU's micro-controller halted", gone=True),
    63: _hardware("a failing piece of GPU memory is being replaced"),
    64: _hardware("a failing piece of GPU memory could not be replaced"),
    68: _application("an exception of the video decoder"),
    69: _application("a graphics engine class error"),
    74: _hardware("an NVLink error"),
    79: _hardware("the GPU has fallen off the bus", gone=True),
    92: _hardware("a high rate of single-bit memory errors (ECC)"),
    94: _hardware("a memory error that was contained to one application"),
    95: _hardware("a memory error that was not contained: the GPU needs a reset", gone=True),
    109: _hardware("the GPU could not switch to another program in time", gone=True),
    110: _hardware("a security fault of the GPU"),
    119: _hardware("the GPU's system processor (GSP) does not answer", gone=True),
    120: _hardware("the GPU's system processor (GSP) failed", gone=True),
    136: _hardware("an NVLink could not be trained"),
    137: _application("an illegal access to another GPU's memory over NVLink"),
    140: _hardware("a memory error from which there is no recovery", gone=True),
    143: _hardware("the GPU could not be initialised", gone=True),
    **{code: _hardware(_NVLINK5) for code in range(144, 151)},
    154: Xid("the driver changed what it recommends for the GPU, because of another error", "unknown"),
    156: _hardware("a part of the GPU was retired"),
    157: _hardware("a part of the GPU could not be retired"),
    158: _hardware("the GPU timed out, fatally", gone=True),
    167: _hardware("the PCI link to the GPU timed out, fatally", gone=True),
    169: _hardware("a micro-controller of the GPU halted"),
    171: _hardware("an uncorrectable error of the GPU's memory (DRAM)"),
    172: _hardware("an uncorrectable error of the GPU's caches (SRAM)"),
}


def explain(code: int) -> Xid:
    """What is known of the number `code`; of one that is not in the table, nothing is said to be whose."""
    return XIDS.get(code, Xid("see NVIDIA's Xid catalogue", "unknown"))
