"""GGUF files that lie. The cases named in capitals are those of llama.cpp's tests/test-gguf.cpp; G01 to G10 are ours."""

from __future__ import annotations

import math
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from converter.errors import ConverterError, CutOffError, FormatError, LayoutError, LimitError
from converter.formats.gguf.metadata import Array
from converter.formats.gguf.reader import read
from converter.opening import open_checkpoint
from tests.attacks.commands import assert_malformed, assert_sentence, everything, run
from tests.build.checkpoints import view, write_checkpoint
from tests.build.depth import share, some
from tests.build.gguf_files import BF16, F16, F32, Q4_0, Q4_K, Q8_0, Bytes, Info, gguf, info, key, text
from tests.build.steps import steps

ARCHITECTURE = key("general.architecture", "string", "gpt2")
FOUR = struct.pack("<4f", 1, 2, 3, 4)
HUGE = (1 << 31) - 1, 1 << 32, 1 << 48, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1

REFUSED = [
    ("HEADER_BAD_VERSION_0", gguf(version=0), FormatError, "version 0"),
    ("HEADER_BAD_VERSION_1", gguf(version=1), FormatError, "version 1: 2 and 3 are read"),
    ("HEADER_BAD_VERSION_FUTURE", gguf(version=4), FormatError, "version 4"),
    ("G01 big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0), FormatError, "big-endian"),
    *((f"HEADER_BAD_N_TENSORS {n}", gguf(n_tensors=n), CutOffError, "no room for") for n in HUGE),
    *((f"HEADER_BAD_N_KV {n}", gguf(n_keys=n), CutOffError, "no room for") for n in HUGE),
    ("G02 one key too many", gguf([ARCHITECTURE], n_keys=2), CutOffError, "ends inside"),
    ("G02 one tensor too many", gguf([ARCHITECTURE], n_tensors=1), CutOffError, "no room|ends inside"),
    *(
        (f"KV_BAD_KEY_SIZE {n}", gguf([text(b"", n) + struct.pack("<IBB", 0, 1, 1)]), CutOffError, "ends inside a key")
        for n in HUGE
    ),
    ("G03 key of 65,536 bytes", gguf([key("k" * 65536, "u8", 1)]), LimitError, "65,535"),
    ("KV_EMPTY_KEY", gguf([key("", "u32", 1)]), FormatError, "empty"),
    ("G08 zero byte in a key", gguf([key("a\0b", "u32", 1)]), FormatError, "zero byte"),
    ("G08 key no UTF-8", gguf([key(b"\xff\xfe", "u32", 1)]), FormatError, "not UTF-8"),
    ("G08 value no UTF-8", gguf([key("k", "string", b"\xc3(")]), FormatError, "not UTF-8"),
    ("KV_BAD_TYPE", gguf([text("k") + struct.pack("<IQ", 13, 0)]), FormatError, "type 13"),
    ("KV_BAD_TYPE huge", gguf([text("k") + struct.pack("<IQ", 1 << 31, 0)]), FormatError, "type 2147483648"),
    ("KV_DUPLICATE_KEY", gguf([ARCHITECTURE, ARCHITECTURE]), FormatError, "occurs twice"),
    ("G08 bool of 7", gguf([key("k", "bool", 7)]), FormatError, "truth value of 7"),
    *(
        (f"KV_BAD_ALIGN {n}", gguf([key("general.alignment", "u32", n)]), FormatError, "power of two")
        for n in (0, 3, 33, 1 << 21, 1 << 30, (1 << 32) - 1)
    ),
    *(
        (f"KV_WRONG_TYPE_ALIGN {kind}", gguf([key("general.alignment", kind, 32)]), FormatError, "a u32 was expected")
        for kind in ("u8", "i32", "u64", "f32")
    ),
    ("KV_WRONG_TYPE_ALIGN string", gguf([key("general.alignment", "string", "32")]), FormatError, "a u32"),
    ("KV_WRONG_TYPE_ALIGN array", gguf([key("general.alignment", "array:u32", [32])]), FormatError, "a u32"),
    ("G06 alignment twice", gguf([key("general.alignment", "u32", 32)] * 2), FormatError, "occurs twice"),
    *(
        (
            f"G03 string of {n} bytes",
            gguf([text("k") + struct.pack("<I", 8) + text(b"", n) + bytes(8)]),
            FormatError,
            "ends inside",
        )
        for n in HUGE
    ),
    *(
        (
            f"G04 array of {n} {kind}",
            gguf([text("k") + struct.pack("<IIQ", 9, kind, n) + bytes(64)]),
            FormatError,
            "the file ends before",
        )
        for n in HUGE
        for kind in (0, 8, 12)
    ),
    (
        "G04 string in an array beyond the end",
        gguf([text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text(b"", 1 << 60) + bytes(9)]),
        FormatError,
        "ends inside",
    ),
    ("G04 nested arrays", gguf([text("k") + struct.pack("<IIQ", 9, 9, 1) * 5000]), FormatError, "array of arrays"),
    ("G04 array of no type", gguf([text("k") + struct.pack("<IIQ", 9, 99, 1) + bytes(8)]), FormatError, "type 99"),
    *(
        (
            f"TENSORS_BAD_NAME_SIZE {n}",
            gguf(infos=[Info("w" * n)], data=FOUR),
            FormatError,
            f"{n:,} bytes",
        )
        for n in (64, 65, 70_000)
    ),
    *(
        (f"TENSORS_BAD_NAME_SIZE {n}", gguf([ARCHITECTURE], n_tensors=1) + text(b"", n) + bytes(64), FormatError, "name")
        for n in HUGE
    ),
    ("G08 name empty", gguf(infos=[Info("")], data=FOUR), FormatError, "empty"),
    ("G08 name with a zero byte", gguf(infos=[Info("a\0")], data=FOUR), FormatError, "zero byte"),
    ("G08 name no UTF-8", gguf(infos=[Info(b"\xff")], data=FOUR), FormatError, "not UTF-8"),
    *(
        (f"TENSORS_BAD_N_DIMS {n}", gguf(infos=[Info("w", rank=n)], data=FOUR), FormatError, "dimensions")
        for n in (5, 64, (1 << 32) - 1)
    ),
    *(
        (f"TENSORS_BAD_SHAPE {n}", gguf(infos=[Info("w", (n,))], data=FOUR), LayoutError if n >= 1 << 63 else CutOffError, "63 bits|ends at byte")
        for n in HUGE
    ),
    ("G05 negative dimension and zero", gguf(infos=[Info("w", (0, 1 << 63))], data=FOUR), LayoutError, "63 bits"),
    ("TENSORS_NE_TOO_BIG", gguf(infos=[Info("w", (1 << 31, 1 << 31, 4))], data=FOUR), LayoutError, "63 bits"),
    ("G05 product wraps to 0", gguf(infos=[Info("w", (1 << 32, 1 << 32))], data=FOUR), LayoutError, "63 bits"),
    ("TENSORS_NBYTES_TOO_BIG", gguf(infos=[Info("w", (1 << 61,))], data=FOUR), CutOffError, "ends at byte"),
    ("TENSORS_NBYTES_TOO_BIG Q4_0", gguf(infos=[Info("w", (1 << 62,), Q4_0)], data=FOUR), CutOffError, "ends at byte"),
    ("G05 no whole block", gguf(infos=[Info("w", (48,), Q8_0)], data=bytes(64)), LayoutError, "not whole blocks of Q8_0"),
    ("G05 a row cut in a block", gguf(infos=[Info("w", (16, 2), Q4_0)], data=bytes(64)), LayoutError, "not whole blocks"),
    ("G05 0-d block", gguf(infos=[Info("w", (), Q8_0)], data=bytes(64)), LayoutError, "not a whole block of Q8_0"),
    ("TENSORS_BAD_OFFSET unaligned", gguf(infos=[Info("w", offset=1)], data=FOUR * 4), LayoutError, "starts at byte 1"),
    ("TENSORS_BAD_OFFSET hole", gguf(infos=[Info("w", offset=32)], data=FOUR * 4), LayoutError, "starts at byte 32"),
    ("G07 beyond the end", gguf(infos=[Info("w", offset=1 << 40)], data=FOUR), LayoutError, "starts at byte"),
    ("G07 overlap", gguf(infos=[Info("a"), Info("b")], data=FOUR * 4), LayoutError, "`b` starts at byte 0"),
    ("G07 order", gguf(infos=[Info("a", offset=32), Info("b")], data=FOUR * 4), LayoutError, "`a` starts at byte 32"),
    ("TENSORS_DUPLICATE_NAME", gguf(infos=[Info("w"), Info("w", offset=32)], data=FOUR * 4), FormatError, "both called"),
    (
        "TENSORS_INCONSISTENT_ALIGN",
        gguf([key("general.alignment", "u32", 64)], [Info("a"), Info("b", offset=32)], FOUR * 8, alignment=64),
        LayoutError,
        "`b` starts at byte 32",
    ),
    ("DATA_NOT_ENOUGH_DATA", gguf(infos=[Info("w")], data=FOUR[:-1]), CutOffError, "ends at byte"),
    ("DATA_NOT_ENOUGH_DATA none", gguf(infos=[Info("w")]), CutOffError, "ends at byte"),
    ("DATA_MEM_SIZE_OVERFLOW", gguf(infos=[Info("w", ((1 << 61) - 1,))], data=FOUR), CutOffError, "ends at byte"),
    ("G07 after a tensor of unknown type", gguf(infos=[Info("a", type=77), Info("b", offset=16)], data=FOUR * 9), LayoutError, "padded one"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "error", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refuses(data: bytes, error: type[ConverterError], words: str) -> None:
    with pytest.raises(error, match=words):
        read(Bytes(data))


def test_header_bad_magic_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(magic=b"FUGG"))

    with pytest.raises(FormatError, match="not a checkpoint that this program knows"):
        open_checkpoint(path)


ACCEPTED = [
    ("HEADER_EMPTY", gguf(), {}),
    ("KV_SUCCESS", gguf([ARCHITECTURE, key("n", "u64", 7)]), {}),
    ("version 2", gguf([ARCHITECTURE], [Info("w")], FOUR, version=2), {"w": (4,)}),
    ("TENSORS_ZERO_DIM", gguf(infos=[Info("w", (4, 0)), Info("x")], data=FOUR), {"w": (0, 4), "x": (4,)}),
    ("TENSORS_SUCCESS", gguf(infos=[Info("a", (2, 2)), Info("b", offset=32)], data=FOUR * 4), {"a": (2, 2), "b": (4,)}),
    (
        "TENSORS_CUSTOM_ALIGN",
        gguf([key("general.alignment", "u32", 8)], [Info("a", (1,)), Info("b", offset=8)], FOUR * 2, alignment=8),
        {"a": (1,), "b": (4,)},
    ),
    ("DATA_SUCCESS without the last padding", gguf(infos=[Info("w", (4, 1, 1, 1))], data=FOUR), {"w": (1, 1, 1, 4)}),
    ("0-d", gguf(infos=[Info("w", ())], data=FOUR), {"w": ()}),
    ("name of 63 bytes", gguf(infos=[Info("w" * 63)], data=FOUR), {"w" * 63: (4,)}),
]  # fmt: skip


@pytest.mark.parametrize(("data", "shapes"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
def test_accepts(data: bytes, shapes: dict[str, tuple[int, ...]]) -> None:
    assert {name: tensor.shape for name, tensor in read(Bytes(data)).items()} == shapes


def test_every_truncation_is_refused() -> None:
    keys = [
        ARCHITECTURE,
        key("s", "array:string", ["ab", "", "c"]),
        key("n", "array:i16", [1, -2]),
        key("b", "bool", 1),
    ]
    whole = gguf(keys, [Info("a", (32,), Q8_0), Info("b", (3, 2), F16, 64), Info("c", (1,), BF16, 96)], bytes(98))
    assert list(read(Bytes(whole))) == ["a", "b", "c"]

    for size in range(4, len(whole)):
        with pytest.raises(ConverterError):
            read(Bytes(whole[:size]))


def test_limits_are_about_counts_too() -> None:
    keys = gguf([key(f"{n:06}", "u8", 1) for n in range(100_001)])

    with pytest.raises(LimitError, match="100,001 keys"):
        read(Bytes(keys))
    with pytest.raises(LimitError, match=r"text of 16,777,217 bytes"):
        read(Bytes(gguf([key("k", "string", "x" * ((16 << 20) + 1))])))


def test_a_vocabulary_costs_no_memory_until_it_is_asked_for() -> None:
    tokens = [f"token{n}" for n in range(100_000)]
    source = Bytes(gguf([key("tokens", "array:string", tokens)]))
    tracemalloc.start()

    values = read(source).metadata["tokens"]

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert isinstance(values, Array)
    assert len(values) == 100_000
    assert list(values) == tokens


def test_time_grows_with_the_file_and_no_faster() -> None:
    def cost(count: int) -> int:
        data = gguf(infos=[Info(f"{n}", (0,)) for n in range(count)])
        return steps(lambda: read(Bytes(data)))

    once, twice = cost(2_000), cost(4_000)

    assert once > 2_000
    assert twice < 2.1 * once


def test_text_in_an_array_is_checked_when_it_is_read() -> None:
    values = read(Bytes(gguf([key("k", "array:string", [b"ok", b"\xff"])]))).metadata["k"]

    with pytest.raises(FormatError, match="not UTF-8"):
        list(values)


_PREFIXES = [
    gguf(n_keys=1),
    gguf(n_tensors=1),
    gguf([ARCHITECTURE], n_keys=2, n_tensors=1),
    gguf(n_keys=1) + text("k") + struct.pack("<I", 9),
    gguf(n_tensors=2) + info(Info("a")),
]


@pytest.mark.parametrize("prefix", _PREFIXES)
@given(st.binary(max_size=200))
@example(info(Info("w")) + bytes(64))
@settings(max_examples=some(400, 100))
def test_any_bytes_give_a_value_or_a_converter_error(prefix: bytes, data: bytes) -> None:
    try:
        catalogue = read(Bytes(prefix + data))
        for value in catalogue.metadata.values():
            if isinstance(value, Array):
                list(value)
        for tensor in catalogue.values():
            assert sum(map(len, tensor.tiles())) == tensor.nbytes
    except ConverterError:
        pass


@given(st.data())
@settings(max_examples=some(400, 100))
def test_a_changed_byte_gives_a_value_or_a_converter_error(data: st.DataObject) -> None:
    keys = [ARCHITECTURE, key("s", "array:string", ["ab", "c"]), key("general.alignment", "u32", 32)]
    whole = bytearray(
        gguf(keys, [Info("a", (32, 2), Q8_0), Info("b", (256,), Q4_K, 96), Info("c", (2,), F32, 256)], bytes(264))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))

    try:
        for tensor in read(Bytes(bytes(whole))).values():
            assert sum(map(len, tensor.tiles())) == tensor.nbytes
    except ConverterError:
        pass


@pytest.mark.parametrize(("data", "words"), [(case[1], case[3]) for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_every_command_refuses_it(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(data)

    assert_malformed(path, words)


TEMPLATE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**9) %}{% endfor %}\x1b[2J"


def test_g09_a_template_is_text_that_nobody_evaluates(tmp_path: Path) -> None:
    keys = [ARCHITECTURE, key("tokenizer.chat_template", "string", TEMPLATE), key("general.name", "string", TEMPLATE)]
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(keys, [Info("w")], FOUR))

    assert open_checkpoint(path).metadata["tokenizer.chat_template"] == TEMPLATE
    for command in (("inspect", path), ("scan", path, "--no-fickling"), ("convert", path, tmp_path / "x.safetensors")):
        ended = run(*command)
        assert ended.code in (0, 2)
        assert "\x1b" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("name", "shape"),
    [("w" * 64, (4,)), ("w" * 100_000, (4,)), ("w", (1, 1, 1, 1, 4)), ("w\0", (4,))],
    ids=["a name of 64 bytes", "a name of 100,000 bytes", "5 dimensions", "a name with a zero byte"],
)
def test_g10_what_gguf_can_not_hold_is_refused_before_anything_is_written(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {name: view("0", shape)}, {"0": FOUR})
    before = everything(tmp_path)

    refused = run("convert", path, tmp_path / "x.gguf")
    assert (refused.code, refused.out) == (2, "")
    assert_sentence(refused.err)
    assert everything(tmp_path) == before


KNOWN = {
    "gpt2.context_length": ("u32", 4), "gpt2.embedding_length": ("u32", 4), "gpt2.block_count": ("u32", 1),
    "gpt2.feed_forward_length": ("u32", 16), "gpt2.attention.head_count": ("u32", 1), "gpt2.attention.layer_norm_epsilon": ("f32", 1e-5),
    "cerebras_tool.activation_function": ("string", "gelu"), "tokenizer.ggml.tokens": ("array:string", ["a", "b"]),
    "tokenizer.ggml.token_type": ("array:i32", [1, 1]), "tokenizer.ggml.merges": ("array:string", []), "tokenizer.ggml.eos_token_id": ("u32", 1),
}  # fmt: skip
VALUES = [
    ("u64", (1 << 64) - 1), ("i64", -1), ("f32", float("nan")), ("f64", float("inf")), ("bool", 1), ("string", "\x1b[31m"), ("array:u32", [1, 2]),
    ("array:string", ["a"]),
]  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_g08_a_known_key_of_another_type_breaks_nothing(name: str, tmp_path: Path) -> None:
    sizes = {
        "token_embd.weight": (4, 2),
        "position_embd.weight": (4, 4),
        "output_norm.weight": (4,),
        "output_norm.bias": (4,),
    }
    infos, data = [], b""
    for row, shape in sizes.items():
        infos.append(Info(row, shape, F32, len(data)))
        data += FOUR * (math.prod(shape) // 4)
        data += bytes(-len(data) % 32)
    good = tmp_path / "good.gguf"
    good.write_bytes(gguf([ARCHITECTURE, *(key(known, *value) for known, value in KNOWN.items())], infos, data))
    path = tmp_path / "x.gguf"
    for number, (type, value) in enumerate(VALUES, [*KNOWN].index(name)):
        changed = KNOWN | {name: (type, value)}
        path.write_bytes(gguf([ARCHITECTURE, *(key(known, *value) for known, value in changed.items())], infos, data))

        commands: list[tuple[object, ...]] = [
            ("inspect", path),
            ("inspect", path, "--json"),
            ("convert", path, tmp_path / "out", "--to", "safetensors", "--force"),
            ("convert", path, tmp_path / "out.gguf", "--force"),
            ("verify", path, good),
            ("verify", good, path),
        ]
        for command in share(commands, number, 3):
            ended = run(*command)
            assert ended.code in (0, 1, 2)
            assert "\x1b" not in ended.out + ended.err
        config = tmp_path / "out" / "config.json"
        assert not config.exists() or "NaN" not in config.read_text()
