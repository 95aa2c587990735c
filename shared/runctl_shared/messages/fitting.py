"""What we say ourselves must never be refused by whoever hears it.

Texts are made from exceptions and from what trainings print, moments from the times of files. A message that
breaks its own limits would be put aside by its receiver, and an event that is put aside blocks what follows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from runctl_shared.messages.base import Body

if TYPE_CHECKING:
    from msgspec.inspect import Type

B = TypeVar("B", bound=Body)
_MORE = "…"


def fit(body: B) -> B:
    """`body`, with texts cut and numbers brought to the nearest value that the limits of their fields allow,
    and with what is not Unicode in those texts replaced. Nearly always it is `body` itself.

    Raises msgspec.ValidationError for a value of another type, which no limit can mend.
    """
    kind = type(body)
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=kind)
    except (msgspec.ValidationError, UnicodeEncodeError, OverflowError):
        from msgspec.inspect import type_info  # rarely needed, and not cheap to import

        plain = msgspec.to_builtins(body, builtin_types=(bytes,))
        return msgspec.convert(_fitted(plain, type_info(kind)), kind)
    return body


def _fitted(value: Any, kind: Type) -> Any:
    from msgspec import inspect as types

    if isinstance(kind, types.Metadata):
        return _fitted(value, kind.type)
    if isinstance(kind, types.UnionType):
        # The contract knows only one union: something, or None.
        inner = next(t for t in kind.types if not isinstance(t, types.NoneType))
        return None if value is None else _fitted(value, inner)
    if isinstance(kind, types.StructType) and isinstance(value, dict):
        known = {field.encode_name: field.type for field in kind.fields}
        return {name: _fitted(item, known[name]) for name, item in value.items()}
    if isinstance(kind, (types.VarTupleType, types.ListType)) and isinstance(value, (list, tuple)):
        return [_fitted(item, kind.item_type) for item in value[: kind.max_length]]
    if isinstance(kind, types.StrType) and kind.max_length is not None and isinstance(value, str):
        return cut(value, kind.max_length)
    if isinstance(kind, (types.IntType, types.FloatType)) and isinstance(value, (int, float)):
        return _within(value, kind.ge, kind.le)
    return value


def cut(text: str, length: int) -> str:
    """`text` in Unicode and of `length` characters at the most; an ellipsis says that there was more."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= length else text[: length - len(_MORE)] + _MORE


def _within(value: float, least: float | None, most: float | None) -> float:
    if least is not None and (value < least or math.isnan(value)):
        return type(value)(least)
    if most is not None and value > most:
        return type(value)(most)
    return value
