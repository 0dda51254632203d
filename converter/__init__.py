"""The way out of pickle: inspect, take apart, convert and verify checkpoints without running them.

`open(location)` returns a catalogue, which is a mapping of names to tensors. `inspect`, `check`, `extract`, `convert`,
`verify`, `diff`, `diff_three_way`, `scan` and `download` take a path, a URL or a catalogue. Every error is a ConverterError.
Each name is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from converter.api import (
        check,
        convert,
        declared_models,
        diff,
        diff_three_way,
        download,
        extract,
        inspect,
        scan,
        verify,
    )
    from converter.api import open as open  # noqa: A004 (it is `converter.open`)
    from converter.errors import (
        AmbiguousError,
        ArchiveError,
        ConverterError,
        CutOffError,
        EndOfDataError,
        ForeignFileError,
        FormatError,
        FrameError,
        JobError,
        LayoutError,
        LimitError,
        ManifestError,
        MissingTensorError,
        ModelError,
        NamesError,
        NoWeightsError,
        OutputError,
        PickleError,
        PolicyError,
        ProgramError,
        ReadError,
        RootError,
        RuleError,
        SourceError,
        TruncatedPickleError,
        UnsafeError,
        UnsupportedError,
        WordError,
    )
    from converter.fleet.engines import batch
    from converter.limits import Limits
    from converter.opening import open_checkpoint
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

    __version__: str

# `open` is not in it, so that `from converter import *` does not replace Python's own.
__all__ = [
    "AmbiguousError",
    "ArchiveError",
    "Catalogue",
    "ConverterError",
    "CutOffError",
    "EndOfDataError",
    "ForeignFileError",
    "FormatError",
    "FrameError",
    "JobError",
    "LayoutError",
    "LimitError",
    "Limits",
    "ManifestError",
    "MissingTensorError",
    "ModelError",
    "NamesError",
    "NoWeightsError",
    "OutputError",
    "PickleError",
    "PolicyError",
    "ProgramError",
    "ReadError",
    "RootError",
    "RuleError",
    "SourceError",
    "Tensor",
    "TruncatedPickleError",
    "UnsafeError",
    "UnsupportedError",
    "WordError",
    "__version__",
    "batch",
    "check",
    "convert",
    "declared_models",
    "diff",
    "diff_three_way",
    "download",
    "extract",
    "inspect",
    "open_checkpoint",
    "scan",
    "verify",
]

_HOMES: Final = {
    **dict.fromkeys(
        (
            "check",
            "convert",
            "declared_models",
            "diff",
            "diff_three_way",
            "download",
            "extract",
            "inspect",
            "open",
            "scan",
            "verify",
        ),
        "converter.api",
    ),
    **{name: "converter.errors" for name in __all__ if name.endswith("Error")},
    "Catalogue": "converter.tensors.catalogue",
    "Limits": "converter.limits",
    "Tensor": "converter.tensors.tensor",
    "batch": "converter.fleet.engines",
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
