"""Joins several checkpoints into one, with the tensors of all of them in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from converter import formats
from converter.errors import RuleError
from converter.formats.joining import joined
from converter.text import listed
from converter.words import option

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Storage, Tensor


def merged(first: Catalogue, others: Sequence[Catalogue]) -> Catalogue:
    """Join catalogues, with the names of their families. Files beside the weights are taken from the first one.

    Raises RuleError if two of them have a tensor of the same name.
    """
    if not others:
        return first
    parts = [formats.canonical(part) for part in (first, *others)]
    homes: dict[str, str] = {}
    for part in parts:
        for name in part:
            if name in homes:
                raise RuleError(
                    f"`{name:.200}` is in `{homes[name]}` and in `{part.location}`: convert one of them first, "
                    f"with {option('rename')} or {option('exclude')}, and merge the result"
                )
            homes[name] = part.location
    shards = _Shards()
    tensors: dict[str, Tensor] = {}
    storages: list[Storage] = []
    for number, part in enumerate(parts):
        tensors |= {n: replace(t, storage=shards.moved(number, t.storage)) for n, t in part.items()}
        # A format without storages of its own has one for each tensor, which tied names share.
        held: Iterable[Storage] = part.storages or {id(t.storage): t.storage for t in part.values()}.values()
        storages += [shards.moved(number, storage) for storage in held]
    said = joined(parts, [part.location for part in parts])
    facts = {
        **parts[0].facts,
        **said.facts,
        "merged": listed([part.location for part in parts[1:]]),
        "objects": tuple(name for part in parts for name in part.facts.get("objects", ())),
        "hooked": tuple(name for part in parts for name in part.facts.get("hooked", ())),
        "entered": any(part.facts.get("entered") or part.facts.get("module") for part in parts),
    }
    if any(part.unknown_globals() and not part.facts.get("module") for part in parts):
        facts.pop("module", None)  # its unknown globals are no longer all classes of one module
    return replace(
        parts[0].with_origin(
            files=tuple(file for part in parts for file in part.origin.files),
            sources=tuple(source for part in parts for source in part.origin.sources),
            traffic=next((part.origin.traffic for part in parts if part.origin.traffic is not None), None),
        ),
        tensors=tensors,
        storages=tuple({id(storage): storage for storage in storages}.values()),
        others=tuple(other for part in parts for other in part.others),
        unsupported=tuple(other for part in parts for other in part.unsupported),
        globals=tuple(use for part in parts for use in part.globals),
        problems=tuple(problem for part in parts for problem in part.problems),
        missing=tuple(name for part in parts for name in part.missing),
        unchecked=any(part.unchecked for part in parts),
        metadata=said.metadata,
        facts=facts,
    )


class _Shards:
    """Gives each part shard numbers of its own, because two parts may use one key for two storages."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int | None], int] = {}
        self._moved: dict[int, tuple[Storage, Storage]] = {}  # the old storage is kept, so that its id is not reused

    def moved(self, part: int, storage: Storage) -> Storage:
        """The same storage, in a shard that belongs only to this part."""
        if id(storage) not in self._moved:
            number = self._numbers.setdefault((part, storage.shard), len(self._numbers) + 1)
            self._moved[id(storage)] = storage, replace(storage, shard=number)
        return self._moved[id(storage)][1]
