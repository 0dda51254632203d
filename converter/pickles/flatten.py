"""From a pickle's inert value to named tensors. Anything but a plain state dict is left to `naming`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from converter.limits import limits
from converter.pickles.values import Dict
from converter.tensors.tensor import Tensor
from converter.words import Root

if TYPE_CHECKING:
    from converter.pickles.modules import Level
    from converter.tensors.catalogue import Other, Unsupported

# Prefixes that wrappers put before every name: torch.nn.DataParallel and DistributedDataParallel, torch.compile, Opacus.
PREFIXES: Final = ("module.", "_orig_mod.", "_module.")


@dataclass(slots=True)
class Flattened:
    """The tensors by name in the order of the pickle, and everything that is not a tensor.

    `root` is the path to the part below which names start, its keys joined with dots; `prefix` is what a wrapper had
    put before every name; the names here leave it out. `module` is the class of the whole module that the tensors
    belong to, or the classes of several side by side. `averaged` are the names of averaged weights that lie beside these,
    `buffers` those of a module's buffers among the tensors, `hooked` the modules whose hooks may change their state dict
    (their paths, or the class of the outermost one), and `objects` those of values among the weights that hold
    something of a class outside the closed table: it may be a tensor of a kind that is not known. `entered` says that the
    tensors lie in objects of such classes, or in dicts of such.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    unsupported: list[Unsupported] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    arrays: dict[int, Tensor] = field(default_factory=dict)  # the tensors made from numpy arrays, by the array's id
    root: str = ""
    prefix: str = ""
    module: str = ""
    averaged: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    hooked: list[str] = field(default_factory=list)
    entered: bool = False


def flatten(value: object, root: Root = None, module: Callable[[object], Level | None] | None = None) -> Flattened:
    """Name every tensor of the weights by the keys that lead to it, joined with dots; a bare tensor is called `tensor`.

    A whole module has the names of its `state_dict()`, which `module` gives, or `modules.state_dict` without it.
    `pickles.weights` decides which part holds the weights; `root` chooses another part, and names then start below it.
    Positions in lists count from 0.

    Raises FormatError for a part that is not there, NamesError for two tensors of the same name, LayoutError for a key
    that occurs twice on the path to one, LimitError for nesting past the limit or containers shared so often that they multiply.
    """
    flattened = Flattened()
    if root is None and type(value) is Dict and (plain := _plain(value)) is not None:
        flattened.tensors, wrapped = plain, True
    else:
        from converter.pickles.naming import name_all  # a plain state dict does not need it

        wrapped = name_all(flattened, value, root, module)
    if wrapped:
        flattened.tensors, flattened.prefix = _without_prefix(flattened.tensors)
        flattened.buffers = [name.removeprefix(flattened.prefix) for name in flattened.buffers]
    return flattened


def _plain(value: Dict) -> dict[str, Tensor] | None:
    """The tensors of a dict that holds only names and tensors; None if it holds anything else."""
    names, tensors = value[::2], value[1::2]
    if set(map(type, names)) != {str} or set(map(type, tensors)) != {Tensor} or sum(map(len, names)) > limits().names:
        return None
    found = dict(zip(names, tensors, strict=True))
    return found if len(found) == len(names) else None


def facts(flattened: Flattened) -> dict[str, bool | str | tuple[str, ...]]:
    """A catalogue's facts about the part that was chosen."""
    return {
        "root": flattened.root,
        "prefix": flattened.prefix,
        "module": flattened.module,
        "averaged": tuple(flattened.averaged),
        "buffers": tuple(flattened.buffers),
        "objects": tuple(flattened.objects),
        "hooked": tuple(flattened.hooked),
        "entered": flattened.entered,
    }


def _without_prefix(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Remove the prefixes that wrappers put before every name, even several of them."""
    prefix = ""
    while fits := [p for p in PREFIXES if tensors and all(name.startswith(prefix + p) for name in tensors)]:
        prefix += fits[0]
    if not prefix or prefix in tensors:
        return tensors, ""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items()}, prefix
