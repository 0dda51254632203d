"""Checks the index of a folder of safetensors: its total is compared with the tensors of its shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from converter.formats.said import Finding
from converter.io.strict_json import load_json

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue


def check(output: Catalogue, settings: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare the total of an index with the tensors of its shards."""
    for path in sorted(output.path.glob("*.safetensors.index.json")):
        metadata = load_json(path).get("metadata")
        said = metadata.get("total_size") if type(metadata) is dict else None
        total = sum(storage.nbytes for storage in output.storages)
        if said is not None and said != total:
            # No program computes with it, and older ones counted a tied tensor twice.
            detail = f"`total_size` is {said!r:.80}: expected {total}"
            yield Finding(path.name, "total_size is wrong", detail, counts=False)
