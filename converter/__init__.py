"""The way out of pickle: inspect, take apart, convert and verify checkpoints without running them.

`open_checkpoint(location)` gives a catalogue; `inspect`, `extract`, `convert` and `verify` take one; `scan` takes locations
and `download` the name of a model; `models` knows the declared models. Whatever goes wrong is a `ConverterError`. Each is
imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from converter import models
    from converter.conversion.convert import convert
    from converter.conversion.extract import extract
    from converter.errors import ConverterError
    from converter.hub.download import download
    from converter.inspection.report import inspect
    from converter.opening import open_checkpoint
    from converter.scanning.scan import scan
    from converter.verification.verify import verify

    __version__: str

__all__ = [
    "ConverterError",
    "__version__",
    "convert",
    "download",
    "extract",
    "inspect",
    "models",
    "open_checkpoint",
    "scan",
    "verify",
]

_HOMES: Final = {  # where each public name is defined
    "ConverterError": "converter.errors",
    "convert": "converter.conversion.convert",
    "download": "converter.hub.download",
    "extract": "converter.conversion.extract",
    "inspect": "converter.inspection.report",
    "open_checkpoint": "converter.opening",
    "scan": "converter.scanning.scan",
    "verify": "converter.verification.verify",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOMES:
        return vars(import_module(_HOMES[name]))[name]
    if name == "models":
        return import_module("converter.models")
    if name == "__version__":
        from importlib.metadata import version

        return version("cerebras-tool")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
