"""The opcodes of pickle, and how their arguments are written.

Source: CPython 3.14 Lib/pickletools.py, protocols 0 to 5; a test compares the two.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from converter.errors import EndOfDataError, FrameError, LimitError, PickleError, TruncatedPickleError
from converter.limits import limits
from converter.text import plural

# How an opcode's argument is written. Numbers have a fixed width. Texts, bytes, STRINGs of Python 2 and long integers follow
# a length, whose width is given here. Protocol 0 writes lines of text.
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
# Bytes of an argument with a fixed width, by how the argument is written.
FIXED_WIDTHS: Final = {_NOTHING: 0, _UINT8: 1, _UINT16: 2, _UINT32: 4, _INT32: 4, _UINT64: 8, _DOUBLE: 8}
_ARGUMENTS: Final = bytes(map(dict(OPCODES.values()).get, range(256), [_NO_OPCODE] * 256))

_UINT16_AT: Final = struct.Struct("<H").unpack_from
_INT32_AT: Final = struct.Struct("<i").unpack_from
_UINT32_AT: Final = struct.Struct("<I").unpack_from
_UINT64_AT: Final = struct.Struct("<Q").unpack_from
_DOUBLE_AT: Final = struct.Struct(">d").unpack_from
_FIXED: Final = {_UINT16: (2, _UINT16_AT), _INT32: (4, _INT32_AT), _UINT64: (8, _UINT64_AT), _DOUBLE: (8, _DOUBLE_AT)}
# Bytes of the length before an argument, by how the argument is written.
_PREFIX: Final = {
    **dict.fromkeys((_TEXT8, _BYTES8, _STRING8, _INTEGER8), 1),
    **dict.fromkeys((_TEXT32, _BYTES32, _STRING32, _INTEGER32), 4),
    **dict.fromkeys((_TEXT64, _BYTES64), 8),
}

# Numbers as text. 010, 0x10 and 1_0 are refused: C's unpickler, Python's and pickletools read them differently.
_DECIMAL: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)")
_OCTAL: Final = re.compile(rb"[+-]?0[0-7]++")  # C's strtol reads these, Python's int() does not
_ODD: Final = re.compile(rb"[\s_]")
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.?))", re.DOTALL)
_ESCAPES: Final = dict(zip(b"abfnrtv\\'\"", b"\a\b\f\n\r\t\v\\'\"", strict=True))


Refuse = Callable[[int, PickleError | LimitError], None]


def strictly(at: int, error: PickleError | LimitError) -> NoReturn:
    """Raise whatever any reader refuses."""
    raise error


def decode(
    data: bytes,
    position: int = 0,
    *,
    start: int | None = None,
    refuse: Refuse = strictly,
    total: int | None = None,
    skips: bool = False,
    frame: int = 0,
) -> Iterator[tuple[int, Any, int]]:
    """Yield every opcode up to STOP as (code, argument, byte where it starts).

    Text is str, a STRING of Python 2 is bytes, GLOBAL and INST have (module, name), FLOAT and BINFLOAT a float, INT and
    LONG an int (INT's 00 and 01 are bools). This is stricter than CPython: no opcode may cross the end of its frame.
    `start` is where the pickle begins, if not at `position`. `frame` is where the frame ends that `position` lies in.

    `refuse` is called with the byte and the error of a mistake that some unpickler accepts: C's or Python's of CPython
    3.11 to 3.14, or torch's. It raises, or returns to have the rest read as that unpickler reads it. A mistake that no
    unpickler accepts is raised here. `total` is the size of the whole file, if `data` is only its beginning. With
    `skips`, an argument that crosses the end of its frame begins after the frame: this is how C's unpickler reads it
    from a file without peek(), such as BytesIO.

    Raises PickleError, TruncatedPickleError, LimitError. No length in the data makes it allocate more than there is to
    read.
    """
    size = len(data)
    start = position if start is None else start
    total = size if total is None else total
    limit = frame if frame > position else size  # the end of the frame, or of the data if there is none
    arguments = _ARGUMENTS
    while True:
        if position >= limit:
            if position >= size:
                raise EndOfDataError(f"the pickle is cut off at byte {position:,}, before its STOP", size + 1)
            limit = size
        at = position
        code = data[position]
        kind = arguments[code]
        position += 1
        if kind == _NOTHING:
            if code == STOP and frame > position:
                within = f"STOP at byte {at:,} within a frame: readers disagree on where the pickle ends"
                refuse(at, FrameError(within, frame, apart=False))
            yield code, None, at
            if code == STOP:
                return
            continue
        if kind == _UINT8:
            if position >= limit:
                position, limit = _crossed(code, at, position, 1, limit, size, refuse, skips)
            argument: Any = data[position]
            position += 1
            if code == PROTO and (argument > 5 or at != start):
                refuse(at, PickleError(f"PROTO {argument} at byte {at:,}: protocols 0 to 5, once, at the start"))
        elif kind == _UINT32:
            if position + 4 > limit:
                position, limit = _crossed(code, at, position, 4, limit, size, refuse, skips)
            (argument,) = _UINT32_AT(data, position)
            position += 4
        elif kind == _TEXT32 or kind == _TEXT8:
            width = 4 if kind == _TEXT32 else 1
            if position + width > limit:
                position, limit = _crossed(code, at, position, width, limit, size, refuse, skips)
            length = _UINT32_AT(data, position)[0] if width == 4 else data[position]
            position += width
            if position + length > limit:
                position, limit = _crossed(code, at, position, length, limit, size, refuse, skips)
            argument = _text(data[position : position + length], at, refuse)
            position += length
        elif kind <= _DOUBLE:
            width, unpack = _FIXED[kind]
            if position + width > limit:
                position, limit = _crossed(code, at, position, width, limit, size, refuse, skips)
            (argument,) = unpack(data, position)
            position += width
            if kind == _UINT64:
                # Frames change no opcode. To C's unpickler they are a hint of how much to read; Python's lets one reach past
                # the end of the file, and only refuses what crosses the end of a frame.
                if frame > at:
                    refuse(at, FrameError(f"FRAME at byte {at:,} within another frame", frame, apart=True))
                inner = position + argument <= limit != size
                if skips and limit != size and not inner:
                    position = limit
                frame = position + argument
                if frame > total:
                    refuse(at, _missing(code, at, frame, total))
                    frame = total
                if frame > size:
                    raise _missing(code, at, frame, size)
                if not (skips and inner):
                    limit = frame if argument else size
        elif kind in _PREFIX:
            width = _PREFIX[kind]
            if position + width > limit:
                position, limit = _crossed(code, at, position, width, limit, size, refuse, skips)
            length = int.from_bytes(data[position : position + width], "little")
            position += width
            if kind == _INTEGER32 and length >> 31:
                raise PickleError(f"LONG4 at byte {at:,} has a negative length")
            if position + length > limit:
                # Bytes are read straight to where they go, at first from what is left of the frame.
                linear = kind in (_BYTES8, _BYTES32, _BYTES64)
                position, limit = _crossed(code, at, position, length, limit, size, refuse, skips and not linear)
            if kind in (_INTEGER8, _INTEGER32) and length > limits().integer:
                long = f"an integer of {plural(length, 'byte')} at byte {at:,}: at most {limits().integer:,} are read"
                refuse(at, LimitError(long))
            argument = data[position : position + length]
            position += length
            if kind == _TEXT64:
                argument = _text(argument, at, refuse)
            elif kind in (_INTEGER8, _INTEGER32):
                argument = int.from_bytes(argument, "little", signed=True)
        elif kind == _LINE:
            line, position, limit = _line(data, position, at, limit, total, refuse, skips)
            argument = _line_argument(code, line, at, refuse)
        elif kind == _TWO_LINES:
            module, position, limit = _line(data, position, at, limit, total, refuse, skips)
            name, position, limit = _line(data, position, at, limit, total, refuse, skips)
            argument = (_text(module, at, refuse), _text(name, at, refuse))
        else:
            raise PickleError(f"byte {at:,} is {code:#04x}, which is not an opcode")
        yield code, argument, at


def _missing(code: int, at: int, end: int, size: int) -> TruncatedPickleError:
    return TruncatedPickleError(
        f"{NAMES[code]} at byte {at:,} needs {plural(end - size, 'byte')} more than there are", end
    )


def _crossed(
    code: int, at: int, position: int, width: int, limit: int, size: int, refuse: Refuse, skips: bool
) -> tuple[int, int]:
    """Refuse `width` bytes that cross `limit`. Returns where they begin, and the end of the data as the new limit."""
    position, begin = limit if skips else position, position
    if position + width > size:
        raise _missing(code, at, begin + width if begin + width > size else position + width, size)
    over = f"{NAMES[code]} at byte {at:,} reaches past the end of its frame at byte {limit:,}"
    refuse(at, FrameError(over, limit, apart=True))
    return position, size


def _text(data: bytes, at: int, refuse: Refuse) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        problem = PickleError(f"the text at byte {at:,} is not UTF-8: {error.reason}")
        try:
            text = data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise problem from error
    refuse(at, problem)
    return text


def _line(
    data: bytes, position: int, at: int, limit: int, total: int, refuse: Refuse, skips: bool
) -> tuple[bytes, int, int]:
    """Return a line without its line end, the byte after it, and the end of the frame there."""
    size, end = len(data), data.find(b"\n", position, min(limit, position + limits().line + 1))
    if end >= 0:
        return data[position:end], end + 1, limit
    if limit - position > limits().line:
        refuse(at, LimitError(f"a line of more than {limits().line:,} bytes at byte {at:,}"))
    end = data.find(b"\n", position)
    if end >= limit:
        behind = limit
        _, limit = _crossed(data[at], at, position, end + 1 - position, limit, size, refuse, False)
        if skips:
            position, end = behind, data.find(b"\n", behind)
    if end >= 0:
        return data[position:end], end + 1, limit
    if size < total:
        raise _missing(data[at], at, size + 1, size)
    # Python's unpickler treats the rest as a line, and drops its last byte.
    refuse(at, _missing(data[at], at, size + 1, size))
    return data[position : size - 1], size, size


def _line_argument(code: int, line: bytes, at: int, refuse: Refuse) -> object:
    """Return an argument that protocol 0 writes as text."""
    try:
        return _strict_argument(code, line, at)
    except LimitError as error:
        problem: PickleError | LimitError = error
    except ValueError as error:
        problem = PickleError(f"{NAMES[code]} at byte {at:,} has the argument {line[:40]!r}: {error!s:.100}")
        problem.__cause__ = error
    try:
        argument = _lenient_argument(code, line)
    except ValueError:
        raise problem from problem.__cause__
    refuse(at, problem)
    return argument


def _strict_argument(code: int, line: bytes, at: int) -> object:
    """Return an argument that all readers read in the same way. Raises ValueError for any other, and LimitError."""
    name = NAMES[code]
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
            raise ValueError("not a number as Python writes it")


def _lenient_argument(code: int, line: bytes) -> object:
    """Return an argument as the most lenient unpickler reads it. Raises ValueError if no unpickler can read it.

    C's unpickler reads a number up to its first NUL, and takes a leading 0 for octal. Python's int() accepts blanks,
    underscores, signs and prefixes.
    """
    if code == PERSID:
        return line.decode("ascii", "surrogateescape")
    if code == UNICODE:
        return line.decode("raw-unicode-escape")
    if code == STRING:
        line = line.strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("no quotes around it")
        return _ESCAPE.sub(lambda match: match[0] if match[0] in _HALVES else _unescaped(match), line[1:-1])
    number = (line.removesuffix(b"L") if code == LONG else line).split(b"\0", 1)[0]
    if code == FLOAT:
        return float(number)
    if code in (INT, LONG):
        return int(number, 8 if _OCTAL.fullmatch(number.strip()) else 0)
    index = int(number)
    if index < 0:
        raise ValueError("a negative number")
    if not index >> 32:
        return index
    # A larger number is replaced by a salted hash, so that a file cannot choose numbers that collide.
    return 1 << 60 | hash(index.to_bytes(index.bit_length() // 8 + 1, "little")) & (1 << 60) - 1


_HALVES: Final = (b"\\", b"\\x")  # broken escapes that Python 2 accepted


def _unescaped(match: re.Match[bytes]) -> bytes:
    hexadecimal, octal, other = match.groups()
    if hexadecimal is not None:
        return bytes.fromhex(hexadecimal.decode())
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if other in (b"", b"x"):
        raise ValueError("half an escape")
    return bytes([_ESCAPES[other[0]]]) if other[0] in _ESCAPES else match[0]
