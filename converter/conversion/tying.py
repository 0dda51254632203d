"""Heads that hold the same bytes as the embedding: with --tie they become a second name of it, and are written once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from converter.models.ties import stored_twice
from converter.tensors.equality import equal
from converter.words import option

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.models.ties import Pair
    from converter.tensors.catalogue import Catalogue


def tied(catalogue: Catalogue, recognition: Recognition | None) -> tuple[Catalogue, tuple[str, ...]]:
    """The catalogue with heads that are second names of the embedding, and what was done. Both are read once.

    A head is only tied if the model ties it: programs would look for it otherwise.
    """
    tensors, notes = dict(catalogue), []
    for head, name, by_default in _twice(catalogue, recognition):
        if by_default is not True:
            says = "no config.json says" if catalogue.config is None else "config.json does not say"
            notes.append(f"{option('tie', True)} leaves `{head}` as it is: {says} that the model ties it to `{name}`")
        elif not equal(tensors[head], tensors[name]):
            notes.append(f"{option('tie', True)} leaves `{head}` as it is: it is not equal to `{name}`")
        else:
            del tensors[head]
            tensors[head] = tensors[name]  # now at the end, because the first of two names is written
            notes.append(f"`{head}` holds the same bytes as `{name}`, and is written once: {option('tie', True)}")
    return replace(catalogue, tensors=tensors), tuple(notes) or (
        f"{option('tie', True)} finds no head beside an embedding",
    )


def could_be_tied(catalogue: Catalogue, recognition: Recognition | None) -> tuple[str, ...]:
    """A sentence for each head that `tied` would write once. Nothing is said about a remote source: it would be read twice."""
    if not catalogue.concurrent:
        return ()
    return tuple(
        f"`{head}` equals `{name}`, to which the model ties it: {option('tie')} writes both once"
        for head, name, by_default in _twice(catalogue, recognition)
        if by_default is True and equal(catalogue[head], catalogue[name])
    )


def _twice(catalogue: Catalogue, recognition: Recognition | None) -> list[Pair]:
    return list(stored_twice(catalogue, catalogue.config, recognition.followers if recognition is not None else {}))
