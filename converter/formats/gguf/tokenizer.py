"""The keys of a GGUF file that hold the tokenizer: read, and planned.

Source: llama.cpp's src/llama-vocab.cpp, and the names of keys in gguf-py's constants.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.errors import FormatError, ManifestError
from converter.formats.gguf.metadata import Array
from converter.models.tokenizers.files import files
from converter.models.tokenizers.pre import named
from converter.models.tokenizers.tokenizer import (
    DEFAULT,
    NORMAL,
    UNUSED,
    Kind,
    Token,
    Tokenizer,
    is_padding,
    padding,
)

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

PREFIX: Final = "tokenizer.ggml."
_TEMPLATE: Final = "tokenizer.chat_template"
NONE: Final = "none"  # the kind of a file without a tokenizer
_KINDS: Final[Mapping[str, Kind]] = {
    "gpt2": "byte-pair",
    "llama": "scored-pair",
    "gemma4": "merged-pair",
    "t5": "unigram",
    "bert": "wordpiece",
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}
_SPECIAL: Final = {  # keys by what a token is for; one is misspelled in the format itself
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    **{f"fim_{part}": f"fim_{part}_token_id" for part in ("pre", "suf", "mid", "pad", "rep", "sep")},
}
_ADDS: Final = {"bos": "add_bos_token", "eos": "add_eos_token", "sep": "add_sep_token"}
# What llama.cpp takes if a file doesn't say it, by the kind.
_DEFAULTS: Final[Mapping[Kind, Mapping[str, int]]] = {
    "byte-pair": {},
    "scored-pair": {"bos": 1, "eos": 2, "unk": 0},
    "merged-pair": {},
    "unigram": {"eos": 1, "unk": 2, "pad": 0},
    "wordpiece": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
}
_ADDED: Final[Mapping[Kind, Mapping[str, bool]]] = {
    "byte-pair": {},
    "scored-pair": {"bos": True, "eos": False},
    "merged-pair": {"bos": True},
    "unigram": {"bos": False, "eos": True},
    "wordpiece": {"bos": True, "sep": True},
}
_FILLER_SCORE: Final = -10000.0

Key = tuple[str, str, Any]  # a key, its type ("u32", "string", "array:string" …) and its value


# ---- reading ----------------------------------------------------------------------------------------------------------


def read(metadata: Mapping[str, Any], where: str) -> Tokenizer | None:
    """The tokenizer of a file's keys, without the padding that fills the embedding's last rows.

    None if the file has none, or one of a kind that no row here has. Raises FormatError for keys that contradict each
    other.
    """
    tokens = metadata.get(PREFIX + "tokens")
    name = metadata.get(PREFIX + "model")
    kind = _KINDS.get(name) if type(name) is str else None
    if not isinstance(tokens, Array) or kind is None:
        return None
    texts = _strings(tokens, "tokens", where)
    types = _numbers(metadata, "token_type", len(texts), NORMAL, where)
    scores = _numbers(metadata, "scores", len(texts), 0.0, where)
    found = {}
    for number, text in enumerate(texts):
        token = Token(text, int(types[number]), float(scores[number]))
        if not is_padding(number, token):
            found[number] = token
    said = {role: metadata.get(PREFIX + key) for role, key in _SPECIAL.items()}
    special = {role: number for role, number in said.items() if type(number) is int and 0 <= number < len(texts)}
    adds = {role: metadata.get(PREFIX + key) for role, key in _ADDS.items()}
    pre = metadata.get(PREFIX + "pre")
    return Tokenizer(
        kind,
        found,
        tuple(_merges(metadata, where)),
        pre=pre if type(pre) is str else None,
        special={role: n for role, n in _DEFAULTS[kind].items() if n < len(texts)} | special,
        adds={**_ADDED[kind], **_by_pre(pre), **{role: value for role, value in adds.items() if type(value) is bool}},
        templates=_templates(metadata),
        space_prefix=_flag(metadata, "add_space_prefix", kind in ("scored-pair", "unigram")),
        merge_spaces=_flag(metadata, "remove_extra_whitespaces", kind == "unigram") if kind == "unigram" else None,
        charsmap=_bytes(metadata, "precompiled_charsmap"),
        lowercase=_flag(metadata, "normalizer.lowercase", True) if kind == "wordpiece" else None,
        strip_accents=_optional(metadata, "normalizer.strip_accents"),
    )


def as_files(catalogue: Catalogue) -> Mapping[str, bytes]:
    """The files that transformers reads, by name. Raises UnsupportedError if none split text so."""
    found = read(catalogue.metadata, catalogue.location)
    return files(found) if found is not None else {}


def kind_of(metadata: Mapping[str, Any]) -> str | None:
    """The name of the kind of tokenizer that a file says it has; None if it has none."""
    name = metadata.get(PREFIX + "model")
    return name if type(name) is str and isinstance(metadata.get(PREFIX + "tokens"), Array) else None


def _strings(array: Array, name: str, where: str) -> list[str]:
    if array.type != "string":
        raise FormatError(f"`{where}` has {PREFIX}{name} of the type {array.type}: texts were expected")
    return list(array)


def _numbers(metadata: Mapping[str, Any], name: str, count: int, default: float, where: str) -> list[Any]:
    """The numbers of an array with one for each token; the default for all if there is none."""
    array = metadata.get(PREFIX + name)
    if array is None:
        return [default] * count
    if not isinstance(array, Array) or array.type not in ("i32", "f32", "u32", "i64", "u64"):
        raise FormatError(f"`{where}` has {PREFIX}{name} that are not numbers")
    if len(array) < count:
        raise FormatError(f"`{where}` has {count:,} tokens and {len(array):,} {PREFIX}{name}")
    return list(array)


def _merges(metadata: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    array = metadata.get(PREFIX + "merges")
    for number, text in enumerate(_strings(array, "merges", where) if isinstance(array, Array) else ()):
        at = text.find(" ", 1)  # where llama.cpp looks for it
        if at < 0 or at == len(text) - 1:
            raise FormatError(f"`{where}`: merge {number:,} is {text!r:.80}: two tokens and a space were expected")
        yield text[:at], text[at + 1 :]


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for key, value in metadata.items():
        if type(value) is str and key == _TEMPLATE:
            found[DEFAULT] = value
        elif type(value) is str and key.startswith(_TEMPLATE + "."):
            found[key.removeprefix(_TEMPLATE + ".")] = value
    return found


def _by_pre(name: Any) -> dict[str, bool]:
    row = named(name) if type(name) is str else None
    return {"bos": True} if row is not None and row.bos else {}


def _flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    value = metadata.get(PREFIX + name)
    return value if type(value) is bool else default


def _optional(metadata: Mapping[str, Any], name: str) -> bool | None:
    value = metadata.get(PREFIX + name)
    return value if type(value) is bool else None


def _bytes(metadata: Mapping[str, Any], name: str) -> bytes:
    value = metadata.get(PREFIX + name)
    return bytes(byte & 0xFF for byte in value) if isinstance(value, Array) and value.type in ("u8", "i8") else b""


# ---- writing ----------------------------------------------------------------------------------------------------------


def keys(tokenizer: Tokenizer, rows: int, pre: str | None = None) -> Iterator[Key]:
    """The keys of a tokenizer for an embedding of `rows` rows; `pre` is taken if the tokenizer doesn't say one.

    Rows without a token become padding. Raises ManifestError if there are more tokens than rows, and for two tokens
    that llama.cpp can't tell apart.
    """
    if tokenizer.size > rows:
        raise ManifestError(
            f"the tokenizer has {len(tokenizer.tokens):,} tokens, with ids up to {tokenizer.size - 1:,}, but the embedding "
            f"has {rows:,} rows: it belongs to another model"
        )
    tokens = _filled(tokenizer, rows)
    yield PREFIX + "model", "string", _NAMES[tokenizer.kind]
    if (tokenizer.pre or pre) and tokenizer.kind != "merged-pair":
        yield PREFIX + "pre", "string", tokenizer.pre or pre
    yield PREFIX + "tokens", "array:string", [token.text for token in tokens]
    if tokenizer.kind in ("scored-pair", "unigram"):
        yield PREFIX + "scores", "array:f32", [token.score for token in tokens]
    yield PREFIX + "token_type", "array:i32", [token.type for token in tokens]
    if tokenizer.kind in ("byte-pair", "merged-pair"):
        yield PREFIX + "merges", "array:string", [f"{left} {right}" for left, right in tokenizer.merges]
    for role, number in tokenizer.special.items():
        if role in _SPECIAL:
            yield PREFIX + _SPECIAL[role], "u32", number
    for role, value in tokenizer.adds.items():
        yield PREFIX + _ADDS[role], "bool", value
    if tokenizer.space_prefix is not None and tokenizer.kind != "byte-pair":
        yield PREFIX + "add_space_prefix", "bool", tokenizer.space_prefix
    if tokenizer.merge_spaces is not None:
        yield PREFIX + "remove_extra_whitespaces", "bool", tokenizer.merge_spaces
    if tokenizer.charsmap:
        yield PREFIX + "precompiled_charsmap", "array:u8", list(tokenizer.charsmap)
    if tokenizer.lowercase is not None:
        yield PREFIX + "normalizer.lowercase", "bool", tokenizer.lowercase
    if tokenizer.strip_accents is not None:
        yield PREFIX + "normalizer.strip_accents", "bool", tokenizer.strip_accents
    others = [name for name in tokenizer.templates if name != DEFAULT]
    for name in others:
        yield f"{_TEMPLATE}.{name}", "string", tokenizer.templates[name]
    if others:
        yield _TEMPLATE + "s", "array:string", others
    if DEFAULT in tokenizer.templates:
        yield _TEMPLATE, "string", tokenizer.templates[DEFAULT]


def _filled(tokenizer: Tokenizer, rows: int) -> list[Token]:
    """A token for each row."""
    ids = tokenizer.ids
    if len(ids) < len(tokenizer.tokens):
        number, token = next((n, token) for n, token in tokenizer.tokens.items() if ids[token.text] != n)
        raise ManifestError(
            f"the tokens {number:,} and {ids[token.text]:,} are both spelled `{token.text[:80]}`, and llama.cpp ends its "
            "process when it meets such a file"
        )
    for number in range(rows):
        if number not in tokenizer.tokens and padding(number) in ids:
            raise ManifestError(
                f"row {number:,} of the embedding has no token, and `{padding(number)}`, with which llama.cpp's "
                f"converter fills it, is already the token {ids[padding(number)]:,}"
            )
    return [tokenizer.tokens.get(n) or Token(padding(n), UNUSED, _FILLER_SCORE) for n in range(rows)]
