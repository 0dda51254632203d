"""What a person does next with what was written: commands that work as they are. Only a terminal is shown them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from converter.formats.companions import CONFIG
from converter.text import safe_text

if TYPE_CHECKING:
    from converter.reports.conversion import ConversionReport

# What opens an output, by its format. `{}` is its path.
_LLAMA: Final = "llama-cli -m {} -p 'Once upon a time' -n 32"
_NUMPY: Final = """python -c "import numpy; print(numpy.load('{}').files)\""""
_TRANSFORMERS: Final = """python -c "import transformers as t; t.AutoModel.from_pretrained('{}')\""""
_PATH: Final = re.compile(r"[\w./+=@,-]+")  # a path that a shell reads the same way with quotes and without


def show(commands: Sequence[str]) -> None:
    """Print the commands, if stdout is a terminal: each on a line that is not wrapped, so that it can be copied."""
    if not sys.stdout.isatty():
        return
    for number, command in enumerate(command for command in commands if safe_text(command, len(command)) == command):
        typer.echo(f"  {'then' if number else 'next'}: {command}")


def verifying(source: str, output: str, options: Mapping[str, str | bool | Sequence[str] | None]) -> str:
    """The `verify` command for an output, with those `options` of the writing command that change what is compared."""
    # A path that begins with a dash would be taken for an option.
    words = ["cerebras-tool", "verify", source, f"./{output}" if output.startswith("-") else output]
    for option, value in options.items():
        if value is True:
            words.append(option)
        elif value:
            for one in [value] if isinstance(value, str) else value:
                words += [option, one]
    return shlex.join(words)


def opening(report: ConversionReport, *, tokenizer: bool) -> list[str]:
    """A command of another program that opens what `convert` wrote; none if that program would refuse it."""
    lone = len(report.files) == 1 and not Path(report.output).is_dir()
    whole = not report.excluded and any(Path(file.path).name == CONFIG for file in report.files)
    opens = {
        "gguf": [_LLAMA] if lone and tokenizer else [],
        "npz": [_NUMPY] if lone else [],
        "safetensors": [_TRANSFORMERS] if whole else [],
    }
    if not _PATH.fullmatch(report.output):
        return []
    return [line.format(report.output) for line in opens.get(report.format, ())]
