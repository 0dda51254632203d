"""What each opcode does that is rare in checkpoints. The loop has the cases of all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from converter.errors import PickleError, UnsupportedError
from converter.pickles import opcodes as op
from converter.pickles.machine import Lost, Machine
from converter.pickles.value_rows import FROZENSET, SET
from converter.pickles.values import Dict, Opaque, Value

# What an opcode does, given its argument, its byte, the stack and those under each open MARK. Returns the stack to go on with.
Rare = Callable[[Machine, Any, int, list[Any], list[list[Any]]], list[Any]]


def _push(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(argument)  # None is the argument of NONE
    return stack


def _true(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(True)
    return stack


def _string(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    from converter.pickles.leniency import python2_string

    stack.append(python2_string(argument, lenient=machine.note is not None))
    return stack


def _empty_dict(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(Dict())
    return stack


def _empty_list(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append([])
    return stack


def _empty_set(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(Value(SET, ()))
    return stack


def _list(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.LIST, at)
    stack.append(items)
    return stack


def _dict(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.DICT, at)
    stack.append(Dict())
    machine.extend(stack[-1], items, op.DICT, at)
    return stack


def _frozenset(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.FROZENSET, at)
    stack.append(Value(FROZENSET, (items,)))
    return stack


def _setitem(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    value, key = stack.pop(), stack.pop()
    machine.extend(stack[-1], [key, value], op.SETITEM, at)
    return stack


def _append(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    value = stack.pop()
    machine.append(stack[-1], [value], op.APPEND, at)
    return stack


def _appends(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.APPENDS, at)
    machine.append(stack[-1], items, op.APPENDS, at)
    return stack


def _additems(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.ADDITEMS, at)
    machine.append(stack[-1], items, op.ADDITEMS, at)
    return stack


def _pop(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    # As in CPython: where nothing lies above the MARK, POP removes the MARK.
    if not stack and below:
        return below.pop()
    stack.pop()
    return stack


def _pop_mark(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    return machine.unmarked(below, op.POP_MARK, at)


def _dup(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(stack[-1])
    return stack


def _build(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    state = stack.pop()
    machine.build(stack[-1], state, at)
    return stack


def _newobj(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    args = stack.pop()
    stack[-1] = machine.call(stack[-1], args, op.NEWOBJ, at)
    return stack


def _newobj_ex(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    kwargs, args = stack.pop(), stack.pop()
    made = machine.call(stack[-1], args, op.NEWOBJ_EX, at)
    if type(made) is Opaque:
        made.kwargs = kwargs
    elif kwargs:
        raise PickleError(f"NEWOBJ_EX at byte {at:,} gives arguments by name to a call that takes none")
    stack[-1] = made
    return stack


def _obj(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.OBJ, at)
    stack.append(machine.call(items[0], tuple(items[1:]), op.OBJ, at))
    return stack


def _inst(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    # Find the global before the MARK is looked for, because Python's unpickler imports it even if there is no MARK.
    found = machine.find(argument[0], argument[1], at)
    items, stack = stack, machine.unmarked(below, op.INST, at)
    stack.append(machine.call(found, tuple(items), op.INST, at))
    return stack


def _extension(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    # The argument is a number under which some process registered a global with copyreg. The file does not say which global.
    if machine.note is not None:
        number = f"EXT at byte {at:,} names a global by a number, whose meaning the file does not hold"
        machine.refuse(at, UnsupportedError(number))
    stack.append(machine.find("copyreg", f"_extension_registry[{argument}]", at))
    return stack


def _persid(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(machine.persistent(argument))
    return stack


def _proto(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.protocol = argument
    machine.found.clear()  # protocols 0 to 2 have other names for some globals
    return stack


def _frame(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.frame = at + 9 + argument
    return stack


def _next_buffer(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.refuse_buffer(op.NEXT_BUFFER, at)
    stack.append(Lost())
    return stack


def _readonly_buffer(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.refuse_buffer(op.READONLY_BUFFER, at)
    stack.append(stack.pop())
    return stack


_PUSHED: Final = (
    op.NONE, op.INT, op.LONG, op.LONG1, op.LONG4, op.FLOAT, op.BINFLOAT,
    op.UNICODE, op.BINUNICODE8, op.BINBYTES, op.SHORT_BINBYTES, op.BINBYTES8, op.BYTEARRAY8,
)  # fmt: skip
RARE: Final[dict[int, Rare]] = {
    **dict.fromkeys(_PUSHED, _push),
    **dict.fromkeys((op.STRING, op.BINSTRING, op.SHORT_BINSTRING), _string),
    **dict.fromkeys((op.EXT1, op.EXT2, op.EXT4), _extension),
    op.NEWTRUE: _true, op.EMPTY_DICT: _empty_dict, op.EMPTY_LIST: _empty_list, op.EMPTY_SET: _empty_set,
    op.LIST: _list, op.DICT: _dict, op.FROZENSET: _frozenset, op.SETITEM: _setitem, op.APPEND: _append,
    op.APPENDS: _appends, op.ADDITEMS: _additems, op.POP: _pop, op.POP_MARK: _pop_mark, op.DUP: _dup,
    op.BUILD: _build, op.NEWOBJ: _newobj, op.NEWOBJ_EX: _newobj_ex, op.OBJ: _obj, op.INST: _inst,
    op.PERSID: _persid, op.PROTO: _proto, op.FRAME: _frame, op.NEXT_BUFFER: _next_buffer,
    op.READONLY_BUFFER: _readonly_buffer,
}  # fmt: skip
