"""What each value may be: from what a file, a variable or a flag says to what the settings hold.

Every rule takes what was written and returns the value, or raises UsageError with what is wrong and its mend.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from runctl_controller.access.port import Agents
from runctl_shared.errors import UsageError
from runctl_shared.spec import RunSpec, check_spec
from runctl_shared.units import parse_duration

Rule = Callable[[object], object]

LEVELS = ("debug", "info", "warning", "error", "critical")
PROVIDERS = ("local",)
BUS_AGENTS = tuple(way.value for way in Agents)
_MOST = 1_000_000_000
"""Of seconds (thirty years) and of counts: beyond it, it is a slip of the finger."""
_SPEC = RunSpec(run="run-0000", name="any", command=("any",), workdir="/", store="file:///any")


def optional(rule: Rule) -> Rule:
    """The rule, or the empty text for none at all: so a value of a lesser place can be taken back."""
    return lambda value: None if value == "" else rule(value)


def text(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{_shown(value)} is not text.", "Write it in quotes.")
    if not value.strip():
        raise UsageError("It is empty.", "Give a value, or leave it out.")
    if not value.isprintable():
        raise UsageError(f"{value!r} holds a control character.", "Remove it.")
    return value


def as_in_a_run(field: str, rule: Rule) -> Rule:
    """What a run's spec says of its `field`, after `rule`: a default is no freer than the run itself."""

    def check(value: object) -> object:
        kept = rule(value)
        for error in check_spec(msgspec.structs.replace(_SPEC, **{field: kept})):
            raise error
        return kept

    return check


def number(value: object) -> float:
    written = value
    if isinstance(value, str):
        try:
            written = float(value)
        except ValueError:
            written = None
    if isinstance(written, bool) or not isinstance(written, (int, float)) or not math.isfinite(written):
        raise UsageError(f"{_shown(value)} is not a number.", "Write it like 12 or 0.5.")
    return _small_enough(float(written))


def whole(value: object) -> int:
    found = number(value)
    if found != int(found):
        raise UsageError(f"{_shown(value)} is not a whole number.", "Write it like 3.")
    return int(found)


def hours(value: object) -> float:
    found = number(value)
    if found <= 0:
        raise UsageError("The time limit is not positive.", "Give hours, e.g. 12.")
    return found


def seconds(value: object) -> float:
    """A duration; a number is seconds."""
    if isinstance(value, str):
        return _small_enough(parse_duration(value))
    found = number(value)
    if found < 0:
        raise UsageError("A duration cannot be negative.", "Write it like 90s, 2m or 1h30m.")
    return found


def positive_seconds(value: object) -> float:
    found = seconds(value)
    if found == 0:
        raise UsageError("It cannot be zero.", "Write it like 90s, 2m or 1h30m.")
    return found


def folder(value: object) -> str:
    """A folder of this machine; made absolute beforehand by whoever knows relative to what."""
    path = text(value)
    if path.startswith("~"):
        raise UsageError(f"{path!r} names the home of an unknown user.", "Write the folder's whole path.")
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is not a folder's path.", "Write it like ~/runctl or /data/runctl.")
    return path


def file(value: object) -> str:
    """A file of this machine; made absolute beforehand by whoever knows relative to what."""
    path = text(value)
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is not a file's path.", "Write it like ~/runctl/agents.pem.")
    return path


def store(value: object) -> str:
    """Where checkpoints are kept, as a URL."""
    from runctl_shared.checkpoints.open import store_folder

    return store_folder(text(value)).as_uri()


def bus_url(value: object) -> str:
    """Never quotes the URL: one with a slip of the finger may still hold a password."""
    if not isinstance(value, str):
        raise UsageError("It is not text.", "Write the URL in quotes.")
    scheme, separator, rest = value.partition("://")
    if scheme in ("amqp", "amqps") and separator:
        from runctl_shared.bus.amqp.target import parse

        parse(value)
        return value
    if scheme == "sqlite" and separator and rest.startswith("/") and not rest.endswith("/"):
        return value
    raise UsageError(
        "It is not the URL of a bus.",
        "Use amqps://USER:PASSWORD@HOST:PORT/VHOST for RabbitMQ, sqlite:///absolute/path for one machine.",
    )


def management(value: object) -> str:
    """The URL of a broker's management API; never quoted, it holds a password."""
    if not isinstance(value, str):
        raise UsageError("It is not text.", "Write the URL in quotes.")
    from runctl_controller.access.management import Management

    Management(value)
    return value


def one_of(known: tuple[str, ...], what: str) -> Rule:
    def check(value: object) -> str:
        found = text(value).lower()
        if found not in known:
            raise UsageError(f"{found!r} is not a {what}.", f"Known: {', '.join(known)}.")
        return found

    return check


def _small_enough(found: float) -> float:
    if abs(found) > _MOST:
        raise UsageError("The number is too large to be meant.", "Write a smaller one.")
    return found


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "A table" if isinstance(value, dict) else "A list"
    return str(value).lower() if isinstance(value, bool) else repr(value)
