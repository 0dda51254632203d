"""Which calls of torch's rows are harmless, for `scan`, which keeps them inert and builds no tensors.

A checkpoint's reader builds its tensors and refuses those that make no sense. In any other pickle, the same functions
could be called with arguments that torch.save never writes: `_rebuild_from_type_v2` calls the function that it is given,
and a storage class allocates as many bytes as it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Final

from converter.errors import ConverterError
from converter.limits import limits
from converter.pickles.closed_table import TABLE, check_count, makes_tensors, sizes, whole, with_state
from converter.pickles.values import Made, Opaque, PersistentId, TableEntry

LOAD_FROM_BYTES: Final = ("torch.storage", "_load_from_bytes")  # loads a whole file of torch out of the pickle


def is_harmless(call: Opaque) -> bool:
    """Whether a call of a torch row has arguments that torch.save writes. For `scan`, which builds no tensors.

    Only arguments that could do more than build a small value are checked: torch's functions check the rest
    themselves, and so do the readers of checkpoints.
    """
    row, args = TABLE.get((call.module, call.name)), call.args
    if type(row) is not TableEntry or row.build is None or type(args) is not tuple or call.callee is not None:
        return False
    if call.state is not None:  # BUILD would set the tensor again
        return False
    try:
        return _CHECKS.get(call.name, _anything)(args)
    except ConverterError:
        return False


def _anything(args: tuple[Any, ...]) -> bool:
    return True


def _is_size(args: tuple[Any, ...]) -> bool:
    """Whether it is a short tuple or list of numbers, not a range or anything else that could expand."""
    if args and (len(args) > 1 or type(args[0]) not in (tuple, list) or len(args[0]) > limits().rank):
        return False
    return all(type(length) is int for length in (args[0] if args else ()))


def _on_storage(args: tuple[Any, ...]) -> bool:
    """A tensor on a storage that the checkpoint has. torch would enlarge a storage that is too small for a tensor."""
    check_count(args, 4, 8, "torch._utils._rebuild_tensor")
    storage, offset, size, stride = args[0], *args[1:4]
    # The reader of a checkpoint compares the tensor with its storage. Any other unpickler stops at a persistent id.
    if isinstance(storage, PersistentId):
        return True
    if not isinstance(storage, Made | TableEntry):  # a text or a tuple, say: torch finds no storage in it, and stops
        return True
    if type(storage) is not Opaque or type(storage.args) is not tuple or (storage.module, storage.name) in TABLE:
        return False
    if len(storage.args) != 1 or type(storage.args[0]) is not bytes:
        return (storage.module, storage.name) != LOAD_FROM_BYTES
    lengths, steps = sizes(size, "a size"), sizes(stride, "a stride")
    if len(lengths) != len(steps):
        return False
    last = whole(offset, "an offset") + sum((length - 1) * step for length, step in zip(lengths, steps, strict=True))
    return last < 8 * len(storage.args[0])


def _sets_plain_attributes(args: tuple[Any, ...]) -> bool:
    check_count(args, 4, 4, "torch._utils._rebuild_parameter_with_state")
    with_state(None, args[3], "torch._utils._rebuild_parameter_with_state")
    return True


def _of_a_type(args: tuple[Any, ...]) -> bool:
    """`_rebuild_from_type_v2` calls the function that it is given. That must make a tensor, and be harmless if called itself."""
    check_count(args, 4, 4, "torch._tensor._rebuild_from_type_v2")
    function, kind, inner, state = args
    if type(function) is not Opaque or function.args is not None:
        return False
    row = TABLE.get((function.module, function.name))
    if row is None:
        # `scan` reports the name of any other function anyway. It has a treatment of its own for calls of this one.
        return (function.module, function.name) != LOAD_FROM_BYTES
    if type(kind) is Opaque and (kind.module, kind.name) in TABLE:
        with_state(None, state, "torch._tensor._rebuild_from_type_v2")
    return makes_tensors(row) and is_harmless(Opaque(function.module, function.name, inner))


def _quantised(args: tuple[Any, ...]) -> bool:
    """Torch allocates as many elements as the size says, so the storage must have that many."""
    check_count(args, 7, 7, "torch._utils._rebuild_qtensor")
    named = args[0].value if isinstance(args[0], PersistentId) else None
    count = named[4] if type(named) is tuple and len(named) > 4 else 0
    return type(count) is int and prod(sizes(args[2], "a size")) <= max(count, 1)


_CHECKS: Final[dict[str, Callable[[tuple[Any, ...]], bool]]] = {
    "Size": _is_size,
    "_rebuild_tensor": _on_storage,
    "_rebuild_tensor_v2": _on_storage,
    "_rebuild_tensor_v3": _on_storage,
    "_rebuild_parameter_with_state": _sets_plain_attributes,
    "_rebuild_from_type": _of_a_type,
    "_rebuild_from_type_v2": _of_a_type,
    "_rebuild_qtensor": _quantised,
}
