"""The tags that mean something to a local machine."""

from __future__ import annotations

INSTALLATION = "runctl:installation"
"""Whose machine it is. Set by the controller on every machine of every provider."""

FAIL_BOOT = "runctl:fail-boot"
"""A drill: the agent is never started, so the boot limit ends the machine."""

KEEP_DISK = "runctl:keep-disk"
"""For looking at afterwards: the disk stays when the machine has ended."""
