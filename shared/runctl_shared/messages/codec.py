"""Messages to bytes and back. `decode` raises Malformed and nothing else, whatever it is given.

msgpack packs and unpacks, with hard limits; msgspec checks the types. Unknown fields and kinds are not
errors: a newer peer may say more than we understand. They are reported, so that they can be counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgpack
import msgspec

from runctl_shared.messages.base import PROTOCOL, Body, Envelope
from runctl_shared.messages.commands import COMMANDS
from runctl_shared.messages.events import EVENTS, UNNUMBERED
from runctl_shared.messages.fitting import fit
from runctl_shared.messages.replies import FEED, REPLIES
from runctl_shared.messages.requests import REQUESTS

MAX_MESSAGE = 1 << 20
"""Bytes; a longer message is malformed."""
MOST_UNKNOWN = 20
"""Unknown fields that are reported of one message: their names are counted, and a sender chooses them."""

B = TypeVar("B", bound=Body)


class Malformed(Exception):
    """These bytes are no message of ours; the reason says why. It goes to the dead letters."""


class Unknown(Body, frozen=True, kw_only=True):
    """A message of a kind that this version does not know."""


class Message(msgspec.Struct, Generic[B], frozen=True):
    """A decoded message. `unknown_fields`: names that this version does not know and passed over (the first
    MOST_UNKNOWN of them)."""

    envelope: Envelope
    body: B
    unknown_fields: tuple[str, ...] = ()


def _by_kind(*groups: Iterable[type[Body]]) -> Mapping[str, type[Body]]:
    return {body.__name__: body for group in groups for body in group}


KINDS = _by_kind(EVENTS, UNNUMBERED, COMMANDS, REQUESTS, REPLIES, FEED)
_FIELDS = {kind: frozenset(body.__struct_fields__) for kind, body in KINDS.items()}


def encode(body: Body, **envelope: Any) -> bytes:
    """Bytes of `body` in an envelope of these fields (see Envelope; `kind` is the body's class).

    What `body` says is made to fit the limits of its fields (see fitting.fit): `decode` takes whatever this
    returns, unless it is longer than MAX_MESSAGE.
    """
    head: dict[str, Any] = msgspec.to_builtins(Envelope(kind=type(body).__name__, **envelope))
    head["body"] = msgspec.to_builtins(fit(body), builtin_types=(bytes,))
    return msgpack.packb(head)  # type: ignore[no-any-return]  # msgpack is untyped


def decode(data: bytes) -> Message[Any]:
    """The message in `data`; an `Unknown` body if its kind is not known here. Raises Malformed."""
    raw = _unpack(data)
    fields = raw.pop("body", None)
    envelope = _convert(raw, Envelope)
    if envelope.v != PROTOCOL:
        raise Malformed(f"protocol version {envelope.v} is not {PROTOCOL}")
    kind = KINDS.get(envelope.kind)
    if kind is None:
        return Message(envelope, Unknown())
    if not isinstance(fields, dict):
        raise Malformed("the body is not a map")
    extra = sorted(str(key)[:100] for key in fields.keys() - _FIELDS[envelope.kind])
    return Message(envelope, _convert(fields, kind), tuple(extra[:MOST_UNKNOWN]))


def _unpack(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_MESSAGE:
        raise Malformed(f"{len(data)} bytes are more than {MAX_MESSAGE}")
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:
        raise Malformed(f"not msgpack: {type(error).__name__}") from None
    if not isinstance(raw, dict):
        raise Malformed("not a map")
    return raw


S = TypeVar("S", bound=msgspec.Struct)


def _convert(raw: dict[str, Any], kind: type[S]) -> S:
    try:
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError, OverflowError, ValueError) as error:
        raise Malformed(f"{kind.__name__}: {error}"[:300]) from None
