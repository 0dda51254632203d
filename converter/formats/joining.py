"""What several files say about one model, together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from converter.formats import of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converter.tensors.catalogue import Catalogue


class Said(NamedTuple):
    """What files say: in `metadata`, as the first one's format keeps it, and `beside` it, as values by name.

    `twice` are the names to which a later file gives another value than the first, each with that file.
    """

    metadata: Mapping[str, Any]
    beside: Mapping[str, Any]
    twice: tuple[tuple[str, str], ...]

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the joined catalogue."""
        return {"said beside": self.beside, "said twice": self.twice}


def joined(parts: Sequence[Catalogue], files: Sequence[str]) -> Said:
    """Join what the parts of a model say, or the sources of a merge. The first to name a key counts. `files` are their names."""
    first = of(parts[0])
    alike = [part for part in parts if of(part) is first]
    metadata = first.joined([part.metadata for part in alike])
    known = dict(first.remarks(parts[0]))
    beside: dict[str, Any] = {}
    twice: list[tuple[str, str]] = []
    for part, file in zip(parts[1:], files[1:], strict=True):
        for name, value in of(part).remarks(part).items():
            if name in known:
                if known[name] != value:
                    twice.append((name, file))
                continue
            known[name] = value
            if of(part) is not first:
                beside[name] = value
    return Said(metadata, beside, tuple(twice))


def remarks(catalogue: Catalogue) -> dict[str, Any]:
    """All that the files of a catalogue say about its model, by name."""
    return {**of(catalogue).remarks(catalogue), **catalogue.facts.get("said beside", {})}
