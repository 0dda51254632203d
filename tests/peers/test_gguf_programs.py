"""Files that llama.cpp's own programs write: every type of llama-quantize, and the parts of llama-gguf-split.

The programs are looked for in the folder that CEREBRAS_TOOL_LLAMA_BIN names, and where `make llama.cpp` builds them.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.formats.gguf.encodings import BY_NAME
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.verification.verify import verify

BUILT = Path(__file__).parents[2] / ".venv-peers" / "llama.cpp" / "build" / "bin"
PROGRAMS = Path(os.environ.get("CEREBRAS_TOOL_LLAMA_BIN", BUILT))
# What people give llama-quantize, with the types that it then writes for most matrices. The others are mixtures of these.
TYPES = {
    "F16": "F16", "BF16": "BF16", "Q8_0": "Q8_0", "Q6_K": "Q6_K", "Q5_K_M": "Q5_K", "Q5_K_S": "Q5_K", "Q5_1": "Q5_1", "Q5_0": "Q5_0",
    "Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K", "Q4_1": "Q4_1", "Q4_0": "Q4_0", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS", "Q3_K_L": "Q5_K",
    "Q3_K_M": "Q4_K", "Q3_K_S": "Q3_K", "IQ3_M": "IQ3_S", "IQ3_S": "IQ3_S", "IQ3_XS": "IQ3_S", "IQ3_XXS": "IQ3_XXS",
    "Q2_K": "Q3_K", "Q2_K_S": "Q2_K", "IQ2_M": "IQ2_S", "IQ2_S": "IQ2_XS", "IQ2_XS": "IQ2_XS", "IQ2_XXS": "IQ2_XXS",
    "IQ1_M": "IQ1_M", "IQ1_S": "IQ1_S", "TQ1_0": "TQ1_0", "TQ2_0": "TQ2_0", "Q1_0": "Q1_0", "Q2_0": "Q2_0",
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (PROGRAMS / "llama-quantize").exists(),
    reason="needs llama-quantize: CEREBRAS_TOOL_LLAMA_BIN, or make llama.cpp",
)


def run(name: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [PROGRAMS / name, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def importance(plain: Path) -> Path:
    """A file of importance in llama.cpp's older form: of each matrix its name, how often it was seen, and a weight for each column."""
    generator, entries = np.random.default_rng(1), []
    for name, tensor in open_checkpoint(plain).items():
        if len(tensor.shape) == 2 and name.endswith("weight"):
            weights = generator.lognormal(0, 1, tensor.shape[1]).astype("<f4").tobytes()
            entries.append(
                struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, tensor.shape[1]) + weights
            )
    path = plain.with_name("importance.dat")
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries) + struct.pack("<ii", 1, 1) + b"x")
    return path


# llama-quantize makes these with weights of importance only.
WEIGHED_ONLY = tuple(
    name for name in TYPES if name.startswith(("IQ1", "IQ2")) or name in ("IQ3_XXS", "IQ3_XS", "Q2_K_S")
)


@pytest.mark.parametrize(
    ("name", "weighed"),
    [*((name, True) for name in TYPES), *((name, False) for name in TYPES if name not in WEIGHED_ONLY)],
)
def test_a_file_of_llama_quantize_is_inspected_converted_and_verified(
    name: str, weighed: bool, source: Path, plain: Path, importance: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.gguf"
    run("llama-quantize", *(["--imatrix", importance] if weighed else []), plain, file, name)

    report = inspect(open_checkpoint(file))
    assert report.model is not None
    assert (report.model.complete, report.others, report.problems) == (True, (), ())
    types = {one.dtype for one in report.types}
    assert TYPES[name] in types <= BY_NAME.keys()
    assert any(key.key.startswith("quantize.imatrix.") for key in report.metadata) == weighed

    assert verify(open_checkpoint(source), [file]).outputs[0].verdict == "equivalent"
    convert(open_checkpoint(file), tmp_path / "copy.safetensors")
    convert(open_checkpoint(file), tmp_path / "copy.gguf")
    outputs = verify(open_checkpoint(file), [tmp_path / "copy.safetensors", tmp_path / "copy.gguf"]).outputs
    assert [output.verdict for output in outputs] == ["identical", "identical"]
    assert (tmp_path / "copy.gguf").read_bytes() == file.read_bytes()


def test_the_parts_of_llama_gguf_split_are_the_model(source: Path, plain: Path, tmp_path: Path) -> None:
    run("llama-gguf-split", "--split", "--split-max-tensors", "8", plain, tmp_path / "part")
    first = min(tmp_path.glob("part-00001-of-*.gguf"))

    report = inspect(open_checkpoint(first))
    convert(open_checkpoint(first), tmp_path / "one.gguf")

    assert len(report.source.files) == 4
    assert report.problems == ()
    assert verify(open_checkpoint(source), [first]).outputs[0].verdict == "identical"
    assert (tmp_path / "one.gguf").read_bytes() == plain.read_bytes()


def test_llama_gguf_split_joins_our_parts(plain: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(plain), tmp_path / "parts" / "x.gguf", max_shard_size=1_000_000)
    first = min((tmp_path / "parts").iterdir())

    run("llama-gguf-split", "--merge", first, tmp_path / "joined.gguf")

    assert len(list((tmp_path / "parts").iterdir())) > 2
    # It adds split.count, with zero parts.
    assert verify(open_checkpoint(plain), [tmp_path / "joined.gguf"]).outputs[0].verdict == "identical"
