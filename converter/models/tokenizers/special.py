"""What lies beside a tokenizer: special tokens, chat templates, and tokens that were added.

Sources: transformers' tokenizer_config.json, special_tokens_map.json, added_tokens.json and chat_template.jinja.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from converter.errors import ManifestError
from converter.models.tokenizers.checks import checked_ids, flag, mapping
from converter.models.tokenizers.json_file import added
from converter.models.tokenizers.tokenizer import DEFAULT, Tokenizer

CONFIG: Final = "tokenizer_config.json"
MAP: Final = "special_tokens_map.json"
ADDED: Final = "added_tokens.json"
TEMPLATE: Final = "chat_template.jinja"
TEMPLATES: Final = "additional_chat_templates"  # a folder
OLD_TEMPLATE: Final = "chat_template.json"
ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_STANDS_IN: Final = {"bos": "cls", "eos": "sep"}  # what BERT calls the tokens around a text

Document = Callable[
    [str], Mapping[str, Any] | None
]  # the JSON object of a file beside the tokenizer, by the file's name


def with_added(tokenizer: Tokenizer, document: Document) -> Tokenizer:
    """The tokenizer with the tokens of added_tokens.json and of tokenizer_config.json."""
    config, listed = document(CONFIG) or {}, document(ADDED) or {}
    special = _names(config, document(MAP) or {})
    additions = {number: (text, text in special) for text, number in checked_ids(listed, ADDED).items()}
    for key, entry in mapping(config.get("added_tokens_decoder") or {}, "added_tokens_decoder", CONFIG).items():
        match entry:
            case {"content": str(text)} if key.isascii() and key.isdigit() and len(key) < 10:
                additions[int(key)] = text, flag(entry, "special", CONFIG)
            case _:
                raise ManifestError(
                    f"`{CONFIG}`: {key[:40]!r} in added_tokens_decoder: an id and a content were expected"
                )
    return added(tokenizer, additions, CONFIG) if additions else tokenizer


def with_special(
    tokenizer: Tokenizer, document: Document, config: Mapping[str, Any] | None, templates: Mapping[str, str]
) -> Tokenizer:
    """The tokenizer with what tokenizer_config.json says, and what config.json says if that says nothing."""
    said, more = document(CONFIG) or {}, document(MAP) or {}
    ids = tokenizer.ids
    special = dict(tokenizer.special)
    for role in ROLES:
        text = _text(said.get(f"{role}_token")) or _text(more.get(f"{role}_token"))
        if text in ids and text is not None:
            special[role] = ids[text]
    for role in ROLES:
        number = (config or {}).get(f"{role}_token_id")
        if type(number) is int and number in tokenizer.tokens:
            special.setdefault(role, number)
    for role, other in _STANDS_IN.items():
        if other in special:
            special.setdefault(role, special[other])
    adds = dict(tokenizer.adds)
    for role in ("bos", "eos"):
        if type(said.get(f"add_{role}_token")) is bool:
            adds.setdefault(role, said[f"add_{role}_token"])
    lowercase = tokenizer.lowercase
    if tokenizer.kind == "wordpiece" and lowercase is None:
        lowercase = flag(said, "do_lower_case", CONFIG, default=True)
    found = dict(_templates(said.get("chat_template"))) or dict(templates)
    return replace(tokenizer, special=special, adds=adds, templates=found, lowercase=lowercase)


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
        more = document.get("additional_special_tokens") or document.get("extra_special_tokens")
        found += [_text(value) for value in (more if type(more) is list else [])]
        names |= {text for text in found if text is not None}
    return names
