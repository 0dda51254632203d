"""The way out of pickle: inspect, take apart, convert and verify checkpoints without running them.

`open(location)` returns a catalogue, which is a mapping of names to tensors. `inspect`, `extract`, `convert` and
`verify` take a path, a URL or a catalogue; `check` and `scan` take paths and URLs. Every error is a ConverterError.
Each name is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from converter.api import check, convert, declared_models, download, extract, inspect, scan, verify
    from converter.api import open as open  # noqa: A004 (it is `converter.open`)
    from converter.errors import (
        ArchiveError,
        ConverterError,
        CutOffError,
        ForeignFileError,
        FormatError,
        LayoutError,
        LimitError,
        ManifestError,
        MissingTensorError,
        ModelError,
        OutputError,
        PickleError,
        ProgramError,
        ReadError,
        SourceError,
        TruncatedPickleError,
        UnsafeError,
        UnsupportedError,
        WordError,
    )
    from converter.limits import Limits
    from converter.opening import open_checkpoint
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

    __version__: str

# `open` is not in it, so that `from converter import *` does not replace Python's own.
__all__ = [
    "ArchiveError",
    "Catalogue",
    "ConverterError",
    "CutOffError",
    "ForeignFileError",
    "FormatError",
    "LayoutError",
    "LimitError",
    "Limits",
    "ManifestError",
    "MissingTensorError",
    "ModelError",
    "OutputError",
    "PickleError",
    "ProgramError",
    "ReadError",
    "SourceError",
    "Tensor",
    "TruncatedPickleError",
    "UnsafeError",
    "UnsupportedError",
    "WordError",
    "__version__",
    "check",
    "convert",
    "declared_models",
    "download",
    "extract",
    "inspect",
    "open_checkpoint",
    "scan",
    "verify",
]

_HOMES: Final = {
    **dict.fromkeys(
        ("check", "convert", "declared_models", "download", "extract", "inspect", "open", "scan", "verify"),
        "converter.api",
    ),
    **{name: "converter.errors" for name in __all__ if name.endswith("Error")},
    "Catalogue": "converter.tensors.catalogue",
    "Limits": "converter.limits",
    "Tensor": "converter.tensors.tensor",
    "open_checkpoint": "converter.opening",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOMES:
        return vars(import_module(_HOMES[name]))[name]
    if name == "__version__":
        from importlib.metadata import version

        return version("cerebras-tool")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "open"])
