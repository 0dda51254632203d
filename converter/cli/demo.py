"""Every step on a tiny checkpoint, each as the command that a person would type."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from converter.errors import ConverterError
from converter.reports.written import DemoReport, DemoStep

_STEPS: Final = (
    (
        "A checkpoint of the published form, in miniature, written without torch:",
        ("sample", "{0}/checkpoint", "--force"),
    ),
    ("What is in it? Nothing is executed to find out:", ("inspect", "{0}/checkpoint")),
    ("Take it apart into plain files:", ("extract", "{0}/checkpoint", "{0}/parameters", "--force")),
    (
        "Convert it to safetensors:",
        ("convert", "{0}/checkpoint", "{0}/safetensors", "--to", "safetensors", "--force"),
    ),
    ("And to GGUF:", ("convert", "{0}/checkpoint", "{0}/tiny.gguf", "--force")),
    (
        "Every copy has the same bits, and computes the same results:",
        (
            *("verify", "{0}/checkpoint", "{0}/parameters", "{0}/safetensors", "{0}/tiny.gguf"),
            *("--level", "inference"),
        ),
    ),
)


def run(folder: Path | None, *, quiet: bool = False) -> DemoReport:
    """Run the steps in `folder`, or in a temporary folder. `quiet`: print nothing. Raises ConverterError if a step fails."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="cerebras-tool-demo-") as temporary:
            return DemoReport(None, tuple(_run(Path(temporary), quiet)))
    return DemoReport(str(folder), tuple(_run(folder, quiet)))


def _run(folder: Path, quiet: bool) -> Iterator[DemoStep]:
    for title, words in _STEPS:
        arguments = [word.format(folder) for word in words]
        if not quiet:
            print(f"\n{title}\n\n  $ cerebras-tool {' '.join(arguments)}", flush=True)
        shown = subprocess.DEVNULL if quiet else None
        done = subprocess.run([sys.executable, "-P", "-m", "converter", *arguments], stdout=shown, check=False)
        if done.returncode:
            raise ConverterError(f"`cerebras-tool {' '.join(arguments)}` ended with exit code {done.returncode}")
        yield DemoStep(title, ("cerebras-tool", *arguments))
