"""Writes a tokenizer as the files that transformers reads: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from converter.errors import UnsupportedError
from converter.models.tokenizers import json_file, pre, special
from converter.models.tokenizers.pieces import merges_of
from converter.models.tokenizers.tokenizer import (
    BYTE,
    CONTROL,
    DEFAULT,
    SPACE,
    TITLES,
    UNKNOWN,
    USER_DEFINED,
    Kind,
    Token,
    Tokenizer,
)

_MARKED: Final = (CONTROL, UNKNOWN, USER_DEFINED)


def files(tokenizer: Tokenizer) -> Mapping[str, bytes]:
    """The files' bytes by name. Raises UnsupportedError if the library `tokenizers` can't split text in that way."""
    model = _MODELS[tokenizer.kind](tokenizer)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, token) for number, token in sorted(tokenizer.tokens.items()) if _marked(token)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _around(tokenizer),
        "decoder": None,
        **model,
    }
    return {json_file.NAME: _json(document), special.CONFIG: _json(_config(tokenizer))}


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _marked(token: Token) -> bool:
    return token.type in _MARKED


def _added(number: int, token: Token) -> dict[str, Any]:
    return {
        "id": number,
        "content": token.text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": token.type != USER_DEFINED,
    }


def _ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {token.text: number for number, token in sorted(tokenizer.tokens.items())}


def _bpe(vocab: Mapping[str, int], merges: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **more,
        "vocab": vocab,
        "merges": [list(pair) for pair in merges],
    }


# ---- the kinds ------------------------------------------------------------------------------------------------------


def _bytes(tokenizer: Tokenizer) -> dict[str, Any]:
    row = pre.named(tokenizer.pre)
    if row is None:
        raise UnsupportedError(
            f"the tokenizer cuts text as `{tokenizer.pre}` does, and this program can't write a tokenizer.json for that: keep "
            "the model's own tokenizer.json"
        )
    return {
        "pre_tokenizer": pre.written(row),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(_ids(tokenizer), tokenizer.merges, ignore_merges=row.ignore_merges),
    }


def _scored(tokenizer: Tokenizer) -> dict[str, Any]:
    return _characters(tokenizer, merges_of(tokenizer.tokens))


def _merged(tokenizer: Tokenizer) -> dict[str, Any]:
    return _characters(tokenizer, tokenizer.merges)


def _characters(tokenizer: Tokenizer, merges: Any) -> dict[str, Any]:
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    steps = [{"type": "Prepend", "prepend": SPACE}, escape] if tokenizer.space_prefix else [escape]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if tokenizer.space_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = tokenizer.tokens.get(tokenizer.special.get("unk", -1))
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(
            _ids(tokenizer),
            merges,
            unk_token=unknown.text if unknown is not None else None,
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _unigram(tokenizer: Tokenizer) -> dict[str, Any]:
    count = tokenizer.size
    absent = (n for n in range(count) if n not in tokenizer.tokens)
    if (hole := next(absent, None)) is not None:
        raise UnsupportedError(
            f"the tokenizer has no token {hole:,}, and a tokenizer.json of this kind has no room for that"
        )
    steps: list[dict[str, Any]] = []
    if tokenizer.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": b64encode(tokenizer.charsmap).decode()})
    if tokenizer.merge_spaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    spaces = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if tokenizer.space_prefix else "never",
        "split": True,
    }
    # The score of a user-defined token has no effect: the token is cut out of the text beforehand.
    vocab = [[tokenizer.tokens[n].text, tokenizer.tokens[n].score] for n in range(count)]
    has_bytes = any(token.type == BYTE for token in tokenizer.tokens.values())
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": spaces,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]} if has_bytes else spaces,
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.special.get("unk"),
            "vocab": vocab,
            "byte_fallback": has_bytes,
        },
    }


def _words(tokenizer: Tokenizer) -> dict[str, Any]:
    vocab = {}
    for number, token in sorted(tokenizer.tokens.items()):
        bare = token.text.removeprefix(SPACE)
        text = token.text if _marked(token) else bare if bare != token.text else f"##{bare}"
        vocab[text] = number
    if len(vocab) < len(tokenizer.tokens):
        raise UnsupportedError("two tokens of the tokenizer have the same spelling in tokenizer.json")
    unknown = tokenizer.tokens.get(tokenizer.special.get("unk", -1))
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": bool(tokenizer.lowercase),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown.text if unknown is not None else "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


_MODELS: Final[Mapping[Kind, Callable[[Tokenizer], dict[str, Any]]]] = {
    "byte-pair": _bytes,
    "scored-pair": _scored,
    "merged-pair": _merged,
    "unigram": _unigram,
    "wordpiece": _words,
}
assert _MODELS.keys() == TITLES.keys()  # noqa: S101


# ---- tokens around a text -----------------------------------------------------------------------------------------


def _around(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The post-processor that puts tokens before and after a text."""
    before, behind = _put(tokenizer, "bos"), [*_put(tokenizer, "eos"), *_put(tokenizer, "sep")][:1]
    if not before and not behind:
        levels = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        return levels if tokenizer.kind == "byte-pair" else None

    def special_token(number: int, part: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": tokenizer.tokens[number].text, "type_id": part}}

    def around(name: str, part: int, first: list[int]) -> Iterator[dict[str, Any]]:
        yield from (special_token(number, part) for number in first)
        yield {"Sequence": {"id": name, "type_id": part}}
        yield from (special_token(number, part) for number in behind)

    # BERT puts its first token only before the first of two texts.
    again = [] if tokenizer.kind == "wordpiece" else before
    return {
        "type": "TemplateProcessing",
        "single": list(around("A", 0, before)),
        "pair": [*around("A", 0, before), *around("B", 1, again)],
        "special_tokens": {
            tokenizer.tokens[number].text: {
                "id": tokenizer.tokens[number].text,
                "ids": [number],
                "tokens": [tokenizer.tokens[number].text],
            }
            for number in dict.fromkeys([*before, *behind])
        },
    }


def _put(tokenizer: Tokenizer, role: str) -> list[int]:
    number = tokenizer.special.get(role)
    return [number] if tokenizer.adds.get(role) and number is not None and number in tokenizer.tokens else []


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for role in special.ROLES:
        token = tokenizer.tokens.get(tokenizer.special.get(role, -1))
        if token is not None:
            config[f"{role}_token"] = token.text
    templates = tokenizer.templates
    if len(templates) == 1 and DEFAULT in templates:
        config["chat_template"] = templates[DEFAULT]
    elif templates:
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    return config
