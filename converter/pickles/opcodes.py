"""The opcodes of pickle, and how their arguments are written.

Source: CPython 3.14 Lib/pickletools.py, protocols 0 to 5; a test compares the two.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, Final

from converter.errors import LimitError, PickleError, TruncatedPickleError
from converter.limits import limits

# How an opcode's argument is written: numbers by their width; texts, bytes, STRINGs of Python 2 and long integers by the
# width of the length that stands before them; and lines of text, as protocol 0 has them.
_NOTHING, _UINT8, _UINT16, _UINT32, _INT32, _UINT64, _DOUBLE, _TEXT8, _TEXT32, _TEXT64 = range(10)
_BYTES8, _BYTES32, _BYTES64, _STRING8, _STRING32, _LINE, _TWO_LINES, _INTEGER8, _INTEGER32 = range(10, 19)
_NO_OPCODE: Final = 255

OPCODES: Final[dict[str, tuple[int, int]]] = {}  # name: (code, how its argument is written)


def _opcode(name: str, code: int, argument: int) -> int:
    OPCODES[name] = code, argument
    return code


INT: Final = _opcode("INT", 0x49, _LINE)
BININT: Final = _opcode("BININT", 0x4A, _INT32)
BININT1: Final = _opcode("BININT1", 0x4B, _UINT8)
BININT2: Final = _opcode("BININT2", 0x4D, _UINT16)
LONG: Final = _opcode("LONG", 0x4C, _LINE)
LONG1: Final = _opcode("LONG1", 0x8A, _INTEGER8)
LONG4: Final = _opcode("LONG4", 0x8B, _INTEGER32)
STRING: Final = _opcode("STRING", 0x53, _LINE)
BINSTRING: Final = _opcode("BINSTRING", 0x54, _STRING32)
SHORT_BINSTRING: Final = _opcode("SHORT_BINSTRING", 0x55, _STRING8)
BINBYTES: Final = _opcode("BINBYTES", 0x42, _BYTES32)
SHORT_BINBYTES: Final = _opcode("SHORT_BINBYTES", 0x43, _BYTES8)
BINBYTES8: Final = _opcode("BINBYTES8", 0x8E, _BYTES64)
BYTEARRAY8: Final = _opcode("BYTEARRAY8", 0x96, _BYTES64)
NEXT_BUFFER: Final = _opcode("NEXT_BUFFER", 0x97, _NOTHING)
READONLY_BUFFER: Final = _opcode("READONLY_BUFFER", 0x98, _NOTHING)
NONE: Final = _opcode("NONE", 0x4E, _NOTHING)
NEWTRUE: Final = _opcode("NEWTRUE", 0x88, _NOTHING)
NEWFALSE: Final = _opcode("NEWFALSE", 0x89, _NOTHING)
UNICODE: Final = _opcode("UNICODE", 0x56, _LINE)
SHORT_BINUNICODE: Final = _opcode("SHORT_BINUNICODE", 0x8C, _TEXT8)
BINUNICODE: Final = _opcode("BINUNICODE", 0x58, _TEXT32)
BINUNICODE8: Final = _opcode("BINUNICODE8", 0x8D, _TEXT64)
FLOAT: Final = _opcode("FLOAT", 0x46, _LINE)
BINFLOAT: Final = _opcode("BINFLOAT", 0x47, _DOUBLE)
EMPTY_LIST: Final = _opcode("EMPTY_LIST", 0x5D, _NOTHING)
APPEND: Final = _opcode("APPEND", 0x61, _NOTHING)
APPENDS: Final = _opcode("APPENDS", 0x65, _NOTHING)
LIST: Final = _opcode("LIST", 0x6C, _NOTHING)
EMPTY_TUPLE: Final = _opcode("EMPTY_TUPLE", 0x29, _NOTHING)
TUPLE: Final = _opcode("TUPLE", 0x74, _NOTHING)
TUPLE1: Final = _opcode("TUPLE1", 0x85, _NOTHING)
TUPLE2: Final = _opcode("TUPLE2", 0x86, _NOTHING)
TUPLE3: Final = _opcode("TUPLE3", 0x87, _NOTHING)
EMPTY_DICT: Final = _opcode("EMPTY_DICT", 0x7D, _NOTHING)
DICT: Final = _opcode("DICT", 0x64, _NOTHING)
SETITEM: Final = _opcode("SETITEM", 0x73, _NOTHING)
SETITEMS: Final = _opcode("SETITEMS", 0x75, _NOTHING)
EMPTY_SET: Final = _opcode("EMPTY_SET", 0x8F, _NOTHING)
ADDITEMS: Final = _opcode("ADDITEMS", 0x90, _NOTHING)
FROZENSET: Final = _opcode("FROZENSET", 0x91, _NOTHING)
POP: Final = _opcode("POP", 0x30, _NOTHING)
DUP: Final = _opcode("DUP", 0x32, _NOTHING)
MARK: Final = _opcode("MARK", 0x28, _NOTHING)
POP_MARK: Final = _opcode("POP_MARK", 0x31, _NOTHING)
GET: Final = _opcode("GET", 0x67, _LINE)
BINGET: Final = _opcode("BINGET", 0x68, _UINT8)
LONG_BINGET: Final = _opcode("LONG_BINGET", 0x6A, _UINT32)
PUT: Final = _opcode("PUT", 0x70, _LINE)
BINPUT: Final = _opcode("BINPUT", 0x71, _UINT8)
LONG_BINPUT: Final = _opcode("LONG_BINPUT", 0x72, _UINT32)
MEMOIZE: Final = _opcode("MEMOIZE", 0x94, _NOTHING)
EXT1: Final = _opcode("EXT1", 0x82, _UINT8)
EXT2: Final = _opcode("EXT2", 0x83, _UINT16)
EXT4: Final = _opcode("EXT4", 0x84, _INT32)
GLOBAL: Final = _opcode("GLOBAL", 0x63, _TWO_LINES)
STACK_GLOBAL: Final = _opcode("STACK_GLOBAL", 0x93, _NOTHING)
REDUCE: Final = _opcode("REDUCE", 0x52, _NOTHING)
BUILD: Final = _opcode("BUILD", 0x62, _NOTHING)
INST: Final = _opcode("INST", 0x69, _TWO_LINES)
OBJ: Final = _opcode("OBJ", 0x6F, _NOTHING)
NEWOBJ: Final = _opcode("NEWOBJ", 0x81, _NOTHING)
NEWOBJ_EX: Final = _opcode("NEWOBJ_EX", 0x92, _NOTHING)
PROTO: Final = _opcode("PROTO", 0x80, _UINT8)
STOP: Final = _opcode("STOP", 0x2E, _NOTHING)
FRAME: Final = _opcode("FRAME", 0x95, _UINT64)
PERSID: Final = _opcode("PERSID", 0x50, _LINE)
BINPERSID: Final = _opcode("BINPERSID", 0x51, _NOTHING)

NAMES: Final = {code: name for name, (code, _) in OPCODES.items()}
# Bytes of an argument whose width the opcode alone tells, by how the argument is written.
FIXED_WIDTHS: Final = {_NOTHING: 0, _UINT8: 1, _UINT16: 2, _UINT32: 4, _INT32: 4, _UINT64: 8, _DOUBLE: 8}
_ARGUMENTS: Final = bytes(map(dict(OPCODES.values()).get, range(256), [_NO_OPCODE] * 256))

_UINT16_AT: Final = struct.Struct("<H").unpack_from
_INT32_AT: Final = struct.Struct("<i").unpack_from
_UINT32_AT: Final = struct.Struct("<I").unpack_from
_UINT64_AT: Final = struct.Struct("<Q").unpack_from
_DOUBLE_AT: Final = struct.Struct(">d").unpack_from
_FIXED: Final = {_UINT16: (2, _UINT16_AT), _INT32: (4, _INT32_AT), _UINT64: (8, _UINT64_AT), _DOUBLE: (8, _DOUBLE_AT)}
# Bytes of the length that stands before an argument, by how the argument is written.
_PREFIX: Final = {
    **dict.fromkeys((_TEXT8, _BYTES8, _STRING8, _INTEGER8), 1),
    **dict.fromkeys((_TEXT32, _BYTES32, _STRING32, _INTEGER32), 4),
    **dict.fromkeys((_TEXT64, _BYTES64), 8),
}

# Numbers as text. 010, 0x10 and 1_0 are refused: C's unpickler, Python's and pickletools read them differently.
_DECIMAL: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_ODD: Final = re.compile(rb"[\s_]")
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.?))", re.DOTALL)
_ESCAPES: Final = dict(zip(b"abfnrtv\\'\"", b"\a\b\f\n\r\t\v\\'\"", strict=True))


def decode(data: bytes, position: int = 0, *, start: int | None = None) -> Iterator[tuple[int, Any, int]]:
    """Yield every opcode up to STOP as (code, argument, byte where it starts).

    Text is str, a STRING of Python 2 is bytes, GLOBAL and INST have (module, name), FLOAT and BINFLOAT a float, INT and
    LONG an int (INT's 00 and 01 are bools). Stricter than CPython: no opcode may reach over the end of its frame. `start`
    is where the pickle begins, if not at `position`; then there must be no frame around `position`.
    Raises PickleError, TruncatedPickleError, LimitError; no length makes it allocate more than there is to read.
    """
    size = len(data)
    start = position if start is None else start
    limit = size  # the end of the frame, or of the data if there is none
    arguments = _ARGUMENTS
    while True:
        if position >= limit:
            if position >= size:
                raise TruncatedPickleError(f"the pickle is cut off at byte {position:,}, before its STOP", size + 1)
            limit = size
        at = position
        code = data[position]
        kind = arguments[code]
        position += 1
        if kind == _NOTHING:
            yield code, None, at
            if code == STOP:
                return
            continue
        if kind == _UINT8:
            if position >= limit:
                raise _crossing(code, at, position + 1, limit, size)
            argument: Any = data[position]
            position += 1
            if code == PROTO and (argument > 5 or at != start):
                raise PickleError(f"PROTO {argument} at byte {at:,}: protocols 0 to 5, once, at the start")
        elif kind == _UINT32:
            if position + 4 > limit:
                raise _crossing(code, at, position + 4, limit, size)
            (argument,) = _UINT32_AT(data, position)
            position += 4
        elif kind == _TEXT32 or kind == _TEXT8:
            width = 4 if kind == _TEXT32 else 1
            if position + width > limit:
                raise _crossing(code, at, position + width, limit, size)
            length = _UINT32_AT(data, position)[0] if width == 4 else data[position]
            position += width + length
            if position > limit:
                raise _crossing(code, at, position, limit, size)
            argument = _text(data[position - length : position], at)
        elif kind <= _DOUBLE:
            width, unpack = _FIXED[kind]
            if position + width > limit:
                raise _crossing(code, at, position + width, limit, size)
            (argument,) = unpack(data, position)
            position += width
            if kind == _UINT64:
                if limit != size:
                    raise PickleError(f"FRAME at byte {at:,} within another frame")
                if argument > size - position:
                    raise _crossing(code, at, position + argument, size, size)
                limit = position + argument if argument else size
        elif kind in _PREFIX:
            width = _PREFIX[kind]
            if position + width > limit:
                raise _crossing(code, at, position + width, limit, size)
            length = int.from_bytes(data[position : position + width], "little")
            position += width + length
            if kind == _INTEGER32 and length >> 31:
                raise PickleError(f"LONG4 at byte {at:,} has a negative length")
            if position > limit:
                raise _crossing(code, at, position, limit, size)
            if kind in (_INTEGER8, _INTEGER32) and length > limits().integer:
                raise LimitError(
                    f"an integer of {length:,} bytes at byte {at:,}: at most {limits().integer:,} are read"
                )
            argument = data[position - length : position]
            if kind == _TEXT64:
                argument = _text(argument, at)
            elif kind in (_INTEGER8, _INTEGER32):
                argument = int.from_bytes(argument, "little", signed=True)
        elif kind == _LINE:
            line, position = _line(data, position, at, limit, size)
            argument = _line_argument(code, line, at)
        elif kind == _TWO_LINES:
            module, position = _line(data, position, at, limit, size)
            name, position = _line(data, position, at, limit, size)
            argument = (_text(module, at), _text(name, at))
        else:
            raise PickleError(f"byte {at:,} is {code:#04x}, which is no opcode")
        yield code, argument, at


def _crossing(code: int, at: int, end: int, limit: int, size: int) -> PickleError:
    if end > size:
        return TruncatedPickleError(f"{NAMES[code]} at byte {at:,} needs {end - size:,} bytes more than there are", end)
    return PickleError(f"{NAMES[code]} at byte {at:,} reaches over the end of its frame at byte {limit:,}")


def _text(data: bytes, at: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PickleError(f"the text at byte {at:,} is not UTF-8: {error.reason}") from error


def _line(data: bytes, position: int, at: int, limit: int, size: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position, min(limit, position + limits().line + 1))
    if end < 0:
        if limit - position > limits().line:
            raise LimitError(f"a line of more than {limits().line:,} bytes at byte {at:,}")
        raise _crossing(data[at], at, limit + 1, limit, size)
    return data[position:end], end + 1


def _line_argument(code: int, line: bytes, at: int) -> object:
    """Return the argument that protocol 0 writes as text."""
    name = NAMES[code]
    try:
        match name:
            case "PERSID":
                return line.decode("ascii")
            case "UNICODE":
                text = line.decode("raw-unicode-escape")
                text.encode()  # raises for lone surrogates
                return text
            case "STRING":
                if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
                    raise ValueError("no quotes around it")
                return _ESCAPE.sub(_unescaped, line[1:-1])
            case "FLOAT" if not _ODD.search(line):
                return float(line)
            case "INT" if line in (b"00", b"01"):
                return line == b"01"
            case "INT" | "LONG" if _DECIMAL.fullmatch(line.removesuffix(b"L") if name == "LONG" else line):
                return int(line.removesuffix(b"L"))
            case "GET" | "PUT" if _DECIMAL.fullmatch(line) and int(line) >= 0:
                # LONG_BINPUT has 32 bits, too; larger numbers could be chosen so that their hashes collide.
                if int(line) >> 32:
                    raise LimitError(f"{name} at byte {at:,} has a memo number of more than 32 bits")
                return int(line)
            case _:
                raise ValueError("no number as Python writes it")
    except ValueError as error:
        raise PickleError(f"{name} at byte {at:,} has the argument {line[:40]!r}: {error!s:.100}") from error


def _unescaped(match: re.Match[bytes]) -> bytes:
    hexadecimal, octal, other = match.groups()
    if hexadecimal is not None:
        return bytes.fromhex(hexadecimal.decode())
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if other in (b"", b"x"):
        raise ValueError("half an escape")
    return bytes([_ESCAPES[other[0]]]) if other[0] in _ESCAPES else match[0]
