"""The small files that belong to a model and lie beside its weights: which of them go along, and why others don't."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converter.formats.marks import GENERATION, INDEX
from converter.words import option

CONFIG: Final = "config.json"
# Files with the tokens of a tokenizer; each is one that some class of transformers reads.
VOCABULARIES: Final = (
    *("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "spm.model"),
    *("sentencepiece.bpe.model", "sentencepiece.model", "spm_char.model", "source.spm", "target.spm", "tekken.json"),
    *("bpe.codes", "dict.txt", "vocab.bpe", "encoder.json", "vocab-src.json", "vocab-tgt.json", "target_vocab.json"),
    *(
        "entity_vocab.json",
        "emoji.json",
        "byte_maps.json",
        "prophetnet.tokenizer",
        "tokenizer.model.v3",
        "qwen.tiktoken",
    ),
)
TOKENIZER: Final = (
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "normalizer.json"),
)
CHAT_TEMPLATES: Final = ("chat_template.jinja", "chat_template.json")
LICENCES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md")
SIDECAR: Final = "values.json"  # values beside the weights; for a lone file, NAME.values.json
MODULES: Final = "modules.json"  # sentence-transformers writes it: it names folders that belong to the model
# What goes along with a lone file of weights. Beside such a file there may be anything, so only known names are taken.
KNOWN: Final = (
    *(CONFIG, GENERATION, *TOKENIZER, *LICENCES, *CHAT_TEMPLATES, "preprocessor_config.json", "processor_config.json"),
    *("video_preprocessor_config.json", "audio_tokenizer_config.json", "adapter_config.json", "quantize_config.json"),
)
TEMPLATES: Final = "additional_chat_templates"  # a folder of transformers
_INDEX: Final = "the index of other weights"
_HIDDEN: Final = "hidden"
_UNKNOWN: Final = "only files with known names go along with a single file: name the folder to take the others"
_SMALL: Final = 100_000_000  # bytes: the largest tokenizer.json has 34 MB
CODE: Final = "code"
_PICKLE: Final = "a pickle, or weights of its own: convert it by itself"
_FOREIGN: Final = "the model in the form of another program"
_ENDINGS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        CODE,
        (".py", ".pyc", ".pyd", ".so", ".dll", ".sh", ".bat", ".ps1", ".js", ".ipynb", ".c", ".cpp", ".cu", ".jar"),
    ),
    (_PICKLE, (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".npz", ".npy")),
    (_PICKLE, (".pkl", ".pickle", ".joblib", ".dill", ".distcp")),
    (_FOREIGN, (".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite", ".pb", ".mlmodel", ".xml", ".keras")),
)


def why_left(name: str, nbytes: int | None, *, with_code: bool = False) -> str | None:
    """Why a file of this name and size stays behind; None if it goes along."""
    if name.startswith("."):
        return _HIDDEN
    for reason, endings in _ENDINGS:
        if name.lower().endswith(endings) and not (with_code and reason is CODE):
            return code_left() if reason is CODE else reason
    return f"larger than {_SMALL:,} bytes" if (nbytes or 0) > _SMALL else None


def code_left() -> str:
    """Why code stays behind where there is room for it."""
    return f"{CODE}: {option('with-code', True)} carries it along"


def folders_of(modules: Any) -> set[str]:
    """The folders that belong to a model, by the value of its modules.json."""
    named = {module.get("path") for module in modules if type(module) is dict} if type(modules) is list else set()
    return {TEMPLATES, *(path for path in named if type(path) is str and path and "/" not in path and path[0] != ".")}


@dataclass(frozen=True, slots=True)
class Companions:
    """The files that go along, by the path that they get, and the reasons why others stay behind, by name."""

    files: dict[str, Path]
    left: dict[str, str]


def companions(folder: Path, weights: Collection[Path], *, everything: bool, with_code: bool = False) -> Companions:
    """What lies beside weights in a folder: `everything`, or what has a known name.

    If the folder is a model's, the others are named, too. A link is followed where it leads into the folder itself, or where
    the files of the weights are: in the Hub's cache every file is a link. Another link could lead to what someone else wants to
    have copied.
    """
    from converter.io.strict_json import any_json_beside

    found = Companions({}, {})
    homes = [folder.resolve(), *(path.resolve().parent for path in weights)]
    # The Hub's cache: models--owner--name/snapshots/COMMIT, or a folder in it, whose files lie in models--owner--name/blobs.
    caches = [above.parent for above in folder.absolute().parents if above.name == "snapshots"]
    homes += [(cache / "blobs").resolve() for cache in caches if cache.name.startswith("models--")]
    listed = everything or (folder / CONFIG).is_file()
    inner = folders_of(any_json_beside(folder / MODULES)) if listed else set()
    taken = {path.name for path in weights}
    for path in sorted(folder.iterdir() if listed else (folder / name for name in KNOWN)):
        if path.is_dir() and path.name in inner and not path.is_symlink():
            for file in sorted(path.iterdir()):
                _sort(found, f"{path.name}/{file.name}", file, homes, with_code)
        elif path.is_dir():
            hidden = path.name.startswith(".")
            found.left[f"{path.name}/"] = _HIDDEN if hidden else "a folder that does not belong to the model"
        elif INDEX.fullmatch(path.name):
            if not _shards(any_json_beside(path)) <= taken:
                found.left[path.name] = _INDEX
        elif path.name not in taken and (listed or path.is_file()):
            _sort(found, path.name, path, homes, with_code)
    if listed and not everything:
        for name in [name for name in found.files if name not in KNOWN]:
            del found.files[name]
            found.left[name] = _UNKNOWN
    return found


def _shards(index: Any) -> set[str]:
    """The files that an index names."""
    named = index.get("weight_map") if type(index) is dict else None
    return {name for name in named.values() if type(name) is str} if type(named) is dict else set()


def _sort(found: Companions, name: str, path: Path, homes: Iterable[Path], with_code: bool) -> None:
    try:
        target = path.resolve()
        status = target.stat()
    except (OSError, RuntimeError):
        found.left[name] = "a link that leads nowhere"
        return
    if path.is_symlink() and not any(target.is_relative_to(home) for home in homes):
        reason: str | None = "a link that leads out of the folder"
    elif not stat.S_ISREG(status.st_mode):
        reason = "not a regular file"
    else:
        reason = why_left(path.name, status.st_size, with_code=with_code) or (_PICKLE if _is_weights(path) else None)
    if reason is None:
        found.files[name] = path
    else:
        found.left[name] = reason


def _is_weights(path: Path) -> bool:
    """Whether a file's first bytes are those of a checkpoint or a pickle, whatever its name is."""
    from converter.formats import FORMATS
    from converter.formats.foreign import HEAD
    from converter.io.local import LocalFile

    with LocalFile(path) as file:
        head = bytes(file.read(0, min(HEAD, file.size)))
    return (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5") or any(format.matches(head) for format in FORMATS)


def remote_companions(
    names: Iterable[tuple[str, int | None]], inner: Collection[str], *, with_code: bool
) -> Iterator[str]:
    """Which of the files in a repository's folder, given by path and size, go along. `inner` are folders of the model."""
    for path, nbytes in names:
        folder, _, name = path.rpartition("/")
        belongs = (not folder or folder in inner) and not INDEX.fullmatch(name)
        if belongs and why_left(name, nbytes, with_code=with_code) is None:
            yield path


def remote_left(
    names: Iterable[tuple[str, int | None]], weights: Collection[str], *, with_code: bool
) -> dict[str, str]:
    """Why files of a repository's folder stay behind, by name. `weights` are the names of the model's own files."""
    found = {}
    for name, nbytes in names:
        index = INDEX.fullmatch(name) is not None
        # It would take a request to find out which shards an index names. If the weights are shards, it is taken for theirs.
        reason = _INDEX if index and len(weights) == 1 else why_left(name, nbytes, with_code=with_code)
        if reason is not None and name not in weights:
            found[name] = reason
    return found
