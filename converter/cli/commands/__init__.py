"""The commands, one module each: they parse, call, print and exit, and decide nothing. This file has what they share."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec

import typer

from converter.errors import ConverterError, CutOffError
from converter.steps import Follower
from converter.text import os_reason, safe_text

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_P = ParamSpec("_P")
_FIXED: Final = ("dumb", "unknown", "")  # values of TERM for terminals whose cursor can't be moved
STANDARD_INPUT: Final = "-"
USAGE: Final = "UsageError"  # the class of an error in the command line, in JSON
MISTAKE: Final = "a bug in this program; please report it"
_ANSWERED: Final = ContextVar("converter.answered", default=False)  # whether the JSON document is on stdout already


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
        before = _ANSWERED.set(False)
        try:
            with _terminated():
                function(*args, **kwargs)
        except BrokenPipeError:  # the reader of our output has seen enough
            raise typer.Exit(Exit.DONE) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BaseException as error:  # an unforeseen error also ends without a traceback and leaves nothing half done
            how = ended(error)
            if how.unforeseen and sys.flags.dev_mode:
                raise
            if kwargs.get("json") and not _ANSWERED.get():
                tell_json(how)
            typer.echo(f"{'' if how.outside else 'error: '}{safe_text(how.sentence, 2000)}", err=True)
            raise typer.Exit(how.code) from None
        finally:
            _ANSWERED.reset(before)

    return run


class Ended(NamedTuple):
    """How a command ended without an answer: a sentence, the class of the cause, and the exit code.

    `outside`: it was interrupted, which is no error. `unforeseen`: it is a bug.
    """

    sentence: str
    cause: str
    code: int = Exit.ERROR
    outside: bool = False
    unforeseen: bool = False


def ended(error: BaseException) -> Ended:
    """What an exception that ends a command means."""
    cause = type(error).__name__
    match error:
        case ConverterError():
            return Ended(f"{error}{error.advice}", cause, error.exit_code)
        case OSError():
            what = f"`{error.filename}`: " if error.filename is not None else ""
            return Ended(f"{what}{os_reason(error)}", cause)
        case typer.BadParameter():
            return Ended(error.message, USAGE)
        case KeyboardInterrupt():
            return Ended(f"interrupted; {_left(error)}", cause, Exit.INTERRUPTED, outside=True)
        case SystemExit():  # SIGTERM
            code = error.code if isinstance(error.code, int) else 1
            return Ended(f"ended from outside; {_left(error)}", cause, code, outside=True)
        case _:
            return Ended(f"{MISTAKE}: {cause}: {error}", cause, unforeseen=True)


def answer(*found: Any) -> None:
    """Print a report as the one document on stdout, or several as a list. What fails after that is reported only on stderr."""
    from converter.reports import json_pieces, to_json

    _ANSWERED.set(True)
    pieces = json_pieces(found[0]) if len(found) == 1 else [f"[{','.join(map(to_json, found))}]\n"]
    for piece in pieces:
        typer.echo(piece, nl=False)


def tell_json(how: Ended) -> None:
    """Print how a command ended as the one document on stdout."""
    from converter.reports import to_json
    from converter.reports.error import ErrorReport

    with contextlib.suppress(BrokenPipeError):
        typer.echo(to_json(ErrorReport({"class": how.cause, "message": safe_text(how.sentence, 2000)})))


def _left(error: BaseException) -> str:
    """What a command leaves behind when it is ended early. Code that keeps unfinished output adds a note to the error."""
    return "; ".join(vars(error).get("__notes__", ())) or "nothing was left half done"


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


@contextlib.contextmanager
def showing(
    what: str,
    *,
    quiet: bool = False,
    bar: bool = True,
    verbose: bool = False,
    log: Path | None = None,
    unit: str = "bytes",
) -> Iterator[Follower]:
    """Show on stderr how far the body of a `with` has come: with a `bar` on a terminal, and if `verbose`, with each step's time.

    `unit` is bytes, files, or a share of the work. `log` is a file to which the times of the steps are added.
    """
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    drawn = bar and not quiet and sys.stderr.isatty() and os.environ.get("TERM", "") not in _FIXED
    if not (drawn or verbose or log):
        yield Follower()
        return
    from converter.cli.progress import telling

    with telling(what, sys.stderr if drawn else None, verbose=verbose, log=log, unit=unit) as progress:
        yield progress


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
