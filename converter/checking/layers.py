"""Layers that are absent, lack a tensor, or have one unlike all other layers, in models of any architecture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from converter.statistics.faults import Fault
from converter.text import listed

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor

# The number of a layer, in the lists of layers of common architectures. Other lists of modules may have gaps.
_LAYER: Final = re.compile(r"((?:^|.*?\.)(?:layers|layer|h|blocks|block|blk)\.)(0|[1-9][0-9]{0,5})\.(.+)")
_FEWEST: Final = 4  # layers that show what all have in common


def gaps(names: Iterable[str]) -> Iterator[Fault]:
    """Yield layers and tensors that are absent though the layers around them are there."""
    lists: dict[str, dict[int, set[str]]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            lists.setdefault(match[1], {}).setdefault(int(match[2]), set()).add(match[3])
    for prefix, layers in lists.items():
        if len(layers) >= _FEWEST:
            yield from _absent(prefix, layers)
            yield from _lacking(prefix, layers)


def odd_ones(tensors: Mapping[str, Tensor], *, shapes: bool) -> Iterator[Fault]:
    """Yield tensors whose dtype is not that of all other layers; with `shapes`, those whose shape is not.

    The first and the last layer may differ. Only plain numbers are compared, because a program may quantise some layers
    further than others. For the same reason integers count only among floating-point numbers, in a layer that has no tensor
    of its own, such as their scales.
    """
    places: dict[tuple[str, str], dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _LAYER.fullmatch(name):
            places.setdefault((match[1], match[3]), {})[int(match[2])] = tensor
    own = {(prefix, number) for (prefix, _), layers in places.items() if len(layers) == 1 for number in layers}
    for (prefix, inner), all_layers in places.items():
        layers = {
            number: tensor
            for number, tensor in all_layers.items()
            if tensor.storage.encoding is None and (tensor.dtype.floating or (prefix, number) not in own)
        }
        if sum(tensor.dtype.floating for tensor in layers.values()) < len(layers) - 1:
            continue
        if len(layers) < _FEWEST:
            continue
        looks: list[tuple[str, Callable[[Tensor], str]]] = [("odd-dtype", lambda tensor: tensor.dtype.name)]
        if shapes:
            looks.append(("odd-shape", lambda tensor: "×".join(map(str, tensor.shape)) or "a scalar"))
        for rule, look in looks:
            found = {number: look(tensor) for number, tensor in layers.items()}
            (usual, count), *others = Counter(found.values()).most_common()
            if others and count == len(layers) - 1:
                number = next(number for number, one in found.items() if one != usual)
                if min(layers) < number < max(layers):
                    said = f"it is {found[number]}; in {count} other layers it is {usual}"
                    yield Fault(rule, f"{prefix}{number}.{inner}", said)


def _absent(prefix: str, layers: dict[int, set[str]]) -> Iterator[Fault]:
    """The few layer numbers that are missing, if all other layers have the same tensors."""
    absent = max(layers) + 1 - len(layers)
    if 0 < absent <= len(layers) // 4 and len(set(map(frozenset, layers.values()))) == 1:
        for number in range(max(layers)):
            if number not in layers:
                yield Fault(
                    "missing", f"{prefix}{number}", "the layer is absent, and those before and after it are there"
                )


def _lacking(prefix: str, layers: dict[int, set[str]]) -> Iterator[Fault]:
    """One layer between others that lacks tensors which all others have, and has nothing else in their place."""
    counts = Counter(inner for held in layers.values() for inner in held)
    common = {inner for inner, count in counts.items() if count == len(layers) - 1}
    for number, held in layers.items():
        lacking = sorted(common - held)
        alike = all(counts[inner] > 1 for inner in held)
        if lacking and alike and min(layers) < number < max(layers):
            yield Fault(
                "missing", f"{prefix}{number}", f"the layer lacks {listed(lacking)}, which every other layer has"
            )
