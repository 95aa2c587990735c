"""Rows and what they mean.

What is searched or constrained is a column; the other fields of a struct lie in `data`, as JSON. It is the
standard library's JSON, for that keeps NaN (a loss can be) and every string.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import RowMapping

from runctl_controller.core.effects import CALLS, Effect, SendCommand, Tell
from runctl_controller.core.model import Attempt, Interval, Machine, Record, Run
from runctl_controller.core.tables import OPEN_RUN
from runctl_controller.store.port import Beat, Outgoing
from runctl_shared.errors import StoreUnusable
from runctl_shared.messages.codec import KINDS

Row = dict[str, Any]
S = TypeVar("S", bound=msgspec.Struct)
_EFFECTS: dict[str, type[Effect]] = {kind.__name__: kind for kind in CALLS}


def run_row(record: Record) -> Row:
    run = record.run
    rest = msgspec.to_builtins(run)
    is_open = run.state in OPEN_RUN
    return {
        "id": run.id,
        "name": run.spec.name,
        "project": run.spec.project,
        "state": rest.pop("state"),
        "created_at": rest.pop("created_at"),
        "is_open": int(is_open),
        "is_busy": int(is_open or record.busy),
        "spec": _dump(rest.pop("spec")),
        "data": _dump(rest),
    }


def run_of(row: RowMapping) -> Run:
    with _readable("a run"):
        columns = {
            "spec": json.loads(row["spec"]),
            "state": row["state"],
            "created_at": row["created_at"],
        }
        return _join(Run, row, columns)


def attempt_row(run: str, attempt: Attempt) -> Row:
    rest = msgspec.to_builtins(attempt)
    return {
        "run": run,
        "number": rest.pop("number"),
        "agent": rest.pop("agent"),
        "state": rest.pop("state"),
        "trains": int(attempt.permitted and attempt.open),
        "data": _dump(rest),
    }


def attempt_of(row: RowMapping) -> Attempt:
    with _readable("an attempt"):
        return _join(Attempt, row, {name: row[name] for name in ("number", "agent", "state")})


def machine_row(run: str, position: int, machine: Machine) -> Row:
    rest = msgspec.to_builtins(machine)
    return {
        "id": rest.pop("id"),
        "run": run,
        "position": position,
        "attempt": rest.pop("attempt"),
        "provider": machine.order.offer.provider,
        "token": machine.order.token,
        "state": rest.pop("state"),
        "launch_order": _dump(rest.pop("order")),
        "data": _dump(rest),
    }


def machine_of(row: RowMapping) -> Machine:
    with _readable("a machine"):
        columns = {name: row[name] for name in ("id", "attempt", "state")}
        return _join(Machine, row, {**columns, "order": json.loads(row["launch_order"])})


def interval_row(run: str, position: int, interval: Interval) -> Row:
    return {
        "run": run,
        "position": position,
        "machine": interval.machine,
        "attempt": interval.attempt,
        "used_for": interval.use,
        "began": interval.start,
        "ended": interval.end,
        "price": interval.price,
    }


def interval_of(row: RowMapping) -> Interval:
    return Interval(
        machine=row["machine"],
        attempt=row["attempt"],
        use=row["used_for"],
        start=row["began"],
        end=row["ended"],
        price=row["price"],
    )


def effect_row(run: str, effect: Effect) -> Row:
    """An effect is tagged with its kind; so is the command in a SendCommand."""
    fields = msgspec.to_builtins(effect)
    if isinstance(effect, SendCommand):
        fields["body"] = {"kind": type(effect.body).__name__, "fields": fields["body"]}
    return {"run": run, "kind": type(effect).__name__, "data": _dump(fields)}


def outgoing_of(row: RowMapping) -> Outgoing:
    with _readable("an effect"):
        fields = json.loads(row["data"])
        kind = _EFFECTS[row["kind"]]
        if kind is SendCommand:
            body = fields.pop("body")
            command = msgspec.convert(body["fields"], KINDS[body["kind"]])
            effect: Effect = msgspec.structs.replace(
                msgspec.convert({**fields, "body": {}}, SendCommand), body=command
            )
        else:
            effect = msgspec.convert(fields, kind)
        return Outgoing(id=row["id"], run=row["run"], effect=effect)


def tell_row(run: str, item: Tell) -> Row:
    rest = msgspec.to_builtins(item)
    columns = {name: rest.pop(name) for name in ("at", "attempt", "kind", "actor")}
    return {"run": run, **columns, "data": _dump(rest)}


def tell_of(row: RowMapping) -> Tell:
    with _readable("a story"):
        return _join(Tell, row, {name: row[name] for name in ("at", "attempt", "kind", "actor")})


def beat_row(beat: Beat) -> Row:
    return {"agent": beat.agent, "at": beat.at, "data": _dump(msgspec.to_builtins(beat.body))}


def beat_of(row: RowMapping) -> Beat:
    with _readable("a heartbeat"):
        fields = {"agent": row["agent"], "at": row["at"], "body": json.loads(row["data"])}
        return msgspec.convert(fields, Beat)


def _dump(fields: Any) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _join(kind: type[S], row: RowMapping, columns: Row) -> S:
    return msgspec.convert({**json.loads(row["data"]), **columns}, kind)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, TypeError, msgspec.MsgspecError) as error:
        raise StoreUnusable(
            f"The state holds {what} that cannot be read ({str(error)[:200]}).",
            "It was changed by something other than runctl: put a backup in its place.",
        ) from error
