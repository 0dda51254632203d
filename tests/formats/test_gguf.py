"""GGUF: reading, writing, and both in turn. tests/peers shows what gguf-py and llama.cpp make of the files."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.dtypes import BF16, BY_NAME, F16, F32, F64, I64, Dtype
from converter.errors import FormatError, ManifestError, ModelError, OutputError, SourceError, UnsupportedError
from converter.formats.gguf.names import canonical as with_family_names
from converter.formats.gguf.reader import read
from converter.formats.gguf.tokenizer import keys
from converter.formats.planned import Planned
from converter.io.publish import Plan, publish
from converter.models.tokenizers.tokenizer import BYTE, Token, Tokenizer
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.tensors.catalogue import Catalogue, File, Origin
from converter.tensors.tensor import Storage, Tensor, row_major
from tests.build import plans
from tests.build.gguf_files import Bytes, Info, gguf, key

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_inner": 64, "n_positions": 4, "vocab_size": 8}
CONFIG: dict[str, Any] = {"model_type": "gpt2", "activation_function": "gelu", "layer_norm_epsilon": 1e-05, **SIZES}
# name, shape, GGUF's name: in the order of the layers
NORM = [("weight", (32,)), ("bias", (32,))]
ROWS: list[tuple[str, tuple[int, ...], str]] = [
    ("wte.weight", (8, 32), "token_embd.weight"),
    ("wpe.weight", (4, 32), "position_embd.weight"),
    *((f"h.0.ln_1.{kind}", shape, f"blk.0.attn_norm.{kind}") for kind, shape in NORM),
    ("h.0.attn.c_attn.weight", (32, 96), "blk.0.attn_qkv.weight"),
    ("h.0.attn.c_attn.bias", (96,), "blk.0.attn_qkv.bias"),
    ("h.0.attn.c_proj.weight", (32, 32), "blk.0.attn_output.weight"),
    ("h.0.attn.c_proj.bias", (32,), "blk.0.attn_output.bias"),
    *((f"h.0.ln_2.{kind}", shape, f"blk.0.ffn_norm.{kind}") for kind, shape in NORM),
    ("h.0.mlp.c_fc.weight", (32, 64), "blk.0.ffn_up.weight"),
    ("h.0.mlp.c_fc.bias", (64,), "blk.0.ffn_up.bias"),
    ("h.0.mlp.c_proj.weight", (64, 32), "blk.0.ffn_down.weight"),
    ("h.0.mlp.c_proj.bias", (32,), "blk.0.ffn_down.bias"),
    *((f"ln_f.{kind}", shape, f"output_norm.{kind}") for kind, shape in NORM),
]
TRANSPOSED = ("attn.c_attn.weight", "c_proj.weight", "c_fc.weight")


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    return ((np.arange(size, dtype="i8") * 7919 + len(name) * 31) % 2001 / 1000 - 1).astype("<f4").reshape(shape)


def tensor(array: np.ndarray, dtype: Dtype, *, transposed: bool = False) -> Tensor:
    """A tensor with a storage of its own, in which a `transposed` one lies column by column."""
    raw = (array.T if transposed else array).copy(order="C").tobytes()
    storage = Storage(Bytes(raw), 0, len(raw), str(id(raw)))
    if transposed:
        return Tensor(dtype, array.shape, row_major(array.shape[::-1])[::-1], 0, storage)
    return Tensor(dtype, array.shape, row_major(array.shape), 0, storage)


def model(
    dtype: Dtype = F32, *, prefix: str = "transformer.", transposed: bool = True, **changes: Tensor | None
) -> Catalogue:
    """A GPT-2 of one layer. `changes` replace tensors, or leave them out, by name with `__` for dots."""
    numpy = {F64: "<f8", F32: "<f4", F16: "<f2", BF16: "<f4"}[dtype]
    tensors = {}
    for name, shape, _ in ROWS:
        array = values(name, shape).astype(numpy)
        if dtype is BF16:
            array = (array.view("<u4") >> 16).astype("<u2")
        tensors[prefix + name] = tensor(array, dtype, transposed=transposed and name.endswith(TRANSPOSED))
    for name, change in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if change is not None:
            tensors[name.replace("__", ".")] = change
    return Catalogue(tensors, Origin("model.bin", "torch-zip", (File("model.bin", 1),), config=CONFIG))


def written(conversion: Planned) -> list[bytes]:
    files = []
    for file in conversion.files:
        data = b"".join(bytes(tile) for piece in file.pieces for tile in piece.tiles())
        assert len(data) == file.nbytes
        files.append(data)
    return files


def planned(catalogue: Catalogue | None = None, **options: Any) -> Planned:
    return plans.gguf(catalogue or model(), **{"config": CONFIG, "encoding": "f32"} | options)


def canonical(catalogue: Catalogue) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (tensor.dtype.name, tensor.shape, b"".join(bytes(tile) for tile in tensor.tiles()))
        for name, tensor in catalogue.items()
    }


# ---- reading --------------------------------------------------------------------------------------------------------


def test_values_of_every_type_are_read() -> None:
    keys = [
        key("u8", "u8", 255), key("i8", "i8", -1), key("u16", "u16", 65535), key("i16", "i16", -2),
        key("u32", "u32", 1 << 31), key("i32", "i32", -3), key("f32", "f32", 0.5), key("yes", "bool", 1),
        key("no", "bool", 0), key("text", "string", "Ġthe ü"), key("u64", "u64", 1 << 63), key("i64", "i64", -4),
        key("f64", "f64", 0.1), key("empty", "string", ""),
    ]  # fmt: skip

    metadata = read(Bytes(gguf(keys))).metadata

    assert metadata == {
        "u8": 255, "i8": -1, "u16": 65535, "i16": -2, "u32": 1 << 31, "i32": -3, "f32": 0.5, "yes": True, "no": False,
        "text": "Ġthe ü", "u64": 1 << 63, "i64": -4, "f64": 0.1, "empty": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        ("string", ["a", "", "Ġü"]),
        ("bool", [True, False]),
        ("i32", [-1, 2]),
        ("f32", [0.5]),
        ("u64", []),
        ("string", []),
    ],
)
def test_arrays_are_read_when_they_are_asked_for(kind: str, items: list[Any]) -> None:
    array = read(Bytes(gguf([key("k", f"array:{kind}", items), key("after", "u8", 1)]))).metadata["k"]

    assert (len(array), list(array), list(array), array.type) == (len(items), items, items, kind)
    assert repr(array) == f"<{len(items)} {kind}>"


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "F32"), (1, "F16"), (24, "I8"), (25, "I16"), (26, "I32"), (27, "I64"), (28, "F64"), (30, "BF16")],
)
def test_plain_types_are_views_of_the_file(number: int, name: str) -> None:
    itemsize = BY_NAME[name].itemsize
    data = bytes(range(6 * itemsize))

    found = read(Bytes(gguf(infos=[Info("w", (3, 2), number)], data=data)))["w"]

    assert (found.dtype, found.shape, found.stride, found.storage.encoding) == (BY_NAME[name], (2, 3), (3, 1), None)
    assert b"".join(bytes(tile) for tile in found.tiles()) == data


# Two rows of two blocks; a block's scale is 0.5 and its level i is i
Q8 = b"".join(struct.pack("<e32b", 0.5, *range(start, start + 32)) for start in (0, 32, -64, -32))


def test_blocks_are_decoded_as_they_are_read() -> None:
    found = read(Bytes(gguf(infos=[Info("w", (64, 2), 8)], data=Q8)))["w"]

    assert (found.dtype, found.shape, found.storage.encoding, found.nbytes) == (F32, (2, 64), "Q8_0", 512)
    assert found.bits().tolist() == [[i / 2 for i in range(64)], [i / 2 for i in range(-64, 0)]]
    assert found.t().bits()[63].tolist() == [31.5, -0.5]
    assert [bytes(tile) for tile in found.t().tiles(256)] == [
        np.array([[i / 2, i / 2 - 32] for i in half], "<f4").tobytes() for half in (range(32), range(32, 64))
    ]


@given(st.integers(0, 512), st.integers(0, 512))
def test_any_bytes_of_a_decoded_tensor_can_be_asked_for(one: int, other: int) -> None:
    start, stop = sorted((one, other))
    source = read(Bytes(gguf(infos=[Info("w", (64, 2), 8)], data=Q8)))["w"].storage.source
    expected = np.array([*range(64), *range(-64, 0)], "<f4") / 2

    assert bytes(source.read(start, stop - start)) == expected.tobytes()[start:stop]


def test_odd_files_are_reported() -> None:
    trailing = read(Bytes(gguf(infos=[Info("w")], data=bytes(100))))

    assert trailing.problems == ("`memory.gguf` has 68 bytes after its last tensor",)


def test_a_root_is_refused() -> None:
    with pytest.raises(FormatError, match="no other to choose"):
        read(Bytes(gguf()), root="model")


def test_listing_needs_no_numpy(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(gguf([key("t", "array:string", ["a"])], [Info("w", (64, 2), 8)], Q8))
    script = (
        "import sys; from converter.opening import open_checkpoint; c = open_checkpoint(sys.argv[1]);"
        "print(c.format, list(c), 'numpy' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)

    assert done.stdout == "gguf ['w'] False\n"


# ---- writing --------------------------------------------------------------------------------------------------------


def expected_file(tokenizer: list[bytes], ids: list[bytes]) -> bytes:
    keys = [
        key("general.architecture", "string", "gpt2"),
        key("general.type", "string", "model"),
        key("general.size_label", "string", "9.0K"),
        key("general.file_type", "u32", 0),
        key("general.quantization_version", "u32", 2),
        key("gpt2.context_length", "u32", 4),
        key("gpt2.embedding_length", "u32", 32),
        key("gpt2.block_count", "u32", 1),
        key("gpt2.feed_forward_length", "u32", 64),
        key("gpt2.attention.head_count", "u32", 2),
        key("gpt2.vocab_size", "u32", 8),
        key("gpt2.attention.layer_norm_epsilon", "f32", 1e-05),
        key("cerebras_tool.activation_function", "string", "gelu"),
        *tokenizer,
        *ids,
    ]
    infos, data = [], b""
    for name, shape, there in ROWS:
        array = values(name, shape).T if name.endswith(TRANSPOSED) else values(name, shape)
        infos.append(Info(there, array.shape[::-1], 0, len(data)))
        data += array.copy(order="C").tobytes()
    return gguf(keys, infos, data)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("transposed", [True, False])
def test_the_file_is_this_to_the_byte(prefix: str, transposed: bool) -> None:
    conversion = planned(model(prefix=prefix, transposed=transposed))

    assert written(conversion) == [expected_file([key("tokenizer.ggml.model", "string", "none")], [])]
    assert [piece.name for piece in conversion.files[0].pieces[1:]] == [there for _, _, there in ROWS]
    assert conversion.losses == {}


def vocabulary(folder: Path, tokens: dict[str, Any], merges: str = "#version: 0.2\na b\nab c\n") -> Path:
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text(merges)
    return folder


TOKENS = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "<|endoftext|>": 6}


def test_the_tokenizer_is_this_to_the_byte(tmp_path: Path) -> None:
    tokenizer = [
        key("tokenizer.ggml.model", "string", "gpt2"),
        key("tokenizer.ggml.pre", "string", "gpt-2"),
        key("tokenizer.ggml.tokens", "array:string", ["a", "b", "c", "ab", "abc", "[PAD5]", "<|endoftext|>", "[PAD7]"]),
        key("tokenizer.ggml.token_type", "array:i32", [1, 1, 1, 1, 1, 5, 3, 5]),
        key("tokenizer.ggml.merges", "array:string", ["a b", "ab c"]),
    ]
    ids = [key("tokenizer.ggml.bos_token_id", "u32", 6), key("tokenizer.ggml.eos_token_id", "u32", 6)]

    conversion = planned(tokenizer=vocabulary(tmp_path, TOKENS))

    assert written(conversion) == [expected_file(tokenizer, ids)]


def test_ids_of_the_config_count_more_than_the_usual_name(tmp_path: Path) -> None:
    config = CONFIG | {"bos_token_id": 4, "eos_token_id": 99}

    [file] = written(planned(config=config, tokenizer=vocabulary(tmp_path, TOKENS)))

    metadata = read(Bytes(file)).metadata
    assert metadata["tokenizer.ggml.bos_token_id"] == 4
    assert metadata["tokenizer.ggml.eos_token_id"] == 6  # 99 is no row
    assert list(metadata["tokenizer.ggml.token_type"]) == [1, 1, 1, 1, 3, 5, 3, 5]


@pytest.mark.parametrize(("merges", "noted"), [("", True), ("a b\n", False)])
def test_a_tokenizer_without_merges_is_reported(merges: str, noted: bool, tmp_path: Path) -> None:
    conversion = planned(tokenizer=vocabulary(tmp_path, TOKENS, merges))

    said = (
        "the tokenizer merges nothing: llama.cpp loads the empty list, but gguf-py's programs that copy a file, such as "
        "gguf-new-metadata, can't"
    )
    assert (said in conversion.notes) == noted
    # llama.cpp loads no file of this kind without the key.
    assert list(read(Bytes(written(conversion)[0])).metadata["tokenizer.ggml.merges"]) == merges.split("\n")[:-1]


def test_a_token_that_llama_cpp_ends_at_nul_is_reported(tmp_path: Path) -> None:
    conversion = planned(tokenizer=vocabulary(tmp_path, TOKENS | {"\0": 5}))

    said = "llama.cpp ends a token at the character NUL, so it never finds 1 token with one, the first with the id 5"
    assert said in conversion.notes


@pytest.mark.parametrize("tokens", [{"c\0b": 5}, {"d\0": 5, "d\0d": 7}])
def test_tokens_that_llama_cpp_ends_alike_are_refused(tokens: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"up to the character NUL, the tokens . and . are both spelled `[cd]`"):
        planned(tokenizer=vocabulary(tmp_path, TOKENS | tokens))


ACCENTS = (
    "llama.cpp takes vowel signs away with the accents, and leaves Hangul whole, so it splits texts of some scripts "
    "differently from the model's tokenizer"
)


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (Tokenizer("byte-pair", {0: Token("a")}, pre="gpt-2"), []),
        (
            Tokenizer("byte-pair", {0: Token("a")}, pre="llama4"),
            [
                "llama.cpp and the model's tokenizer cut some texts differently: texts with combining marks, or with capitals "
                "beyond ASCII"
            ],
        ),
        (
            Tokenizer("byte-pair", {0: Token("a")}, pre="deepseek-coder"),
            ["llama.cpp and the model's tokenizer cut some texts differently: texts with blanks beyond ASCII"],
        ),
        (Tokenizer("wordpiece", {0: Token("a")}, lowercase=True), [ACCENTS]),
        (Tokenizer("unigram", {0: Token("a")}, space_prefix=True, merge_spaces=True), []),
        (Tokenizer("unigram", {0: Token("a")}, space_prefix=False, merge_spaces=False), []),
        (
            Tokenizer("unigram", {0: Token("<0x00>", BYTE)}, space_prefix=True),
            [
                "for a character without a token, llama.cpp takes the unknown token, and the model's tokenizer takes the tokens of "
                "the character's bytes"
            ],
        ),
        (
            Tokenizer("unigram", {0: Token("a")}, space_prefix=False, merge_spaces=True),
            [
                "llama.cpp puts a space before every text if the tokenizer turns several spaces into one, but the model's tokenizer "
                "does not"
            ],
        ),
        (Tokenizer("wordpiece", {0: Token("a")}, lowercase=True, strip_accents=False), []),
        (Tokenizer("wordpiece", {0: Token("a")}, lowercase=False), []),
        (Tokenizer("wordpiece", {0: Token("a")}, lowercase=False, strip_accents=True), [ACCENTS]),
    ],
)
def test_what_llama_cpp_does_otherwise_is_noted(tokenizer: Tokenizer, said: list[str]) -> None:
    notes: list[str] = []

    list(keys(tokenizer, 1, notes))

    assert [note for note in notes if note.startswith(("llama.cpp", "for a character"))] == said


def test_a_tokenizer_without_an_end_is_reported(tmp_path: Path) -> None:
    conversion = planned(tokenizer=vocabulary(tmp_path, {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}))

    assert "the tokenizer has no end of text: llama.cpp takes token 11 for it" in conversion.notes
    assert "3 of the embedding's 8 rows have no token: they are filled with unused ones, [PAD…]" in conversion.notes
    assert "tokenizer.ggml.eos_token_id" not in read(Bytes(written(conversion)[0])).metadata


@pytest.mark.parametrize(
    ("tokens", "merges", "words"),
    [
        ({str(n): n for n in range(9)}, "", "9 tokens, with ids up to 8, but the embedding has 8 rows"),
        ({"a": 10**9}, "", "with ids up to 1,000"),
        ({"a": 10**30}, "", "the id 1000"),
        ({"a": 0, "b": 0}, "", "gives the id 0 to `a` and `b`"),
        ({"a": -1}, "", "the id -1"),
        ({"a": True}, "", "the id True"),
        ({"a": "0"}, "", "the id '0'"),
        (TOKENS, "a b c\n", "line 1: expected two tokens"),
        (TOKENS, "a\n", "line 1: expected two tokens"),
        (TOKENS, "#version: 0.2\na x\n", "line 2: `x` is not in `vocab.json`"),
        (TOKENS, "b c\n", "line 1: `bc` is not in `vocab.json`"),
    ],
)
def test_a_tokenizer_that_contradicts_itself_is_refused(
    tmp_path: Path, tokens: dict[str, Any], merges: str, words: str
) -> None:
    with pytest.raises(ManifestError, match=words):
        planned(tokenizer=vocabulary(tmp_path, tokens, merges))


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no tokenizer: `tokenizer\.json`"):
        planned(tokenizer=tmp_path)


@pytest.mark.parametrize(
    ("encoding", "file_type", "name"),
    [
        ("f16", 1, "F16"),
        ("bf16", 32, "BF16"),
        ("q8_0", 7, None),
        ("q5_1", 9, None),
        ("q4_0", 2, None),
        ("keep", 0, "F32"),
    ],
)
def test_matrices_have_the_encoding_and_the_rest_is_f32(encoding: str, file_type: int, name: str | None) -> None:
    conversion = planned(encoding=encoding)

    catalogue = read(Bytes(written(conversion)[0]))
    assert catalogue.metadata["general.file_type"] == file_type
    for found, tensor in catalogue.items():
        plain = len(tensor.shape) < 2 or found == "position_embd.weight"
        assert tensor.dtype.name == ("F32" if plain or name is None else name)
        assert tensor.storage.encoding == (None if plain or name else encoding.upper())
    if encoding in ("f16", "bf16"):
        assert conversion.losses["transformer.wte.weight"].rounded > 0
        assert "transformer.ln_f.weight" not in conversion.losses


@pytest.mark.parametrize(("dtype", "kept"), [(F16, "F16"), (BF16, "BF16"), (F64, "F32")])
def test_keep_keeps_what_llama_cpp_can_read(dtype: Dtype, kept: str) -> None:
    catalogue = read(Bytes(written(planned(model(dtype), encoding="keep"))[0]))

    assert catalogue["blk.0.ffn_up.weight"].dtype.name == kept
    assert catalogue["output_norm.weight"].dtype is F32


def test_rows_that_are_not_whole_blocks_become_f16(tmp_path: Path) -> None:
    config = {**CONFIG, "n_inner": 48}
    catalogue = model(
        transformer__h__0__mlp__c_fc__weight=tensor(values("w", (32, 48)), F32),
        transformer__h__0__mlp__c_fc__bias=tensor(values("w", (48,)), F32),
        transformer__h__0__mlp__c_proj__weight=tensor(values("w", (48, 32)), F32),
    )

    conversion = plans.gguf(catalogue, config=config, encoding="q8_0")

    found = read(Bytes(written(conversion)[0]))
    assert found["blk.0.ffn_down.weight"].dtype is F16
    assert found["blk.0.ffn_up.weight"].storage.encoding == "Q8_0"
    assert any("1 matrix has rows that can't be divided into blocks of Q8_0" in note for note in conversion.notes)


def test_a_matrix_of_one_row_is_a_vector_to_ggml_and_stays_f32() -> None:
    """As llama-quantize leaves it. The other way round, in rows of one element, it is a matrix."""
    catalogue = model(
        transformer__h__0__mlp__c_fc__weight=tensor(values("w", (32, 1)), F32),
        transformer__h__0__mlp__c_fc__bias=tensor(values("w", (1,)), F32),
        transformer__h__0__mlp__c_proj__weight=tensor(values("w", (1, 32)), F32),
    )

    found = read(Bytes(written(plans.gguf(catalogue, config={**CONFIG, "n_inner": 1}, encoding="q8_0"))[0]))

    assert (found["blk.0.ffn_up.weight"].shape, found["blk.0.ffn_up.weight"].dtype) == ((1, 32), F32)
    assert (found["blk.0.ffn_down.weight"].shape, found["blk.0.ffn_down.weight"].dtype) == ((32, 1), F16)


def head(array: np.ndarray | None = None) -> Tensor:
    return tensor(values("head", (8, 32)) if array is None else array, F32)


def test_a_tied_head_is_left_out_and_an_untied_one_written() -> None:
    plain = model()
    tied = model(
        lm_head__weight=plain["transformer.wte.weight"], transformer__wte__weight=plain["transformer.wte.weight"]
    )
    untied = model(lm_head__weight=head())

    assert written(planned(tied)) == written(planned(plain))
    there = read(Bytes(written(planned(untied))[0]))
    assert canonical(there)["output.weight"][2] == values("head", (8, 32)).tobytes()
    assert list(there)[-1] == "output.weight"


def mask(changed: int = 0) -> Tensor:
    ones = np.tril(np.ones((1, 1, 4, 4), "u1"))
    ones[0, 0, 0, 1] = changed
    return tensor(ones, BY_NAME["U8"])


def test_masks_are_left_out_if_they_are_masks() -> None:
    conversion = planned(model(transformer__h__0__attn__bias=mask()))

    assert conversion.dropped == ("transformer.h.0.attn.bias",)
    assert written(conversion) == written(planned())
    with pytest.raises(UnsupportedError, match=r"`transformer\.h\.0\.attn\.bias` is not the causal mask"):
        planned(model(transformer__h__0__attn__bias=mask(1)))


def test_anything_but_a_whole_gpt2_is_refused() -> None:
    whole = model()
    other = Catalogue({"x": head()}, Origin("x.bin", "torch-zip"))
    cases: list[tuple[type[Exception], str, Catalogue, dict[str, Any]]] = [
        (UnsupportedError, r"has no architecture that can be written as GGUF \(GPT-2, BLOOM, ", other, {}),
        (ModelError, r"has no `transformer\.ln_f\.bias`", model(transformer__ln_f__bias=None), {}),
        (ModelError, "`n_layer` is 2; the tensors have 1", whole, {"config": CONFIG | {"n_layer": 2}}),
        (ModelError, "`vocab_size` is 9", whole, {"config": CONFIG | {"vocab_size": 9}}),
        (ModelError, "number of heads can't be told", whole, {"config": None}),
        (ModelError, "layer_norm_epsilon", whole, {"config": CONFIG | {"layer_norm_epsilon": "small"}}),
        (ModelError, "layer_norm_epsilon", whole, {"config": CONFIG | {"layer_norm_epsilon": float("nan")}}),
        (UnsupportedError, "activation 'relu'", whole, {"config": CONFIG | {"activation_function": "relu"}}),
        (UnsupportedError, "`scale_attn_weights` is False", whole, {"config": CONFIG | {"scale_attn_weights": False}}),
        (UnsupportedError, "`strange`: not part of GPT-2", model(strange=head()), {}),
        (UnsupportedError, "is I64", model(transformer__ln_f__bias=tensor(np.zeros(32, "<i8"), I64)), {}),
        (OutputError, "several parts needs a folder", whole, {"path": "x", "max_shard_size": 20_000}),
    ]
    for error, words, catalogue, options in cases:
        with pytest.raises(error, match=words):
            planned(catalogue, **options)


def test_a_value_that_no_block_holds_is_named() -> None:
    array = values("w", (8, 32))
    array[3, 3] = np.nan
    conversion = planned(model(transformer__wte__weight=tensor(array, F32)), encoding="q4_1")

    with pytest.raises(UnsupportedError, match=r"`transformer\.wte\.weight` holds NaN"):
        written(conversion)


def test_large_models_are_split(tmp_path: Path) -> None:
    conversion = planned(path="mine.gguf", max_shard_size=17_000)
    names = [f"mine-{n:05}-of-00003.gguf" for n in (1, 2, 3)]

    assert [file.path for file in conversion.files] == names
    assert all(file.nbytes <= 17_000 for file in conversion.files)
    publish(Plan(conversion.files, folder=True), tmp_path / "out")
    parts = [read(Bytes((tmp_path / "out" / name).read_bytes())) for name in names]
    for number, part in enumerate(parts):
        split = {name: value for name, value in part.metadata.items() if name.startswith("split.")}
        assert split == {"split.no": number, "split.count": 3, "split.tensors.count": len(ROWS)}
    assert "gpt2.block_count" in parts[0].metadata
    assert "gpt2.block_count" not in parts[1].metadata
    whole = read(Bytes(written(planned())[0]))
    assert canonical(open_checkpoint(tmp_path / "out")) == canonical(whole)


def test_one_part_is_not_numbered() -> None:
    conversion = planned(path="mine.gguf", max_shard_size=1 << 30)

    assert [file.path for file in conversion.files] == ["mine.gguf"]
    assert "split.no" not in read(Bytes(written(conversion)[0])).metadata


def test_shapes_name_no_model(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", "111M", sparse=True)

    source = open_checkpoint(tmp_path / "s")
    parameters = {name: tensor for name, tensor in source.items() if not name.endswith((".attn.bias", ".masked_bias"))}

    conversion = plans.gguf(source.with_tensors(parameters), config=None, encoding="q8_0")

    header = b"".join(bytes(tile) for tile in conversion.files[0].pieces[0].tiles())
    metadata = read(Bytes(header + bytes(conversion.files[0].nbytes - len(header)))).metadata
    assert {key: value for key, value in metadata.items() if key.startswith(("general.", "cerebras"))} == {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.size_label": "111M",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "cerebras_tool.activation_function": "gelu",
    }
    assert metadata["gpt2.attention.head_count"] == 12
    assert any("exact GELU" in note for note in conversion.notes)


# ---- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "tiny-13B"])
def test_a_sample_comes_back_bit_for_bit_masks_aside(tmp_path: Path, name: str) -> None:
    write_sample(tmp_path / "s", name)
    source = open_checkpoint(tmp_path / "s")
    conversion = plans.gguf(source, config=source.config, encoding="f32", tokenizer=tmp_path / "s")
    publish(Plan(conversion.files, folder=False), tmp_path / "x.gguf")

    back = with_family_names(open_checkpoint(tmp_path / "x.gguf"))

    expected = {
        name if name.startswith("transformer.") else f"transformer.{name}": value
        for name, value in canonical(source).items()
        if not name.endswith((".attn.bias", ".masked_bias"))
    }
    assert canonical(back) == expected
    assert back.config is not None
    assert source.config is not None
    for field in ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "layer_norm_epsilon"):
        assert back.config[field] == source.config[field]
    assert back.config["activation_function"] == "gelu"
    assert back.config["tie_word_embeddings"] is True
    assert (back.config["bos_token_id"], back.config["eos_token_id"]) == (256, 256)


@given(st.sampled_from([F32, F16, BF16]), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=30)
def test_any_model_comes_back(dtype: Dtype, prefixed: bool, transposed: bool, untied: bool) -> None:
    changes = {"lm_head__weight": head()} if untied else {}
    source = model(dtype, prefix="transformer." if prefixed else "", transposed=transposed, **changes)

    back = with_family_names(read(Bytes(written(planned(source, encoding="keep"))[0])))

    again = read(Bytes(written(planned(back, config=back.config, encoding="keep"))[0]))
    assert canonical(again) == canonical(read(Bytes(written(planned(source, encoding="keep"))[0])))
    for name, tensor in source.items():
        found = back[name if prefixed or name == "lm_head.weight" else f"transformer.{name}"]
        assert found.shape == tensor.shape
        if found.dtype is dtype:
            assert found.bits().tobytes() == tensor.bits().tobytes()
    assert back.config is not None
    assert back.config["tie_word_embeddings"] is not untied


def test_names_without_a_row_stay() -> None:
    keys = [key("general.architecture", "string", "gpt2")]
    infos = [
        Info("token_embd.weight", (4, 2)),
        Info("blk.x.attn_qkv.weight", (4,), offset=32),
        Info("other", offset=64),
    ]

    back = with_family_names(read(Bytes(gguf(keys, infos, bytes(96)))))

    assert list(back) == ["transformer.wte.weight", "blk.x.attn_qkv.weight", "other"]
    assert back.config is not None
    assert (back.config["vocab_size"], back.config["activation_function"]) == (2, "gelu_new")


def test_another_architecture_keeps_its_own_names_and_has_no_config() -> None:
    keys = [key("general.architecture", "string", "llama"), key("llama.block_count", "u32", 1)]

    found = read(Bytes(gguf(keys, [Info("blk.0.attn_q.weight", (2, 2))], bytes(32))))

    assert with_family_names(found) is found
    assert found.config is None
