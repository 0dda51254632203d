"""The files beside the weights: config.json and the tokenizer, compared with the source's.

Each check yields (name, what, sentence) for each thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter import formats
from converter.errors import ModelError, UnsupportedError
from converter.formats.companions import CONFIG, TOKENIZER
from converter.formats.format import Finding
from converter.io.strict_json import load_bytes
from converter.models.tokenizers.folder import is_beside, read
from converter.models.tokenizers.tokenizer import Tokenizer
from converter.opening import folder_beside
from converter.verification.tokenizers import differences

if TYPE_CHECKING:
    from converter.models.family import Family
    from converter.tensors.catalogue import Catalogue

_DTYPES: Final = ("torch_dtype", "dtype")  # keys of config.json that a conversion changes


# ---- config.json --------------------------------------------------------------------------------------------------


def settings(
    catalogue: Catalogue,
    config: Mapping[str, Any] | None,
    family: Family | None,
    tokens: Tokens | None = None,
) -> dict[str, Any] | None:
    """The sizes and settings that a config.json means to a family; None if there is no config.json.

    `catalogue` has the family's names. Programs take the end of a text and other special tokens from the tokenizer first,
    so `tokens` count more than config.json.
    """
    if config is None or family is None:
        return None
    known: dict[str, Any] = {}
    try:
        known |= family.sizes(config)
    except ModelError:
        known |= {size.name: config[size.name] for size in family.size_table if size.name in config}
    known |= {setting.name: family.setting(setting.name, config) for setting in family.settings if setting.compared}
    if family.activation is not None and not formats.of(catalogue).says_activation(catalogue):
        del known[family.activation.setting]
    special = {f"{role}_token_id": number for role, number in (tokens.special if tokens is not None else {}).items()}
    said = {key: special.get(key, config.get(key)) for key in family.special_tokens}
    return known | {key: number for key, number in said.items() if type(number) is int}


def check_settings(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare the settings that two config.json both have."""
    for key in expected or {}:
        if found is not None and key in found and (expected or {})[key] != found[key]:
            yield _config(key, found[key], (expected or {})[key])


def check_config(
    source: Catalogue,
    output: Catalogue,
    family: Family | None,
    tokens: tuple[Tokens, Tokens] | None,
    *,
    lone: bool,
    converted: bool,
) -> Iterator[Finding]:
    """Compare the output's configuration with the source's. A `lone` file need not have one beside it.

    `tokens` are the source's tokenizer and the output's.
    """
    expected, found = source.config, output.config
    if expected is None or (lone and not formats.of(output).self_contained):
        return
    if found is None:
        yield CONFIG, "no config.json", f"`{output.location}` has no config.json, but the source has one"
    elif formats.of(output).self_contained or formats.of(source).self_contained:
        # GGUF leaves out a special token that has no row in the embedding.
        ours, theirs = tokens or (None, None)
        yield from check_settings(settings(source, expected, family, ours), settings(output, found, family, theirs))
    else:
        for key in (*expected, *(key for key in found if key not in expected)):
            if not (converted and key in _DTYPES) and expected.get(key) != found.get(key):
                yield _config(key, found.get(key), expected.get(key))


def _config(key: str, found: Any, expected: Any) -> Finding:
    return CONFIG, f"{key} is wrong", f"`{key}` is {found!r:.80}: expected {expected!r:.80}"


# ---- tokenizer ----------------------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """A tokenizer, or the reason why it can't be compared; neither if there is none."""

    tokenizer: Tokenizer | None
    refused: str | None = None

    @property
    def special(self) -> Mapping[str, int]:
        """The ids of special tokens by what they are for."""
        return self.tokenizer.special if self.tokenizer is not None else {}


def tokens(catalogue: Catalogue, *, beside: bool = True) -> Tokens:
    """The tokenizer inside the file, else the one in the files `beside` the weights. Raises the errors of reading it."""
    inside = formats.of(catalogue).tokenizer(catalogue)
    folder = folder_beside(catalogue) if beside and inside is None else None
    if folder is None or not is_beside(folder):
        return Tokens(inside)
    try:
        return Tokens(read(folder))
    except UnsupportedError as error:
        return Tokens(None, str(error))


def inside(source: Catalogue, output: Catalogue, *, lone: bool) -> bool:
    """Whether either tokenizer may be inside a file: then they are compared token by token, else by the files' bytes."""
    return formats.of(output).self_contained or (formats.of(source).self_contained and not lone)


def check_tokens(expected: Tokens, found: Tokens, output: Catalogue) -> Iterator[Finding]:
    """Compare two tokenizers token by token."""
    refused = expected.refused or found.refused
    if expected.tokenizer is not None and found.tokenizer is not None:
        yield from differences(expected.tokenizer, found.tokenizer)
    elif refused is not None:
        yield "tokenizer", "not compared", f"the tokenizers can't be compared: {refused}"
    elif expected.tokenizer is not None and (formats.of(output).self_contained or formats.of(output).companions):
        yield "tokenizer", "no tokenizer", f"`{output.location}` has no tokenizer, but the source has one"


def check_files(folder: Path | None, output: Catalogue) -> Iterator[Finding]:
    """Compare the tokenizer's files in `folder`, which is the source's, with the output's."""
    there = folder_beside(output)
    if folder is None or there is None or folder.resolve() == there.resolve():
        return
    for name in TOKENIZER:
        if not (folder / name).is_file():
            continue
        if not (there / name).is_file():
            if formats.of(output).companions:
                yield name, "no tokenizer", f"`{there}` has no `{name}`, but the source has one"
        elif load_bytes(folder / name) != load_bytes(there / name):
            yield name, "another tokenizer", f"`{there / name}` is not the source's"


def check_digests(expected: Mapping[str, Any] | None, found: Tokens, output: Catalogue) -> Iterator[Finding]:
    """Compare the tokenizer with digests."""
    if expected is None or (found.tokenizer is None and not formats.of(output).companions):
        return
    if found.tokenizer is None:
        yield "tokenizer", "no tokenizer", f"`{output.location}` has no tokenizer, but the manifest has one"
        return
    for part, digest in found.tokenizer.digests().items():
        if expected.get(part) != digest:
            yield f"tokenizer.{part}", "another tokenizer", f"the tokenizer's {part} are not those of the manifest"
