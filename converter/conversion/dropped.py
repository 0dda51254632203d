"""What a conversion leaves behind, by name and with the reason; and the small values that it carries over when it is asked to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.reports.conversion import DroppedReport

if TYPE_CHECKING:
    from converter.formats.format import Planned
    from converter.tensors.catalogue import Catalogue

_CARRIED: Final = 1 << 20  # bytes of JSON
# Why something is left behind, by its role beside the weights (`converter.tensors.catalogue.Role`).
REASONS: Final = {
    "beside": "not part of the model's weights",
    "averaged": "averaged weights: --ema takes them instead of the model's",
    "setting": "an attribute of the module that is not in its state_dict()",
    "attribute": "an attribute of a tensor",
}
_MASK: Final = "follows from the architecture"
AS_ASKED: Final = "left out, as asked"
_CODE: Final = "code is never carried over"


def values(catalogue: Catalogue) -> dict[str, Any]:
    """The scalars, texts, small containers and arrays beside the weights, by name: what JSON can hold, and 1 MB in all."""
    from converter.pickles.plain import Plainly

    plainly, found, nbytes = Plainly(), dict[str, Any](), 0
    for other in catalogue.others:
        plain = plainly(other.value) if other.role != "attribute" else None
        if plain is None or not _is_text(other.name) or other.name in found:
            continue
        nbytes += len(other.name) + len(json.dumps(plain.value))
        if nbytes > _CARRIED:
            break
        found[other.name] = plain.value
    return found


def sidecar(carried: Mapping[str, Any]) -> bytes:
    """The document that holds the values for formats that have no place for them."""
    return (json.dumps(carried, indent=2) + "\n").encode()


def dropped(
    catalogue: Catalogue, planned: Planned, carried: Mapping[str, Any], excluded: Iterable[str]
) -> Iterator[DroppedReport]:
    """Yield what the source has and the output lacks."""
    for name in planned.dropped:
        tensor = catalogue.get(name)
        yield DroppedReport(name, "mask", _MASK, 1, 0 if tensor is None else tensor.nbytes)
    for name in excluded:
        tensor = catalogue.get(name)
        yield DroppedReport(name, "tensor", AS_ASKED, 1, 0 if tensor is None else tensor.nbytes)
    if program := catalogue.facts.get("program"):
        yield DroppedReport("code", str(program), _CODE, 0, 0)
    if not catalogue.others:
        return
    from converter.pickles.walk import measure

    counted: set[int] = set()
    for other in catalogue.others:
        if other.name not in carried:
            yield DroppedReport(other.name, other.kind, REASONS[other.role], *measure(other.value, counted))


def _is_text(name: str) -> bool:
    """Whether every format can use a name as a key."""
    try:
        return len(name.encode()) <= 1000
    except UnicodeEncodeError:
        return False
