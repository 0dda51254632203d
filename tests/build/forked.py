"""Runs the program many times in fresh processes that need not import third-party packages each time.

`python -m tests.build.forked` reads a line of JSON for every command: its arguments, and the files that take stdout and stderr. It
answers with the exit code. Each command is a fork in which the program itself is imported again, as by `python -m
converter`. Only its dependencies are there already, which saves two thirds of the time that a short command takes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys

DEPENDENCIES = (
    *("hashlib", "importlib.metadata", "json", "numpy", "rich.console", "rich.progress", "rich.table"),
    *("typer", "typer.main", "typer._adapters", "typer._click.decorators", "pydantic.type_adapter", "isal.isal_zlib"),
)


def main() -> None:
    for name in DEPENDENCIES:
        with contextlib.suppress(ImportError):  # if another release lacks one of these modules, it only takes longer
            importlib.import_module(name)
    for line in sys.stdin:
        arguments, stdout, stderr = json.loads(line)
        child = os.fork()
        if child == 0:
            for path, descriptor in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
            sys.argv = ["converter", *arguments]
            runpy.run_module("converter", run_name="__main__", alter_sys=True)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
