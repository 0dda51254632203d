"""What a conversion leaves behind, by name and with the reason; and the small values that it carries over when it is asked to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.formats import joining
from converter.reports.conversion import DroppedReport
from converter.words import option

if TYPE_CHECKING:
    from converter.formats.format import Format
    from converter.formats.planned import Planned
    from converter.tensors.catalogue import Catalogue, Role

_CARRIED: Final = 1 << 20  # bytes of JSON
# Why something is left behind, by its role beside the weights (`converter.tensors.catalogue.Role`).
_REASONS: Final[Mapping[Role, Callable[[], str]]] = {
    "beside": lambda: "not part of the model's weights",
    "weights": lambda: (
        f"state dicts of their own: {option('root', 'NAME')} converts one, and {option('merge')} puts the copies together"
    ),
    "averaged": lambda: f"averaged weights: {option('ema', True)} takes them instead of the model's",
    "setting": lambda: "attributes that are not in state_dict(), those of inner modules by their class",
    "attribute": lambda: "an attribute of a tensor",
}
_MASK: Final = "follows from the architecture"
_TWICE: Final = "its value in `{}`: the first file has another one, which is kept"
AS_ASKED: Final = "left out, as asked"
_CODE: Final = "code is never carried over"


def remarks(catalogue: Catalogue, format: Format) -> Mapping[str, Any]:
    """What the file says about its model, if an output of this format has no place of its own for that."""
    return catalogue.facts.get("said beside", {}) if formats.of(catalogue) is format else joining.remarks(catalogue)


def values(catalogue: Catalogue, format: Format) -> dict[str, Any]:
    """The scalars, texts, small containers and arrays beside the weights, by name: what JSON can hold, and 1 MB in all.

    What the file says about itself is among them, unless an output of this format has that anyway.
    """
    from converter.pickles.plain import Plainly

    plainly, found, nbytes = Plainly(), dict[str, Any](), 0
    plain = ((other.name, plainly(other.value)) for other in catalogue.others if other.role != "attribute")
    held = ((name, value.value) for name, value in plain if value is not None)
    said = ((name, value) for name, value in remarks(catalogue, format).items() if value is not None)
    for name, value in chain(said, held):
        if not _is_text(name) or name in found:
            continue
        nbytes += len(name) + len(json.dumps(value))
        if nbytes > _CARRIED:
            break
        found[name] = value
    return found


def sidecar(carried: Mapping[str, Any]) -> bytes:
    """The document that holds the values for formats that have no place for them."""
    return (json.dumps(carried, indent=2) + "\n").encode()


def dropped(
    catalogue: Catalogue, format: Format, planned: Planned, carried: Mapping[str, Any], excluded: Iterable[str]
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
    for name in remarks(catalogue, format):
        if name not in carried:
            why = f"what the file says about its model: {option('carry-values', True)} takes it along"
            yield DroppedReport(name, "key", why, 0, 0)
    for name, file in catalogue.facts.get("said twice", ()):
        yield DroppedReport(name, "key", _TWICE.format(file), 0, 0)
    if not catalogue.others:
        return
    from converter.pickles.walk import measure

    counted: set[int] = set()
    for other in catalogue.others:
        if other.name not in carried:
            yield DroppedReport(other.name, other.kind, _REASONS[other.role](), *measure(other.value, counted))


def _is_text(name: str) -> bool:
    """Whether every format can use a name as a key."""
    try:
        return len(name.encode()) <= 1000
    except UnicodeEncodeError:
        return False
