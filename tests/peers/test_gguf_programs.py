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
from gguf import GGUFWriter
from safetensors.numpy import load_file

from converter.conversion.convert import convert
from converter.formats.gguf.encodings import BY_NAME
from converter.formats.gguf.recipes import RECIPES
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.verification.verify import verify
from tests.peers import ggml

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
        [PROGRAMS / name, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def importance(plain: Path) -> Path:
    return importance_of(plain)


def importance_of(plain: Path) -> Path:
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


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of F32 that gguf-py wrote, of an architecture that no family here describes."""
    path, generator = tmp_path_factory.mktemp("llama") / "llama.gguf", np.random.default_rng(3)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(300)
    shapes = {"token_embd": (300, 256), "output": (300, 256), "output_norm": (256,)}
    layer = {
        "attn_q": (256, 256), "attn_k": (128, 256), "attn_v": (128, 256), "attn_output": (256, 256), "attn_norm": (256,),
        "ffn_norm": (256,), "ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512),
    }  # fmt: skip
    for name, shape in (shapes | {f"blk.{n}.{name}": shape for n in range(2) for name, shape in layer.items()}).items():
        writer.add_tensor(f"{name}.weight", generator.normal(0, 0.02, shape).astype("<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def llama_importance(llama: Path) -> Path:
    return importance_of(llama)


@pytest.mark.parametrize("name", TYPES)
def test_a_llama_of_llama_quantize_has_the_elements_that_ggml_gives_it(
    name: str, llama: Path, llama_importance: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.gguf"
    run("llama-quantize", "--imatrix", llama_importance, llama, file, name)

    assert TYPES[name] in {one.dtype for one in inspect(open_checkpoint(file)).types}
    assert verify(open_checkpoint(llama), [file]).outputs[0].verdict == "equivalent"
    convert(open_checkpoint(file), tmp_path / "copy.safetensors", dtype="f32")
    copy, blocks = load_file(tmp_path / "copy.safetensors"), 0
    for tensor_name, tensor in open_checkpoint(file).items():
        encoding = BY_NAME[tensor.storage.encoding or tensor.dtype.name]
        if encoding.block > 1:
            [(_, start, end)] = tensor.storage.spans()
            raw = np.frombuffer(file.read_bytes()[start:end], "u1")
            expected = ggml.dequantised(encoding.name, raw, tensor.size)
            assert copy[tensor_name].tobytes() == expected.tobytes()
            blocks += 1
    assert blocks > 10 or TYPES[name] in ("F16", "BF16")


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


# ---- the same mixtures, made here -----------------------------------------------------------------------------------


def raw(file: Path) -> dict[str, tuple[str, bytes]]:
    """The type and the bytes of each tensor."""
    found, data = {}, file.read_bytes()
    for name, tensor in open_checkpoint(file).items():
        [(_, start, end)] = tensor.storage.spans()
        found[name] = (tensor.storage.encoding or tensor.dtype.name, data[start:end])
    return found


def as_gguf(importance: Path) -> Path:
    """The older form of an importance matrix in the newer one: sums, and counts."""
    data, at, path = importance.read_bytes(), 4, importance.with_suffix(".gguf")
    writer = GGUFWriter(path, "imatrix")
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for number in range(struct.unpack_from("<i", data)[0]):
        (size,) = struct.unpack_from("<i", data, at)
        name = data[at + 4 : at + 4 + size].decode()
        _, columns = struct.unpack_from("<ii", data, at + 4 + size)
        at += 12 + size
        weights = np.frombuffer(data, "<f4", columns, at)
        at += 4 * columns
        count = np.float32(number % 3)  # with 0, all columns count as 1
        writer.add_tensor(f"{name}.in_sum2", (weights * max(count, np.float32(1))).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.array([[count]], "<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", [recipe.word for recipe in RECIPES])
@pytest.mark.parametrize("weighed", ["no", "dat", "gguf"])
@pytest.mark.parametrize("model", ["plain", "llama"])
def test_a_mixture_has_the_bytes_of_llama_quantize(
    name: str, weighed: str, model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(model)
    importance = request.getfixturevalue("importance" if model == "plain" else "llama_importance")
    importance = None if weighed == "no" else as_gguf(importance) if weighed == "gguf" else importance
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    run("llama-quantize", *(["--imatrix", importance] if importance else []), source, theirs, name.upper())

    bare = model == "llama"  # it has no tokenizer
    convert(open_checkpoint(source), ours, dtype=name, pure=False, imatrix=importance, no_tokenizer=bare)

    expected, found = raw(theirs), raw(ours)
    assert {tensor: type for tensor, (type, _) in found.items()} == {
        tensor: type for tensor, (type, _) in expected.items()
    }
    assert [tensor for tensor, (_, data) in expected.items() if found[tensor][1] != data] == []
    metadata = [open_checkpoint(file).metadata for file in (theirs, ours)]
    keys = ("general.file_type", "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count", "quantize.imatrix.dataset")  # fmt: skip
    assert [metadata[1].get(key) for key in keys] == [metadata[0].get(key) for key in keys]


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_k_m", "q3_k_l"])
def test_a_pure_file_has_the_bytes_of_llama_quantize(name: str, plain: Path, tmp_path: Path) -> None:
    run("llama-quantize", "--pure", plain, tmp_path / "theirs.gguf", name.upper())

    convert(open_checkpoint(plain), tmp_path / "ours.gguf", dtype=name, pure=True)

    assert raw(tmp_path / "ours.gguf") == raw(tmp_path / "theirs.gguf")


def test_experts_have_importance_of_their_own(tmp_path: Path) -> None:
    """A matrix of three dimensions: the importance of one expert's columns follows that of another's."""
    path, generator = tmp_path / "x.gguf", np.random.default_rng(3)
    writer = GGUFWriter(path, "llama")
    for key, value in {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 256,
        "feed_forward_length": 512,
    }.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_expert_count(3)
    writer.add_expert_used_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(32)
    down = "blk.0.ffn_down_exps.weight"
    writer.add_tensor("token_embd.weight", generator.normal(0, 0.02, (32, 256)).astype("<f4"))
    writer.add_tensor(down, generator.normal(0, 0.02, (3, 256, 512)).astype("<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights = generator.lognormal(0, 2, 3 * 512).astype("<f4")
    importance = tmp_path / "x.dat"
    importance.write_bytes(
        struct.pack("<ii", 1, len(down)) + down.encode() + struct.pack("<ii", 1, weights.size) + weights.tobytes()
    )
    run("llama-quantize", "--imatrix", importance, path, tmp_path / "theirs.gguf", "Q4_K_M")

    convert(open_checkpoint(path), tmp_path / "ours.gguf", dtype="q4_k_m", imatrix=importance, no_tokenizer=True)

    assert raw(tmp_path / "ours.gguf") == raw(tmp_path / "theirs.gguf")


@pytest.fixture(scope="module", params=["256M", "590M"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a published size, and its GGUF file in F32. Rows of the 256M are not whole blocks of 256."""
    folder = tmp_path_factory.mktemp(request.param)
    write_sample(folder / "model", request.param)
    convert(open_checkpoint(folder / "model"), folder / "full.gguf", dtype="f32", no_tokenizer=True)
    return folder / "model", folder / "full.gguf"


@pytest.mark.large
@pytest.mark.parametrize("name", [recipe.word for recipe in RECIPES])
def test_a_published_size_has_the_bytes_of_llama_quantize(
    name: str, published: tuple[Path, Path], tmp_path: Path
) -> None:
    source, full = published
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    run("llama-quantize", full, theirs, name.upper())

    convert(open_checkpoint(source), ours, dtype=name, pure=False, no_tokenizer=True)

    expected, found = raw(theirs), raw(ours)
    theirs.unlink()
    ours.unlink()
    assert found.keys() == expected.keys()
    assert [tensor for tensor, some in expected.items() if found[tensor] != some] == []
