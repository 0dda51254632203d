"""The small files beside the weights that are neither config.json nor a tokenizer of ours: what they say, and what differs.

Settings of processors, of sentence-transformers and of adapters are compared key by key, because they change the input of a
model, or what is made of its output. Vocabularies that no reader of ours knows are compared as a whole. Other files are only
reported as different or absent. Everything is described as values of JSON, so that a manifest can hold it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from converter.errors import ConverterError
from converter.formats.companions import CONFIG, MODULES, VOCABULARIES, companions
from converter.formats.said import Finding
from converter.io.local import LocalFile
from converter.io.source import STEP
from converter.io.strict_json import any_json_beside
from converter.text import listed
from converter.verification.configs import alike

ABSENT: Final = "absent"
_PREPROCESSOR: Final = "preprocessor_config.json"
_PROCESSOR: Final = "processor_config.json"
# Parts of a processor_config.json of transformers 5, which older versions write into files of their own.
_PARTS: Final = {
    "image_processor": _PREPROCESSOR, "feature_extractor": _PREPROCESSOR, "video_processor": "video_preprocessor_config.json",
}  # fmt: skip
# Names of files with settings. A config.json in a folder inside the model's is one, too.
_SETTINGS: Final = frozenset({
    _PREPROCESSOR, _PROCESSOR, "video_preprocessor_config.json", "audio_tokenizer_config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "adapter_config.json", "quantize_config.json", "quantization_config.json", MODULES,
})  # fmt: skip
# Keys of such files that say something about the files themselves, about training, or about classes of Python.
_NOT_COMPARED: Final = frozenset({
    "processor_class", "image_processor_type", "feature_extractor_type", "video_processor_type", "transformers_version",
    "auto_map", "__version__", "_name_or_path", "tokenizer_class", "base_model_name_or_path", "base_model_class", "revision",
    "inference_mode", "peft_version", "auto_mapping", "lora_dropout", "init_lora_weights", "task_type", "model_type",
})  # fmt: skip
_VERSION: Final = b"#version"  # how merges.txt begins, with the name of the program that wrote it
_NAMED: Final = 30  # absent files that a sentence names
_WHOLE: Final = 16 << 20  # bytes: larger files are compared as they are


def described(folder: Path, weights: list[Path], *, everything: bool, apart: Callable[[str], bool]) -> dict[str, Any]:
    """What lies beside the weights in a folder: settings by file, and digests of other files. Those `apart` are left out."""
    found = companions(folder, weights, everything=everything).files
    names = [name for name in found if name != CONFIG and not apart(name)]
    files = {name: _digest(folder / name) for name in names if not _has_settings(name)}
    return {"settings": _settings(folder, [name for name in names if _has_settings(name)]), "files": files}


def is_described(value: Any) -> bool:
    """Whether a value from a manifest is such a description."""
    match value:
        case {"settings": dict() as settings, "files": dict() as files}:
            return all(type(part) is dict for part in settings.values()) and all(
                type(digest) is str and _is_plain(name) for name, digest in files.items()
            )
    return False


def differences(expected: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    """Yield what differs in a folder from a description, and what it lacks."""
    settings = _settings(folder, [name for name in (*_SETTINGS, *expected["settings"]) if _is_there(folder, name)])
    for name, wanted in expected["settings"].items():
        if name in settings:
            yield from _unlike(name, wanted, settings[name])
    absent = [name for name in expected["settings"] if name not in settings]
    others = []
    for name, wanted in expected["files"].items():
        if not _is_there(folder, name):
            absent.append(name)
        elif _digest(folder / name) != wanted:
            others.append(name)
    for name in others:
        if name in VOCABULARIES:
            yield Finding(name, "another tokenizer", f"`{name}` is not the source's")
    others = [name for name in others if name not in VOCABULARIES]
    if others:
        yield Finding("other files", "another text", f"not the source's: {listed(others)}", counts=False)
    # A program that follows the copy's modules.json looks for these folders, and fails or computes something else without them.
    folders = _modules(settings)
    needed = [name for name in absent if not folders.isdisjoint(map(str, PurePosixPath(name).parents))]
    if needed:
        detail = f"`{folder}` has no {listed(sorted(needed))}, which its {MODULES} needs"
        yield Finding(MODULES, "a missing module", detail)
    absent = [name for name in absent if name not in needed]
    if absent:
        detail = f"`{folder}` has no {listed(sorted(absent), _NAMED)}, but the source has"
        yield Finding("other files", ABSENT, detail, counts=False)


def _unlike(name: str, wanted: Mapping[str, Any], got: Mapping[str, Any]) -> Iterator[Finding]:
    unknown = []
    for key in dict.fromkeys((*wanted, *got)):
        one, other = wanted.get(key), got.get(key)
        if key in _NOT_COMPARED or alike(one, other):
            continue
        if _comparable(one, other):
            yield Finding(name, f"{key} is wrong", f"`{key}` is {other!r:.80}: expected {one!r:.80}")
        else:
            unknown.append(key)
    if unknown:
        detail = f"only one of the two says {listed(unknown, 4)}, or they say it in different ways"
        yield Finding(name, "not compared in full", detail, counts=False)


def _comparable(one: Any, other: Any) -> bool:
    """Whether two values mean different things. A size that is a number in older files is an object in newer ones."""
    if one is None or other is None:
        return False
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys()
    return type(one) is type(other) or {type(one), type(other)} == {int, float}


# ---- one spelling -------------------------------------------------------------------------------------------------


def _has_settings(name: str) -> bool:
    return name in _SETTINGS or name.endswith(f"/{CONFIG}")


def _settings(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        value = any_json_beside(folder / name)
        if name == MODULES and type(value) is list:
            value = {"modules": [_module(entry) for entry in value]}
        if type(value) is not dict:
            continue
        for key, part in value.items():
            if name == _PROCESSOR and key in _PARTS and type(part) is dict:
                found.setdefault(_PARTS[key], {}).update(_plain(part))
        own = {key: part for key, part in value.items() if name != _PROCESSOR or key not in _PARTS}
        if own.keys() - _NOT_COMPARED or name != _PROCESSOR:
            found.setdefault(name, {}).update(_plain(own))
    return found


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with lists of texts in one order: programs write sets of names in any."""
    return {
        key: sorted(part) if type(part) is list and part and all(type(text) is str for text in part) else part
        for key, part in value.items()
    }


def _module(entry: Any) -> Any:
    """A module of sentence-transformers: its folder, and its class without the place, which differs between versions."""
    if not isinstance(entry, Mapping):
        return entry
    return [entry.get("path"), str(entry.get("type")).rpartition(".")[2]]


def _modules(settings: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The folders that a modules.json names."""
    modules = settings.get(MODULES, {}).get("modules")
    found = set()
    for module in modules if type(modules) is list else ():
        match module:
            case [str(path), *_] if path:
                found.add(str(PurePosixPath(path)))
    return found - {"."}


def _digest(path: Path) -> str | None:
    """A SHA-256 that does not depend on how JSON is indented, or on who wrote merges.txt; None if the file can't be read."""
    found = hashlib.sha256()
    try:
        with LocalFile(path) as file:
            if path.suffix == ".json" and file.size <= _WHOLE and (value := any_json_beside(path)) is not None:
                return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
            if file.size <= _WHOLE:
                return hashlib.sha256(_lines(path, bytes(file.read(0, file.size)))).hexdigest()
            for offset in range(0, file.size, STEP):
                found.update(file.read(offset, min(STEP, file.size - offset)))
    except ConverterError:
        return None
    return found.hexdigest()


def _lines(path: Path, data: bytes) -> bytes:
    """The data of a text without its first line, if that names a program, and without newlines at its end."""
    if path.suffix != ".txt":
        return data
    head, _, rest = data.partition(b"\n")
    return (rest if head.startswith(_VERSION) else data).rstrip(b"\r\n")


def _is_there(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _is_plain(name: Any) -> bool:
    """Whether a name from a manifest stays in the folder that it is looked for in."""
    return type(name) is str and 0 < len(name) < 1000 and "\0" not in name and ".." not in name and name[0] != "/"
