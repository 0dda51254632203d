"""Compares two tokenizer.json part by part, where no tokenizer of ours can express what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from converter.formats.said import Finding
from converter.io.strict_json import load_json
from converter.models.tokenizers import json_file

_PARTS: Final = ("normalizer", "pre_tokenizer", "post_processor", "added_tokens", "model")
_MERGES: Final = "tokenizer.merges"
_STEPS: Final = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
_DEEPEST: Final = 16  # sequences in each other
_UNUSED: Final = frozenset({"dropout", "cache_capacity"})  # of a model: both are for training, or for speed


def differences(expected: Path, found: Path) -> Iterator[Finding]:
    """Yield what differs between the tokenizers of two folders. If one has no tokenizer.json, they can't be compared."""
    paths = [folder / json_file.NAME for folder in (expected, found)]
    lacking = [path for path in paths if not path.is_file()]
    if lacking:
        sentence = f"`{lacking[0]}` is missing, and the other files of this tokenizer can't be compared"
        yield Finding(json_file.NAME, "not compared", sentence, counts=False)
        return
    one, other = map(load_json, paths)
    for part in _PARTS:
        if _plain(part, one.get(part)) != _plain(part, other.get(part)):
            sentence = f"the {part} of `{paths[1]}` is not that of the source"
            yield Finding(json_file.NAME, f"another {part}", sentence)


def check_merges(expected: Path, found: Path) -> Iterator[Finding]:
    """Compare the merges of two tokenizer.json: SentencePiece's own files have none, so a tokenizer may not have them."""
    one, other = merges(expected), merges(found)
    if one is not None and other is not None and one != other:
        yield Finding(_MERGES, "another tokenizer", f"the merges of `{found / json_file.NAME}` are not the source's")


def merges(folder: Path) -> list[Any] | None:
    """The merges in a folder's tokenizer.json; None if it has no such file or no merges."""
    path = folder / json_file.NAME
    model = _plain("model", load_json(path).get("model")) if path.is_file() else None
    found = model.get("merges") if isinstance(model, Mapping) else None
    return found if type(found) is list else None


def _plain(part: str, value: Any) -> Any:
    """A part in one spelling, whichever version of the library wrote it."""
    if part == "model" and isinstance(value, Mapping):
        kept = {key: entry for key, entry in value.items() if entry is not None and key not in _UNUSED}
        merges = kept.get("merges")
        if type(merges) is list:
            kept["merges"] = [" ".join(pair) if _is_pair(pair) else pair for pair in merges]
        return kept
    if part in _STEPS:
        return [_step(step) for step in _flat(value, _STEPS[part], _DEEPEST)]
    return value


def _flat(value: Any, inner: str, depth: int) -> list[Any]:
    """The steps of a sequence of steps."""
    if value is None:
        return []
    steps = value.get(inner) if isinstance(value, Mapping) and value.get("type") == "Sequence" and depth else None
    return [found for step in steps for found in _flat(step, inner, depth - 1)] if type(steps) is list else [value]


def _step(step: Any) -> Any:
    """A step; older versions wrote whether a space is put before a text as a truth value, and left out defaults."""
    if not isinstance(step, Mapping) or step.get("type") != "Metaspace":
        return step
    rest = {key: value for key, value in step.items() if key not in ("add_prefix_space", "str_rep")}
    prefix = "always" if step.get("add_prefix_space", True) else "never"
    return {"prepend_scheme": prefix, "split": True} | rest


def _is_pair(value: Any) -> bool:
    return type(value) is list and all(type(text) is str for text in value)
