"""What lies beside a tokenizer: special tokens, chat templates, and tokens that were added.

Sources: transformers' tokenizer_config.json, special_tokens_map.json, added_tokens.json and chat_template.jinja.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from converter.errors import ManifestError
from converter.models.tokenizers.checks import checked_ids, flag, mapping
from converter.models.tokenizers.json_file import added
from converter.models.tokenizers.tokenizer import DEFAULT, Tokenizer
from converter.text import listed

CONFIG: Final = "tokenizer_config.json"
MAP: Final = "special_tokens_map.json"
ADDED: Final = "added_tokens.json"
TEMPLATE: Final = "chat_template.jinja"
TEMPLATES: Final = "additional_chat_templates"  # a folder
LISTED: Final = "added_tokens_decoder"  # the key of tokenizer_config.json
OLD_TEMPLATE: Final = "chat_template.json"
ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Classes that put around a text only the tokens that tokenizer.json names, and none of their own.
PLAIN: Final = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
_T5: Final = ("T5Tokenizer", "T5TokenizerFast")
_STANDS_IN: Final = {"bos": "cls", "eos": "sep"}  # what BERT calls the tokens around a text

# Gives the JSON object of a file beside the tokenizer, by the file's name.
Document = Callable[[str], Mapping[str, Any] | None]


def with_added(tokenizer: Tokenizer, document: Document) -> Tokenizer:
    """The tokenizer with the tokens of added_tokens.json and of tokenizer_config.json."""
    config, listed = document(CONFIG) or {}, document(ADDED) or {}
    special = _names(config, document(MAP) or {})
    additions = dict(enumerate(((text, True) for text in _sentinels(config)), tokenizer.size))
    additions |= {number: (text, text in special) for text, number in checked_ids(listed, ADDED).items()}
    for key, entry in mapping(config.get(LISTED) or {}, LISTED, CONFIG).items():
        match entry:
            case {"content": str(text)} if key.isascii() and key.isdigit() and len(key) < 10:
                additions[int(key)] = text, flag(entry, "special", CONFIG)
            case _:
                raise ManifestError(
                    f"`{CONFIG}`: {key[:40]!r} in added_tokens_decoder: an id and a content were expected"
                )
    return added(tokenizer, additions, CONFIG) if additions else tokenizer


def _sentinels(config: Mapping[str, Any]) -> list[str]:
    """The tokens that T5's class puts behind those of its SentencePiece model, by their number from the last to the first."""
    if config.get("tokenizer_class") not in _T5:
        return []
    count = config.get("extra_ids", 100)
    if type(count) is not int or not 0 <= count < 1 << 16:
        raise ManifestError(f"`{CONFIG}` says `extra_ids` is {count!r:.80}: a number of tokens was expected")
    return [f"<extra_id_{number}>" for number in reversed(range(count))]


def with_listed(tokenizer: Tokenizer, document: Document, rows: int | None) -> Tokenizer:
    """The tokenizer of a tokenizer.json with the tokens that only the files beside it list, as transformers adds them.

    They take the next ids, whatever ids the files give them. Those past the `rows` of the embedding are left out.
    """
    config, names = document(CONFIG) or {}, document(MAP) or {}
    special = _names(config, names)
    if LISTED in config:
        entries = mapping(config[LISTED] or {}, LISTED, CONFIG)
        numbers = sorted(entries, key=lambda key: key.zfill(10))
        texts = [text for key in numbers if (text := _text(entries[key])) is not None]
        marked = [entry for entry in entries.values() if isinstance(entry, Mapping) and flag(entry, "special", CONFIG)]
        special |= {text for entry in marked if (text := _text(entry))}
    else:
        ids = checked_ids(document(ADDED) or {}, ADDED)
        texts = sorted(ids, key=lambda text: ids[text])
    own = tokenizer.ids
    candidates = dict.fromkeys([*texts, *named(document).values(), *listed_beside(document)])
    new = [text for text in candidates if text and text not in own]
    additions = {number: (text, text in special) for number, text in enumerate(new, tokenizer.size)}
    past = [text for number, (text, _) in additions.items() if rows is not None and number >= rows]
    if past:
        note = f"left out, because the embedding has no rows for them: {listed(past)}"
        additions = {number: entry for number, entry in additions.items() if entry[0] not in past}
        tokenizer = replace(tokenizer, notes=(*tokenizer.notes, note))
    return added(tokenizer, additions, CONFIG) if additions else tokenizer


def with_special(
    tokenizer: Tokenizer, document: Document, config: Mapping[str, Any] | None, templates: Mapping[str, str]
) -> Tokenizer:
    """The tokenizer with what tokenizer_config.json says, and what config.json says if that says nothing."""
    said = document(CONFIG) or {}
    ids = tokenizer.ids
    special = dict(tokenizer.special)
    special |= {key.removesuffix("_token"): ids[text] for key, text in named(document).items() if text in ids}
    if tokenizer.kind == "wordpiece":
        # BERT puts these around a text, even if config.json names tokens for the roles of other models.
        _stand_in(special)
    for role in ROLES:
        number = (config or {}).get(f"{role}_token_id")
        if type(number) is int and number in tokenizer.tokens:
            special.setdefault(role, number)
    _stand_in(special)
    adds = dict(tokenizer.adds)
    for role in ("bos", "eos"):
        if type(said.get(f"add_{role}_token")) is bool:
            adds.setdefault(role, said[f"add_{role}_token"])
    lowercase = tokenizer.lowercase
    if tokenizer.kind == "wordpiece" and lowercase is None:
        lowercase = flag(said, "do_lower_case", CONFIG, default=True)
    found = dict(_templates(said.get("chat_template"))) or dict(templates)
    return replace(tokenizer, special=special, adds=adds, templates=found, lowercase=lowercase)


def by_rank(config: Mapping[str, Any], names: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """tokenizer_config.json and special_tokens_map.json, the one first that transformers takes a special token from.

    That is the older special_tokens_map.json, unless tokenizer_config.json lists the added tokens.
    """
    return (config, names) if LISTED in config else (names, config)


def named(document: Document) -> dict[str, str]:
    """The tokens that the files name for roles, by the key that names them: `pad_token`."""
    first, second = by_rank(document(CONFIG) or {}, document(MAP) or {})
    keys = [f"{role}_token" for role in ROLES]
    return {key: text for key in keys if (text := _text(first.get(key)) or _text(second.get(key))) is not None}


def without_id(roles: Mapping[str, str], document: Mapping[str, Any]) -> dict[str, str]:
    """Those of the tokens with a role that a tokenizer.json does not have."""
    model, more = document.get("model"), document.get("added_tokens")
    words = model.get("vocab") if isinstance(model, Mapping) else None
    texts = [word[0] if type(word) is list and word else word for word in words or ()] if words else []
    texts += [entry.get("content") for entry in more if isinstance(entry, Mapping)] if type(more) is list else []
    known = {text for text in texts if type(text) is str}
    return {key: text for key, text in roles.items() if text not in known}


def listed_beside(document: Document) -> Iterator[str]:
    """Yield the tokens that transformers adds to tokenizer.json's own, because a file beside it lists them."""
    config, names, more = (document(name) or {} for name in (CONFIG, MAP, ADDED))
    listed = config.get(LISTED)
    for entry in listed.values() if isinstance(listed, Mapping) else ():
        if (text := _text(entry)) is not None:
            yield text
    if LISTED not in config:
        yield from more
        yield from _further(names)
    yield from _further(config)


def _stand_in(special: dict[str, int]) -> None:
    for role, other in _STANDS_IN.items():
        if other in special:
            special.setdefault(role, special[other])


def with_nothing_around(tokenizer: Tokenizer, document: Document) -> Tokenizer:
    """The tokenizer of a tokenizer.json, which puts no token around a text unless it says so.

    For a class with tokens of its own, what is not said stays unknown: LLaMA's puts one before a text.
    """
    if (document(CONFIG) or {}).get("tokenizer_class") not in PLAIN:
        return tokenizer
    around = ("bos", "sep" if tokenizer.kind == "wordpiece" else "eos")
    return replace(tokenizer, adds=dict.fromkeys(around, False) | dict(tokenizer.adds))


def _templates(value: Any) -> Mapping[str, str]:
    match value:
        case None:
            return {}
        case str(text):
            return {DEFAULT: text}
        case [*entries]:
            found = {}
            for entry in entries:
                match entry:
                    case {"name": str(name), "template": str(text)}:
                        found[name] = text
                    case _:
                        raise ManifestError(f"`{CONFIG}` has a chat template without a name or a text")
            return found
    raise ManifestError(f"`{CONFIG}` says `chat_template` is {value!r:.80}: a text was expected")


def _text(value: Any) -> str | None:
    match value:
        case str(text) | {"content": str(text)}:
            return text
    return None


def _names(*documents: Mapping[str, Any]) -> set[str]:
    """The tokens that have a role."""
    names: set[str] = set()
    for document in documents:
        found = [_text(document.get(f"{role}_token")) for role in ROLES]
        names |= {text for text in found if text is not None} | {*_further(document)}
    return names


def _further(document: Mapping[str, Any]) -> list[str]:
    """The special tokens without a role."""
    more = document.get("additional_special_tokens") or document.get("extra_special_tokens")
    texts = [_text(value) for value in (more if type(more) is list else [])]
    return [text for text in texts if text is not None]
