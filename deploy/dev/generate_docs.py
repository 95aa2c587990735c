"""Writes docs/messages.md and docs/lifecycles.md from the code; --check says whether they are current."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import inspect as types

from runctl_agent.core.phases import PHASES
from runctl_controller.core.reasons import RULES
from runctl_controller.core.tables import ATTEMPTS, MACHINES, RUNS
from runctl_shared.messages.base import PROTOCOL, Body, Envelope
from runctl_shared.messages.commands import COMMANDS
from runctl_shared.messages.events import EVENTS, UNNUMBERED
from runctl_shared.messages.replies import FEED, REPLIES
from runctl_shared.messages.requests import REQUESTS
from runctl_shared.spec import RunSpec

DOCS = Path(__file__).resolve().parents[2] / "docs"

INTRODUCTION = f"""# Messages

*Generated from the code by `deploy/dev/generate_docs.py`; do not edit.*

Every message is one [msgpack](https://msgpack.org) map: the envelope's fields below, and `body`, a map of
the fields of its `kind`. This is protocol version {PROTOCOL}. Whoever receives a message passes over fields
that it does not know, and counts them. Durations are seconds and are what counts; times of day are UTC and
for show.

A client sends a request with a fresh `id` to `runctl.requests` and gets one reply; `Failed` says what was
wrong and what to do. Whatever the command line can do, these messages can do.
"""


def messages() -> str:
    parts = [INTRODUCTION, _section("The envelope", [Envelope])]
    parts.append(_section("Events: what agents tell the controller", [*EVENTS, *UNNUMBERED]))
    parts.append(_section("Commands: what the controller tells an agent", COMMANDS))
    parts.append(_section("Requests: what clients ask", REQUESTS))
    parts.append(_section("Replies", REPLIES))
    parts.append(_section("The feed: what the controller tells whoever listens", FEED))
    parts.append(_section("Values in messages", _nested([*REPLIES, *FEED, *REQUESTS, *UNNUMBERED])))
    return "\n".join(parts)


def _nested(bodies: Iterable[type[Body]]) -> list[type[msgspec.Struct]]:
    """Structs that stand in the fields of messages."""
    found: dict[str, type[msgspec.Struct]] = {RunSpec.__name__: RunSpec}
    queue: list[type[msgspec.Struct]] = list(bodies)
    while queue:
        for field in types.type_info(queue.pop()).fields:  # type: ignore[attr-defined]  # a Struct has fields
            for kind in _structs(field.type):
                if kind.__name__ not in found:
                    found[kind.__name__] = kind
                    queue.append(kind)
    return list(found.values())


def _structs(kind: types.Type) -> list[type[msgspec.Struct]]:
    if isinstance(kind, types.Metadata):
        return _structs(kind.type)
    if isinstance(kind, types.StructType):
        return [kind.cls]
    if isinstance(kind, (types.VarTupleType, types.ListType)):
        return _structs(kind.item_type)
    if isinstance(kind, types.UnionType):
        return [struct for part in kind.types for struct in _structs(part)]
    return []


def _section(title: str, bodies: Iterable[type[msgspec.Struct]]) -> str:
    lines = [f"## {title}", ""]
    for body in bodies:
        lines += [f"### {body.__name__}", "", _text(body), ""]
        fields = types.type_info(body).fields  # type: ignore[attr-defined]  # a Struct has fields
        if fields:
            lines += ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
            lines += [_row(field) for field in fields]
            lines.append("")
    return "\n".join(lines)


def _text(body: type[msgspec.Struct]) -> str:
    text = inspect.getdoc(body) if "__doc__" in vars(body) else None
    return (text or "").replace("\n", " ").replace("  ", "\n\n")


def _row(field: types.Field) -> str:
    default = "required"
    if not field.required:
        value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        default = f"`{value!r}`"
    name, meaning = _describe(field.type)
    return f"| `{field.encode_name}` | {name} | {default} | {meaning} |"


def _describe(kind: types.Type) -> tuple[str, str]:
    """Name and meaning of a field's type."""
    meaning = ""
    if isinstance(kind, types.Metadata):
        meaning = (kind.extra_json_schema or {}).get("description", "")
        name, inner = _describe(kind.type)
        return name, meaning or inner
    if isinstance(kind, types.UnionType):
        described = [_describe(part) for part in kind.types]
        return " or ".join(n for n, _ in described), next((m for _, m in described if m), "")
    if isinstance(kind, (types.VarTupleType, types.ListType)):
        name, meaning = _describe(kind.item_type)
        return f"list of {name}", meaning
    if isinstance(kind, types.LiteralType):
        return "one of " + ", ".join(f"`{value}`" for value in kind.values), ""
    if isinstance(kind, types.StructType):
        return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})", ""
    return _NAMES.get(type(kind), "map"), ""


_NAMES = {
    types.IntType: "integer",
    types.FloatType: "number",
    types.StrType: "text",
    types.BoolType: "boolean",
    types.BytesType: "bytes",
    types.NoneType: "nil",
    types.AnyType: "anything",
}


def lifecycles() -> str:
    lines = [
        "# Life-cycles",
        "",
        "*Generated from the tables in the code by `deploy/dev/generate_docs.py`; do not edit.*",
        "",
        "A transition that is not drawn here raises.",
        "",
    ]
    for cycle in (RUNS, ATTEMPTS, MACHINES, PHASES):
        lines += [f"## {cycle.name.capitalize()}", "", "```mermaid", cycle.mermaid(), "```", ""]
    lines += [
        "## Why attempts end",
        "",
        "| reason | meaning | what happens next | patience |",
        "| --- | --- | --- | --- |",
    ]
    for name, rule in RULES.items():
        patience = "" if rule.patience is None else f"{rule.patience} in a row without progress, then stuck"
        lines.append(f"| `{name}` | {rule.sentence} | {rule.next.value} | {patience} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    stale = []
    for name, text in (("messages.md", messages()), ("lifecycles.md", lifecycles())):
        path = DOCS / name
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text() != text:
                stale.append(f"docs/{name}")
        else:
            path.write_text(text)
    if stale:
        print(f"{', '.join(stale)} do not match the code: run `make docs`.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
