"""Archives that are programs: what they are, and what their code could do. The code is read as text and never run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError
from converter.formats.torch.records import program
from converter.io.strict_json import parse_json
from converter.limits import limits
from converter.text import plural

if TYPE_CHECKING:
    from converter.io.zip_records import Archive

_CODE: Final = 4 << 20  # bytes of code that are read in one archive
_NATIVE: Final = (".so", ".o", ".a", ".dll", ".pyd", ".dylib", ".cubin", ".ptx", ".hsaco", ".spv")
_SOURCES: Final = (".cpp", ".cc", ".c", ".cu", ".h", ".hpp")
_PYTHON: Final = (".py", ".pyc")
_MOST: Final = 8  # names that a sentence lists

# TorchScript has no Python. These operators of torch are the only ones that reach anything but tensors (aten/src/ATen/native and
# torch/csrc/jit/runtime/register_prim_ops*.cpp).
_FILES: Final = re.compile(r"\b(?:torch|ops\.aten|aten)\.(save|from_file|_save|load)\(")
_OPERATORS: Final = re.compile(r"\bops\.([A-Za-z_]\w{0,60}\.[A-Za-z_]\w{0,60})\(")
_CLASSES: Final = re.compile(r"\b__torch__\.torch\.classes\.(\w{1,60}\.\w{1,60})")
_OWN: Final = ("aten.", "prim.")

KERAS: Final = "config.json"
KERAS_WEIGHTS: Final = "model.weights.h5"
_KERAS_METADATA: Final = "metadata.json"
_KERAS_LAMBDA: Final = ("Lambda", "__lambda__")
_KERAS_MODULES: Final = ("keras", "builtins")


def is_keras(archive: Archive) -> bool:
    """Whether an archive is a model saved by Keras 3."""
    return KERAS in archive and any(one in archive for one in (KERAS_WEIGHTS, _KERAS_METADATA))


def of_archive(archive: Archive) -> Iterator[str]:
    """Yield one sentence that says what kind of program an archive is, and one for each thing its code can do."""
    what = program(archive)
    keras = _keras(archive)
    if what is None and keras is None:
        native = _listed(archive, _NATIVE) if any("aotinductor" in name.lower() for name in archive.records) else ""
        if native:
            yield f"`{archive.name}` is a program of AOTInductor with native code: {native}"
        return
    if what is not None:
        yield f"`{archive.name}` is {what}"
        for endings, kind in ((_NATIVE, "native code"), (_SOURCES, "source code that is compiled")):
            if listed := _listed(archive, endings):
                yield f"it holds {kind}: {listed}"
        yield from _torchscript(archive)
    if keras is not None:
        yield keras


def _listed(archive: Archive, endings: tuple[str, ...]) -> str:
    """The names of the records with these endings, no more than a person reads."""
    names = [name for name in archive.records if name.lower().endswith(endings)]
    return ", ".join(f"`{name:.100}`" for name in names[:_MOST]) + (", …" if len(names) > _MOST else "")


def _torchscript(archive: Archive) -> Iterator[str]:
    """Say what the code in `code/` could do besides computing."""
    files, operators, classes = dict[str, None](), dict[str, None](), dict[str, None]()
    left = _CODE
    for name, record in archive.records.items():
        if not (name.lower().endswith(_PYTHON) and ("code/" in name.lower() or not archive.root)):
            continue
        if record.nbytes > left:
            yield f"`{name:.100}` and what follows it was not read: it has {plural(record.nbytes, 'byte')} of code"
            break
        left -= record.nbytes
        try:
            text = archive.read(name, left + record.nbytes, check=record.crc32 != 0).decode("utf-8", "replace")
        except ConverterError:
            continue  # already reported as broken when its pickles were looked for
        files |= dict.fromkeys(_FILES.findall(text))
        operators |= dict.fromkeys(one for one in _OPERATORS.findall(text) if not one.startswith(_OWN))
        classes |= dict.fromkeys(_CLASSES.findall(text))
    for found, what in (
        (files, "reads or writes files, by torch's"),
        (operators, "calls native operators of other libraries:"),
        (classes, "makes objects of native classes:"),
    ):
        if found:
            listed = ", ".join(f"`{one}`" for one in list(found)[:_MOST])
            yield f"its code {what} {listed}{', …' if len(found) > _MOST else ''}"


def _keras(archive: Archive) -> str | None:
    """What a Keras model is, and what it would run when it is opened; None for any other archive."""
    if not is_keras(archive):
        return None
    try:
        config = parse_json(archive.read(KERAS, limits().json_bytes), KERAS)
    except ConverterError as error:
        return f"`{archive.name}` is a Keras model whose config.json can't be read: {error}"
    odd = dict.fromkeys(_foreign(config))
    if not odd:
        return (
            f"`{archive.name}` is a Keras model: Keras makes the classes that its config.json names. They are Keras's own; its "
            "HDF5 file was not looked into"
        )
    listed = ", ".join(f"`{one:.80}`" for one in list(odd)[:_MOST])
    return (
        f"`{archive.name}` is a Keras model that runs code of its own when it is opened: its config.json names {listed}"
    )


def _foreign(config: Any) -> Iterator[str]:
    """Yield the classes in a configuration that are not Keras's own, and functions of Python bytecode."""
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            name, module = node.get("class_name"), node.get("module")
            if name in _KERAS_LAMBDA:
                yield f"{name}"
            elif isinstance(module, str) and module.split(".", 1)[0] not in _KERAS_MODULES:
                yield f"{module}.{name}"
            elif name == "function" and isinstance(module, str):
                yield f"{module}.{node.get('config')}"
