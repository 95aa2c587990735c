"""What the last lines of a training say about memory that ran out. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from runctl_agent.progress.parse import parse_line

Said = Literal["gpu", "process", "shared"]
LINES = 400
"""Lines that are looked at, from the end: with several ranks, each prints its own traceback."""
_WENT_ON = 2
"""Steps after which it is plain that the training survived what it said before."""
_PATTERNS: tuple[tuple[Said, re.Pattern[str]], ...] = (
    # torch, CUDA itself, HIP and MPS by way of torch, JAX and TensorFlow (XLA), cuBLAS
    ("gpu", re.compile(
        r"\b(CUDA|HIP|MPS backend) out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY"
        r"|cudaErrorMemoryAllocation|torch\.(cuda\.)?OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"
        r"|RESOURCE_EXHAUSTED: Out of memory|ResourceExhaustedError|OOM when allocating tensor"
    )),
    # a data loader's worker that died because /dev/shm is full
    ("shared", re.compile(r"insufficient shared memory \(shm\)|unable to allocate shared memory")),
    # Python, numpy, C++, torch on the processor, and whoever prints errno 12
    ("process", re.compile(
        r"^(\[?rank\d+\]?:\s*)?([\w.]+\.)?_?(Array)?MemoryError\b|\bstd::bad_alloc\b"
        r"|DefaultCPUAllocator: (can't|not enough) |\[Errno 12\]|\bCannot allocate memory\b"
    )),
)  # fmt: skip


def out_of_memory(lines: Sequence[str]) -> tuple[Said, str] | None:
    """Of which memory the last `lines` say that it ran out, and the line that does. None: of none, or the
    training went on afterwards."""
    steps: set[int] = set()
    for line in reversed(lines[-LINES:]):
        for said, pattern in _PATTERNS:
            if pattern.search(line):
                return said, line
        progress = parse_line(line.encode())
        if progress is not None and progress.step is not None:
            steps.add(progress.step)
        if len(steps) >= _WENT_ON:
            return None
    return None
