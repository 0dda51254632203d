"""Prints the declared models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from converter.cli.render import console, empty_table
from converter.text import nbytes_text, safe_text

if TYPE_CHECKING:
    from pathlib import Path

    from converter.models.declared import Model


def table(declared: Sequence[Model], cached: Mapping[str, Mapping[str, Path]]) -> None:
    """Print one line for each declared model. Models whose files are in the local cache are marked."""
    out = console()
    here = {model.name for model in declared if len(cached[model.name]) == len(model.files)}
    rows = empty_table(2)
    for name in ("model", "parameters", "layers", "hidden", "heads", "files", "size", *([""] if here else [])):
        rows.add_column(name, justify="left" if name in ("model", "files", "") else "right", no_wrap=True)
    for model in declared:
        sizes = [file.nbytes for file in model.files]
        known = [size for size in sizes if size is not None]
        size = (
            nbytes_text(sum(known))
            if len(known) == len(sizes)
            else " + ".join(file.listed_size for file in model.files)
        )
        rows.add_row(
            *(
                Text(str(cell))
                for cell in (
                    model.name,
                    f"{model.parameters:,}",
                    *model.dimensions,
                    len(model.files),
                    size,
                    *(["in the cache" if model.name in here else ""] if here else []),
                )
            )
        )
    out.print(rows)


def page(model: Model, cached: Mapping[str, Path]) -> None:
    """Print what is known about one declared model, and where its files are in the local cache."""
    out = console()
    out.print(Text(model.name, style="bold"))
    layers, width, heads = model.dimensions
    shape = f"{layers} layers of {width}, {heads} heads"
    out.print(Text(f"  {model.parameters:,} parameters, {shape}, {model.licence}"))
    out.print(Text(f"  https://huggingface.co/{model.repository}"))
    if model.safetensors is not None:
        out.print(Text(f"  converted safetensors, in a pull request: {model.repository}@{model.safetensors}"))
    for file in model.files:
        size = f"{file.nbytes:,} bytes ({file.nbytes_is})" if file.nbytes is not None else file.listed_size
        out.print()
        out.print(Text(f"  {file.name}: {size}, {file.storages} storages"))
        out.print(Text(f"  {file.url}"), soft_wrap=True)
        if file.sha256:
            out.print(Text(f"  sha256 {file.sha256}"))
        if file.superseded_sha256:
            out.print(Text(f"  an older file of the same size has sha256 {file.superseded_sha256}"))
        if file.name in cached:
            out.print(Text(f"  in the cache: {safe_text(str(cached[file.name]), 400)}"), soft_wrap=True)
