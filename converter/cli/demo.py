"""Every step on a tiny checkpoint, each as the command that a person would type."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from converter.errors import ConverterError

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


def run(folder: Path | None) -> None:
    """Run the steps in `folder`, or in a temporary folder. Raises ConverterError if a step fails."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="cerebras-tool-demo-") as temporary:
            _run(Path(temporary))
    else:
        _run(folder)


def _run(folder: Path) -> None:
    for title, words in _STEPS:
        arguments = [word.format(folder) for word in words]
        print(f"\n{title}\n\n  $ cerebras-tool {' '.join(arguments)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "converter", *arguments], check=False)
        if done.returncode:
            raise ConverterError(f"`cerebras-tool {' '.join(arguments)}` ended with exit code {done.returncode}")
