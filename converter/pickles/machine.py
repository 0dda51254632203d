"""The pickle machine: opcodes go in, inert values come out.

It imports nothing, looks nothing up by name and calls nothing that a pickle names.

A pickle is a program for a stack machine (CPython's Lib/pickletools.py describes it). This machine runs the same
program. Where an unpickler would import a global and call it, a closed table decides instead: for a global in the
table, a function of this package builds a plain value from plain arguments; any other global becomes an `Opaque`, which
remembers what the pickle asked for.

Nothing that a pickle made is hashed or compared. A dict is kept as a list of its keys and values, so anything can be a
key and no collision costs time. Values may be shared and may contain themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from converter.errors import LimitError, PickleError
from converter.limits import limits
from converter.pickles import opcodes as op
from converter.pickles.fast_tensors import BATCH, OMITTED, FastTensors
from converter.pickles.filling import Filling
from converter.pickles.leniency import DEAD_ENDS, Lost, Note, in_python_3, python2_string, writable
from converter.pickles.opcodes import (
    BINGET,
    BININT,
    BININT1,
    BININT2,
    BINPERSID,
    BINPUT,
    BINUNICODE,
    EMPTY_TUPLE,
    FRAME,
    GET,
    GLOBAL,
    LONG_BINGET,
    LONG_BINPUT,
    MARK,
    MEMOIZE,
    NAMES,
    NEWFALSE,
    PUT,
    REDUCE,
    SETITEMS,
    SHORT_BINUNICODE,
    STACK_GLOBAL,
    STOP,
    TUPLE,
    TUPLE1,
    TUPLE2,
    TUPLE3,
    decode,
)
from converter.pickles.value_rows import FROZENSET, SET
from converter.pickles.values import Dict, Opaque, PersistentId, Pickled, Table, TableEntry, Value, ValueRow

Behind = Callable[[int, Opaque], tuple[int, object] | None]

_ABSENT: Final = object()  # for numbers that were never put
_MISUSE: Final = (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError)  # of the stack


def run(
    data: bytes,
    table: Table,
    persistent: Callable[[object], object] = PersistentId,
    position: int = 0,
    *,
    used: dict[tuple[str, str], int] | None = None,
    called: Callable[[int, Opaque], None] | None = None,
    note: Note | None = None,
    total: int | None = None,
    skips: bool = False,
    behind: Behind | None = None,
) -> Pickled:
    """Run the pickle that starts at `position`, up to its STOP.

    `persistent` returns the value that a persistent id stands for. Globals are added to `used` as they are named, so
    that a caller has them even if the pickle turns out to be malformed further on. `called` is called for every call
    and BUILD outside the table, with its byte and what it would have made or changed, even if the pickle discards that
    again. `behind` is called after BUILD with the byte and the object. If bytes that are not opcodes follow there, it
    returns where they end, and what takes the object's place on the stack; otherwise None.

    With `note` the run is lenient: it does what the most lenient unpickler does. It calls `note` with the byte, the
    error that a strict run would have raised, and whether every unpickler stops there. It goes on even then, to see
    what else is named, until the pickle can't be decoded. `total` and `skips` have the same meaning as for `decode`.

    Raises PickleError and its subclasses, and any ConverterError that a function of `table` raises.
    """
    used = {} if used is None else used
    try:
        return _Machine(table, persistent, used, called, note, behind).run(data, position, total, skips)
    except _MISUSE as error:
        raise _misuse(error) from error


def _misuse(error: Exception) -> PickleError:
    return PickleError(f"the pickle can't be run: {type(error).__name__}: {error}")


class _Machine(Filling):
    """The stack, marks and memo of one run."""

    def __init__(
        self,
        table: Table,
        persistent: Callable[[object], object],
        used: dict[tuple[str, str], int],
        called: Callable[[int, Opaque], None] | None,
        note: Note | None,
        behind: Behind | None,
    ) -> None:
        self.table = table
        self.persistent = persistent
        super().__init__(used, called, note)
        self.behind = behind
        self.stopped: list[PickleError] = []  # errors at which every unpickler stops
        self.protocol = 0
        self.frame = 0  # where the last frame ends
        self.limits = limits()
        self.found: dict[tuple[str, str], TableEntry | ValueRow] = {}
        # Picklers number memo entries from 0 on, so the memo is a list. Other numbers go into a dict, keyed by number XOR a
        # random salt, so that a pickle cannot choose numbers that collide.
        self.memo: list[Any] = []
        self.sparse: dict[int, Any] = {}
        self.salt = int.from_bytes(os.urandom(7), "little")
        self.fast = FastTensors(self.memo, self.sparse, persistent)

    def run(self, data: bytes, position: int, total: int | None, skips: bool) -> Pickled:
        """Run the opcodes. For speed, the opcodes that checkpoints mostly consist of are compared first.

        Opcodes are compared here by bare names, because the loop takes a tenth longer with `op.NAME`.
        """
        self.size = len(data)
        stack: list[Any] = []
        below: list[list[Any]] = []  # the stacks under each open MARK
        memo, sparse = self.memo, self.sparse
        persistent, count, framed, marks = self.persistent, 0, False, self.limits.marks
        start, at, due = position, position, BATCH
        reader = decode(data, position, refuse=self.refuse, total=total, skips=skips)
        while True:
            try:
                for code, argument, at in reader:
                    count += 1
                    if code == LONG_BINPUT or code == BINPUT or code == PUT:
                        if argument == len(memo) and not sparse:
                            memo.append(stack[-1])
                        else:
                            self.put(argument, stack[-1])
                    elif code == BININT1 or code == BINUNICODE or code == BININT2 or code == BININT:  # noqa: SIM114 (too long for one)
                        stack.append(argument)
                    elif code == SHORT_BINUNICODE:
                        stack.append(argument)
                    elif code == BINGET or code == LONG_BINGET or code == GET:
                        value = memo[argument] if argument < len(memo) else sparse.get(argument ^ self.salt, _ABSENT)
                        if value is OMITTED:
                            value = self.fast.recall(data, argument)
                        elif value is _ABSENT:
                            raise PickleError(
                                f"{NAMES[code]} at byte {at:,} asks for memo {argument}, which was never put"
                            )
                        stack.append(value)
                    elif code == MARK:
                        below.append(stack)
                        stack = []
                        if len(below) > marks:
                            raise LimitError(f"more than {marks:,} open MARKs at byte {at:,}")
                    elif code == TUPLE:
                        items = stack
                        stack = self.unmarked(below, code, at)
                        stack.append(tuple(items))
                    elif code == MEMOIZE:
                        self.put(len(memo) + len(sparse), stack[-1])
                    elif code == TUPLE2:
                        stack[-2:] = [(stack[-2], stack[-1])]
                    elif code == REDUCE:
                        args = stack.pop()
                        callee = stack[-1]
                        if type(callee) is TableEntry and type(args) is tuple and callee.build is not None:
                            made = stack[-1] = callee.build(args)
                            if type(made) is Dict and made:
                                self.copy(len(made), at)
                            if not framed:
                                opcodes, position = self.fast.run(data, at + 1, stack)
                                if opcodes:
                                    count += opcodes
                                    reader = decode(
                                        data, position, start=start, refuse=self.refuse, total=total, skips=skips
                                    )
                                    break
                        else:
                            stack[-1] = self.call(callee, args, code, at)
                    elif code == BINPERSID:
                        stack[-1] = persistent(stack[-1])
                    elif code == NEWFALSE:
                        stack.append(False)
                    elif code == EMPTY_TUPLE:
                        stack.append(())
                    elif code == TUPLE1:
                        stack[-1] = (stack[-1],)
                    elif code == TUPLE3:
                        stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
                    elif code == SETITEMS:
                        items = stack
                        stack = self.unmarked(below, code, at)
                        self.extend(stack[-1], items, code, at)
                    elif code == GLOBAL:
                        stack.append(self.find(argument[0], argument[1], at))
                    elif code == STACK_GLOBAL:
                        name = stack.pop()
                        module = stack.pop()
                        if type(module) is not str or type(name) is not str:
                            raise PickleError(
                                f"STACK_GLOBAL at byte {at:,} names a global by something that is not text"
                            )
                        stack.append(self.find(module, name, at))
                    elif code == STOP:
                        if below or len(stack) != 1:
                            left = f"STOP at byte {at:,} leaves {len(stack):,} values and {len(below):,} open MARKs"
                            self.refuse(at, PickleError(left))
                        self.check(count, len(memo) + len(sparse), 1, at)
                        return Pickled(stack[-1], at + 1, self.used)
                    else:
                        framed = framed or code == FRAME
                        stack = self.rest(code, argument, at, stack, below)
                        if code == op.BUILD and self.behind is not None and isinstance(stack[-1], Opaque):
                            found = self.behind(at + 1, stack[-1])
                            if found is not None:
                                if self.frame > at + 1:
                                    inside = f"the bytes after BUILD at byte {at:,} lie in a frame: readers disagree about them"
                                    raise PickleError(inside)
                                position, stack[-1] = found
                                reader = decode(
                                    data, position, start=start, refuse=self.refuse, total=total, skips=skips
                                )
                                break
                    if count >= due:
                        due = count + BATCH
                        self.check(count, len(memo) + len(sparse), len(stack), at)
                else:
                    # `decode` itself raised, so there are no more opcodes.
                    raise self.stopped[-1]
            except (PickleError, *_MISUSE) as error:
                if self.note is None or len(self.stopped) == DEAD_ENDS:
                    raise
                self.stopped.append(error if isinstance(error, PickleError) else _misuse(error))
                self.note(at, self.stopped[-1], True)
                stack.append(Lost())

    def put(self, number: int, value: object) -> None:
        """Put a value into the memo. It replaces an earlier value with the same number."""
        if number < len(self.memo):
            self.memo[number] = value
        elif number > len(self.memo):
            self.sparse[number ^ self.salt] = value
        else:
            self.memo.append(value)
            self.sparse.pop(number ^ self.salt, None)

    def rest(self, code: int, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
        """Run an opcode that is rare in checkpoints. Returns the stack to continue with."""
        match code:
            case op.NONE:
                stack.append(None)
            case op.NEWTRUE:
                stack.append(True)
            case op.INT | op.LONG | op.LONG1 | op.LONG4 | op.FLOAT | op.BINFLOAT:
                stack.append(argument)
            case op.UNICODE | op.BINUNICODE8 | op.BINBYTES | op.SHORT_BINBYTES | op.BINBYTES8 | op.BYTEARRAY8:
                stack.append(argument)
            case op.STRING | op.BINSTRING | op.SHORT_BINSTRING:
                stack.append(python2_string(argument, lenient=self.note is not None))
            case op.EMPTY_DICT:
                stack.append(Dict())
            case op.EMPTY_LIST:
                stack.append([])
            case op.EMPTY_SET:
                stack.append(Value(SET, ()))
            case op.LIST:
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(items)
            case op.DICT:
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(Dict())
                self.extend(stack[-1], items, code, at)
            case op.FROZENSET:
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(Value(FROZENSET, (items,)))
            case op.SETITEM:
                value, key = stack.pop(), stack.pop()
                self.extend(stack[-1], [key, value], code, at)
            case op.APPEND:
                value = stack.pop()
                self.append(stack[-1], [value], code, at)
            case op.APPENDS | op.ADDITEMS:
                items, stack = stack, self.unmarked(below, code, at)
                self.append(stack[-1], items, code, at)
            case op.POP:
                # As in CPython: if nothing lies above the MARK, POP removes the MARK.
                if not stack and below:
                    return below.pop()
                stack.pop()
            case op.POP_MARK:
                return self.unmarked(below, code, at)
            case op.DUP:
                stack.append(stack[-1])
            case op.BUILD:
                state = stack.pop()
                self.build(stack[-1], state, at)
            case op.NEWOBJ:
                args = stack.pop()
                stack[-1] = self.call(stack[-1], args, code, at)
            case op.NEWOBJ_EX:
                kwargs, args = stack.pop(), stack.pop()
                made = self.call(stack[-1], args, code, at)
                if type(made) is Opaque:
                    made.kwargs = kwargs
                elif kwargs:
                    raise PickleError(f"NEWOBJ_EX at byte {at:,} gives arguments by name to a call that takes none")
                stack[-1] = made
            case op.OBJ:
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(self.call(items[0], tuple(items[1:]), code, at))
            case op.INST:
                found = self.find(
                    argument[0], argument[1], at
                )  # named before the MARK is checked: Python's unpickler imports it even without a MARK
                items, stack = stack, self.unmarked(below, code, at)
                stack.append(self.call(found, tuple(items), code, at))
            case op.EXT1 | op.EXT2 | op.EXT4:
                # The number of a global that some process registered with copyreg; the file does not say which.
                stack.append(self.find("copyreg", f"_extension_registry[{argument}]", at))
            case op.PERSID:
                stack.append(self.persistent(argument))
            case op.PROTO:
                self.protocol = argument
            case op.FRAME:
                self.frame = at + 9 + argument
            case _:  # NEXT_BUFFER, READONLY_BUFFER
                outside = (
                    f"{NAMES[code]} at byte {at:,} refers to a buffer outside the pickle, which a file does not have"
                )
                self.refuse(at, PickleError(outside))
                stack.append(Lost() if code == op.NEXT_BUFFER else stack.pop())
        return stack

    def unmarked(self, below: list[list[Any]], code: int, at: int) -> list[Any]:
        """Return the stack as it was at the last MARK."""
        if not below:
            raise PickleError(f"{NAMES[code]} at byte {at:,} without a MARK before it")
        return below.pop()

    def find(self, module: str, name: str, at: int) -> TableEntry | ValueRow | Opaque:
        """Return the table's entry for a global, or an Opaque if it has none. Nothing is imported."""
        pair = (module, name)
        found = self.found.get(pair)
        if found is None:
            if len(module) + len(name) > limits().line:
                long = f"the name of a global at byte {at:,} has more than {limits().line:,} characters"
                self.refuse(at, LimitError(long))
            known = self.table.get(pair)
            if known is None:
                pair = in_python_3(module, name) if self.protocol < 3 else pair
                if self.note is not None:
                    pair = writable(pair[0]), writable(pair[1])
                known = self.table.get(pair)
            self.used.setdefault(pair, at)
            if known is not None:
                self.found[module, name] = known
                return known
            return Opaque(*pair)
        return found

    def call(self, callee: Any, args: Any, code: int, at: int) -> object:
        """Return the result of a call. Only functions of the table run, and they get plain values."""
        if type(callee) is TableEntry:
            if type(args) is not tuple:
                raise PickleError(
                    f"{NAMES[code]} at byte {at:,} gives {callee.module}.{callee.name} no tuple of arguments"
                )
            build = callee.new if code in (op.NEWOBJ, op.NEWOBJ_EX) else callee.build
            if build is None:
                raise PickleError(
                    f"{NAMES[code]} at byte {at:,} calls {callee.module}.{callee.name}, which can't be called"
                )
            return build(args)
        if type(callee) is ValueRow:
            known = callee.made(args, code in (op.NEWOBJ, op.NEWOBJ_EX)) if type(args) is tuple else None
            if known is not None:
                if type(known) is Dict or type(known) is bytes:
                    self.copy(len(known), at)
                return known
            self.odd(callee.module, callee.name, at)
            callee = Opaque(callee.module, callee.name)
        if type(callee) is Opaque:
            how = NAMES[code]
            made = Opaque(callee.module, callee.name, args, how, callee if callee.args is not None else None)
            if self.called is not None:
                self.called(at, made)
            return made
        raise PickleError(f"{NAMES[code]} at byte {at:,} calls a {type(callee).__name__}, which can't be called")

    def check(self, count: int, memo: int, stack: int, at: int) -> None:
        """Raise LimitError if the pickle asks for more work than any checkpoint needs."""
        for number, limit, what in (
            (count, self.limits.opcodes, "opcodes"),
            (memo, self.limits.memo, "memo entries"),
            (stack, self.limits.stack, "values on the stack"),
        ):
            if number > limit:
                raise LimitError(f"{number:,} {what} at byte {at:,}: at most {limit:,} are allowed")
