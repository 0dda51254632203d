"""The files beside the weights: config.json and the tokenizer, compared with the source's.

What changes what is computed, or how text is split, counts. Everything else is only said: a file that the copy lacks, and
what can't be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter import formats
from converter.errors import ModelError, UnsupportedError
from converter.formats.companions import CONFIG, LICENCES, TOKENIZER
from converter.formats.marks import GENERATION
from converter.formats.said import Finding
from converter.io.strict_json import load_bytes
from converter.models.tokenizers import special
from converter.models.tokenizers.folder import FILES, is_beside, read
from converter.models.tokenizers.tokenizer import Tokenizer
from converter.opening import folder_beside
from converter.verification import configs, documents, tokenizers
from converter.verification.tokenizers import differences, unlike

if TYPE_CHECKING:
    from converter.models.family import Family
    from converter.tensors.catalogue import Catalogue


ABSENT: Final = "absent"
REFUSED: Final = "not compared"

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
    ids = {f"{role}_token_id": number for role, number in (tokens.special if tokens is not None else {}).items()}
    said = {key: ids.get(key, config.get(key)) for key in family.special_tokens}
    return known | {key: number for key, number in said.items() if type(number) is int}


def check_settings(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare the settings that two config.json both have."""
    for key in expected or {}:
        if found is not None and key in found and (expected or {})[key] != found[key]:
            yield Finding(
                CONFIG, f"{key} is wrong", f"`{key}` is {found[key]!r:.80}: expected {(expected or {})[key]!r:.80}"
            )


def check_config(expected: Mapping[str, Any] | None, output: Catalogue) -> Iterator[Finding]:
    """Compare the config.json of an output with the source's, key by key."""
    if expected is None:
        return
    if output.config is None:
        yield lacks(CONFIG, output)
        return
    stored = {tensor.dtype.name for tensor in output.values() if tensor.dtype.floating}
    for change in configs.differences(expected, output.config, stored):
        if change.counts:
            yield Finding(CONFIG, f"{change.key} is wrong", change.sentence)
        else:
            yield Finding(CONFIG, f"{change.key} is not compared", change.sentence, counts=False)


def lacks(name: str, output: Catalogue) -> Finding:
    """What is said about a file that the source has and the output lacks."""
    return Finding(name, ABSENT, f"`{_place(output)}` has no {name}, but the source has one", counts=False)


def _place(output: Catalogue) -> str:
    """The file or the folder where the configuration and the tokenizer of an output are looked for."""
    return output.location if formats.of(output).self_contained else str(folder_beside(output) or output.location)


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


def check_tokens(expected: Tokens, found: Tokens, output: Catalogue) -> Iterator[Finding]:
    """Compare two tokenizers token by token."""
    refused = expected.refused or found.refused
    if expected.tokenizer is not None and found.tokenizer is not None:
        yield from differences(expected.tokenizer, found.tokenizer)
    elif refused is not None:
        yield Finding("tokenizer", REFUSED, f"the tokenizers can't be compared: {refused}", counts=False)
    elif expected.tokenizer is not None:
        yield from check_absent(output)


def check_absent(output: Catalogue) -> Iterator[Finding]:
    """Say that an output has no tokenizer. It counts if there are files of one, from which none can be made."""
    if not (formats.of(output).self_contained or formats.of(output).companions):
        return
    folder = None if formats.of(output).self_contained else folder_beside(output)
    there = [name for name in TOKENIZER if folder is not None and (folder / name).is_file()]
    if there:
        detail = f"`{_place(output)}` has `{there[0]}`, but not all files of a tokenizer: {FILES} was expected"
        yield Finding("tokenizer", "no tokenizer", detail)
    else:
        yield lacks("tokenizer", output)


def check_folders(folder: Path | None, output: Catalogue, expected: Tokens) -> Iterator[Finding]:
    """Compare the tokenizer in `folder`, which is the source's, and other small files, with the output's."""
    there = folder_beside(output)
    if folder is None or there is None or folder.resolve() == there.resolve():
        return
    if not all(_same_file(folder / name, there / name) for name in TOKENIZER):
        found = tokens(output)
        if expected.refused is not None or found.refused is not None:
            # What no tokenizer of ours can express is compared as JSON.
            yield from documents.differences(folder, there)
        else:
            differing = list(check_tokens(expected, found, output))
            yield from differing
            if not any(finding.name == "tokenizer.merges" for finding in differing):
                yield from documents.check_merges(folder, there)
            yield from _absent_roles(expected.special, found, there)
    if formats.of(output).companions:
        yield from (lacks(name, output) for name in (GENERATION, *LICENCES) if _is_lost(folder / name, there / name))


def _absent_roles(expected: Mapping[str, Any], found: Tokens, folder: Path | None) -> Iterator[Finding]:
    """Name special tokens that a tokenizer_config.json leaves out."""
    if found.tokenizer is None or folder is None or not (folder / special.CONFIG).is_file():
        return
    for role, number in expected.items():
        if role not in found.special:
            detail = f"no token is for `{role}`: expected {number}"
            yield Finding(f"tokenizer.{role}_token_id", "another tokenizer", detail)


def _is_lost(expected: Path, found: Path) -> bool:
    return expected.is_file() and not found.is_file()


def _same_file(expected: Path, found: Path) -> bool:
    """Whether both files are there with the same bytes, or neither is."""
    if not (expected.is_file() and found.is_file()):
        return expected.is_file() == found.is_file()
    return load_bytes(expected) == load_bytes(found)


def check_digests(expected: Mapping[str, Any] | None, found: Tokens, output: Catalogue) -> Iterator[Finding]:
    """Compare the tokenizer with what a manifest says about it."""
    if expected is None:
        return
    if found.refused is not None:
        yield Finding("tokenizer", REFUSED, f"the tokenizers can't be compared: {found.refused}", counts=False)
    elif found.tokenizer is None:
        yield from check_absent(output)
    else:
        folder = None if formats.of(output).self_contained else folder_beside(output)
        yield from unlike(expected, described(found, folder) or {})
        special_tokens = expected.get("special")
        yield from _absent_roles(special_tokens if isinstance(special_tokens, dict) else {}, found, folder)


def described(found: Tokens, folder: Path | None) -> dict[str, Any] | None:
    """What a manifest says about a tokenizer, and the merges in the tokenizer.json of its folder."""
    if found.tokenizer is None:
        return None
    merges = documents.merges(folder) if folder is not None else None
    return tokenizers.described(found.tokenizer) | {
        "file_merges": None if merges is None else tokenizers.digest(merges)
    }


def any_beside(output: Catalogue) -> bool:
    """Whether a folder has a config.json or a tokenizer."""
    folder = folder_beside(output)
    return output.config is not None or (folder is not None and any((folder / name).is_file() for name in TOKENIZER))
