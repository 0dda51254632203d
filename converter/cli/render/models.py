"""Prints the declared models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from converter.cli.render import BOLD, Column, Screen
from converter.text import nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from pathlib import Path

    from converter.models.declared import Model


def table(declared: Sequence[Model], cached: Mapping[str, Mapping[str, Path]]) -> None:
    """Print one line for each declared model. Models whose files are in the local cache are marked."""
    here = {model.name for model in declared if len(cached[model.name]) == len(model.files)}
    numbers = [
        Column(name, right=True, rank=rank) for name, rank in (("layers", 3), ("hidden", 4), ("heads", 5), ("files", 6))
    ]
    heads = [
        Column("model"),
        Column("parameters", right=True, rank=1),
        *numbers,
        Column("size", right=True),
        Column("where", rank=2),
    ]
    rows = []
    for model in declared:
        sizes = [file.nbytes for file in model.files]
        known = [size for size in sizes if size is not None]
        size = (
            nbytes_text(sum(known))
            if len(known) == len(sizes)
            else " + ".join(file.listed_size for file in model.files)
        )
        counts = [f"{number:,}" for number in (model.parameters, *model.dimensions, len(model.files))]
        rows.append([model.name, *counts, size, "in the cache" if model.name in here else ""])
    Screen().table(heads, rows, indent=0)


def page(model: Model, cached: Mapping[str, Path]) -> None:
    """Print what is known about one declared model, and where its files are in the local cache."""
    out = Screen()
    out.line((model.name, BOLD))
    layers, width, heads = model.dimensions
    out.line(f"{model.parameters:,} parameters, {layers} layers of {width}, {heads} heads, {model.licence}", indent=2)
    out.line(f"https://huggingface.co/{model.repository}", indent=2)
    if model.safetensors is not None:
        out.line(
            f"converted safetensors, in a pull request: {model.repository}@{model.safetensors}", indent=2, cut=True
        )
    for file in model.files:
        size = f"{file.nbytes:,} bytes ({file.nbytes_is})" if file.nbytes is not None else file.listed_size
        out.blank()
        out.line(f"{file.name}: {size}, {plural(file.storages, 'storage')}", indent=2)
        out.line(file.url, indent=2)
        if file.sha256:
            out.line(f"sha256 {file.sha256}", indent=2, cut=True)
        if file.superseded_sha256:
            out.line(f"an older file of the same size has sha256 {file.superseded_sha256}", indent=2, cut=True)
        if file.name in cached:
            out.line(f"in the cache: {safe_text(str(cached[file.name]), 400)}", indent=2, cut=True)
