"""The way out of pickle: inspect, take apart, convert and verify checkpoints without running them.

`open_checkpoint(location)` gives a catalogue; `inspect`, `convert` and `verify` take one; `models` knows the declared
models. Each is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from converter import models
    from converter.conversion.convert import convert
    from converter.inspection.report import inspect
    from converter.opening import open_checkpoint
    from converter.verification.verify import verify

__all__ = ["convert", "inspect", "models", "open_checkpoint", "verify"]

_HOMES: Final = {  # where each public name is defined
    "convert": "converter.conversion.convert",
    "inspect": "converter.inspection.report",
    "open_checkpoint": "converter.opening",
    "verify": "converter.verification.verify",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "models":
        return import_module("converter.models")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
