"""What each format plans, for tests: with options by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.dtypes import Dtype
from converter.formats.gguf import writer as gguf_writer
from converter.formats.parameters import folder as parameters_writer
from converter.formats.planned import Options, Planned
from converter.formats.safetensors import writer as safetensors_writer
from converter.models.recognition import Recognition, recognise
from converter.tensors.catalogue import Catalogue


def safetensors(
    catalogue: Catalogue,
    recognition: Recognition | None = None,
    *,
    dtype: Dtype | None = None,
    max_shard_size: int | None = None,
    keep_buffers: bool = False,
    single_file: bool = False,
) -> Planned:
    return safetensors_writer.plan(
        catalogue,
        recognition,
        Options(
            dtype="keep" if dtype is None else dtype.name.lower(),
            max_shard_size=max_shard_size,
            keep_buffers=keep_buffers,
            name="model.safetensors" if single_file else None,
        ),
    )


def gguf(
    catalogue: Catalogue,
    *,
    config: Mapping[str, Any] | None = None,
    encoding: str = "keep",
    path: str | None = None,
    tokenizer: Path | None = None,
    max_shard_size: int | None = None,
) -> Planned:
    """`config` stands in for the catalogue's own."""
    catalogue = catalogue.with_origin(config=config)
    options = Options(
        dtype=encoding, name=path, tokenizer=tokenizer, no_tokenizer=tokenizer is None, max_shard_size=max_shard_size
    )
    return gguf_writer.plan(catalogue, recognise(catalogue, config), options)


def parameters(catalogue: Catalogue, *, form: str = "storages") -> Planned:
    return parameters_writer.plan(catalogue, recognise(catalogue, catalogue.config), Options(form=form))
