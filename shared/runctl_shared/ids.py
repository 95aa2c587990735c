"""Identifiers: safe in paths, routing keys and shell words. Pure; `draw.new_id` makes fresh ones."""

from __future__ import annotations

import re

_ID = re.compile(r"[a-z]{1,8}-[0-9a-z]{4,32}(-[0-9]{1,6})?")
_RUN = re.compile(r"run-[0-9a-z]{4,32}")
_AGENT = re.compile(r"agent-([0-9a-z]{4,32})-[0-9]{1,6}")
_BEGINNING = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id (and is therefore safe as a file name or routing key)."""
    return _ID.fullmatch(text) is not None


def is_run_id(text: str) -> bool:
    """Whether `text` may be the id of a run. Only one prefix, and no number at the end: the ids of its agents
    are made from the rest, and those of two runs must never meet (see agent_id)."""
    return _RUN.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` may name a run or a project: 1-63 of a-z 0-9 . _ -, with a-z 0-9 at both ends."""
    return _NAME.fullmatch(text) is not None


def may_begin(text: str) -> bool:
    """Whether a name or an id may be `text` or begin with it."""
    return _BEGINNING.fullmatch(text) is not None


def agent_id(run_id: str, attempt: int) -> str:
    """The id of the agent (and of its machine) that serves `attempt` of `run_id`.

    Derived, not drawn: a decision that is taken again after a crash names the same machine.
    """
    return f"agent-{run_id.split('-', 1)[1]}-{attempt}"


def run_of(agent: str) -> str:
    """The run that an agent of that id (see `agent_id`) serves; empty for what is no agent's id."""
    match = _AGENT.fullmatch(agent)
    return "" if match is None else f"run-{match[1]}"


def attempt_of(agent: str) -> int:
    """The attempt that an agent of that id (see `agent_id`) serves."""
    return int(agent.rsplit("-", 1)[1])
