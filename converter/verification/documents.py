"""What the files of a tokenizer say that our Tokenizer has no place for: what the library and transformers do with them.

Everything is described in the same way, whichever version wrote it, as values of JSON that a manifest can hold.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from converter.formats.said import Finding
from converter.io.strict_json import config_beside, load_json
from converter.models.tokenizers import json_file, special
from converter.verification import padding

_WHAT: Final = "another tokenizer"
_PARTS: Final = ("normalizer", "pre_tokenizer", "model", "added_tokens")  # the parts that our Tokenizer can express
_STEPS: Final = {
    "normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors", "decoder": "decoders",
}  # fmt: skip
_DEEPEST: Final = 16  # sequences in each other
_NO_BYTES: Final = "ByteLevel"  # as a post-processor it only changes offsets
# Settings of a model, by its type, and what they mean if they are absent.
_MODEL: Final[Mapping[Any, Mapping[str, Any]]] = {
    "BPE": {"dropout": None},
    "WordPiece": {"unk_token": "[UNK]", "max_input_chars_per_word": 100},
}
# Settings of transformers that change how a text is split, or at which end it is cut or padded.
_SETTINGS: Final = (
    *(
        "do_lower_case",
        "strip_accents",
        "tokenize_chinese_chars",
        "do_basic_tokenize",
        "add_prefix_space",
        "keep_accents",
    ),
    *("remove_space", "do_lowercase_and_remove_accent", "split_special_tokens", "padding_side", "truncation_side"),
    "predict_timestamps",
)
# What a setting means if it is absent: to every class of transformers, or to all but a few.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "split_special_tokens": False, "truncation_side": "right", "predict_timestamps": False,
}  # fmt: skip
_PADDING: Final = "padding_side"
_FROM_LEFT: Final = frozenset({"CodeLlama", "Cohere", "CpmAnt", "Gemma", "Llama", "Siglip2", "XLNet"})
_CLASS: Final = re.compile(r"(.*)Tokenizer(?:Fast)?")
_ADDED: Final = ("id", "content", "special")
_FLAGS: Final = ("single_word", "lstrip", "rstrip")
_TEXTS: Final = (
    "the text as it is",
    "the normalized text",
)  # where an added token is looked for, by its flag `normalized`
_UNLIMITED: Final = 10**29  # transformers writes 10**30 for no limit
_ROLES: Final = tuple(f"{role}_token" for role in special.ROLES)
_POSITIONS: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
_RESERVED: Final = 2  # positions that RoBERTa has no tokens for
# Tokens that classes of transformers take for padding where no file names one.
_PADS: Final = frozenset({"<pad>", "[PAD]"})
CUTS: Final = ("another pre_tokenizer",)  # what one setting of a cut into words changes


def said(folder: Path) -> dict[str, Any] | None:
    """What the files in a folder say. None if there is no tokenizer.json: the other files are not described."""
    path = folder / json_file.NAME
    if not path.is_file():
        return None
    document = load_json(path)
    beside = {
        name: load_json(folder / name) if (folder / name).is_file() else None
        for name in (special.CONFIG, special.MAP, special.ADDED)
    }
    further, roles = sorted({*special.listed_beside(beside.get)}), special.named(beside.get)
    del beside[special.ADDED]
    settings, config = beside[special.CONFIG], config_beside(folder)[0] or {}
    model = document.get("model")
    parameters = model if isinstance(model, Mapping) else {}
    truncation, longest = document.get("truncation"), (settings or {}).get("model_max_length")
    return {
        "around": _around(document.get("post_processor")),
        "own_around": (settings or {}).get("tokenizer_class") not in special.PLAIN,
        "decoder": [_decoding(step) for step in _plain("decoder", document.get("decoder"))],
        "added": _flags(document, [said for said in beside.values() if said is not None], _way),
        "normalized": _normalized(document, [said for said in beside.values() if said is not None]),
        "further": further,
        "filled": padding.described(document.get("padding")),
        "model": {key: parameters.get(key, default) for key, default in _MODEL.get(_kind(model), {}).items()},
        "spaces": _spaces(document),
        # A token that transformers would have to add first has no id, so it is compared by its text.
        "settings": {key: settings[key] for key in _SETTINGS if key in settings} | special.without_id(roles, document)
        if settings is not None
        else {},
        "defaults": _defaults(document, settings) | roles if settings is not None else {},
        "pad": None if settings is None else roles.get("pad_token", ""),
        "cut": truncation.get("max_length") if isinstance(truncation, Mapping) else None,
        "longest": longest if type(longest) is int and longest < _UNLIMITED else None,
        "positions": next((config[key] for key in _POSITIONS if type(config.get(key)) is int), None),
        "merges": _digest(_merges(model)),
        "parts": {part: _digest(_plain(part, document.get(part))) for part in _PARTS},
    }


def is_said(value: Any) -> bool:
    """Whether a value from a manifest is such a description."""
    match value:
        case {
            "around": _, "own_around": bool(), "decoder": list(), "added": dict() as added, "model": dict(), "spaces": list(),
            "settings": dict(), "pad": str() | None, "cut": _, "longest": int() | None, "positions": int() | None,
            "merges": str() | None, "parts": dict() as parts,
        }:  # fmt: skip
            normalized = value.get("normalized", {})  # older manifests have none
            further, filled = value.get("further"), value.get("filled")  # here, too
            texts = further is None or (type(further) is list and all(type(text) is str for text in further))
            return (
                _are_ways(added)
                and _are_ways(normalized)
                and texts
                and padding.is_said(filled)
                and parts.keys() >= set(_PARTS)
            )
    return False


def _are_ways(value: Any) -> bool:
    """Whether a value from a manifest has a list of texts for each added token."""
    if type(value) is not dict:
        return False
    return all(type(ways) is list and ways and all(type(way) is str for way in ways) for ways in value.values())


def unlike(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what differs between two descriptions, except for the parts that our Tokenizer can express."""
    # A class of transformers may put tokens around a text although tokenizer.json doesn't say so.
    classes = expected["own_around"] and expected["around"] == _around(None)
    if expected["around"] != found["around"] and not classes:
        yield _finding("post_processor", "puts other tokens around a text than the source's", "another post_processor")
    if expected["decoder"] and expected["decoder"] != found["decoder"]:
        yield _finding("decoder", "joins tokens into a text differently from the source's", "another decoder")
    yield from _unlike_added(expected["added"], found["added"])
    yield from _unlike_further(expected, found)
    yield from _unlike_normalized(expected.get("normalized", {}), found.get("normalized", {}))
    for key, wanted in expected["model"].items():
        if key in found["model"] and found["model"][key] != wanted:
            detail = f"`{key}` is {found['model'][key]!r:.80}: expected {wanted!r:.80}"
            yield Finding(json_file.NAME, f"{key} is wrong", detail)
    yield from _unlike_settings(expected, found)
    if expected["spaces"] and found["spaces"] and expected["spaces"] != found["spaces"]:
        detail = f"a space is put before a text {_listed(found['spaces'])}: expected {_listed(expected['spaces'])}"
        yield Finding(json_file.NAME, "another pre_tokenizer", detail)
    if (pad := found["pad"]) is not None and expected["pad"] == "" and pad not in ("", *_PADS):
        yield Finding("tokenizer.pad_token_id", _WHAT, f"`pad_token` is {pad!r:.80}: the source has none")
    yield from _unlike_lengths(expected, found)
    if "filled" in expected:  # older manifests have none
        yield from padding.unlike(expected["filled"], found["filled"])


def unlike_parts(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the parts that differ as JSON, if our Tokenizer can't express what they say."""
    for part in _PARTS:
        if expected["parts"][part] != found["parts"][part]:
            yield _finding(part, "is not that of the source", f"another {part}")
    one, other = ({key: said.get("defaults", {}).get(key) for key in _ROLES} for said in (expected, found))
    for key in _ROLES:
        if one[key] and other[key] and one[key] != other[key]:
            yield Finding(f"tokenizer.{key}_id", _WHAT, f"`{key}` is {other[key]!r:.80}: expected {one[key]!r:.80}")


def unlike_merges(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the merges of two tokenizer.json: SentencePiece's own files have none, so a tokenizer may not have them."""
    one, other = expected["merges"], found["merges"]
    if one is not None and other is not None and one != other:
        yield Finding("tokenizer.merges", _WHAT, f"the merges of `{json_file.NAME}` are not the source's")


# ---- what differs -----------------------------------------------------------------------------------------------------


def _finding(part: str, how: str, what: str) -> Finding:
    return Finding(json_file.NAME, what, f"the {part} of `{json_file.NAME}` {how}")


def _unlike_settings(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare settings that one of two files has. An absent one is its default; if none is known, it is not compared."""
    one, other = expected["settings"], found["settings"]
    defaults = [described.get("defaults", {}) for described in (expected, found)]  # older manifests have none
    for key in dict.fromkeys((*one, *other)):
        if any(key not in said and key not in known for said, known in zip((one, other), defaults, strict=True)):
            continue
        wanted, got = one.get(key, defaults[0].get(key)), other.get(key, defaults[1].get(key))
        if wanted != got:
            said = f"{got!r:.80}" if key in other else f"absent, which means {got!r:.80}"
            meant = f"{wanted!r:.80}" if key in one else f"{wanted!r:.80}, the default"
            yield Finding(special.CONFIG, f"{key} is wrong", f"`{key}` is {said}: expected {meant}")


def _unlike_added(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    for text, ways in expected.items():
        if text not in found:
            detail = f"`{text[:80]}` is not among added_tokens, so it is split where a text has it"
            yield Finding(json_file.NAME, "a missing added token", detail)
        elif any(way not in ways for way in found[text]):
            way = next(way for way in found[text] if way not in ways)
            detail = f"the added token `{text[:80]}` has {_flagged(way)}: expected {_flagged(ways[0])}"
            yield Finding(json_file.NAME, "another added token", detail)


def _unlike_further(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare tokens that only files beside tokenizer.json list. transformers adds them, so text is split at them."""
    if expected.get("further") is None:  # older manifests have none
        return
    one, other = ({*said["added"], *said["further"]} for said in (expected, found))
    for text in found["further"]:
        if text not in one:
            detail = f"`{text[:80]}` is added by a file beside `{json_file.NAME}`: the source does not add it"
            yield Finding("tokenizer.tokens", _WHAT, detail)
    for text in expected["further"]:
        if text not in other and text not in expected["added"]:
            detail = f"`{text[:80]}` is not added, but a file beside the source's `{json_file.NAME}` adds it"
            yield Finding("tokenizer.tokens", _WHAT, detail)


def _unlike_normalized(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    for text, ways in expected.items():
        way = next((way for way in found.get(text, ()) if way not in ways), None)
        if way is not None:
            detail = f"the added token `{text[:80]}` is looked for in {way}: expected in {ways[0]}"
            yield Finding(json_file.NAME, "another added token", detail)


def _unlike_lengths(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Say where texts are cut. It counts if that is earlier than in the source, and than the model needs."""
    for key, name, what in (("cut", json_file.NAME, "truncation"), ("longest", special.CONFIG, "model_max_length")):
        wanted, got = expected[key], found[key]
        if wanted == got:
            continue
        known = [limit for limit in (expected["cut"], expected["longest"]) if type(limit) is int]
        positions = expected["positions"]
        if wanted is None and type(positions) is int:
            known.append(positions - _RESERVED)
        detail = f"texts are cut after {_count(got)} tokens: expected {_count(wanted)}"
        counts = type(got) is int and any(got < limit for limit in known)
        yield Finding(name, f"{what} is wrong" if counts else f"another {what}", detail, counts=counts)


def _count(limit: Any) -> str:
    return "no number of" if limit is None else f"{limit:,}" if type(limit) is int else f"{limit!r:.40}"


def _flagged(way: str) -> str:
    return way.replace(" ", ", ") or "no flags"


def _listed(schemes: list[Any]) -> str:
    return ", ".join(f"`{scheme!s:.40}`" for scheme in schemes)


# ---- one spelling -------------------------------------------------------------------------------------------------


def _digest(value: Any) -> str | None:
    return None if value is None else hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(part: str, value: Any) -> Any:
    """A part in the same form, whichever version of the library wrote it."""
    if part == "model" and isinstance(value, Mapping):
        kept = {key: entry for key, entry in value.items() if entry is not None and key != "cache_capacity"}
        if (merges := _merges(value)) is not None:
            kept["merges"] = merges
        return kept
    if part == "added_tokens" and type(value) is list:
        return [[entry.get(key) for key in _ADDED] if isinstance(entry, Mapping) else entry for entry in value]
    if part in _STEPS:
        return [_step(step) for step in _flat(value, _STEPS[part], _DEEPEST)]
    return value


def _merges(model: Any) -> list[Any] | None:
    """The merges of a model, whose pairs older versions wrote as one text; None if it has none."""
    merges = model.get("merges") if isinstance(model, Mapping) else None
    return [" ".join(pair) if _is_pair(pair) else pair for pair in merges] if type(merges) is list else None


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


def _decoding(step: Any) -> Any:
    """A step of a decoder without what only splitting needs."""
    if not isinstance(step, Mapping):
        return step
    if step.get("type") == _NO_BYTES:
        return {"type": _NO_BYTES}
    return {key: value for key, value in step.items() if key != "split"}


def _spaces(document: Mapping[str, Any]) -> list[Any]:
    """Where a space is put before a text, if the pre-tokenizer says it in the newer way, or cuts bytes."""
    found = []
    for step in _flat(document.get("pre_tokenizer"), _STEPS["pre_tokenizer"], _DEEPEST):
        if isinstance(step, Mapping) and "prepend_scheme" in step:
            found.append(step["prepend_scheme"])
        elif _kind(step) == _NO_BYTES:
            found.append("always" if step.get("add_prefix_space", True) else "never")
    return found


def _around(processor: Any) -> Any:
    """The tokens that a post-processor of any kind puts around one text and around two, and the type of each token."""
    steps = [step for step in _plain("post_processor", processor) if _kind(step) != _NO_BYTES]
    match steps:
        case []:
            return {"single": [["A", 0]], "pair": [["A", 0], ["B", 1]]}
        case [{"type": "TemplateProcessing", "single": [*single], "pair": [*pair], **rest}]:
            known = rest.get("special_tokens")
            ids = known if isinstance(known, Mapping) else {}
            return {"single": [_piece(piece, ids) for piece in single], "pair": [_piece(piece, ids) for piece in pair]}
        case [{"type": "BertProcessing" | "RobertaProcessing" as kind, "cls": [_, cls], "sep": [_, sep]}]:
            second = int(kind == "BertProcessing")
            begin, end = [[cls], 0], [[sep], 0]
            between = [end] if second else [end, end]
            pair = [begin, ["A", 0], *between, ["B", second], [[sep], second]]
            return {"single": [begin, ["A", 0], end], "pair": pair}
    return steps


def _piece(piece: Any, ids: Mapping[str, Any]) -> Any:
    """A piece of a template: the letter of a text or the ids of a token, and the type."""
    match piece:
        case {"Sequence": {"id": name, "type_id": kind}}:
            return [name, kind]
        case {"SpecialToken": {"id": str(name), "type_id": kind}}:
            match ids.get(name):
                case {"ids": [*numbers]}:
                    return [numbers, kind]
            return [name, kind]
    return piece


def _kind(step: Any) -> Any:
    return step.get("type") if isinstance(step, Mapping) else None


def _normalized(document: Mapping[str, Any], beside: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """In which text each added token is looked for; nothing without a normalizer, because it is then the same text."""
    if not _flat(document.get("normalizer"), _STEPS["normalizer"], _DEEPEST):
        return {}

    def where(entry: Mapping[str, Any]) -> str:
        return _TEXTS[bool(entry.get("normalized", not entry.get("special", entry["content"] in special_tokens)))]

    listed = document.get("added_tokens")
    entries = [entry for entry in (listed if type(listed) is list else ()) if isinstance(entry, Mapping)]
    special_tokens = {entry["content"] for entry in entries if entry.get("special") and _has_text(entry)}
    return _flags(document, beside, where)


def _has_text(entry: Mapping[str, Any]) -> bool:
    return type(entry.get("content")) is str


def _flags(
    document: Mapping[str, Any], beside: list[Mapping[str, Any]], way: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[str]]:
    """A `way` of each added token: first that in tokenizer.json, then others that transformers' files give it."""
    found: dict[str, list[str]] = {}
    listed = document.get("added_tokens")
    for entry in listed if type(listed) is list else ():
        if isinstance(entry, Mapping) and _has_text(entry):
            found[entry["content"]] = [way(entry)]
    for more in beside:
        decoder = more.get("added_tokens_decoder")
        entries = [*more.values(), *(decoder.values() if isinstance(decoder, Mapping) else ())]
        for entry in entries:
            if isinstance(entry, Mapping) and _has_text(entry):
                ways = found.get(entry["content"])
                if ways is not None and way(entry) not in ways:
                    ways.append(way(entry))
    return found


def _way(entry: Mapping[str, Any]) -> str:
    return " ".join(flag for flag in _FLAGS if entry.get(flag))


def _defaults(document: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What settings mean that tokenizer_config.json may leave out: tokenizer.json's direction, else the class's.

    A class whose code comes with the model may have other sides.
    """
    found = dict(_DEFAULTS)
    name = settings.get("tokenizer_class")
    if name in special.PLAIN and name is not None:
        found[_PADDING] = "right"
    elif type(name) is str and (match := _CLASS.fullmatch(name)):
        found[_PADDING] = "left" if match[1] in _FROM_LEFT else "right"
    if "auto_map" in settings:
        found = {"split_special_tokens": False}
    for key, part in (("truncation_side", "truncation"), (_PADDING, "padding")):
        side = document.get(part)
        if isinstance(side, Mapping) and type(side.get("direction")) is str:
            found[key] = side["direction"].lower()
    return found


def _is_pair(value: Any) -> bool:
    return type(value) is list and all(type(text) is str for text in value)
