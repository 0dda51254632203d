"""The kinds of fault that `check` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from converter.words import FaultLevel

ERROR: Final = "error"
WARNING: Final = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of fault: `error` if no sound checkpoint has it, else `warning`; a title, and what to do."""

    level: FaultLevel
    title: str
    meaning: str


_AGAIN: Final = "Get the file again from where it came from, and compare its size and SHA-256 with those given there."
_RUN: Final = "Go back to the last checkpoint before it, or find the step of the training or conversion that made it."
_FIT: Final = "Take the file that belongs to these weights, or correct the one that is wrong."
_TWICE: Final = "A layer written twice looks like this; so does a model made deeper by copying."
_PAD: Final = "transformers refuses it in most models: enlarge the embedding, or take another token."
_MIXED: Final = "Shards of two revisions look like this; so does a choice for one layer."
_SCALED: Final = "A matrix that was scaled twice, or never, looks like this; so does one that the training let fade."

RULES: Final = {
    "cut-off": Rule(ERROR, "The file ends too early", _AGAIN),
    "unreadable": Rule(ERROR, "The file is not what its format asks for", _AGAIN),
    "damaged": Rule(ERROR, "The bytes are not those that were saved", _AGAIN),
    "not-whole": Rule(ERROR, "A part of the model is absent", "Get every file that the index names, from one revision."),
    "missing": Rule(ERROR, "A tensor is absent", "Get every file of the model, or convert it again from the original."),
    "shape": Rule(ERROR, "A tensor has another shape than the model's sizes ask for", _FIT),
    "unexpected": Rule(WARNING, "A tensor that the model does not have", "Loaders ignore it, or refuse the file."),
    "contradiction": Rule(WARNING, "The file contradicts itself or its index", _FIT),
    "empty": Rule(ERROR, "No tensor", "Find out which file holds the weights."),
    "unsupported": Rule(WARNING, "A tensor that could not be checked", "Its kind is not read here."),
    "unchecked": Rule(WARNING, "Saved without checksums", "Damage can't be noticed; compare the file's SHA-256."),
    "dangerous": Rule(ERROR, "Loading it with pickle would run code", "Don't load it; `scan` has the details."),
    "nan": Rule(ERROR, "Elements are NaN", _RUN),
    "infinite": Rule(ERROR, "Elements are infinite", _RUN),
    "absurd": Rule(ERROR, "An element is too large to compute with", _AGAIN),
    "outlier": Rule(WARNING, "An element is far from all others", "A flipped bit looks like this; so does rare training."),
    "all-zero": Rule(ERROR, "Every matrix is zero", _AGAIN),
    "dead": Rule(ERROR, "A tensor is zero, and those of other layers are not", _RUN),
    "constant": Rule(ERROR, "All elements of a matrix are equal, and those of other layers are not", _RUN),
    "hole": Rule(WARNING, "A part of a matrix is zero", "A download with a hole looks like this; so does pruning."),
    "twin": Rule(WARNING, "Two layers hold the same numbers", _TWICE),
    "odd-scale": Rule(WARNING, "The numbers of a matrix are far larger or smaller than in all other layers", _SCALED),
    "odd-dtype": Rule(WARNING, "A tensor has another dtype than in all other layers", _MIXED),
    "odd-shape": Rule(WARNING, "A tensor has another shape than in all other layers", _FIT),
    "negative-variance": Rule(ERROR, "A variance is negative", _RUN),
    "mask": Rule(ERROR, "A mask does not hold what the architecture puts there", _AGAIN),
    "config": Rule(ERROR, "config.json does not fit the tensors", _FIT),
    "token-id": Rule(ERROR, "A special token has no row in the embedding", _FIT),
    "padding": Rule(WARNING, "The padding token has no row in the embedding", _PAD),
    "tokenizer": Rule(ERROR, "The tokenizer contradicts itself", _FIT),
    "vocabulary": Rule(ERROR, "The tokenizer has more tokens than the embedding has rows", _FIT),
    "added-tokens": Rule(WARNING, "Added tokens have no row in the embedding", _FIT),
    "untied": Rule(WARNING, "The head is not tied to the embedding", "The architecture ties them unless it is told otherwise."),
    "stored-twice": Rule(WARNING, "The head equals the embedding and is stored beside it", "`convert --tie` writes both once."),
}  # fmt: skip
