"""The small files that belong to a model and lie beside its weights: which of them go along, and why others don't."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converter.formats.marks import GENERATION

CONFIG: Final = "config.json"
TOKENIZER: Final = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("source.spm", "target.spm", "normalizer.json"),
)
LICENCES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md")
SIDECAR: Final = "values.json"  # values beside the weights; for a lone file, NAME.values.json
MODULES: Final = "modules.json"  # of sentence-transformers: it names folders that belong to the model
# What goes along with one file of weights, beside which anything may lie.
KNOWN: Final = (
    *(CONFIG, GENERATION, *TOKENIZER, *LICENCES, "chat_template.jinja", "chat_template.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
)
_TEMPLATES: Final = "additional_chat_templates"  # a folder of transformers
_SMALL: Final = 100_000_000  # bytes: the largest tokenizer.json has 34 MB
_CODE: Final = "code: --with-code carries it along"
_PICKLE: Final = "a pickle, or weights of its own: convert it by itself"
_FOREIGN: Final = "the model in the form of another program"
_ENDINGS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        _CODE,
        (".py", ".pyc", ".pyd", ".so", ".dll", ".sh", ".bat", ".ps1", ".js", ".ipynb", ".c", ".cpp", ".cu", ".jar"),
    ),
    (_PICKLE, (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".npz", ".npy")),
    (_PICKLE, (".pkl", ".pickle", ".joblib", ".dill", ".distcp")),
    (_FOREIGN, (".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite", ".pb", ".mlmodel", ".xml", ".keras")),
)


def why_left(name: str, nbytes: int | None, *, with_code: bool = False) -> str | None:
    """Why a file of this name and size stays behind; None if it goes along."""
    if name.startswith("."):
        return "a hidden file"
    for reason, endings in _ENDINGS:
        if name.lower().endswith(endings) and not (with_code and reason is _CODE):
            return reason
    return f"larger than {_SMALL:,} bytes" if (nbytes or 0) > _SMALL else None


def folders_of(modules: Any) -> set[str]:
    """The folders that belong to a model, by the value of its modules.json."""
    named = {module.get("path") for module in modules if type(module) is dict} if type(modules) is list else set()
    return {_TEMPLATES, *(path for path in named if type(path) is str and path and "/" not in path and path[0] != ".")}


@dataclass(frozen=True, slots=True)
class Companions:
    """The files that go along, by the path that they get, and the reasons why others stay behind, by name."""

    files: dict[str, Path]
    left: dict[str, str]


def companions(folder: Path, weights: Collection[Path], *, everything: bool, with_code: bool = False) -> Companions:
    """What lies beside weights in a folder: `everything`, or what has a known name.

    A link is followed where it leads into the folder itself, or where the files of the weights are: in the Hub's cache
    every file is a link. Another link could lead to what someone else wants to have copied.
    """
    from converter.io.strict_json import any_json_beside

    found = Companions({}, {})
    homes = [folder.resolve(), *(path.resolve().parent for path in weights)]
    # The Hub's cache: models--owner--name/snapshots/COMMIT, or a folder in it, whose files lie in models--owner--name/blobs.
    caches = [above.parent for above in folder.absolute().parents if above.name == "snapshots"]
    homes += [(cache / "blobs").resolve() for cache in caches if cache.name.startswith("models--")]
    inner = folders_of(any_json_beside(folder / MODULES)) if everything else set()
    taken = {path.name for path in weights}
    for path in sorted(folder.iterdir() if everything else (folder / name for name in KNOWN)):
        if path.is_dir() and path.name in inner and not path.is_symlink():
            for file in sorted(path.iterdir()):
                _sort(found, f"{path.name}/{file.name}", file, homes, with_code)
        elif path.is_dir():
            if not path.name.startswith("."):
                found.left[f"{path.name}/"] = "a folder that does not belong to the model"
        elif path.name not in taken and (everything or path.is_file()) and not path.name.endswith(".index.json"):
            _sort(found, path.name, path, homes, with_code)
    return found


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
    elif reason != "a hidden file":
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
    """The paths among those of a repository's folder, with their sizes, that go along; `inner` are folders of the model."""
    for path, nbytes in names:
        folder, _, name = path.rpartition("/")
        belongs = (not folder or folder in inner) and not name.endswith(".index.json")
        if belongs and why_left(name, nbytes, with_code=with_code) is None:
            yield path
