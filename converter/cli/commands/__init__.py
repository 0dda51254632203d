"""The commands, one module each: they parse, call, print and exit, and decide nothing. This file has what they share."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec

import typer

from converter.errors import ConverterError, CutOffError
from converter.text import os_reason, safe_text

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_P = ParamSpec("_P")
STANDARD_INPUT: Final = "-"
MISTAKE: Final = "a bug in this program; please report it"


class Exit(IntEnum):
    """0: done, or equal. 1: the check failed. 2: it could not be done. 130: interrupted by Control-C."""

    DONE = 0
    FAILED = 1
    ERROR = 2
    INTERRUPTED = 128 + signal.SIGINT


def command(function: Callable[_P, None]) -> Callable[_P, None]:
    """Turn a function into a command whose errors are one sentence on stderr and exit code 2."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            with _terminated():
                function(*args, **kwargs)
        except ConverterError as error:
            raise _refused(f"{error}{error.advice}", error.exit_code) from None
        except BrokenPipeError:  # the reader of our output has seen enough
            raise typer.Exit(Exit.DONE) from None
        except OSError as error:
            what = f"`{error.filename}`: " if error.filename is not None else ""
            raise _refused(f"{what}{os_reason(error)}") from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt as error:
            raise _ended("interrupted", error, Exit.INTERRUPTED) from None
        except SystemExit as error:  # SIGTERM
            raise _ended("ended from outside", error, error.code if isinstance(error.code, int) else 1) from None
        except Exception as error:  # an unforeseen error also ends without a traceback and leaves nothing half done
            if sys.flags.dev_mode:
                raise
            raise _refused(f"{MISTAKE}: {type(error).__name__}: {error}") from None

    return run


def _refused(said: str, code: int = Exit.ERROR) -> typer.Exit:
    typer.echo(f"error: {safe_text(said, 2000)}", err=True)
    return typer.Exit(code)


def _ended(what: str, error: BaseException, code: int) -> typer.Exit:
    """Say that the command was ended, and what it leaves. Whoever keeps something notes it on the error."""
    left = "; ".join(vars(error).get("__notes__", ())) or "nothing was left half done"
    typer.echo(f"{what}; {safe_text(left, 2000)}", err=True)
    return typer.Exit(code)


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """While a command runs, turn SIGTERM into an exception, so that unfinished output is removed, as for Control-C."""
    before = signal.getsignal(signal.SIGTERM)
    # Only the main thread may set a handler; a handler that was not set from Python could not be restored.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def opened(source: str, root: Root, weights: str | None = None) -> Catalogue:
    """Open the checkpoint that SOURCE names. If its file is cut off, the error says how far it goes."""
    from converter.opening import open_checkpoint

    announce(source)
    try:
        return open_checkpoint(source, root=root, weights=weights)
    except CutOffError:
        from converter.inspection import report as inspection

        said = inspection.cut_off(source) if Path(source).is_file() else None
        if said is not None:
            raise CutOffError(said) from None
        raise


def standard_input() -> Source:
    """Standard input, which `-` stands for, up to its end."""
    from converter.io.standard_input import StandardInput

    return StandardInput()


def announce(source: str) -> None:
    """Print a note if a location that could be a path is looked up on the Hub."""
    if "/" in source and "://" not in source and not os.path.lexists(source):
        from converter.hub.locations import is_remote

        if is_remote(source):
            typer.echo(f"`{safe_text(source)}`: no such path; asking the Hub", err=True)
