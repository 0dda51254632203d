"""Layers that are absent, or lack a tensor, in models of any architecture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from converter.statistics.faults import Fault
from converter.text import listed

# The number of a layer, in the lists of layers of common architectures. Other lists of modules may have gaps.
_LAYER: Final = re.compile(r"((?:^|.*?\.)(?:layers|layer|h|blocks|block|blk)\.)(0|[1-9][0-9]{0,5})\.(.+)")
_FEWEST: Final = 6  # layers that show what all have in common


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


def _absent(prefix: str, layers: dict[int, set[str]]) -> Iterator[Fault]:
    """A few numbers that are not there, among layers that all have the same tensors."""
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
