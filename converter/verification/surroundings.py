"""The files beside the weights: config.json and the tokenizer, compared with the source's.

What changes what is computed, or how text is split, counts. Everything else is only mentioned: a file that the copy lacks, and
what can't be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter import formats
from converter.errors import ModelError, UnsupportedError
from converter.formats.companions import CHAT_TEMPLATES, CONFIG, TEMPLATES, TOKENIZER, VOCABULARIES
from converter.formats.said import Finding, Hyperparameters
from converter.io.strict_json import config_beside, load_bytes
from converter.models.tokenizers import json_file, special
from converter.models.tokenizers.folder import FILES, consists_of, is_beside, read
from converter.models.tokenizers.tokenizer import Tokenizer
from converter.opening import folder_beside
from converter.verification import beside, configs, documents, tokenizers
from converter.verification.tokenizers import differences, further_roles, lacking_roles, unlike

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue


ABSENT: Final = "absent"
REFUSED: Final = "not compared"
COMPARED: Final = "compared"
CONFIGURATION: Final = "configuration"
TOKENS: Final = "tokenizer"
PARTS: Final = (CONFIGURATION, TOKENS)
_ANOTHER: Final = "another value"
_LLAMA_CPP: Final = "llama.cpp"

# ---- config.json --------------------------------------------------------------------------------------------------


def settings(
    catalogue: Catalogue,
    config: Mapping[str, Any] | None,
    family: Family | None,
    tokens: Tokens | None = None,
) -> dict[str, Any] | None:
    """The sizes and settings that a config.json means for a family; None if there is no config.json.

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
    if (expected or {}).keys() & (found or {}).keys():
        yield _compared(CONFIGURATION)
    for key in expected or {}:
        if found is not None and key in found and (expected or {})[key] != found[key]:
            yield Finding(
                CONFIG, f"{key} is wrong", f"`{key}` is {found[key]!r:.80}: expected {(expected or {})[key]!r:.80}"
            )


def hyperparameters(catalogue: Catalogue) -> Hyperparameters | None:
    """What a file says about how its model is computed; None if its format has no keys for that."""
    return formats.of(catalogue).hyperparameters(catalogue)


def check_hyperparameters(expected: Hyperparameters | None, output: Catalogue) -> Iterator[Finding]:
    """Compare what two files of the same format say about how their model is computed. An absent key may have a default."""
    found = hyperparameters(output)
    if expected is None or found is None:
        return
    yield _compared(CONFIGURATION)
    key, wanted = expected.architecture
    if found.architecture != expected.architecture:
        yield Finding(key, _ANOTHER, f"`{key}` is {found.architecture[1]!r:.80}: expected {wanted!r:.80}")
        return
    for key in dict.fromkeys((*expected.said, *found.said)):
        wanted, got = (one.said.get(key, one.defaults.get(key)) for one in (expected, found))
        if configs.alike(wanted, got):
            continue
        meant = f"expected {wanted!r:.80}{'' if key in expected.said else ', the default'}"
        said = "absent" if got is None else f"{got!r:.80}" if key in found.said else f"absent, which means {got!r:.80}"
        detail = f"`{key}` is {said}: {'the source does not say it' if wanted is None else meant}"
        yield Finding(key, ABSENT if got is None else _ANOTHER, detail)


def left_out(output: Catalogue, recognition: Recognition | None) -> Iterator[Finding]:
    """Say what llama.cpp leaves out when it computes a model of this family."""
    if recognition is not None and _LLAMA_CPP in formats.of(output).engines:
        for sentence in recognition.family.left_out_by_llama_cpp(recognition.sizes, output.config or {}):
            yield Finding("the model", "is computed otherwise", sentence, counts=False)


def check_in_config(source: Catalogue, output: Catalogue) -> Iterator[Finding]:
    """Compare the keys of a file with the config.json of the other side, as far as both have a value."""
    for ours, config in ((output, source.config), (source, output.config)):
        for key, names, value in formats.of(ours).in_config(ours) if config is not None else ():
            name = next((name for name in names if name in _flat(config)), None)
            if name is None:
                continue
            yield _compared(CONFIGURATION)
            said = _flat(config)[name]
            if value != said and ours is output:
                yield Finding(key, _ANOTHER, f"`{key}` is {value!r:.80}: expected {said!r:.80}, `{name}` of {CONFIG}")
            elif value != said:
                yield Finding(
                    CONFIG, f"{name} is wrong", f"`{name}` is {said!r:.80}: expected {value!r:.80}, as `{key}` says"
                )


def _flat(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The settings, and those that transformers 5 has in an object about rotation."""
    rotation = (config or {}).get("rope_parameters")
    return {**(rotation if isinstance(rotation, Mapping) else {}), **(config or {})}


def unread(catalogue: Catalogue) -> str | None:
    """Why the config.json beside a checkpoint can't be read, as a sentence; None if it can, or if there is none."""
    if catalogue.config is not None or formats.of(catalogue).self_contained:
        return None
    folder = folder_beside(catalogue)
    return config_beside(folder)[1] if folder is not None else None


def check_read(source: Catalogue | None, output: Catalogue) -> Iterator[Finding]:
    """Say which config.json can't be read. An output's counts, because other programs can't read it, either."""
    ours, found = unread(source) if source is not None else None, unread(output)
    if ours is not None:
        yield Finding(CONFIG, REFUSED, f"the configurations can't be compared: {ours}", counts=False)
    elif found is not None:
        yield Finding(CONFIG, "unreadable", found)


def check_config(expected: Mapping[str, Any] | None, output: Catalogue, ids: Mapping[str, int]) -> Iterator[Finding]:
    """Compare the config.json of an output with the source's, key by key.

    `ids` are those that the source's tokenizer has by role: an output may repeat them where the source's config.json is silent.
    """
    if expected is None or unread(output) is not None:
        return
    if output.config is None:
        yield lacks(CONFIG, output)
        return
    yield _compared(CONFIGURATION)
    stored = {tensor.dtype.name for tensor in output.values() if tensor.dtype.floating}
    roles = {f"{role}_token_id": number for role, number in ids.items()}
    for change in configs.differences(expected, output.config, stored):
        if change.key in roles and change.key not in expected and output.config.get(change.key) == roles[change.key]:
            continue
        if change.counts:
            yield Finding(CONFIG, f"{change.key} is wrong", change.sentence)
        else:
            yield Finding(CONFIG, f"{change.key} is not compared", change.sentence, counts=False)


def lacks(name: str, output: Catalogue) -> Finding:
    """What is said about a file that the source has and the output lacks."""
    return Finding(name, ABSENT, f"`{_place(output)}` has no {name}, but the source has one", counts=False)


def _compared(part: str) -> Finding:
    """The mark that a part could be compared: CONFIGURATION or TOKENS."""
    return Finding(part, COMPARED, "", counts=False)


def _place(output: Catalogue) -> str:
    """The file or the folder where the configuration and the tokenizer of an output are looked for."""
    return output.location if formats.of(output).self_contained else str(folder_beside(output) or output.location)


# ---- tokenizer ----------------------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """A tokenizer, or the reason why it can't be compared; neither if there is none."""

    tokenizer: Tokenizer | None
    refused: str | None = None
    inside: bool = False  # the file of the weights, whose keys say more about special tokens than a tokenizer's files

    @property
    def special(self) -> Mapping[str, int]:
        """The ids of special tokens by what they are for."""
        return self.tokenizer.special if self.tokenizer is not None else {}


def tokens(catalogue: Catalogue, *, beside: bool = True) -> Tokens:
    """The tokenizer inside the file, else the one in the files `beside` the weights. Raises the errors of reading it."""
    inside = formats.of(catalogue).tokenizer(catalogue)
    folder = folder_beside(catalogue) if beside and inside is None else None
    if folder is None or not is_beside(folder):
        return Tokens(inside, inside=inside is not None)
    try:
        return Tokens(read(folder))
    except UnsupportedError as error:
        return Tokens(None, str(error))


def check_tokens(expected: Tokens, found: Tokens, output: Catalogue) -> Iterator[Finding]:
    """Compare two tokenizers token by token."""
    refused = expected.refused or found.refused
    if expected.tokenizer is not None and found.tokenizer is not None:
        yield _compared(TOKENS)
        yield from differences(expected.tokenizer, found.tokenizer)
        if expected.inside or found.inside:
            alike = expected.inside and found.inside
            yield from lacking_roles(expected.special, found.special, counts=alike)
            yield from further_roles(expected.special, found.special) if alike else ()
    elif refused is not None:
        yield Finding("tokenizer", REFUSED, f"the tokenizers can't be compared: {refused}", counts=False)
    elif expected.tokenizer is not None:
        yield from check_absent(output)


def check_absent(output: Catalogue) -> Iterator[Finding]:
    """Say that an output has no tokenizer. It counts if there are files of one, from which none can be made."""
    folder = None if formats.of(output).self_contained else folder_beside(output)
    there = [name for name in VOCABULARIES if folder is not None and (folder / name).is_file()]
    if there:
        detail = f"`{_place(output)}` has `{there[0]}`, but not all files of a tokenizer: {FILES} was expected"
        yield Finding("tokenizer", "no tokenizer", detail)
    else:
        yield lacks("tokenizer", output)


def check_folders(folder: Path | None, output: Catalogue, expected: Tokens) -> Iterator[Finding]:
    """Compare the tokenizer in `folder`, which is the source's, with the output's."""
    there = folder_beside(output)
    if folder is None or there is None or folder.resolve() == there.resolve():
        return
    if not all(_same_file(folder / name, there / name) for name in _files(folder)):
        yield from _check_files(documents.said(folder), expected, tokens(output), output, there)
    elif any((there / name).is_file() for name in TOKENIZER):
        yield _compared(TOKENS)


def _check_files(
    files: Mapping[str, Any] | None, expected: Tokens, found: Tokens, output: Catalogue, there: Path
) -> Iterator[Finding]:
    """Compare tokenizers, and what else their `files` say."""
    others = documents.said(there)
    if expected.refused is not None or found.refused is not None:
        if files is None or others is None:
            sentence = f"there is no `{json_file.NAME}`, and the other files of this tokenizer can't be compared"
            yield Finding(json_file.NAME, REFUSED, sentence, counts=False)
            return
        # What no tokenizer of ours can express is compared as JSON.
        yield _compared(TOKENS)
        yield from documents.unlike_parts(files, others)
        yield from documents.unlike(files, others)
        return
    differing = list(check_tokens(expected, found, output))
    beside = list(documents.unlike(files, others)) if files is not None and others is not None else []
    pre = expected.tokenizer.pre if expected.tokenizer is not None else None
    yield from _once(differing, found, pre, beside)
    if files is not None and others is not None:
        if not any(finding.name == "tokenizer.merges" for finding in differing):
            yield from documents.unlike_merges(files, others)
        yield from beside
    yield from _absent_roles(expected.special, found, there)


def _once(findings: Iterable[Finding], found: Tokens, pre: Any, beside: Sequence[Finding]) -> Iterator[Finding]:
    """Name the one setting that changed the cut into words, unless it is named `beside` these findings."""
    obstacle = found.tokenizer.obstacle if found.tokenizer is not None else None
    named = any(other.what in documents.CUTS for other in beside)
    for finding in findings:
        if obstacle is None or obstacle.pre != pre or finding.name != "tokenizer.pre":
            yield finding
        elif not named:
            yield finding._replace(detail=f"the tokenizer {obstacle.said}, but the source's does not")


def _absent_roles(expected: Mapping[str, Any], found: Tokens, folder: Path | None) -> Iterator[Finding]:
    """Name special tokens that a tokenizer_config.json leaves out."""
    if found.tokenizer is None or folder is None or not (folder / special.CONFIG).is_file():
        return
    for role, number in expected.items():
        if role not in found.special:
            detail = f"there is no token for `{role}`: expected {number}"
            yield Finding(f"tokenizer.{role}_token_id", "another tokenizer", detail)


def others(source: Catalogue) -> dict[str, Any] | None:
    """What lies beside the weights besides config.json and the tokenizer; None if nothing can lie there."""
    folder = folder_beside(source) if formats.of(source).companions and not formats.of(source).self_contained else None
    if folder is None or not folder.is_dir():
        return None
    read = {*TOKENIZER, *CHAT_TEMPLATES} - ({*VOCABULARIES} - {*consists_of(folder)})
    weights = [Path(file.name) for file in source.origin.files]

    def apart(name: str) -> bool:
        return name in read or name.startswith(f"{TEMPLATES}/")

    found = beside.described(folder, weights, everything=source.origin.folder, apart=apart)
    return found if any(found.values()) else None


def check_others(expected: Mapping[str, Any] | None, output: Catalogue) -> Iterator[Finding]:
    """Compare what else lies beside the weights."""
    there = None if formats.of(output).self_contained else folder_beside(output)
    if expected is not None and there is not None:
        yield from beside.differences(expected, there)


def _files(folder: Path) -> list[str]:
    """The names that files about splitting text and about chats may have in a folder, those of transformers included."""
    more = folder / TEMPLATES
    inner = [f"{TEMPLATES}/{path.name}" for path in more.glob("*.jinja")] if more.is_dir() else []
    return [*TOKENIZER, *CHAT_TEMPLATES, *inner]


def _same_file(expected: Path, found: Path) -> bool:
    """Whether both files are there with the same bytes, or neither is."""
    if not (expected.is_file() and found.is_file()):
        return expected.is_file() == found.is_file()
    return load_bytes(expected) == load_bytes(found)


def check_digests(
    expected: Mapping[str, Any] | None, files: Mapping[str, Any] | None, found: Tokens, output: Catalogue
) -> Iterator[Finding]:
    """Compare the tokenizer with what a manifest says about it and about its `files`."""
    if expected is None and files is None:
        return
    if found.tokenizer is None and found.refused is None:
        yield from check_absent(output)
        return
    folder = None if formats.of(output).self_contained else folder_beside(output)
    others = documents.said(folder) if folder is not None else None
    refused = expected is None or found.refused is not None
    if files is not None and others is not None:
        yield _compared(TOKENS)
        yield from documents.unlike_parts(files, others) if refused else ()
        yield from documents.unlike(files, others)
    elif refused:
        reason = found.refused or "the manifest has no digests of the files that this one consists of"
        yield Finding("tokenizer", REFUSED, f"the tokenizers can't be compared: {reason}", counts=False)
    if expected is not None and found.tokenizer is not None:
        yield _compared(TOKENS)
        beside = list(documents.unlike(files, others)) if files is not None and others is not None else []
        yield from _once(unlike(expected, described(found, others) or {}), found, expected.get("pre"), beside)
        special_tokens = expected.get("special")
        ids = special_tokens if isinstance(special_tokens, dict) else {}
        yield from _absent_roles(ids, found, folder)
        yield from lacking_roles(ids, found.special, counts=True) if found.inside else ()


def described(found: Tokens, files: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a manifest says about a tokenizer, and the merges that its `files` have."""
    if found.tokenizer is None:
        return None
    return tokenizers.described(found.tokenizer) | {"file_merges": None if files is None else files["merges"]}


def any_beside(output: Catalogue) -> bool:
    """Whether a folder has a config.json or a tokenizer."""
    folder = folder_beside(output)
    return output.config is not None or (folder is not None and any((folder / name).is_file() for name in TOKENIZER))
