"""The closed table: the only globals that have a meaning here, and what each one builds from its arguments.

Its rows are the functions that torch.save writes for tensors (torch/_utils.py, torch/_tensor.py, torch/storage.py) and
the containers of a state dict. None of them is imported: a function in this file builds a `Tensor` from plain values
instead. Module and name are compared as a pair: `torch` + `_utils._rebuild_tensor_v2` is not the same global as
`torch._utils` + `_rebuild_tensor_v2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from converter.dtypes import BY_STORAGE, BY_TORCH, U8, Dtype
from converter.errors import LayoutError, LimitError, PickleError
from converter.limits import limits
from converter.pickles.value_rows import VALUES
from converter.pickles.values import Dict, Made, Opaque, TableEntry, Value, ValueRow
from converter.tensors.tensor import Storage, Tensor
from converter.text import plural

_META: Final = ("meta", b"meta")  # the location of a storage that has a size and no data
_QUANTISED: Final = frozenset(name for name in BY_TORCH if name.startswith(("qint", "quint")))
_KINDS: Final = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ATTRIBUTES: Final = 100  # of a tensor, at most: a pickle can pass one dict to many calls, and each reads all its keys
# Assigning to one of these changes the tensor or its bytes. They are the attributes with a setter in torch 2.13.
SETTERS: Final = frozenset(
    (
        *("data", "real", "imag", "names", "requires_grad", "volatile", "grad", "grad_dtype", "grad_fn"),
        *("_grad", "_grad_fn", "_backward_hooks", "_post_accumulate_grad_hooks"),
    )
)


class Typed(NamedTuple):
    """A storage as a pickle mentions it: with the dtype of its class, or untyped (counted in bytes).

    `meta` is true if the pickle says that the storage was on the device `meta`: torch.load then gives it no data.
    """

    storage: Storage
    dtype: Dtype
    untyped: bool = False
    meta: bool = False


@dataclass(frozen=True, slots=True)
class StorageClass:
    """`torch.FloatStorage` and the like. An untyped storage counts bytes."""

    name: str
    dtype: Dtype
    untyped: bool = False


class Special:
    """A tensor without plain bytes: quantised, sparse, nested, without data … It is listed, but never converted."""

    __slots__ = ("args", "dtype", "function", "kind", "shape")

    def __init__(
        self, kind: str, function: str, args: object, dtype: str | None = None, shape: tuple[int, ...] | None = None
    ) -> None:
        self.kind = kind
        self.function = function
        self.args = args
        self.dtype = dtype
        self.shape = shape


class Attributed:
    """A tensor to which torch.load would add plain attributes: those that the pickle sets, in its order."""

    __slots__ = ("attributes", "tensor")

    def __init__(self, tensor: Tensor | Special, attributes: tuple[object, ...]) -> None:
        self.tensor = tensor
        self.attributes = attributes


def is_meta(location: object) -> bool:
    """Whether torch.load would leave a storage with this location without data."""
    return type(location) in (str, bytes) and location in _META


def storage_class(known: object) -> StorageClass:
    """The storage class that a persistent id names. Raises PickleError for any other global."""
    if type(known) is TableEntry and type(known.value) is StorageClass:
        return known.value
    name = f"{known.module}.{known.name}" if isinstance(known, TableEntry | Opaque | Value) else type(known).__name__
    raise PickleError(f"a persistent id names {name}, which is not a storage class of torch")


def check_count(args: tuple[Any, ...], least: int, most: int, function: str) -> None:
    """Raise PickleError for too few or too many arguments."""
    if not least <= len(args) <= most:
        raise PickleError(f"{function} has {len(args)} arguments: {least} to {most} were expected")


def whole(value: object, what: str) -> int:
    """Return an integer. Raises LayoutError for anything else."""
    if type(value) is not int:
        raise LayoutError(f"{what} is a {type(value).__name__}, not an integer")
    return value


def sizes(value: object, what: str) -> tuple[int, ...]:
    """Return a tuple of integers. Raises LayoutError for anything else."""
    if type(value) is not tuple:
        raise LayoutError(f"{what} is a {type(value).__name__}, not a tuple")
    if len(value) > limits().rank:
        raise LayoutError(f"{what} has {plural(len(value), 'dimension')}: at most {limits().rank} are read")
    if [*map(type, value)].count(int) != len(value):
        odd = next(type(number) for number in value if type(number) is not int)
        raise LayoutError(f"{what} holds a {odd.__name__}, not integers only")
    return value


def _check_hooks(requires_grad: object, hooks: object) -> None:
    if requires_grad is not False and requires_grad is not True:
        raise PickleError(f"requires_grad is a {type(requires_grad).__name__}, not a bool")
    if hooks is not None and not (type(hooks) is Dict and not hooks):
        raise PickleError("backward_hooks is not an empty OrderedDict: the tensor has hooks, which are code")


def _tensor(
    storage: object, offset: object, size: object, stride: object, dtype: Dtype | None = None
) -> Tensor | Special:
    if type(storage) is not Typed:
        raise PickleError(f"a tensor is built on a {type(storage).__name__}, not on a storage")
    shape, steps = sizes(size, "a tensor's size"), sizes(stride, "a tensor's stride")
    tensor = Tensor(dtype or storage.dtype, shape, steps, whole(offset, "a storage offset"), storage.storage)
    if storage.meta or tensor.dtype.torch in _QUANTISED:
        return Special("meta" if storage.meta else "quantised", "torch.load", (), tensor.dtype.name, shape)
    return tensor


def _rebuild_tensor(args: tuple[Any, ...]) -> object:
    check_count(args, 4, 4, "torch._utils._rebuild_tensor")
    return _tensor(*args)


def _rebuild_tensor_v2(args: tuple[Any, ...]) -> object:
    if len(args) == 6:
        storage, offset, size, stride, requires_grad, hooks = args
        _check_hooks(requires_grad, hooks)
        return _tensor(storage, offset, size, stride)
    check_count(args, 7, 7, "torch._utils._rebuild_tensor_v2")
    storage, offset, size, stride, requires_grad, hooks, *metadata = args
    _check_hooks(requires_grad, hooks)
    return _with_metadata(_tensor(storage, offset, size, stride), metadata, "torch._utils._rebuild_tensor_v2")


def _rebuild_tensor_v3(args: tuple[Any, ...]) -> object:
    check_count(args, 7, 8, "torch._utils._rebuild_tensor_v3")
    storage, offset, size, stride, requires_grad, hooks, named, *metadata = args
    _check_hooks(requires_grad, hooks)
    dtype = _dtype(named)
    tensor = _tensor(storage, offset, size, stride, dtype)
    # torch.load swaps the bytes of a big-endian file by the storage's dtype, whatever the tensor's dtype is.
    if storage.storage.byteorder == "big" and storage.dtype.swapped != dtype.swapped:
        raise LayoutError(
            f"a {dtype.name} tensor lies on a big-endian storage of {storage.dtype.name} (key `{storage.storage.key:.80}`): "
            "torch.load would not put its bytes into the right order"
        )
    return _with_metadata(tensor, metadata, "torch._utils._rebuild_tensor_v3")


def _with_metadata(tensor: Tensor | Special, metadata: list[Any], function: str) -> object:
    """Return the tensor, or a Special if it is a lazily conjugated or negated view: its bytes are not its values.

    torch only asks whether the mark is present, not whether it is true (torch/csrc/jit/serialization/pickler.h).
    """
    marks = metadata[0] if metadata else None
    if marks is None:
        return tensor
    if type(marks) is not Dict:
        raise PickleError(f"{function} has a {type(marks).__name__} for metadata, not a dict")
    kinds = []
    if len(marks) > 4:
        raise PickleError(f"{function} has {len(marks) // 2:,} entries of metadata: only `conj` and `neg` are known")
    for key, value in marks.pairs():
        if key not in ("conj", "neg") or type(value) is not bool:
            raise PickleError(f"{function} has metadata other than `conj` and `neg`, true or false")
        kinds.append(key)
    if not kinds or isinstance(tensor, Special):
        return tensor
    return Special(f"{' and '.join(kinds)} view", function, (tensor,), tensor.dtype.name, tensor.shape)


def _dtype(value: object) -> Dtype:
    if type(value) is TableEntry and isinstance(value.value, Dtype):
        return value.value
    raise PickleError(f"a tensor's dtype is {_named(value)}, which is not a torch.dtype")


def _named(value: object) -> str:
    return (
        f"{value.module}.{value.name}"
        if isinstance(value, TableEntry | ValueRow | Opaque | Value)
        else f"a {type(value).__name__}"
    )


def _rebuild_parameter(args: tuple[Any, ...]) -> object:
    check_count(args, 3, 3, "torch._utils._rebuild_parameter")
    data, requires_grad, hooks = args
    _check_hooks(requires_grad, hooks)
    return _is_tensor(data, "torch._utils._rebuild_parameter")


def _rebuild_parameter_with_state(args: tuple[Any, ...]) -> object:
    check_count(args, 4, 4, "torch._utils._rebuild_parameter_with_state")
    data, requires_grad, hooks, state = args
    _check_hooks(requires_grad, hooks)
    function = "torch._utils._rebuild_parameter_with_state"
    return with_state(_is_tensor(data, function), state, function)


def _is_tensor(data: object, function: str) -> object:
    """Return the tensor that a parameter wraps. Attributes of that tensor do not pass to the parameter."""
    if isinstance(data, Attributed):
        return data.tensor
    if isinstance(data, Tensor | Special) or type(data) is Opaque:
        return data
    raise PickleError(f"{function} is given a {type(data).__name__}, not a tensor")


def with_state(made: object, state: object, function: str) -> object:
    """Return the tensor with the attributes that torch would set on it (`_set_obj_state` of torch/_utils.py).

    `state` is a dict, or a tuple of a dict and a second one for slots; each may be None. Raises LayoutError for an
    attribute that changes the tensor itself.
    """
    if type(state) is tuple and len(state) != 2:
        raise PickleError(f"{function} has a state of {plural(len(state), 'part')}: a dict, or two, were expected")
    parts = [part for part in (state if type(state) is tuple else (state,)) if part is not None]
    for part in parts:
        if type(part) is not Dict:
            raise PickleError(f"{function} sets a {type(part).__name__} as attributes, not a dict")
        if len(part) > 2 * _ATTRIBUTES:
            raise LimitError(
                f"{function} sets {len(part) // 2:,} attributes of a tensor: at most {_ATTRIBUTES} are read"
            )
        for key in part[::2]:
            if type(key) is not str:
                raise PickleError(f"{function} sets an attribute whose name is a {type(key).__name__}, not text")
            if key in SETTERS or key.startswith("__"):
                raise LayoutError(f"{function} sets `{key:.80}` of a tensor, which would change the tensor itself")
    attributes = tuple(part for part in parts if part)
    if isinstance(made, Attributed):
        return Attributed(made.tensor, (*made.attributes, *attributes))
    return Attributed(made, attributes) if attributes and isinstance(made, Tensor | Special) else made


def _rebuild_from_type(args: tuple[Any, ...]) -> object:
    """Return the tensor inside a tensor with attributes. A real subclass stays a Special."""
    check_count(args, 4, 4, "torch._tensor._rebuild_from_type_v2")
    function, kind, inner, _ = args
    if type(function) is TableEntry and function.build is _rebuild_from_type:
        raise PickleError("torch._tensor._rebuild_from_type_v2 is given itself: subclasses do not nest")
    if not isinstance(function, Made) and not makes_tensors(function):
        raise PickleError(f"torch._tensor._rebuild_from_type_v2 is given {_named(function)}, which makes no tensor")
    if type(function) is TableEntry and function.build is not None and type(inner) is tuple:
        made = function.build(inner)
        if type(kind) is TableEntry and isinstance(made, Tensor | Attributed):
            return with_state(made, args[3], "torch._tensor._rebuild_from_type_v2")
        if isinstance(made, Attributed):
            made = made.tensor
        shape = made.shape if isinstance(made, Tensor | Special) else None
        dtype = made.dtype.name if isinstance(made, Tensor) else made.dtype if isinstance(made, Special) else None
        # Keep the state (a DTensor's shard) reachable, so that it is listed.
        whole = (made, args[3], kind)
        return Special(f"subclass {_named(kind)}", "torch._tensor._rebuild_from_type_v2", whole, dtype, shape)
    return Special(f"subclass {_named(kind)}", "torch._tensor._rebuild_from_type_v2", (inner, args[3], kind))


def makes_tensors(function: object) -> bool:
    """Whether a row is a function that makes a tensor itself, and calls no other function."""
    return (
        type(function) is TableEntry
        and function.name.startswith("_rebuild_")
        and function.build is not _rebuild_from_type
    )


def _special(kind: str, function: str, dtype_at: int | None = None, size_at: int | None = None) -> TableEntry:
    module, _, name = function.rpartition(".")

    def build(args: tuple[Any, ...]) -> object:
        dtype = shape = None
        if dtype_at is not None and len(args) > dtype_at and type(args[dtype_at]) is TableEntry:
            value = args[dtype_at].value
            dtype = value.name if isinstance(value, Dtype) else None
        if size_at is not None and len(args) > size_at and type(args[size_at]) is tuple:
            shape = sizes(args[size_at], "a tensor's size")
            if any(not 0 <= length < 1 << 63 for length in shape):
                raise LayoutError("a tensor has a size that is negative or does not fit into 63 bits")
        if args and type(args[0]) is Typed:
            dtype = args[0].dtype.name
        return Special(kind, function, args, dtype, shape)

    return TableEntry(module, name, build)


def _ordered_dict(args: tuple[Any, ...]) -> object:
    """Build an OrderedDict. Python 3 passes nothing and fills it; Python 2 passes [key, value] pairs, which are copied.

    The machine limits how much is copied, because a pickle can pass one list to many calls.
    """
    check_count(args, 0, 1, "collections.OrderedDict")
    made = Dict()
    if args and type(args[0]) is not list:
        raise PickleError(f"collections.OrderedDict is given a {type(args[0]).__name__}, not a list of pairs")
    for pair in args[0] if args else ():
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise PickleError("collections.OrderedDict is given something that is not a list of pairs")
        made += pair
    return made


def _size(args: tuple[Any, ...]) -> object:
    check_count(args, 0, 1, "torch.Size")
    given = args[0] if args else ()
    return sizes(tuple(given) if type(given) is list and len(given) <= limits().rank else given, "torch.Size")


def _table() -> dict[tuple[str, str], TableEntry | ValueRow]:
    utils = "torch._utils"
    rows = [
        # OrderedDict.__new__ ignores its arguments: only __init__ takes them.
        TableEntry("collections", "OrderedDict", _ordered_dict, new=lambda _: Dict()),
        TableEntry("torch", "Size", _size, new=_size),
        TableEntry("torch", "Tensor"),
        TableEntry("torch.nn.parameter", "Parameter"),
        TableEntry("torch.nn.parameter", "Buffer"),
        TableEntry(utils, "_rebuild_tensor", _rebuild_tensor),
        TableEntry(utils, "_rebuild_tensor_v2", _rebuild_tensor_v2),
        TableEntry(utils, "_rebuild_tensor_v3", _rebuild_tensor_v3),
        TableEntry(utils, "_rebuild_parameter", _rebuild_parameter),
        TableEntry(utils, "_rebuild_parameter_with_state", _rebuild_parameter_with_state),
        *(
            TableEntry(module, name, _rebuild_from_type)
            for module in ("torch._tensor", "torch.tensor")
            for name in ("_rebuild_from_type_v2", "_rebuild_from_type")
        ),
        _special("quantised", f"{utils}._rebuild_qtensor", size_at=2),
        _special("sparse", f"{utils}._rebuild_sparse_tensor"),
        _special("sparse", f"{utils}._rebuild_sparse_csr_tensor"),
        _special("nested", f"{utils}._rebuild_nested_tensor"),
        _special("meta", f"{utils}._rebuild_meta_tensor_no_storage", dtype_at=0, size_at=1),
        _special("wrapper subclass", f"{utils}._rebuild_wrapper_subclass", dtype_at=1, size_at=2),
        _special("uninitialised", "torch.nn.parameter.UninitializedParameter"),
        _special("uninitialised", "torch.nn.parameter.UninitializedBuffer"),
        _special("device", f"{utils}._rebuild_device_tensor_from_numpy", dtype_at=1),
        _special("device", f"{utils}._rebuild_device_tensor_from_cpu_tensor", dtype_at=1),
        _special("device", f"{utils}._rebuild_xla_tensor", dtype_at=1),
        *(
            TableEntry("torch", name)
            for name in (
                *("per_tensor_affine", "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric"),
                "per_channel_affine_float_qparams",
                *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
            )
        ),
        *(TableEntry("torch", name, value=dtype) for name, dtype in BY_TORCH.items()),
        # Types of tensors, which torch before 0.1.10 names beside each tensor.
        *(TableEntry(module, f"{kind}Tensor") for kind in _KINDS for module in ("torch", "torch.cuda")),
        *(
            TableEntry(module, name, value=StorageClass(name, dtype))
            for name, dtype in BY_STORAGE.items()
            for module in ("torch", "torch.cuda")
        ),
        *(
            TableEntry("torch.storage", name, value=StorageClass(name, U8, untyped=True))
            for name in ("UntypedStorage", "_UntypedStorage")
        ),
    ]
    return VALUES | {(known.module, known.name): known for known in rows}


TABLE: Final = _table()
