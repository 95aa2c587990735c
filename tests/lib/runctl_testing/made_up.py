"""Made-up values of any type of the wire contract, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec import inspect as types

from runctl_shared.messages.base import Body

_UNICODE = st.text(max_size=30)
_ANYTHING = st.text(alphabet=st.characters(), max_size=30)  # surrogates too: file names may hold them
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | _UNICODE | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_UNICODE, inner, max_size=3),
    max_leaves=6,
)


def bodies(kind: type[Body], *, wild: bool = False) -> st.SearchStrategy[Any]:
    """Messages of `kind`. `wild`: of the right types, but with no regard to the limits of the fields."""
    return _values(types.type_info(kind), wild)


def _values(kind: types.Type, wild: bool) -> st.SearchStrategy[Any]:
    if isinstance(kind, types.Metadata):
        return _values(kind.type, wild)
    if isinstance(kind, types.StructType):
        return _structs(kind, wild)
    if isinstance(kind, types.UnionType):
        return st.one_of([_values(part, wild) for part in kind.types])
    if isinstance(kind, types.VarTupleType):
        return st.lists(_values(kind.item_type, wild), max_size=3).map(tuple)
    if isinstance(kind, types.DictType):
        anything = isinstance(kind.value_type, types.CustomType)  # as msgspec sees `object`
        items = _PLAIN if anything else _values(kind.value_type, wild)
        return st.dictionaries(_UNICODE, items, max_size=3)
    if isinstance(kind, types.LiteralType):
        return st.sampled_from(kind.values)
    return _scalars(kind, wild)


def _structs(kind: types.StructType, wild: bool) -> st.SearchStrategy[Any]:
    fields = {field.name: _values(field.type, wild) for field in kind.fields}
    required = {field.name for field in kind.fields if field.required}
    optional = {name: values for name, values in fields.items() if name not in required}
    return st.fixed_dictionaries({name: fields[name] for name in required}, optional=optional).map(
        lambda given: kind.cls(**given)
    )


def _scalars(kind: types.Type, wild: bool) -> st.SearchStrategy[Any]:
    if isinstance(kind, types.StrType):
        if kind.max_length is None:
            return _UNICODE
        if not wild:
            longest = st.integers(0, kind.max_length).map("ü".__mul__)
            return _UNICODE | longest
        beyond = st.integers(kind.max_length - 3, kind.max_length + 3)
        return _ANYTHING | beyond.map("ü".__mul__) | beyond.map("\udcff".__mul__)
    if isinstance(kind, types.IntType):
        if wild and kind.ge is not None:
            return st.integers()
        return st.integers(-(2**63) if kind.ge is None else kind.ge, 2**63 if kind.le is None else kind.le)
    if isinstance(kind, types.FloatType):
        return st.floats() if wild else st.floats(kind.ge, kind.le, allow_nan=False)
    simple: dict[type[types.Type], st.SearchStrategy[Any]] = {
        types.BoolType: st.booleans(),
        types.NoneType: st.none(),
        types.BytesType: st.binary(max_size=100),
    }
    return simple[type(kind)]
