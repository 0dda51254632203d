"""A GGUF file made from a GGUF file: every key stays as it is, except those that the conversion changes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.conversion.merging import merged
from converter.conversion.surgery import rules
from converter.errors import SourceError, UnsupportedError
from converter.formats.gguf.reader import read
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from tests.build.gguf_files import F16, F32, I8, Q4_0, Q8_0, Bytes, Info, gguf, key

KEYS = [
    key("general.architecture", "string", "llama"), key("general.name", "string", "Ünïcode"),
    key("general.file_type", "u32", 15), key("u8", "u8", 255), key("i8", "i8", -1), key("u16", "u16", 65535),
    key("i16", "i16", -2), key("i32", "i32", -3), key("f32", "f32", 0.1), key("yes", "bool", 1),
    key("u64", "u64", 1 << 63), key("i64", "i64", -4), key("f64", "f64", 0.1),
    key("llama.rope.freq_base", "f32", 1e6), key("words", "array:string", ["a", "", "ü"]),
    key("numbers", "array:f32", [1.5, -2.0]), key("none", "array:u32", []), key("flags", "array:bool", [1, 0]),
    key("tokenizer.ggml.model", "string", "llama"), key("tokenizer.ggml.tokens", "array:string", ["<s>", "x"]),
    key("tokenizer.ggml.scores", "array:f32", [0.0, -1.0]), key("tokenizer.ggml.add_bos_token", "bool", 1),
    key("tokenizer.chat_template", "string", "{{ x }}\n"),
]  # fmt: skip
MATRIX = np.arange(64, dtype="<f4").reshape(2, 32) / 64
NORM = np.linspace(0.5, 1.5, 32, dtype="<f2")
BLOCKS = b"".join(struct.pack("<e", scale) + bytes(range(16)) for scale in (0.5, -2.0))


def model(*more: bytes, alignment: int = 32) -> bytes:
    """A model of an unknown family: with norms in F16 and integers, too, in an order of its own."""
    data, infos = b"", []
    for name, sizes, type, raw in (
        ("output_norm.weight", (32,), F16, NORM.tobytes()),
        ("blk.0.attn_q.weight", (32, 2), F32, MATRIX.tobytes()),
        ("blk.0.ffn_up.weight", (32, 2), Q4_0, BLOCKS),
        ("blk.0.ffn_gate_inp.weight", (32, 2), F32, MATRIX.tobytes()),
        ("blk.0.ids", (5,), I8, b"\1\2\3\4\5"),
    ):
        infos.append(Info(name, sizes, type, len(data)))
        data += raw + bytes(-len(raw) % alignment)
    return gguf([*KEYS, *more], infos, data, alignment=alignment)


def put(tmp_path: Path, data: bytes, name: str = "in.gguf") -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def test_nothing_changes_where_nothing_is_asked_for(tmp_path: Path) -> None:
    source = put(tmp_path, model())

    convert(open_checkpoint(source), tmp_path / "out.gguf")

    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()


def test_an_alignment_of_its_own_stays(tmp_path: Path) -> None:
    source = put(tmp_path, model(key("general.alignment", "u32", 64), alignment=64))

    convert(open_checkpoint(source), tmp_path / "out.gguf")

    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()


def test_another_dtype_changes_the_matrices_and_what_says_so(tmp_path: Path) -> None:
    convert(open_checkpoint(put(tmp_path, model())), tmp_path / "out.gguf", dtype="q8_0")

    before, after = read(Bytes(model())), read(Bytes((tmp_path / "out.gguf").read_bytes()))
    changed = {"general.file_type": 7, "general.quantization_version": 2}
    assert {name: after.metadata[name] for name in changed} == changed
    assert list(after.metadata) == [*before.metadata, "general.quantization_version"]
    entries = {name: entry.type for name, entry in after.metadata.entries.items()}  # type: ignore[attr-defined]
    for name, value in before.metadata.items():
        assert entries[name] == before.metadata.entries[name].type  # type: ignore[attr-defined]
        if name not in changed:
            assert repr(after.metadata[name]) == repr(value)
    assert {name: tensor.storage.encoding or tensor.dtype.name for name, tensor in after.items()} == {
        "output_norm.weight": "F16", "blk.0.attn_q.weight": "Q8_0", "blk.0.ffn_up.weight": "Q8_0",
        "blk.0.ffn_gate_inp.weight": "F32", "blk.0.ids": "I8",
    }  # fmt: skip


# Where llama.cpp's src/llama-quant.cpp leaves a matrix as it is; a matrix of another name; and what is no matrix.
STAY = (
    *("blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight", "altup_proj.weight", "blk.0.laurel_l.weight"),
    *("per_layer_model_proj.weight", "position_embd.weight", "token_types.weight", "blk.0.ssm_conv1d.weight"),
    *("blk.0.shortconv.conv.weight", "blk.0.attn_rel_b.weight", "blk.0.time_mix_first.weight"),
    *(f"blk.0.time_mix_{part}.weight" for part in ("w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")),
    *("blk.0.time_mix_decay_w1.weight", "blk.0.time_mix_decay_w2.weight", "blk.0.time_mix_lerp_fused.weight"),
)


@pytest.mark.parametrize(
    ("name", "sizes", "type"),
    [(name, (32, 2), "F32") for name in STAY]
    + [(name, (32, 2), "Q8_0") for name in ("blk.0.attn_k.weight", "blk.0.time_mix_key.weight", "output.weight")]
    + [("blk.0.attn_sinks.weight", (32,), "F32"), ("blk.0.attn_k.bias", (32, 2), "F32")],
)
def test_only_matrices_that_llama_cpp_reads_in_blocks_become_blocks(
    name: str, sizes: tuple[int, ...], type: str, tmp_path: Path
) -> None:
    data = bytes(4 * math.prod(sizes))
    source = put(tmp_path, gguf(KEYS, [Info(name, sizes, F32, 0)], data))

    convert(open_checkpoint(source), tmp_path / "out.gguf", dtype="q8_0")

    storage = open_checkpoint(tmp_path / "out.gguf")[name].storage
    assert (storage.encoding or "F32") == type


def test_a_type_for_one_matrix_leaves_the_others(tmp_path: Path) -> None:
    surgery = rules(tensor_type=["*attn_q*=f16", "*norm*=f32"])

    report = convert(open_checkpoint(put(tmp_path, model())), tmp_path / "out.gguf", surgery=surgery)

    after = open_checkpoint(tmp_path / "out.gguf")
    assert [tensor.storage.encoding or tensor.dtype.name for tensor in after.values()] == [
        "F16", "F16", "Q4_0", "F32", "I8",
    ]  # fmt: skip
    assert report.notes == (
        "1 of the tensors that --tensor-type names stay as they are, as llama.cpp needs: `output_norm.weight`",
    )


def test_the_tokenizer_inside_counts_more_than_files_beside(tmp_path: Path) -> None:
    source = put(tmp_path, model())
    (tmp_path / "vocab.json").write_text(json.dumps({"other": 0}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")

    convert(open_checkpoint(source), tmp_path / "out.gguf")

    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()


def part(number: int, count: int, keys: list[bytes], infos: list[Info], data: bytes) -> bytes:
    """A part as llama-gguf-split writes it: the count comes after the number of tensors."""
    split = [key("split.no", "u16", number), key("split.tensors.count", "i32", 5), key("split.count", "u16", count)]
    return gguf([*keys, *split], infos, data)


def parts() -> dict[str, bytes]:
    padded = BLOCKS + bytes(-len(BLOCKS) % 32)
    return {
        "x-00001-of-00003.gguf": part(
            0, 3, KEYS, [Info("output_norm.weight", (32,), F16), Info("blk.0.attn_q.weight", (32, 2), F32, 64)],
            NORM.tobytes() + MATRIX.tobytes(),
        ),
        "x-00002-of-00003.gguf": part(
            1, 3, [], [Info("blk.0.ffn_up.weight", (32, 2), Q4_0), Info("blk.0.ffn_gate_inp.weight", (32, 2), F32, 64)],
            padded + MATRIX.tobytes(),
        ),
        "x-00003-of-00003.gguf": part(2, 3, [], [Info("blk.0.ids", (5,), I8)], b"\1\2\3\4\5".ljust(32, b"\0")),
    }  # fmt: skip


def test_parts_are_those_of_llama_gguf_split(tmp_path: Path) -> None:
    """It counts only padded tensors, and begins a new part before they exceed the limit: 64 + 256, 64 + 256, 32."""
    convert(open_checkpoint(put(tmp_path, model())), tmp_path / "out" / "x.gguf", max_shard_size=320)

    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == parts()


def test_a_tensor_larger_than_a_part_has_one_of_its_own(tmp_path: Path) -> None:
    convert(open_checkpoint(put(tmp_path, model())), tmp_path / "out" / "x.gguf", max_shard_size=1)

    assert len(list((tmp_path / "out").iterdir())) == 5


def test_parts_become_one_file_again(tmp_path: Path) -> None:
    for name, data in parts().items():
        put(tmp_path, data, name)

    convert(open_checkpoint(tmp_path), tmp_path / "out.gguf")

    assert (tmp_path / "out.gguf").read_bytes() == model()


def test_tensors_of_another_file_are_added(tmp_path: Path) -> None:
    other = gguf([key("general.architecture", "string", "x")], [Info("more.weight", (32, 1), Q8_0)], bytes(34 + 30))
    sources = [open_checkpoint(put(tmp_path, model())), open_checkpoint(put(tmp_path, other, "other.gguf"))]

    convert(merged(sources[0], sources[1:]), tmp_path / "out.gguf")

    written = open_checkpoint(tmp_path / "out.gguf")
    assert list(written) == [*sources[0], "more.weight"]
    assert list(written.metadata) == list(sources[0].metadata)


@pytest.mark.parametrize("name", ["program", "module", "prefix", "writer", "root", "averaged", "merged"])
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_no_key_of_a_file_is_taken_for_a_fact_of_ours(tmp_path: Path, name: str, kind: str) -> None:
    header: dict[str, Any] = {
        "__metadata__": {name: "evil"},
        "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    text = json.dumps(header).encode()
    files = {
        "gguf": gguf([key(name, "string", "evil")], [Info("w", (4,), F32)], bytes(16)),
        "safetensors": struct.pack("<Q", len(text)) + text + b"\1",
    }
    source = open_checkpoint(put(tmp_path, files[kind], f"in.{kind}"))

    report = inspect(source)
    converted = convert(source, tmp_path / "out.npz")

    assert (report.safety.verdict, report.source.writer) == ("plain", None)
    assert (report.weights.root, report.weights.module, report.weights.averaged) == ("", "", ())
    assert converted.notes == ()


def test_a_folder_gets_the_tokenizer_that_is_inside(tmp_path: Path) -> None:
    keys = [
        key("general.architecture", "string", "x"), key("tokenizer.ggml.model", "string", "gpt2"),
        key("tokenizer.ggml.pre", "string", "gpt-2"), key("tokenizer.ggml.tokens", "array:string", ["a", "b", "ab"]),
        key("tokenizer.ggml.token_type", "array:i32", [1, 1, 1]), key("tokenizer.ggml.merges", "array:string", ["a b"]),
    ]  # fmt: skip
    (tmp_path / "vocab.json").write_text('{"other": 0}')
    source = put(tmp_path, gguf(keys, [Info("x.weight", (4,))], bytes(16)))

    convert(open_checkpoint(source), tmp_path / "out", to="safetensors")

    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    model = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]
    assert (model["vocab"], model["merges"]) == ({"a": 0, "b": 1, "ab": 2}, [["a", "b"]])


WORDLESS = {
    "an importance matrix": [key("general.type", "string", "imatrix"), key("imatrix.chunk_count", "u32", 2)],
    "an adapter": [key("general.architecture", "string", "llama"), key("general.type", "string", "adapter")],
    "a projector": [key("general.architecture", "string", "clip"), key("clip.has_vision_encoder", "bool", 1)],
    "a projector by its type": [key("general.architecture", "string", "new"), key("general.type", "string", "mmproj")],
    "a diffusion model": [key("general.architecture", "string", "flux")],
    "a model of videos": [key("general.architecture", "string", "wan"), key("general.type", "string", "model")],
    "sizes that a language model has": [
        key("general.architecture", "string", "qwen_image"),
        *(key(f"qwen_image.{name}", "u32", 2) for name in ("block_count", "embedding_length", "context_length")),
        key("qwen_image.attention.head_count", "u32", 1),
    ],
}


@pytest.mark.parametrize("kind", WORDLESS)
def test_what_takes_no_text_needs_no_tokenizer(kind: str, tmp_path: Path) -> None:
    infos = [Info("a.weight", (32, 2), F32, 0)]
    source = put(tmp_path, gguf(WORDLESS[kind], infos, MATRIX.tobytes()))

    report = convert(open_checkpoint(source), tmp_path / "out.gguf")

    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()
    assert report.notes == ()
    assert inspect(open_checkpoint(source)).memory is None


def test_a_language_model_without_its_tokenizer_asks_for_it(tmp_path: Path) -> None:
    infos = [Info("a.weight", (32, 2), F32, 0)]
    source = put(tmp_path, gguf([key("general.architecture", "string", "llama")], infos, MATRIX.tobytes()))

    with pytest.raises(SourceError, match="has no tokenizer beside it"):
        convert(open_checkpoint(source), tmp_path / "out.gguf")


def test_a_tokenizer_that_has_no_files_is_named(tmp_path: Path) -> None:
    keys = [
        key("tokenizer.ggml.model", "string", "gpt2"), key("tokenizer.ggml.pre", "string", "unheard-of"),
        key("tokenizer.ggml.tokens", "array:string", ["a"]), key("tokenizer.ggml.merges", "array:string", []),
    ]  # fmt: skip
    source = put(tmp_path, gguf(keys, [Info("x.weight", (4,))], bytes(16)))

    report = convert(open_checkpoint(source), tmp_path / "out", to="safetensors")

    assert any(note.startswith("the tokenizer is left behind: ") and "unheard-of" in note for note in report.notes)


NEWER = 250  # a type that no ggml has yet
RAW = bytes(range(256)) * 2


def newer(family: str = "llama", matrix: str = "blk.0.ffn_up.weight") -> bytes:
    """A model with a matrix, and a vector at its end, in a type that is newer than this program."""
    data = MATRIX.tobytes() + RAW + NORM.tobytes() + RAW[:96]
    infos = [
        Info("blk.0.attn_q.weight", (32, 2), F32, 0), Info(matrix, (32, 2), NEWER, 256),
        Info("output_norm.weight", (32,), F16, 768), Info("last", (7,), NEWER + 1, 832),
    ]  # fmt: skip
    return gguf([key("general.architecture", "string", family), *KEYS[1:]], infos, data)


def test_types_that_are_newer_than_the_program_are_copied_byte_for_byte_and_named(tmp_path: Path) -> None:
    source = put(tmp_path, newer())

    report = convert(open_checkpoint(source), tmp_path / "out.gguf")

    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()
    assert report.tensors == 4
    assert (
        "copied as they are, in types that this program does not decode: `blk.0.ffn_up.weight`, `last`" in report.notes
    )


def test_only_what_must_be_decoded_refuses_a_newer_type(tmp_path: Path) -> None:
    source = put(tmp_path, newer())
    kept = rules(tensor_type=["blk.0.ffn_up.weight=keep"])

    with pytest.raises(
        UnsupportedError, match=r"`blk.0.ffn_up.weight` can't become F16: ggml type 250 is newer .*=keep$"
    ):
        convert(open_checkpoint(source), tmp_path / "out.gguf", dtype="f16")
    with pytest.raises(
        UnsupportedError,
        match=r"`blk.0.ffn_up.weight` is a quantised tensor .and 1 more., .* or leave it out with --exclude$",
    ):
        convert(open_checkpoint(source), tmp_path / "out.safetensors")
    convert(open_checkpoint(source), tmp_path / "kept.gguf", dtype="f16", surgery=kept)

    after = open_checkpoint(tmp_path / "kept.gguf")
    assert {name: tensor.dtype.name for name, tensor in after.items()} == {
        "blk.0.attn_q.weight": "F16", "output_norm.weight": "F16",
    }  # fmt: skip
    assert [(other.name, other.code, other.nbytes) for other in after.unsupported] == [
        ("blk.0.ffn_up.weight", NEWER, 512), ("last", NEWER + 1, 96),
    ]  # fmt: skip


def test_parts_of_a_model_with_a_newer_type_are_joined_and_cut(tmp_path: Path) -> None:
    source = put(tmp_path, newer())

    convert(open_checkpoint(source), tmp_path / "parts" / "m.gguf", max_shard_size=600)
    first = min((tmp_path / "parts").iterdir())
    convert(open_checkpoint(first), tmp_path / "again.gguf")

    assert len(list((tmp_path / "parts").iterdir())) > 2
    assert (tmp_path / "again.gguf").read_bytes() == source.read_bytes()
