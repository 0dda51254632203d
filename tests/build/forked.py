"""Runs the program many times in fresh processes that need not import anything.

`python -m tests.build.forked` reads a line of JSON for every command: its arguments, the files that take stdout and stderr, and
the folder to run in, if it is another. It answers with the exit code. Each command is a fork in which all modules of the program
and of its dependencies are there already, which saves three quarters of the time that a short command takes. What a command
imports by itself, tests/test_guard.py and the tests of the CI's action see.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

import converter

DEPENDENCIES = (
    *("hashlib", "importlib.metadata", "json", "numpy", "unicodedata", "xml.etree.ElementTree"),
    *("typer", "typer.main", "typer._adapters", "typer._click.decorators", "pydantic.type_adapter", "isal.isal_zlib"),
)
ROOT = Path(__file__).parent.parent.parent


class Forked:
    """Such a server, with these variables in its environment. Call it with a command, once the `with` has begun."""

    def __init__(self, environment: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._environment, self._cwd = dict(environment), cwd

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.build.forked"], cwd=self._cwd, env=self._environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=120)
        self._folder.cleanup()

    def __call__(self, arguments: Sequence[str], folder: Path, terminal: str | None = None) -> tuple[int, str, str]:
        """Run a command in a folder: exit code, stdout and stderr. stderr goes to `terminal`, if there is one."""
        out, err = (Path(self._folder.name) / name for name in ("out", "err"))
        err.write_bytes(b"")
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = [list(arguments), str(out), terminal or str(err), str(folder)]
        print(json.dumps(request), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        return code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")


def main() -> None:
    ours = [found.name for found in pkgutil.walk_packages(converter.__path__, "converter.")]
    for name in (*DEPENDENCIES, *(name for name in ours if name != "converter.__main__")):
        with contextlib.suppress(ImportError):  # if another release lacks one of these modules, it only takes longer
            importlib.import_module(name)
    gc.freeze()  # so that no child touches, and copies, all that is there
    for line in sys.stdin:
        arguments, stdout, stderr, *folder = json.loads(line)
        child = os.fork()
        if child == 0:
            for path, descriptor in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
            if folder:
                os.chdir(folder[0])
            sys.argv = ["converter", *arguments]
            _end(_program())
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _program() -> int:
    try:
        runpy.run_module("converter", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End this process as Python does, but take nothing apart that goes with it anyway."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
