"""The pickle machine: opcodes in, inert values out.

It imports nothing, looks nothing up by name and calls nothing that a pickle names.

A pickle is a program for a stack machine (CPython's Lib/pickletools.py describes it). This one runs the same program, but
where the real one would import a global and call it, a closed table decides: a global in the table has a function here
that builds a plain value from plain arguments; any other becomes an `Opaque`, which remembers what was asked for.

Nothing is hashed or compared that a pickle made: a dict is kept as its keys and values in a row, so there is no key that
can't be one and no collision that costs time. Values may be shared and may contain themselves.
"""

from __future__ import annotations

import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

from converter.errors import ConverterError, LimitError, PickleError, TruncatedPickleError
from converter.limits import limits


class Dict(list[Any]):
    """A dict or OrderedDict, its keys and values in a row: `[key, value, key, value, …]`. `state` is what BUILD gave it."""

    __slots__ = ("state",)

    state: object

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Give the keys with their values, in order."""
        values = iter(self)
        return zip(values, values, strict=True)


class Opaque:
    """A global outside the table, or something that calling it would have made. Nothing was called.

    `args` is None for the bare global. `how` is the opcode that would have called it. `callee` is what was to be called,
    if that was not the global itself but something it had made. `state` is a list of what BUILD gave, `items` of what
    was put in, in order.
    """

    __slots__ = ("args", "callee", "how", "items", "kwargs", "module", "name", "state")

    def __init__(
        self, module: str, name: str, args: object = None, how: str = "", callee: Opaque | None = None
    ) -> None:
        self.module = module
        self.name = name
        self.args = args
        self.how = how
        self.callee = callee
        self.kwargs: object = None
        self.state: list[object] | None = None
        self.items: list[object] | None = None

    def __repr__(self) -> str:
        called = "" if self.args is None else "(…)"
        return f"<Opaque {self.module}.{self.name}{called}>"


class PersistentId:
    """What a persistent id stands for, where nobody said how to find it. `value` is the id."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Known:
    """A global of the closed table: `build` makes the value from the arguments, or is None for a mere name."""

    __slots__ = ("build", "module", "name", "value")

    def __init__(
        self, module: str, name: str, build: Callable[[tuple[Any, ...]], object] | None = None, value: object = None
    ) -> None:
        self.module = module
        self.name = name
        self.build = build
        self.value = value


Table = Mapping[tuple[str, str], Known]


@dataclass(slots=True)
class Pickled:
    """What one pickle holds: its value, where it ends, and the globals it names with the byte of their first mention."""

    value: object
    end: int
    globals: dict[tuple[str, str], int] = field(default_factory=dict)


# How an opcode's argument is written. The letters are those of `struct` where they can be.
_NONE, _BYTE, _HALF, _WORD, _INT, _LONG, _DOUBLE, _TEXT8, _TEXT32, _TEXT64 = range(10)
_BYTES8, _BYTES32, _BYTES64, _STRING8, _STRING32, _LINE, _LINES, _INTEGER8, _INTEGER32 = range(10, 19)
_UNKNOWN: Final = 255

# name: (code, argument). Source: CPython 3.14 Lib/pickletools.py, protocols 0 to 5; a test compares the two.
OPCODES: Final[dict[str, tuple[int, int]]] = {
    "INT": (0x49, _LINE), "BININT": (0x4A, _INT), "BININT1": (0x4B, _BYTE), "BININT2": (0x4D, _HALF),
    "LONG": (0x4C, _LINE), "LONG1": (0x8A, _INTEGER8), "LONG4": (0x8B, _INTEGER32),
    "STRING": (0x53, _LINE), "BINSTRING": (0x54, _STRING32), "SHORT_BINSTRING": (0x55, _STRING8),
    "BINBYTES": (0x42, _BYTES32), "SHORT_BINBYTES": (0x43, _BYTES8), "BINBYTES8": (0x8E, _BYTES64),
    "BYTEARRAY8": (0x96, _BYTES64), "NEXT_BUFFER": (0x97, _NONE), "READONLY_BUFFER": (0x98, _NONE),
    "NONE": (0x4E, _NONE), "NEWTRUE": (0x88, _NONE), "NEWFALSE": (0x89, _NONE),
    "UNICODE": (0x56, _LINE), "SHORT_BINUNICODE": (0x8C, _TEXT8), "BINUNICODE": (0x58, _TEXT32),
    "BINUNICODE8": (0x8D, _TEXT64), "FLOAT": (0x46, _LINE), "BINFLOAT": (0x47, _DOUBLE),
    "EMPTY_LIST": (0x5D, _NONE), "APPEND": (0x61, _NONE), "APPENDS": (0x65, _NONE), "LIST": (0x6C, _NONE),
    "EMPTY_TUPLE": (0x29, _NONE), "TUPLE": (0x74, _NONE), "TUPLE1": (0x85, _NONE), "TUPLE2": (0x86, _NONE),
    "TUPLE3": (0x87, _NONE), "EMPTY_DICT": (0x7D, _NONE), "DICT": (0x64, _NONE), "SETITEM": (0x73, _NONE),
    "SETITEMS": (0x75, _NONE), "EMPTY_SET": (0x8F, _NONE), "ADDITEMS": (0x90, _NONE), "FROZENSET": (0x91, _NONE),
    "POP": (0x30, _NONE), "DUP": (0x32, _NONE), "MARK": (0x28, _NONE), "POP_MARK": (0x31, _NONE),
    "GET": (0x67, _LINE), "BINGET": (0x68, _BYTE), "LONG_BINGET": (0x6A, _WORD),
    "PUT": (0x70, _LINE), "BINPUT": (0x71, _BYTE), "LONG_BINPUT": (0x72, _WORD), "MEMOIZE": (0x94, _NONE),
    "EXT1": (0x82, _BYTE), "EXT2": (0x83, _HALF), "EXT4": (0x84, _INT),
    "GLOBAL": (0x63, _LINES), "STACK_GLOBAL": (0x93, _NONE), "REDUCE": (0x52, _NONE), "BUILD": (0x62, _NONE),
    "INST": (0x69, _LINES), "OBJ": (0x6F, _NONE), "NEWOBJ": (0x81, _NONE), "NEWOBJ_EX": (0x92, _NONE),
    "PROTO": (0x80, _BYTE), "STOP": (0x2E, _NONE), "FRAME": (0x95, _LONG),
    "PERSID": (0x50, _LINE), "BINPERSID": (0x51, _NONE),
}  # fmt: skip

NAMES: Final = {code: name for name, (code, _) in OPCODES.items()}
_ARGUMENTS: Final = bytes(map(dict(OPCODES.values()).get, range(256), [_UNKNOWN] * 256))

_HALF_AT: Final = struct.Struct("<H").unpack_from
_INT_AT: Final = struct.Struct("<i").unpack_from
_WORD_AT: Final = struct.Struct("<I").unpack_from
_LONG_AT: Final = struct.Struct("<Q").unpack_from
_DOUBLE_AT: Final = struct.Struct(">d").unpack_from
# Width of the length that stands before a counted argument.
_PREFIX: Final = {
    _TEXT8: 1,
    _TEXT32: 4,
    _TEXT64: 8,
    _BYTES8: 1,
    _BYTES32: 4,
    _BYTES64: 8,
    _STRING8: 1,
    _STRING32: 4,
    _INTEGER8: 1,
    _INTEGER32: 4,
}

# Numbers as text: C's unpickler, Python's and pickletools read 010, 0x10 and 1_0 differently.
_DECIMAL: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_ODD: Final = re.compile(rb"[\s_]")
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.?))", re.DOTALL)
_ESCAPES: Final = dict(zip(b"abfnrtv\\'\"", b"\a\b\f\n\r\t\v\\'\"", strict=True))


def decode(data: bytes, position: int = 0, *, start: int | None = None) -> Iterator[tuple[int, Any, int]]:
    """Give every opcode up to STOP as (code, argument, byte where it starts).

    Text is str, STRINGs of Python 2 are bytes, GLOBAL and INST give (module, name), FLOAT and BINFLOAT floats, INT and LONG
    ints (INT's 00 and 01: bools). Stricter than CPython: an opcode must end where its frame ends or before. `start` is where
    the pickle begins, if not at `position`; there must be no frame around `position` then.
    Raises PickleError, TruncatedPickleError, LimitError; nothing is allocated on the word of a length.
    """
    size = len(data)
    start = position if start is None else start
    limit = size  # where the frame ends, or the data
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
        if kind == _NONE:
            yield code, None, at
            if code == 0x2E:
                return
            continue
        if kind == _BYTE:
            if position >= limit:
                raise _crossing(code, at, position + 1, limit, size)
            argument: Any = data[position]
            position += 1
            if code == 0x80 and (argument > 5 or at != start):
                raise PickleError(f"PROTO {argument} at byte {at:,}: protocols 0 to 5, once, at the start")
        elif kind == _WORD:
            if position + 4 > limit:
                raise _crossing(code, at, position + 4, limit, size)
            (argument,) = _WORD_AT(data, position)
            position += 4
        elif kind == _TEXT32 or kind == _TEXT8:
            width = 4 if kind == _TEXT32 else 1
            if position + width > limit:
                raise _crossing(code, at, position + width, limit, size)
            length = _WORD_AT(data, position)[0] if width == 4 else data[position]
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
            if kind == _LONG:
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
        elif kind == _LINES:
            module, position = _line(data, position, at, limit, size)
            name, position = _line(data, position, at, limit, size)
            argument = (_text(module, at), _text(name, at))
        else:
            raise PickleError(f"byte {at:,} is {code:#04x}, which is no opcode")
        yield code, argument, at


_FIXED: Final = {
    _HALF: (2, _HALF_AT),
    _INT: (4, _INT_AT),
    _LONG: (8, _LONG_AT),
    _DOUBLE: (8, _DOUBLE_AT),
}


# What C's pickler writes for a tensor of a state dict, from the opcode after the REDUCE of the one before up to its own
# REDUCE: thirty opcodes that are always the same, as one expression. The parts that are named by what they become: the PUT
# of the tensor before, the name, the function, the persistent id, and the other five arguments.
_PUT: Final = rb"r(.{4})"  # the first tensors have BINPUT; they are left to the loop, as scalars and what is tied are
_GET: Final = rb"(h.|j.{4})"
_NUMBER: Final = rb"(?:K.|M..|J.{3}[\x00-\x7f])"
_NUMBERS: Final = rb"(%(n)s\x85|%(n)s{2}\x86|%(n)s{3}\x87|\(%(n)s{4,8}t)" % {b"n": _NUMBER}
_TENSOR: Final = re.compile(
    _PUT + rb"X(.{4})([!-~]{1,999}?)" + _PUT + _GET + rb"\(\(" + _GET + _GET + rb"X(.)\0\0\0([0-9]{1,20})" + _PUT + _GET
    + rb"(" + _NUMBER + rb")t" + _PUT + rb"Q(" + _NUMBER + rb")" + _NUMBERS + _PUT + _NUMBERS + _PUT + rb"([\x88\x89])"
    + _GET + rb"\)R" + _PUT + rb"t" + _PUT + rb"R",
    re.DOTALL,
).match  # fmt: skip
_PLACES: Final = struct.Struct("<8I").unpack
_OPCODES: Final = 28  # in it, but for the sizes and strides …
_COUNTS: Final = (
    0,
    1,
    2,
    3,
    5,
    6,
    7,
    8,
    9,
)  # … of which there are as many as dimensions, and a MARK before more than three
_LATER: Final = Known("", "")  # stands in the memo for what `recall` makes
_NEVER: Final = Known("", "")
_CHECKED: Final = 0xFFFF  # opcodes from one look at the limits to the next


def _numbers(written: bytes) -> tuple[int, ...]:
    """Give the numbers that a part of `_TENSOR` spells, up to the opcode that makes a tuple of them."""
    found, position = [], 1 if written[0] == 0x28 else 0
    while position < len(written) and (width := _WIDTHS.get(written[position], 0)):
        found.append(int.from_bytes(written[position + 1 : position + 1 + width], "little"))
        position += 1 + width
    return tuple(found)


_WIDTHS: Final = {0x4B: 1, 0x4D: 2, 0x4A: 4}


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
    """Give the argument that protocol 0 writes as text."""
    name = NAMES[code]
    try:
        match name:
            case "PERSID":
                return line.decode("ascii")
            case "UNICODE":
                text = line.decode("raw-unicode-escape")
                text.encode()  # lone surrogates
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
                # LONG_BINPUT can say no more; numbers without end could be made to hash alike.
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


def run(
    data: bytes,
    table: Table,
    persistent: Callable[[object], object] = PersistentId,
    position: int = 0,
    *,
    used: dict[tuple[str, str], int] | None = None,
    called: Callable[[int, Opaque], None] | None = None,
) -> Pickled:
    """Run the pickle that starts at `position`, up to its STOP.

    `persistent` gives what a persistent id stands for. Globals are noted in `used` as they are named, so that a caller
    has them even when the pickle turns out to be malformed further on; `called` is told of every call and BUILD outside the
    table: its byte, and what it would have made or changed, even when that is thrown away again. Raises PickleError and its kin,
    and whatever ConverterError the functions of `table` raise.
    """
    used = {} if used is None else used
    try:
        return _Machine(table, persistent, used, called).run(data, position)
    except ConverterError:
        raise
    # The bytes ask for something the stack does not hold; whatever Python calls it, it is one thing to the caller.
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PickleError(f"the pickle can't be run: {type(error).__name__}: {error}") from error


class _Machine:
    """Stack, marks and memo of one run."""

    def __init__(
        self,
        table: Table,
        persistent: Callable[[object], object],
        used: dict[tuple[str, str], int],
        called: Callable[[int, Opaque], None] | None,
    ) -> None:
        self.table = table
        self.persistent = persistent
        self.used = used
        self.called = called
        self.limits = limits()
        self.found: dict[tuple[str, str], Known] = {}
        self.known: dict[bytes, tuple[int, ...]] = {}  # numbers as the pickle writes them
        # Picklers number what they put from 0 on; those numbers count places of a list. Others go into a dict, under a key
        # that a secret changes: chosen ones would make it look for each in a long chain.
        self.memo: list[Any] = []
        self.sparse: dict[int, Any] = {}
        self.salt = int.from_bytes(os.urandom(7), "little")
        # Tensors that were run in one go: their lowest PUT, the byte, and what they use.
        self.later: list[tuple[int, int, tuple[Any, ...]]] = []

    def run(self, data: bytes, position: int) -> Pickled:
        """Interpret; the opcodes that checkpoints are made of come first, for speed."""
        stack: list[Any] = []
        below: list[list[Any]] = []  # the stacks under each open MARK
        memo, sparse = self.memo, self.sparse
        persistent, count, framed, marks = self.persistent, 0, False, self.limits.marks
        start, due = position, _CHECKED
        while True:
            for code, argument, at in decode(data, position, start=start):
                count += 1
                if code == 0x72 or code == 0x71 or code == 0x70:  # LONG_BINPUT, BINPUT, PUT
                    if argument == len(memo) and not sparse:
                        memo.append(stack[-1])
                    else:
                        self.put(argument, stack[-1])
                elif (
                    code == 0x4B or code == 0x58 or code == 0x4D or code == 0x4A or code == 0x8C
                ):  # small ints and text
                    stack.append(argument)
                elif code == 0x68 or code == 0x6A or code == 0x67:  # BINGET, LONG_BINGET, GET
                    value = memo[argument] if argument < len(memo) else sparse.get(argument ^ self.salt, _NEVER)
                    if value is _LATER:
                        value = self.recall(data, argument)
                    elif value is _NEVER:
                        raise PickleError(f"{NAMES[code]} at byte {at:,} asks for memo {argument}, which was never put")
                    stack.append(value)
                elif code == 0x28:  # MARK
                    below.append(stack)
                    stack = []
                    if len(below) > marks:
                        raise LimitError(f"more than {marks:,} open MARKs at byte {at:,}")
                elif code == 0x74:  # TUPLE
                    items = stack
                    stack = self.unmarked(below, code, at)
                    stack.append(tuple(items))
                elif code == 0x94:  # MEMOIZE
                    self.put(len(memo) + len(sparse), stack[-1])
                elif code == 0x86:  # TUPLE2
                    stack[-2:] = [(stack[-2], stack[-1])]
                elif code == 0x52:  # REDUCE
                    args = stack.pop()
                    callee = stack[-1]
                    if type(callee) is Known and type(args) is tuple and callee.build is not None:
                        stack[-1] = callee.build(args)
                        if not framed:
                            opcodes, position = self.tensors(data, at + 1, stack)
                            if opcodes:
                                count += opcodes
                                break
                    else:
                        stack[-1] = self.call(callee, args, code, at)
                elif code == 0x51:  # BINPERSID
                    stack[-1] = persistent(stack[-1])
                elif code == 0x89:  # NEWFALSE
                    stack.append(False)
                elif code == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                elif code == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                elif code == 0x87:  # TUPLE3
                    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
                elif code == 0x75:  # SETITEMS
                    items = stack
                    stack = self.unmarked(below, code, at)
                    self.extend(stack[-1], items, code, at)
                elif code == 0x63:  # GLOBAL
                    stack.append(self.find(argument[0], argument[1], at))
                elif code == 0x93:  # STACK_GLOBAL
                    name = stack.pop()
                    module = stack.pop()
                    if type(module) is not str or type(name) is not str:
                        raise PickleError(f"STACK_GLOBAL at byte {at:,} names a global by something that is not text")
                    stack.append(self.find(module, name, at))
                elif code == 0x2E:  # STOP
                    if below or len(stack) != 1:
                        raise PickleError(
                            f"STOP at byte {at:,} leaves {len(stack):,} values and {len(below):,} open MARKs"
                        )
                    if count > self.limits.opcodes:
                        raise LimitError(f"a pickle of {count:,} opcodes: at most {self.limits.opcodes:,} are run")
                    self.check(count, len(memo) + len(sparse), 1, at)
                    return Pickled(stack[0], at + 1, self.used)
                else:
                    framed = framed or code == 0x95  # FRAME
                    stack = self.rest(code, argument, at, stack, below)
                if count >= due:
                    due = count + _CHECKED
                    self.check(count, len(memo) + len(sparse), len(stack), at)
            else:
                raise AssertionError("decode ends with STOP")

    def put(self, number: int, value: object) -> None:
        """Put a value into the memo; of two with one number the later counts."""
        if number < len(self.memo):
            self.memo[number] = value
        elif number > len(self.memo):
            self.sparse[number ^ self.salt] = value
        else:
            self.memo.append(value)
            self.sparse.pop(number ^ self.salt, None)

    def tensors(self, data: bytes, position: int, stack: list[Any]) -> tuple[int, int]:
        """Run as many tensors, each with its name, as follow the REDUCE before `position` in the form of C's pickler.

        Gives how many opcodes, and the byte after the last one's REDUCE. What each opcode does is done; anything out of the
        ordinary is left to the loop, from the start of its tensor. Of what is put into the memo only the names, the keys and
        the tensors are: a pickler asks for nothing else again, and `recall` makes it if one does.
        """
        opcodes, memo, known, persistent, later = 0, self.memo, self.known, self.persistent, self.later
        last: tuple[bytes, ...] | None = None
        context: tuple[Any, ...] = ()
        while opcodes < _CHECKED and (match := _TENSOR(data, position)) is not None:
            (put_before, length, text, put_name, get_function, get_tag, get_kind, width, digits, put_key, get_location,
             numel, put_id, offset, size, put_size, stride, put_stride, grad, get_hooks, put_hooks, put_args,
            ) = match.groups()  # fmt: skip
            first = len(memo)
            places = _PLACES(
                b"".join((put_before, put_name, put_key, put_id, put_size, put_stride, put_hooks, put_args))
            )
            # Other numbers than the next ones may be of entries that are used here: then their order would matter.
            if places != tuple(range(first, first + 8)) or self.sparse:
                break
            gets = (get_function, get_tag, get_kind, get_location, get_hooks)
            if gets != last:
                indices = [int.from_bytes(get[1:], "little") for get in gets]
                if max(indices) >= first:
                    break
                context, last = tuple(memo[index] for index in indices), gets
                function, tag, kind, location, hooks = context
                if not (type(function) is type(hooks) is Known and function.build and hooks.build) or any(
                    part is _LATER for part in context
                ):
                    break
                build, empty = function.build, hooks.build
            if width[0] != len(digits) or int.from_bytes(length, "little") != len(text):
                break
            for written in (numel, offset, size, stride):
                if written not in known:
                    known[written] = _numbers(written)
            shape, steps, name, key = known[size], known[stride], text.decode(), digits.decode()
            storage = persistent((tag, kind, key, location, known[numel][0]))
            memo += (stack[-1], name, key, _LATER, _LATER, _LATER, _LATER, _LATER)
            stack.append(name)
            stack.append(build((storage, known[offset][0], shape, steps, grad == b"\x88", empty(()))))
            later.append((first, position, context))
            opcodes += _OPCODES + _COUNTS[len(shape)] + _COUNTS[len(steps)]
            position = match.end()
        return opcodes, position

    def recall(self, data: bytes, number: int) -> object:
        """Put into the memo what `tensors` left out around a number, and give that number's entry."""
        first, position, (_, tag, kind, location, hooks) = self.later[
            bisect_right(self.later, number, key=itemgetter(0)) - 1
        ]
        parts = _TENSOR(data, position).groups()  # type: ignore[union-attr]
        numel, offset, size, stride = (self.known[parts[part]] for part in (11, 13, 14, 16))
        id = (tag, kind, parts[8].decode(), location, numel[0])
        made = hooks.build(())
        args = (self.persistent(id), offset[0], size, stride, parts[18] == b"\x88", made)
        for place, value in enumerate((id, size, stride, made, args), first + 3):
            if self.memo[place] is _LATER:
                self.memo[place] = value
        return self.memo[number]

    def rest(self, code: int, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
        """Interpret what checkpoints hold seldom. Gives the stack to go on with."""
        match code:
            case 0x4E:  # NONE
                stack.append(None)
            case 0x88:  # NEWTRUE
                stack.append(True)
            case 0x49 | 0x4C | 0x8A | 0x8B | 0x46 | 0x47:  # INT, LONG, LONG1, LONG4, FLOAT, BINFLOAT
                stack.append(argument)
            case 0x56 | 0x8D | 0x42 | 0x43 | 0x8E | 0x96:  # UNICODE, BINUNICODE8, BINBYTES and its kin, BYTEARRAY8
                stack.append(argument)
            case 0x53 | 0x54 | 0x55:  # STRING, BINSTRING, SHORT_BINSTRING
                stack.append(_python2_string(argument))
            case 0x7D:  # EMPTY_DICT
                stack.append(Dict())
            case 0x5D:  # EMPTY_LIST
                stack.append([])
            case 0x8F:  # EMPTY_SET
                stack.append(Opaque("builtins", "set", (), "EMPTY_SET"))
            case 0x6C:  # LIST
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(items)
            case 0x64:  # DICT
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(Dict())
                self.extend(stack[-1], items, code, at)
            case 0x91:  # FROZENSET
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(Opaque("builtins", "frozenset", (items,), "FROZENSET"))
            case 0x73:  # SETITEM
                value, key = stack.pop(), stack.pop()
                self.extend(stack[-1], [key, value], code, at)
            case 0x61:  # APPEND
                value = stack.pop()
                self.append(stack[-1], [value], code, at)
            case 0x65 | 0x90:  # APPENDS, ADDITEMS
                items, stack = stack, self.unmarked(below, code, at)
                self.append(stack[-1], items, code, at)
            case 0x30:  # POP
                # As in CPython: with nothing above it, POP takes the mark away.
                if not stack and below:
                    return below.pop()
                stack.pop()
            case 0x31:  # POP_MARK
                return self.unmarked(below, code, at)
            case 0x32:  # DUP
                stack.append(stack[-1])
            case 0x62:  # BUILD
                state = stack.pop()
                self.build(stack[-1], state, at)
            case 0x81:  # NEWOBJ
                args = stack.pop()
                stack[-1] = self.call(stack[-1], args, code, at)
            case 0x92:  # NEWOBJ_EX
                kwargs, args = stack.pop(), stack.pop()
                made = self.call(stack[-1], args, code, at)
                if isinstance(made, Opaque):
                    made.kwargs = kwargs
                stack[-1] = made
            case 0x6F:  # OBJ
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(self.call(items[0], tuple(items[1:]), code, at))
            case 0x69:  # INST
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(self.call(self.find(argument[0], argument[1], at), tuple(items), code, at))
            case 0x82 | 0x83 | 0x84:  # EXT1, EXT2, EXT4
                # A number that some process registered; what it stands for is in no file.
                stack.append(self.find("copyreg", f"_extension_registry[{argument}]", at))
            case 0x50:  # PERSID
                stack.append(self.persistent(argument))
            case 0x80 | 0x95:  # PROTO, FRAME
                pass
            case _:  # NEXT_BUFFER, READONLY_BUFFER
                raise PickleError(
                    f"{NAMES[code]} at byte {at:,} refers to a buffer outside the pickle, which a file does not have"
                )
        return stack

    def unmarked(self, below: list[list[Any]], code: int, at: int) -> list[Any]:
        """Give the stack as it was at the last MARK."""
        if not below:
            raise PickleError(f"{NAMES[code]} at byte {at:,} without a MARK before it")
        return below.pop()

    def find(self, module: str, name: str, at: int) -> Known | Opaque:
        """Look a global up in the table; one that is not there becomes an Opaque. Nothing is imported."""
        pair = (module, name)
        found = self.found.get(pair)
        if found is None:
            if len(module) + len(name) > limits().line:
                raise LimitError(f"the name of a global at byte {at:,} has more than {limits().line:,} characters")
            self.used.setdefault(pair, at)
            known = self.table.get(pair)
            if known is not None:
                self.found[pair] = known
                return known
            return Opaque(module, name)
        return found

    def call(self, callee: Any, args: Any, code: int, at: int) -> object:
        """Give what a call stands for. Only functions of the table run, and they get plain values."""
        if type(callee) is Known:
            if type(args) is not tuple:
                raise PickleError(
                    f"{NAMES[code]} at byte {at:,} gives {callee.module}.{callee.name} no tuple of arguments"
                )
            if callee.build is None:
                raise PickleError(
                    f"{NAMES[code]} at byte {at:,} calls {callee.module}.{callee.name}, which makes nothing"
                )
            return callee.build(args)
        if type(callee) is Opaque:
            how = NAMES[code]
            made = Opaque(callee.module, callee.name, args, how, callee if callee.args is not None else None)
            if self.called is not None:
                self.called(at, made)
            return made
        raise PickleError(f"{NAMES[code]} at byte {at:,} calls a {type(callee).__name__}, which can't be called")

    def extend(self, target: Any, items: list[Any], code: int, at: int) -> None:
        """Put keys and values into a dict."""
        if len(items) & 1:
            raise PickleError(f"{NAMES[code]} at byte {at:,} has a key without a value")
        if type(target) is Dict:
            target += items
        elif type(target) is Opaque:
            target.items = _grown(target.items, items)
        else:
            raise PickleError(f"{NAMES[code]} at byte {at:,} puts keys into a {type(target).__name__}")

    def append(self, target: Any, items: list[Any], code: int, at: int) -> None:
        """Put values into a list, or into something that is kept inert."""
        if type(target) is list:
            target += items
        elif type(target) is Opaque:
            target.items = _grown(target.items, items)
        else:
            raise PickleError(f"{NAMES[code]} at byte {at:,} appends to a {type(target).__name__}")

    def build(self, target: Any, state: object, at: int) -> None:
        """Give a value the state that BUILD would have set on it. It stays inert."""
        if type(target) is Dict:
            target.state = state
        elif type(target) is Opaque:
            target.state = _grown(target.state, [state])
            if self.called is not None:
                self.called(at, target)
        else:
            raise PickleError(f"BUILD at byte {at:,} sets the state of a {type(target).__name__}")

    def check(self, count: int, memo: int, stack: int, at: int) -> None:
        """Raise LimitError when the pickle asks for more work than any checkpoint needs."""
        for number, limit, what in (
            (count, self.limits.opcodes, "opcodes"),
            (memo, self.limits.memo, "memo entries"),
            (stack, self.limits.stack, "values on the stack"),
        ):
            if number > limit:
                raise LimitError(f"{number:,} {what} at byte {at:,}: at most {limit:,} are allowed")


def _grown(items: list[object] | None, more: list[object]) -> list[object]:
    """Extend in place: a copy for every call would take quadratic time."""
    if items is None:
        return more
    items += more
    return items


def _python2_string(data: bytes) -> str | bytes:
    """Read a string of Python 2, which was text or bytes: text where it is UTF-8, as torch.load reads it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
