"""The files beside the weights: config.json and the tokenizer, compared with the source's.

Each check yields (name, what, sentence) for each thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.errors import ManifestError, ModelError
from converter.formats.companions import CONFIG, TOKENIZER
from converter.formats.format import Finding
from converter.io.strict_json import load_bytes, load_json
from converter.models.vocabulary import Tokenizer
from converter.opening import folder_beside

if TYPE_CHECKING:
    from converter.models.family import Family
    from converter.tensors.catalogue import Catalogue

_DTYPES: Final = ("torch_dtype", "dtype")  # keys of config.json that a conversion changes


# ---- config.json --------------------------------------------------------------------------------------------------


def settings(catalogue: Catalogue, config: Mapping[str, Any] | None, family: Family | None) -> dict[str, Any] | None:
    """The sizes and settings that a config.json means to a family; None if there is no config.json.

    `catalogue` has the family's names.
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
    return known | {key: config[key] for key in family.special_tokens if type(config.get(key)) is int}


def check_settings(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare the settings that two config.json both have."""
    for key in expected or {}:
        if found is not None and key in found and (expected or {})[key] != found[key]:
            yield _config(key, found[key], (expected or {})[key])


def check_config(
    source: Catalogue, output: Catalogue, family: Family | None, *, lone: bool, converted: bool
) -> Iterator[Finding]:
    """Compare the output's configuration with the source's. A `lone` file need not have one beside it."""
    expected, found = source.config, output.config
    if expected is None or (lone and not formats.of(output).self_contained):
        return
    if found is None:
        yield CONFIG, "no config.json", f"`{output.location}` has no config.json, but the source has one"
    elif formats.of(output).self_contained or formats.of(source).self_contained:
        # GGUF leaves out a special token that has no row in the embedding.
        yield from check_settings(settings(source, expected, family), settings(output, found, family))
    else:
        for key in (*expected, *(key for key in found if key not in expected)):
            if not (converted and key in _DTYPES) and expected.get(key) != found.get(key):
                yield _config(key, found.get(key), expected.get(key))


def _config(key: str, found: Any, expected: Any) -> Finding:
    return CONFIG, f"{key} is wrong", f"`{key}` is {found!r:.80}: expected {expected!r:.80}"


# ---- tokenizer ----------------------------------------------------------------------------------------------------


def tokenizer(catalogue: Catalogue, *, beside: bool = True) -> Tokenizer | None:
    """The tokenizer inside the file, else the one in the vocab.json and merges.txt `beside` the weights."""
    inside = formats.of(catalogue).tokenizer(catalogue)
    if inside is not None:
        return inside
    folder = folder_beside(catalogue)
    if not beside or folder is None or not all((folder / name).is_file() for name in TOKENIZER[:2]):
        return None
    ids = load_json(folder / TOKENIZER[0])
    if any(type(number) is not int or not 0 <= number < 1 << 31 for number in ids.values()):
        raise ManifestError(f"`{folder / TOKENIZER[0]}` gives a token an id that is not a number from 0 to 2^31")
    lines = load_bytes(folder / TOKENIZER[1]).decode("utf-8", "replace").split("\n")
    merges = [line.removesuffix("\r") for line in lines if line.strip("\r")]
    if merges and merges[0].startswith("#version"):
        del merges[0]
    return Tokenizer({number: token for token, number in ids.items()}, tuple(merges))


def check_tokenizer(
    expected: Tokenizer | None, folder: Path | None, output: Catalogue, *, lone: bool
) -> Iterator[Finding]:
    """Compare the tokenizer with the source's in `folder`: by tokens if it is inside a file, else by its files' bytes."""
    if formats.of(output).self_contained and expected is not None:
        yield from compare_tokenizers(expected, tokenizer(output, beside=False))
    there = folder_beside(output)
    if lone or folder is None or there is None or folder.resolve() == there.resolve():
        return
    for name in TOKENIZER:
        if not (folder / name).is_file():
            continue
        if not (there / name).is_file():
            if formats.of(output).companions:
                yield name, "no tokenizer", f"`{there}` has no `{name}`, but the source has one"
        elif load_bytes(folder / name) != load_bytes(there / name):
            yield name, "another tokenizer", f"`{there / name}` is not the source's"


def check_digests(expected: Mapping[str, Any] | None, output: Catalogue) -> Iterator[Finding]:
    """Compare the tokenizer with digests."""
    found = tokenizer(output)
    if expected is None or (found is None and not formats.of(output).companions):
        return
    if found is None:
        yield "tokenizer", "no tokenizer", f"`{output.location}` has no tokenizer, but the manifest has one"
        return
    for part, digest in found.digests().items():
        if expected.get(part) != digest:
            yield f"tokenizer.{part}", "another tokenizer", f"the tokenizer's {part} are not those of the manifest"


def compare_tokenizers(expected: Tokenizer, found: Tokenizer | None) -> Iterator[Finding]:
    """Yield where tokens and merges differ."""
    if found is None:
        yield "tokenizer", "no tokenizer", "the file has no tokenizer, but the source has one"
        return
    numbers = sorted(
        n for n in expected.tokens.keys() | found.tokens.keys() if expected.tokens.get(n) != found.tokens.get(n)
    )
    if numbers:
        first = numbers[0]
        yield (
            "tokenizer.tokens",
            "another tokenizer",
            f"{len(numbers):,} tokens differ, the first with the id {first}: {found.tokens.get(first)!r:.80}, expected "
            f"{expected.tokens.get(first)!r:.80}",
        )
    if expected.merges != found.merges:
        pairs = zip(expected.merges, found.merges, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected.merges), len(found.merges)))
        yield (
            "tokenizer.merges",
            "another tokenizer",
            f"the merges differ from number {first + 1:,} on: {len(found.merges):,}, expected {len(expected.merges):,}",
        )
