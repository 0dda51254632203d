"""The loop that runs a pickle's opcodes, one after the other.

It has the cases of the opcodes that checkpoints mostly consist of, the commonest first, and takes all others from
`rare.py`. Whatever reaches further than the stack is a method of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, Final

from converter.errors import LimitError, PickleError, TruncatedPickleError
from converter.pickles.fast_tensors import BATCH, OMITTED
from converter.pickles.machine import DEAD_ENDS, Lost, Machine, Note, Reader
from converter.pickles.opcodes import (
    BINGET,
    BININT,
    BININT1,
    BININT2,
    BINPERSID,
    BINPUT,
    BINUNICODE,
    BUILD,
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
from converter.pickles.rare import RARE
from converter.pickles.values import Dict, Made, Opaque, PersistentId, Pickled, Table, TableEntry
from converter.text import plural

_ABSENT: Final = object()  # what the memo holds under a number that was never put
# The errors that an opcode raises if it misuses the stack.
_MISUSE: Final = (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError)


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
    reader: Reader | None = None,
) -> Pickled:
    """Run the pickle that starts at `position`, up to its STOP.

    `persistent` returns the value that a persistent id stands for. Globals are added to `used` as they are named, so
    that a caller has them even if the pickle turns out to be malformed further on. `called` is called for every call
    and BUILD outside the table, with its byte and what it would have made or changed, even if the pickle discards that
    again. A `reader` has more of the pickle than `data`, and knows where bytes lie between its opcodes.

    With `note` the run is lenient: it does what the most lenient unpickler does. It calls `note` with the byte, the
    error that a strict run would have raised, and whether every unpickler stops there. It goes on even then, to see
    what else is named, until the pickle can't be decoded. `total` and `skips` have the same meaning as for `decode`.

    Raises PickleError and its subclasses, and any ConverterError that a function of `table` raises.
    """
    used = {} if used is None else used
    machine, whole = _Run(table, persistent, used, called, note, reader), False
    try:
        pickled = machine.run(data, position, total, skips)
        whole = not machine.stopped
    except _MISUSE as error:
        raise _misuse(error) from error
    finally:
        if machine.naming and not (whole and only_names(machine.naming, data, position)):
            machine.settle(None)
    return pickled


def only_names(naming: Container[tuple[str, str]], data: bytes, position: int = 0) -> bool:
    """Whether these functions of NAMING do nothing but name something, wherever the pickle at `position` has them."""
    from converter.pickles.leniency import in_python_3
    from converter.pickles.references import only_called

    def named(module: str, name: str) -> bool:
        return (module, name) in naming or in_python_3(module, name) in naming

    return only_called(data, position, named)


def _misuse(error: Exception) -> PickleError:
    if isinstance(error, IndexError):  # the stack is a list
        return PickleError("the pickle can't be run: an opcode takes more values from the stack than it has")
    return PickleError(f"the pickle can't be run: an opcode is given values that it can't take ({error!s:.100})")


class _Run(Machine):
    """The opcodes of one run."""

    def run(self, data: bytes, position: int, total: int | None, skips: bool) -> Pickled:
        """Run the opcodes. For speed, the opcodes that checkpoints mostly consist of are compared first.

        Opcodes are compared here by bare names, because the loop takes a tenth longer with `op.NAME`.
        """
        self.size = len(data)
        stack: list[Any] = []
        below: list[list[Any]] = []  # the stacks under each open MARK
        memo, sparse = self.memo, self.sparse
        persistent, count, framed, marks = self.persistent, 0, False, self.limits.marks
        start, at, due, resumed = position, position, BATCH, 0
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
                            left = f"STOP at byte {at:,} leaves {plural(len(stack), 'value')} and {len(below):,} open MARKs"
                            self.refuse(at, PickleError(left))
                        self.check(count, len(memo) + len(sparse), 1, at)
                        return Pickled(stack[-1], at + 1, self.used)
                    else:
                        framed = framed or code == FRAME
                        stack = RARE[code](self, argument, at, stack, below)
                        if code == BUILD and self.reader is not None and isinstance(stack[-1], Made):
                            found = self.reader.behind(at + 1, stack[-1])
                            if found is not None:
                                if self.frame > at + 1:
                                    inside = f"the bytes after BUILD at byte {at:,} lie in a frame: readers disagree about them"
                                    raise PickleError(inside)
                                data, position, stack[-1] = found
                                self.size += len(data)
                                self.frame, start = 0, -1  # PROTO stands only before the first array
                                reader, resumed = decode(data, position, start=start, refuse=self.refuse), count
                                break
                    if count >= due:
                        due = count + BATCH
                        self.check(count, len(memo) + len(sparse), len(stack), at)
                else:
                    break  # `decode` itself raised, so there are no more opcodes
            except (PickleError, *_MISUSE) as error:
                if isinstance(error, TruncatedPickleError) and self.reader is not None:
                    more = self.reader.longer(error.needs)
                    if more is not None:
                        data = more
                        self.size += len(data)
                        if at < position or count == resumed:  # none was run since
                            reader = decode(data, position, start=start, refuse=self.refuse)
                        else:
                            reader = decode(data, at, start=start, refuse=self.refuse, frame=self.frame)
                            next(reader)  # the last opcode that was run
                        continue
                if self.note is None or len(self.stopped) == DEAD_ENDS:
                    raise
                self.stopped.append(error if isinstance(error, PickleError) else _misuse(error))
                self.note(at, self.stopped[-1], True)
                stack.append(Lost())
        raise self.stopped[-1]
