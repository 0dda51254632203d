"""The fast path: runs the thirty opcodes of a tensor in one step (docs/decisions/0005-tensors-in-one-go.md).

For every tensor of a state dict, the C pickler writes the same thirty opcodes, from the PUT of the previous tensor to
the REDUCE of this one. `TENSOR` is one regular expression for them; its groups are named after the values they produce.
Where it matches, `FastTensors.run` does in one step what the opcodes would have done one by one. Where anything is
unusual, it stops, and the machine's loop goes on from there. It puts only the names, the keys and the tensors into the
memo, because picklers ask for nothing else again. The other memo entries are `OMITTED`; if a pickle does ask for one,
`FastTensors.recall` makes it from the bytes.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

from converter.pickles import opcodes as op
from converter.pickles.values import TableEntry

BATCH: Final = 0xFFFF  # opcodes between two checks of the limits
OMITTED: Final = TableEntry("", "")  # a memo entry that `recall` makes if a pickle asks for it

# Parts of the expression. Only LONG_BINPUT counts as a PUT: the first 256 memo entries have BINPUT, and the loop runs the
# tensors that put those, as well as scalars and tied tensors.
_PUT: Final = rb"r(?P<put_%s>.{4})"
_GET: Final = rb"(?P<get_%s>h.|j.{4})"
_NUMBER: Final = rb"(?:K.|M..|J.{3}[\x00-\x7f])"
_NUMBERS: Final = rb"(?P<%%s>%(n)s\x85|%(n)s{2}\x86|%(n)s{3}\x87|\(%(n)s{4,8}t)" % {b"n": _NUMBER}
_WIDTHS: Final = {op.BININT1: 1, op.BININT2: 2, op.BININT: 4}  # bytes of a number, by its opcode

TENSOR: Final = re.compile(
    _PUT % b"before" + rb"X(?P<name_length>.{4})(?P<name>[!-~]{1,999}?)" + _PUT % b"name"
    + _GET % b"function" + rb"\(\("
    + _GET % b"tag" + _GET % b"kind" + rb"X(?P<key_length>.)\0\0\0(?P<key>[0-9]{1,20})" + _PUT % b"key"
    + _GET % b"location" + rb"(?P<numel>" + _NUMBER + rb")t" + _PUT % b"id" + rb"Q"
    + rb"(?P<offset>" + _NUMBER + rb")" + _NUMBERS % b"shape" + _PUT % b"shape" + _NUMBERS % b"stride" + _PUT % b"stride"
    + rb"(?P<requires_grad>[\x88\x89])" + _GET % b"hooks" + rb"\)R" + _PUT % b"hooks" + rb"t" + _PUT % b"args" + rb"R",
    re.DOTALL,
).match  # fmt: skip
_EIGHT_PUTS: Final = struct.Struct("<8I").unpack
_OPCODES: Final = 26  # opcodes of a tensor, without its shape and stride
# Opcodes of a shape or stride by its rank: one per dimension, one that makes the tuple, and MARK if the rank is above 3.
_OPCODES_BY_RANK: Final = (1, 2, 3, 4, 6, 7, 8, 9, 10)


class FastTensors:
    """Runs tensors for a machine, and shares the machine's memo.

    `memo` is the memo as a list; `sparse` has the entries whose numbers don't fit into the list.
    """

    def __init__(self, memo: list[Any], sparse: dict[int, Any], persistent: Callable[[object], object]) -> None:
        self.memo = memo
        self.sparse = sparse
        self.persistent = persistent
        self.numbers: dict[bytes, tuple[int, ...]] = {}  # the numbers of sizes, strides and offsets, by their opcodes
        # For each tensor that was run here: the number of its first memo entry, its byte, and the values it uses.
        self.done: list[tuple[int, int, tuple[Any, ...]]] = []

    def run(self, data: bytes, position: int, stack: list[Any]) -> tuple[int, int]:
        """Run the tensors, each with its name, that follow the REDUCE before `position`, as far as they have the usual form.

        Returns the number of opcodes, and the byte after the last tensor's REDUCE.
        """
        opcodes, memo, numbers, persistent, done = 0, self.memo, self.numbers, self.persistent, self.done
        last: tuple[bytes, ...] | None = None
        context: tuple[Any, ...] = ()
        while opcodes < BATCH and (match := TENSOR(data, position)) is not None:
            (put_before, name_length, text, put_name, get_function, get_tag, get_kind, key_length, digits, put_key,
             get_location, numel, put_id, offset, size, put_shape, stride, put_stride, grad, get_hooks, put_hooks, put_args,
            ) = match.groups()  # fmt: skip
            first = len(memo)
            puts = _EIGHT_PUTS(
                b"".join((put_before, put_name, put_key, put_id, put_shape, put_stride, put_hooks, put_args))
            )
            # Unless the eight PUTs fill the next eight entries, they could overwrite one that this tensor reads.
            if puts != tuple(range(first, first + 8)) or self.sparse:
                break
            gets = (get_function, get_tag, get_kind, get_location, get_hooks)
            if gets != last:
                indices = [int.from_bytes(get[1:], "little") for get in gets]
                if max(indices) >= first:
                    break
                context, last = tuple(memo[index] for index in indices), gets
                function, tag, kind, location, hooks = context
                if not (type(function) is type(hooks) is TableEntry and function.build and hooks.build) or any(
                    part is OMITTED for part in context
                ):
                    break
                build, empty = function.build, hooks.build
            if key_length[0] != len(digits) or int.from_bytes(name_length, "little") != len(text):
                break
            for written in (numel, offset, size, stride):
                if written not in numbers:
                    numbers[written] = _numbers(written)
            shape, steps, name, key = numbers[size], numbers[stride], text.decode(), digits.decode()
            storage = persistent((tag, kind, key, location, numbers[numel][0]))
            memo += (stack[-1], name, key, OMITTED, OMITTED, OMITTED, OMITTED, OMITTED)
            stack.append(name)
            stack.append(build((storage, numbers[offset][0], shape, steps, grad == b"\x88", empty(()))))
            done.append((first, position, context))
            opcodes += _OPCODES + _OPCODES_BY_RANK[len(shape)] + _OPCODES_BY_RANK[len(steps)]
            position = match.end()
        return opcodes, position

    def recall(self, data: bytes, number: int) -> object:
        """Return a memo entry that `run` omitted. The other omitted entries of its tensor are put into the memo as well."""
        first, position, (_, tag, kind, location, hooks) = self.done[
            bisect_right(self.done, number, key=itemgetter(0)) - 1
        ]
        parts = TENSOR(data, position).groupdict()  # type: ignore[union-attr]
        numel, offset, shape, stride = (self.numbers[parts[name]] for name in ("numel", "offset", "shape", "stride"))
        id = (tag, kind, parts["key"].decode(), location, numel[0])
        made = hooks.build(())
        args = (self.persistent(id), offset[0], shape, stride, parts["requires_grad"] == b"\x88", made)
        for place, value in enumerate((id, shape, stride, made, args), first + 3):
            if self.memo[place] is OMITTED:
                self.memo[place] = value
        return self.memo[number]


def _numbers(written: bytes) -> tuple[int, ...]:
    """Return the numbers that a part of `TENSOR` spells, up to the opcode that makes them a tuple."""
    found, position = [], 1 if written[0] == op.MARK else 0
    while position < len(written) and (width := _WIDTHS.get(written[position], 0)):
        found.append(int.from_bytes(written[position + 1 : position + 1 + width], "little"))
        position += 1 + width
    return tuple(found)
