"""The kinds of result that a log of `verify` in SARIF has."""

from __future__ import annotations

from typing import Final

from converter.reports.sarif import Rule

_PAGE: Final = "verify.md#what-is-wrong-and-where"
_AGAIN: Final = "Make the copy again, and compare its size and SHA-256 with those given where it came from."
_KINDS: Final = {
    "unreadable-copy": ("A copy that can't be read", _AGAIN),
    "different-tensor": ("A tensor that differs from the source's", _AGAIN),
    "missing-tensor": ("A tensor that the copy lacks", _AGAIN),
    "unexpected-tensor": (
        "A tensor that the source does not have",
        "Find out what wrote the copy: it added a tensor, or gave one another name.",
    ),
    "different-companion": (
        "A file beside the weights that differs",
        "Take the configuration and the tokenizer of the source: with these, the model computes something else.",
    ),
    "different-computation": (
        "Another result than the source's",
        "The copy computes something else than its source. If its dtype is coarse, take a finer one.",
    ),
}

NOT_COMPARED: Final = Rule(
    "not-compared",
    "warning",
    "A tensor that was not compared",
    "The manifest has no digest in its dtype. Write the manifest again, and verify a copy in this dtype with the same command.",
    _PAGE,
)
RULES: Final = (*(Rule(id, "error", title, meaning, _PAGE) for id, (title, meaning) in _KINDS.items()), NOT_COMPARED)
