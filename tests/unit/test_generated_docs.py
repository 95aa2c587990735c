"""The published contract is the code's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runctl_shared.messages.codec import KINDS

ROOT = Path(__file__).parents[2]


def test_the_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "deploy/dev/generate_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_message_has_its_section(kind: str) -> None:
    headings = [line.lstrip("# ") for line in (ROOT / "docs/messages.md").read_text().splitlines()]
    assert headings.count(kind) == 1
