"""The head of a .npy file, read without NumPy and without unpickling anything."""

from __future__ import annotations

import ast
import re
import struct
from typing import IO

import msgspec

_MAGIC = b"\x93NUMPY"
_MOST_HEADER = 64 * 1024
_SCALAR = re.compile(r"([<>|=])([iuf])([1248])")
_FLOATS = {2: "e", 4: "f", 8: "d"}


class Header(msgspec.Struct, frozen=True):
    """`descr`: the type in NumPy's own short form, e.g. "<i8"; None for a record type."""

    descr: str | None
    shape: tuple[int, ...]


def read_header(file: IO[bytes]) -> Header:
    """The header of the array in `file`, which is left at the first byte of the data. Raises ValueError."""
    prefix = _exactly(file, 8)
    if not prefix.startswith(_MAGIC) or prefix[6] not in (1, 2, 3):
        raise ValueError("not a .npy array")
    length: int = (
        struct.unpack("<H", _exactly(file, 2))[0]
        if prefix[6] == 1
        else struct.unpack("<I", _exactly(file, 4))[0]
    )
    if length > _MOST_HEADER:
        raise ValueError("its header is too long")
    text = _exactly(file, length).decode("latin-1" if prefix[6] < 3 else "utf-8")
    try:
        found = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError("its header is not readable") from error
    return _header(found)


def _header(found: object) -> Header:
    if not isinstance(found, dict) or not {"descr", "shape", "fortran_order"} <= found.keys():
        raise ValueError("its header lacks a part")
    shape, descr = found["shape"], found["descr"]
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("its shape is not one")
    return Header(descr if isinstance(descr, str) else None, shape)


def read_number(file: IO[bytes]) -> float | int | None:
    """The one number in the array that `file` holds; None when it holds anything else. Raises ValueError."""
    header = read_header(file)
    kind = _SCALAR.fullmatch(header.descr or "")
    if kind is None or header.shape not in ((), (1,)):
        return None
    order, letter, width = kind[1], kind[2], int(kind[3])
    data = _exactly(file, width)
    if letter in "iu":
        return int.from_bytes(data, "big" if order == ">" else "little", signed=letter == "i")
    if width not in _FLOATS:
        return None
    number: float = struct.unpack((">" if order == ">" else "<") + _FLOATS[width], data)[0]
    return number


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError("it ends too soon")
    return data
