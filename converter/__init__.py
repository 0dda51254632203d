"""The way out of pickle: inspect, take apart, convert and verify checkpoints without running them.

`open_checkpoint(location)` gives a catalogue; `inspect`, `convert` and `verify` take one; `models` knows the declared
models. Each is imported when it is first asked for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter import models
    from converter.convert import convert
    from converter.formats import open_checkpoint
    from converter.inspection import inspect
    from converter.verify import verify

__all__ = ["convert", "inspect", "models", "open_checkpoint", "verify"]


def _lazy(module: str, name: str) -> Any:
    def get(package: ModuleType) -> Any:
        return getattr(import_module(module), name)

    # The import system puts a submodule of the same name in the function's place; it must stay the function.
    return property(get, lambda package, value: None)


class _Package(ModuleType):
    open_checkpoint = _lazy("converter.formats", "open_checkpoint")
    inspect = _lazy("converter.inspection", "inspect")
    convert = _lazy("converter.convert", "convert")
    verify = _lazy("converter.verify", "verify")


sys.modules[__name__].__class__ = _Package
