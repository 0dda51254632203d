"""Reads the tokenizer in a folder, whichever files it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from converter.errors import ManifestError, SourceError, UnsupportedError
from converter.io.strict_json import config_beside, load_bytes, load_json
from converter.models.tokenizers import hashes, json_file, library, pairs, sentencepiece, special
from converter.models.tokenizers.files import files
from converter.models.tokenizers.json_file import word_pieces
from converter.models.tokenizers.pairs import MERGES, VOCABULARY
from converter.models.tokenizers.tokenizer import CONTROL, DEFAULT, Token, Tokenizer

WORDS: Final = "vocab.txt"
# Each of these is enough for a tokenizer; the first one found is read.
_SETS: Final = ((json_file.NAME,), *((name,) for name in sentencepiece.NAMES), (VOCABULARY, MERGES), (WORDS,))
FILES: Final = f"`{json_file.NAME}`, `{sentencepiece.NAMES[0]}`, `{VOCABULARY}` and `{MERGES}`, or `{WORDS}`"


def consists_of(folder: Path) -> tuple[str, ...]:
    """The names of the files with the tokens that are read."""
    found = _found(folder)
    return next((names for names in _SETS if names[0] == found), ())


def is_beside(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return _found(folder) is not None


def read(folder: Path) -> Tokenizer:
    """The tokenizer in a folder.

    Raises SourceError if there is none, ManifestError for files that contradict themselves, LimitError, and
    UnsupportedError for a tokenizer that llama.cpp can't express.
    """
    found = _found(folder)
    if found is None:
        raise SourceError(f"`{folder}` has no tokenizer: {FILES} was expected")
    documents: dict[str, Mapping[str, Any] | None] = {}

    def beside(name: str) -> Mapping[str, Any] | None:
        if name not in documents:
            documents[name] = load_json(folder / name) if (folder / name).is_file() else None
        return documents[name]

    tokenizer = _READERS[found](folder)
    config, _ = config_beside(folder)
    if found == json_file.NAME:
        rows = (config or {}).get("vocab_size")
        tokenizer = special.with_listed(tokenizer, beside, rows if type(rows) is int else None)
    else:
        tokenizer = special.with_added(tokenizer, beside)
    tokenizer = special.with_special(tokenizer, beside, config, _templates(folder, beside(special.OLD_TEMPLATE)))
    if found == json_file.NAME:
        tokenizer = special.with_nothing_around(tokenizer, beside)
    return _control(tokenizer) if found == VOCABULARY else tokenizer


def document(folder: Path) -> str:
    """The tokenizer in a folder as the text of a tokenizer.json. Raises what `read` raises."""
    path = folder / json_file.NAME
    if path.is_file():
        return _text(path)
    tokenizer = read(folder)
    # vocab.json and merges.txt are GPT-2's files, so text is cut as GPT-2 does.
    return files(replace(tokenizer, pre=tokenizer.pre or "gpt-2"))[json_file.NAME].decode()


def _found(folder: Path) -> str | None:
    return next((names[0] for names in _SETS if all((folder / name).is_file() for name in names)), None)


# ---- the kinds of files ---------------------------------------------------------------------------------------------


def _json(folder: Path) -> Tokenizer:
    path = folder / json_file.NAME
    tokenizer = json_file.read(load_json(path), str(path))
    if tokenizer.pre == "" and library.is_installed():
        known = hashes.name(library.split(document(folder), hashes.TEXT, str(path)))
        return replace(tokenizer, pre=known or "")
    if tokenizer.kind != "scored-pair":
        return tokenizer
    # The model has the scores; tokens that were added to it are in the JSON.
    model = _model(folder)
    if model is None:
        return tokenizer
    pieces = {
        number: Token(token.text, token.type, model.tokens[number].score)
        if number in model.tokens and model.tokens[number].text == token.text
        else token
        for number, token in tokenizer.tokens.items()
    }
    return replace(tokenizer, tokens=pieces, ordered=False, notes=(*tokenizer.notes, *model.notes))


def _model(folder: Path) -> Tokenizer | None:
    for name in sentencepiece.NAMES:
        path = folder / name
        data = load_bytes(path) if path.is_file() else b""
        if sentencepiece.is_message(data):
            return sentencepiece.read(data, str(path))
    return None


def _pieces(folder: Path) -> Tokenizer:
    found = _model(folder)
    if found is None:
        path = next(folder / name for name in sentencepiece.NAMES if (folder / name).is_file())
        raise UnsupportedError(
            f"`{path}` is not a model of SentencePiece: put the `{json_file.NAME}` of the same model beside it"
        )
    return found


def _pairs(folder: Path) -> Tokenizer:
    ids, merges = pairs.read(folder)
    return Tokenizer("byte-pair", {number: Token(text) for text, number in ids.items()}, merges)


def _words(folder: Path) -> Tokenizer:
    path = folder / WORDS
    lines = pairs.lines(path)
    if lines and not lines[-1]:
        del lines[-1]
    ids: dict[str, int] = {}
    for number, line in enumerate(lines):
        text = line.removesuffix("\r")
        if ids.setdefault(text, number) != number:
            raise ManifestError(f"`{path}`, line {number + 1:,}: the token `{text[:80]}` occurs there a second time")
    return replace(word_pieces(ids, "[UNK]", lowercase=False, strip_accents=None), lowercase=None)


_READERS: Final = {
    json_file.NAME: _json,
    **dict.fromkeys(sentencepiece.NAMES, _pieces),
    VOCABULARY: _pairs,
    WORDS: _words,
}


# ---- beside them ----------------------------------------------------------------------------------------------------


def _control(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with control tokens where a vocabulary without types has them, by their looks and their role.

    The ends of a text are control tokens. A token with another role is one only if it has brackets, as `<unk>` has:
    some models name an ordinary token for padding.
    """
    ends = {tokenizer.special.get("bos"), tokenizer.special.get("eos")}
    roles = ends | {number for number in tokenizer.special.values() if _has_brackets(tokenizer.tokens.get(number))}
    seeming = {number for number, token in tokenizer.tokens.items() if json_file.seems_control(token.text)}
    tokens = {
        number: token._replace(type=CONTROL) if number in roles or number in seeming else token
        for number, token in tokenizer.tokens.items()
    }
    return replace(tokenizer, tokens=tokens, supposed=tokenizer.supposed | (seeming - roles))


def _has_brackets(token: Token | None) -> bool:
    return token is not None and token.text[:1] + token.text[-1:] in ("<>", "[]")


def _templates(folder: Path, old: Mapping[str, Any] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    if (folder / special.TEMPLATE).is_file():
        found[DEFAULT] = _text(folder / special.TEMPLATE)
    elif old is not None and type(old.get("chat_template")) is str:
        found[DEFAULT] = old["chat_template"]
    more = folder / special.TEMPLATES
    for path in sorted(more.glob("*.jinja")) if more.is_dir() else ():
        found[path.stem] = _text(path)
    return found


def _text(path: Path) -> str:
    try:
        return load_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"`{path}` is not UTF-8: {error.reason}") from error
