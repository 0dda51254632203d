"""Other engines, if they are installed: transformers for PyTorch and safetensors, llama.cpp for GGUF."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.errors import ConverterError, FormatError, UnsupportedError
from converter.models.architecture import Activation
from converter.models.families import Family
from converter.steps import at

# The name that transformers looks for in a folder, by the ending of a lone file.
_STANDARD: Final = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}
_LOOK: Final = 0.2  # seconds between two looks at its output
_LONGEST: Final = 3600  # seconds: 13B on a slow machine


class Transformers:
    """The family's transformers class in float32 on the CPU, over a folder or a file of safetensors or PyTorch.

    `config` and `activation` say what is computed, whatever lies beside the weights. It reads .bin files with torch's
    `weights_only`; use it only for files that `scan` calls plain. Raises ConverterError if transformers is not installed or can't
    load the model.
    """

    name = "transformers"
    log_probabilities = False

    def __init__(self, path: str | Path, config: Mapping[str, Any], activation: Activation, family: Family) -> None:
        called = family.transformers_class(config)
        if called is None:
            raise UnsupportedError(
                f"this program does not know which class of transformers computes {family.title}: use numpy"
            )
        _require("transformers", "torch", extra="transformers")
        import torch
        import transformers

        self.activation: Activation = activation
        self._torch = torch
        settings = {**config, **family.activation_setting(activation)}
        path = Path(path)
        with tempfile.TemporaryDirectory() as folder:
            for file, name in _weight_files(path):
                Path(folder, name).symlink_to(file.resolve())
            Path(folder, "config.json").write_text(json.dumps(settings))
            try:
                with _silent(transformers):
                    kind = getattr(transformers, called)
                    model = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
            except Exception as error:  # a model's file can make it raise anything
                raise FormatError(f"transformers can't load `{path}`: {_first_line(error)}") from error
        self._model = model.eval()

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """[tokens] → [tokens, vocabulary]."""
        with self._torch.inference_mode():
            output: NDArray[np.float32] = (
                self._model(self._torch.tensor([list(tokens)]), use_cache=False).logits[0].numpy()
            )
        return output


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Keep transformers from writing to stderr, and restore the host program's settings of it."""
    settings = transformers.logging
    verbosity, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()


class LlamaCpp:
    """llama.cpp over a GGUF file with its tokenizer: log-probabilities, and GELU always in its tanh form.

    It runs in a process of its own, because it ends the process when it refuses a file. The binding returns one
    position at a time, as JSON, which takes about 0.4 s with 50,257 tokens.
    """

    name = "llama.cpp"
    log_probabilities = True

    def __init__(self, path: str | Path, vocab_size: int, activation: Activation = "tanh") -> None:
        _require("xllamacpp", extra="llama-cpp")
        self.activation: Activation = "tanh" if activation == "erf" else activation
        self._path, self._vocab_size = Path(path), vocab_size

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """[tokens] → [tokens, vocabulary]: log-probabilities."""
        request = json.dumps({"tokens": [int(token) for token in tokens], "vocab_size": self._vocab_size})
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "logits")
            # -P: the folder of llama.py is not a place to import from.
            command = [sys.executable, "-P", str(Path(__file__).with_name("llama.py")), str(self._path), str(output)]
            shape = (len(tokens), self._vocab_size)
            code = self._run(command, request, output, shape)
            if code or output.stat().st_size != 4 * shape[0] * shape[1]:
                raise FormatError(
                    f"llama.cpp can't run `{self._path}` (exit code {code}): it needs a GGUF file with its tokenizer"
                )
            return np.fromfile(output, np.float32).reshape(shape)

    def _run(self, command: list[str], request: str, output: Path, shape: tuple[int, int]) -> int:
        """The exit code of llama.cpp. While it runs, tell how many tokens are in its output."""
        end = time.monotonic() + _LONGEST
        with subprocess.Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, text=True) as running:
            try:
                given: str | None = request
                while True:
                    with suppress(subprocess.TimeoutExpired):
                        running.communicate(given, timeout=_LOOK)
                        return running.returncode
                    given = None
                    if time.monotonic() > end:
                        raise ConverterError(f"llama.cpp did not finish `{self._path}` after {_LONGEST} seconds")
                    done = output.stat().st_size // (4 * shape[1]) if output.exists() else 0
                    at(f"llama.cpp computes token {done + 1} of {shape[0]}")
            finally:
                running.kill()  # it has ended already, unless this is an error


def _require(*packages: str, extra: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConverterError(
            f"this engine needs the package `{missing[0]}`: install it with `pip install 'cerebras-tool[{extra}]'`, or "
            "use the engine numpy"
        )


def _weight_files(path: Path) -> list[tuple[Path, str]]:
    """The files of a checkpoint that transformers is to see, with the names that it looks for."""
    if path.is_dir():
        # Only the weights: if an adapter's configuration lay beside them, transformers would apply it.
        endings = (*_STANDARD, ".index.json")
        return [(file, file.name) for file in path.iterdir() if file.name.endswith(endings)]
    if path.suffix not in _STANDARD:
        raise UnsupportedError(f"transformers reads .safetensors and .bin files and folders of them, not `{path}`")
    return [(path, _STANDARD[path.suffix])]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
