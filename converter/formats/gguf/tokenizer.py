"""The keys of a GGUF file that hold the tokenizer: read, and planned.

Source: llama.cpp's src/llama-vocab.cpp, and the names of keys in gguf-py's constants.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from converter.errors import FormatError, ManifestError, UnsupportedError
from converter.formats.gguf.keys import Packed, array, scalar, string, strings
from converter.formats.gguf.metadata import Array
from converter.models.tokenizers import library
from converter.models.tokenizers.files import files
from converter.models.tokenizers.pre import named
from converter.models.tokenizers.tokenizer import (
    BYTE,
    CONTROL,
    DEFAULT,
    NORMAL,
    UNUSED,
    Kind,
    Token,
    Tokenizer,
    is_padding,
    padding,
)
from converter.text import plural
from converter.words import option

if TYPE_CHECKING:
    from converter.models.architecture import TokenizerKind
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
# The ids that llama.cpp assumes if a file doesn't give them, by the kind of tokenizer.
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
_NO_MERGES: Final = (
    "the tokenizer merges nothing: llama.cpp loads the empty list, but gguf-py's programs that copy a file, such as "
    "gguf-new-metadata, can't"
)


# ---- reading ----------------------------------------------------------------------------------------------------------


def inside(catalogue: Catalogue) -> Tokenizer | None:
    """The tokenizer inside a file, as `read` does it."""
    return read(catalogue.metadata, catalogue.location)


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
        if not is_padding(token):
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
    """The files that transformers reads, by name. Raises UnsupportedError if no such files split text as it does."""
    found = read(catalogue.metadata, catalogue.location)
    if found is None and (kind := kind_of(catalogue.metadata)) is not None:
        raise UnsupportedError(f"this program knows no tokenizer of the kind {kind!r:.80}")
    return files(found) if found is not None else {}


def kind_of(metadata: Mapping[str, Any]) -> str | None:
    """The name of the kind of tokenizer that a file says it has; None if it has none."""
    name = metadata.get(PREFIX + "model")
    return name if type(name) is str and isinstance(metadata.get(PREFIX + "tokens"), Array) else None


def _strings(value: Array, name: str, where: str) -> list[str]:
    if value.type != "string":
        raise FormatError(f"`{where}` has {PREFIX}{name} of the type {value.type}: texts were expected")
    return list(value)


def _numbers(metadata: Mapping[str, Any], name: str, count: int, default: float, where: str) -> list[Any]:
    """The numbers of an array with one for each token; the default for all if there is none."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return [default] * count
    if not isinstance(value, Array) or value.type not in ("i32", "f32", "u32", "i64", "u64"):
        raise FormatError(f"`{where}` has {PREFIX}{name} that are not numbers")
    if len(value) < count:
        raise FormatError(f"`{where}` has {plural(count, 'token')} and {len(value):,} {PREFIX}{name}")
    return list(value)


def _merges(metadata: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    merges = metadata.get(PREFIX + "merges")
    for number, text in enumerate(_strings(merges, "merges", where) if isinstance(merges, Array) else ()):
        at = text.find(" ", 1)  # llama.cpp, too, looks for the space from the second character on
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


def completed(
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    special_tokens: Sequence[str],
    kind: TokenizerKind | None,
    rows: int,
) -> Tokenizer:
    """The tokenizer, completed by what the model knows: the ids in its config.json, and what its family usually has.

    `rows` is the number of the embedding's rows.
    """
    found = {key.removesuffix("_token_id"): settings.get(key) for key in special_tokens}
    special = {role: number for role, number in found.items() if type(number) is int and 0 <= number < rows}
    end = tokenizer.ids.get(kind.end_of_text) if kind is not None else None
    if end is not None:
        special = dict.fromkeys(found, end) | special
    special |= tokenizer.special
    if tokenizer.kind != "byte-pair" or tokenizer.pre is not None or kind is None:
        return replace(tokenizer, special=special)
    # A vocab.json doesn't say which tokens are marks.
    ends = {special.get("bos"), special.get("eos")}
    tokens = {
        number: token._replace(type=CONTROL) if number in ends else token for number, token in tokenizer.tokens.items()
    }
    return replace(tokenizer, special=special, tokens=tokens, pre=kind.gguf_pre)


def inherited(tokenizer: Tokenizer, metadata: Mapping[str, Any], notes: list[str]) -> Tokenizer:
    """Another tokenizer for a GGUF file. If it says nothing about chats or the ends of a text, the old one's settings stay."""
    said = {role: metadata.get(PREFIX + key) for role, key in _ADDS.items()}
    adds = {role: value for role, value in said.items() if type(value) is bool}
    templates = dict(tokenizer.templates) or _templates(metadata)
    if templates and not tokenizer.templates:
        notes.append("the chat template stays that of the source: the other tokenizer has none")
    return replace(tokenizer, templates=templates, adds={**adds, **tokenizer.adds})


def keys(tokenizer: Tokenizer, rows: int, notes: list[str]) -> Iterator[Packed]:
    """The keys of a tokenizer for an embedding of `rows` rows; `notes` gets sentences for people.

    Rows without a token become padding. Raises ManifestError if there are more tokens than rows, and for two tokens
    that llama.cpp can't tell apart, and UnsupportedError for a cut into words that llama.cpp has no name for.
    """
    if tokenizer.size > rows:
        raise ManifestError(
            f"the tokenizer has {plural(len(tokenizer.tokens), 'token')}, with ids up to {tokenizer.size - 1:,}, but "
            f"the embedding has {plural(rows, 'row')}: it belongs to another model"
        )
    if tokenizer.kind == "byte-pair" and not tokenizer.pre:
        if tokenizer.obstacle is not None:
            raise UnsupportedError(
                f"the tokenizer {tokenizer.obstacle.said}, which llama.cpp can't do with such a cut into words, so its "
                f"programs would split text differently than in training: {option('no-tokenizer', True)} writes a model "
                "that takes token ids only"
            )
        raise UnsupportedError(
            "the tokenizer cuts text into words in a way that llama.cpp has no name for, so its programs would split text "
            f"differently than in training: {option('no-tokenizer', True)} writes a model that takes token ids only"
            + ("" if library.is_installed() else f". The package `tokenizers` may tell the name: {library.INSTALL}")
        )
    if tokenizer.kind == "byte-pair" and "eos" not in tokenizer.special:
        notes.append("the tokenizer has no end of text: llama.cpp takes token 11 for it")
    if tokenizer.kind in ("byte-pair", "merged-pair") and not tokenizer.merges:
        notes.append(_NO_MERGES)
    if tokenizer.kind == "wordpiece" and tokenizer.adds.get("bos") is False:
        notes.append("the tokenizer puts no tokens around a text, but llama.cpp always does for WordPiece")
    if absent := rows - len(tokenizer.tokens):
        notes.append(
            f"{absent:,} of the embedding's {plural(rows, 'row')} have no token: they are filled with unused ones, [PAD…]"
        )
    notes += tokenizer.notes
    notes += _ended(tokenizer)
    notes += _unlike(tokenizer)
    tokens = _filled(tokenizer, rows)
    yield string(PREFIX + "model", _NAMES[tokenizer.kind])
    if tokenizer.pre and tokenizer.kind != "merged-pair":
        yield string(PREFIX + "pre", tokenizer.pre)
    yield strings(PREFIX + "tokens", [token.text for token in tokens])
    if tokenizer.kind in ("scored-pair", "unigram"):
        yield array(PREFIX + "scores", "f32", [token.score for token in tokens])
    yield array(PREFIX + "token_type", "i32", [token.type for token in tokens])
    if tokenizer.kind in ("byte-pair", "merged-pair"):
        yield strings(PREFIX + "merges", [f"{left} {right}" for left, right in tokenizer.merges])
    for role, number in tokenizer.special.items():
        yield scalar(PREFIX + _SPECIAL[role], "u32", number)
    for role, value in tokenizer.adds.items():
        if not value or role in tokenizer.special:  # llama.cpp aborts if it is told to add a token that has no id
            yield scalar(PREFIX + _ADDS[role], "bool", value)
    yield from _normalisation(tokenizer)
    others = [name for name in tokenizer.templates if name != DEFAULT]
    for name in others:
        yield string(f"{_TEMPLATE}.{name}", tokenizer.templates[name])
    if others:
        yield strings(_TEMPLATE + "s", others)
    if DEFAULT in tokenizer.templates:
        yield string(_TEMPLATE, tokenizer.templates[DEFAULT])


def _normalisation(tokenizer: Tokenizer) -> Iterator[Packed]:
    flags = {
        "add_space_prefix": tokenizer.space_prefix,
        "remove_extra_whitespaces": tokenizer.merge_spaces,
        "normalizer.lowercase": tokenizer.lowercase,
        "normalizer.strip_accents": tokenizer.strip_accents,
    }
    for name, flag in flags.items():
        if flag is not None:
            yield scalar(PREFIX + name, "bool", flag)
    if tokenizer.charsmap:
        yield array(PREFIX + "precompiled_charsmap", "u8", list(tokenizer.charsmap))


def _unlike(tokenizer: Tokenizer) -> Iterator[str]:
    """Notes on what llama.cpp's own code does differently from the libraries, whatever a file says."""
    row = named(tokenizer.pre) if tokenizer.kind == "byte-pair" else None
    if row is not None and row.unlike:
        yield f"llama.cpp and the model's tokenizer cut some texts differently: texts with {row.unlike}"
    if tokenizer.kind == "wordpiece" and (
        tokenizer.strip_accents or (tokenizer.lowercase and tokenizer.strip_accents is None)
    ):
        yield (
            "llama.cpp takes vowel signs away with the accents, and leaves Hangul whole, so it splits texts of some scripts "
            "differently from the model's tokenizer"
        )
    if tokenizer.kind == "unigram" and any(token.type == BYTE for token in tokenizer.tokens.values()):
        yield (
            "for a character without a token, llama.cpp takes the unknown token, and the model's tokenizer takes the tokens of "
            "the character's bytes"
        )
    if tokenizer.kind == "unigram" and tokenizer.merge_spaces and not tokenizer.space_prefix:
        yield (
            "llama.cpp puts a space before every text if the tokenizer turns several spaces into one, but the model's tokenizer "
            "does not"
        )


def _ended(tokenizer: Tokenizer) -> Iterator[str]:
    """A note on tokens that llama.cpp cuts off at NUL. Raises UnsupportedError if two tokens then have the same spelling."""
    ended = {number: token.text.partition("\0")[0] for number, token in tokenizer.tokens.items() if "\0" in token.text}
    ids = tokenizer.ids if ended else {}
    for number, text in ended.items():
        if text and ids.setdefault(text, number) != number:
            raise UnsupportedError(
                f"up to the character NUL, the tokens {number:,} and {ids[text]:,} are both spelled `{text[:80]}`: llama.cpp "
                "ends a token there, and aborts if two have the same spelling"
            )
    if ended:
        yield (
            f"llama.cpp ends a token at the character NUL, so it never finds {plural(len(ended), 'token')} with one, the first "
            f"with the id {min(ended):,}"
        )


def _filled(tokenizer: Tokenizer, rows: int) -> list[Token]:
    """A token for each row."""
    ids = tokenizer.ids
    if len(ids) < len(tokenizer.tokens):
        number, token = next((n, token) for n, token in tokenizer.tokens.items() if ids[token.text] != n)
        raise ManifestError(
            f"the tokens {number:,} and {ids[token.text]:,} are both spelled `{token.text[:80]}`, and llama.cpp "
            "aborts when it meets such a file"
        )
    for number in range(rows):
        if number not in tokenizer.tokens and padding(number) in ids:
            raise ManifestError(
                f"row {number:,} of the embedding has no token, and `{padding(number)}`, with which llama.cpp's "
                f"converter fills it, is already the token {ids[padding(number)]:,}"
            )
    return [tokenizer.tokens.get(n) or Token(padding(n), UNUSED, _FILLER_SCORE) for n in range(rows)]
