"""Samples: the layout of torch 1.12, the sizes of the published files, and what lies in them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.dtypes import F32
from converter.errors import ModelError, OutputError, UnsupportedError
from converter.formats.torch.writer import Entry, lay_out
from converter.inspection.report import inspect
from converter.io.checksums import crc32, crc32_zeros
from converter.io.parts import Portions, known, portioned
from converter.io.publish import Piece
from converter.models.declared import declared, find
from converter.models.masks import droppable
from converter.models.recognition import recognise
from converter.models.tokenizers.folder import read as read_tokenizer
from converter.opening import open_checkpoint
from converter.sample import expected_nbytes, sample_nbytes, samples, write_sample
from converter.verification.verify import Options, verify

# torch 1.12.1: torch.save({"w": torch.arange(6.).reshape(2, 3)}, "one_tensor.pt")
ONE_TENSOR = bytes.fromhex(
    "504b03040000080800000000000000000000000000000000000010001200617263686976652f646174612e706b6c46420e005a5a5a5a"
    "5a5a5a5a5a5a5a5a5a5a80027d7100580100000077710163746f7263682e5f7574696c730a5f72656275696c645f74656e736f725f76"
    "320a71022828580700000073746f72616765710363746f7263680a466c6f617453746f726167650a7104580100000030710558030000"
    "0063707571064b06747107514b004b024b038671084b034b018671098963636f6c6c656374696f6e730a4f726465726564446963740a"
    "710a2952710b74710c52710d732e504b070886a4f98fa6000000a6000000504b03040000080800000000000000000000000000000000"
    "00000e001e00617263686976652f646174612f3046421a005a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000"
    "0000803f0000004000004040000080400000a040504b07081790e7911800000018000000504b03040000080800000000000000000000"
    "00000000000000000f002b00617263686976652f76657273696f6e464227005a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"
    "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a330a504b0708d19e67550200000002000000504b010200000000080800000000000086a4f98f"
    "a6000000a6000000100000000000000000000000000000000000617263686976652f646174612e706b6c504b01020000000008080000"
    "000000001790e79118000000180000000e00000000000000000000000000f6000000617263686976652f646174612f30504b01020000"
    "00000808000000000000d19e675502000000020000000f0000000000000000000000000068010000617263686976652f76657273696f"
    "6e504b06062c000000000000001e032d00000000000000000003000000000000000300000000000000b700000000000000d201000000"
    "000000504b060700000000890200000000000001000000504b05060000000003000300b7000000d20100000000"
)
# torch 1.12.1: torch.save(OrderedDict((f"t{n}", torch.full((2,), float(n))) for n in range(12)), "many.pt")
MANY_SHA256 = "44ef95c2a5f947285e2ca5afad08d3d1bd7236244dc8802d069ac7982eb4eaa7"

NBYTES = {
    "111M": 486_188_257,
    "256M": 1_082_688_753,
    "590M": 2_436_818_753,
    "1.3B": 5_363_661_129,
    "2.7B": 10_740_572_549,
    "6.7B": 26_767_978_209,  # as published
}
TINY_FILES = {"pytorch_model.bin", "config.json", "vocab.json", "merges.txt"}


class TestLayout:
    def test_one_tensor_is_the_file_of_torch_1_12_byte_for_byte(self) -> None:
        layout = lay_out("archive", [Entry("w", F32, (2, 3), (3, 1))])

        pieces = layout.pieces(lambda _: known(np.arange(6, dtype="<f4").tobytes()))

        assert joined(pieces) == ONE_TENSOR
        assert layout.nbytes == 747

    def test_twelve_tensors_lie_in_the_order_of_their_keys_text_as_torch_1_12_writes_them(self) -> None:
        entries = [Entry(f"t{number}", F32, (2,), (1,)) for number in range(12)]

        pieces = lay_out("archive", entries, ordered=True).pieces(
            lambda entry: known(struct.pack("<f", int(entry.name[1:])) * 2)
        )

        assert hashlib.sha256(joined(pieces)).hexdigest() == MANY_SHA256

    @pytest.mark.parametrize("nbytes", [0, 1, 7, 64, 1000, 1 << 20])
    def test_crc_of_zeros_is_that_of_as_many_zero_bytes(self, nbytes: int) -> None:
        assert crc32_zeros(nbytes) == zlib.crc32(bytes(nbytes)) == crc32(bytes(nbytes))

    def test_crc_of_more_zeros_than_memory_holds(self) -> None:
        # zlib.crc32 of 8 GiB of zeros, a mebibyte at a time
        assert crc32_zeros(8 << 30) == 0x41D912FF


class TestSizes:
    @pytest.mark.parametrize(("name", "nbytes"), NBYTES.items())
    def test_a_single_file_has_the_size_of_the_published_one(self, name: str, nbytes: int, tmp_path: Path) -> None:
        write_sample(tmp_path, name, sparse=True)

        written = (tmp_path / "pytorch_model.bin").stat()
        assert written.st_size == nbytes
        assert written.st_blocks * 512 < 160 << 20  # the masks of 32 layers
        assert sample_nbytes(name) == nbytes + (tmp_path / "config.json").stat().st_size
        assert expected_nbytes(find(name), find(name).files[0]) == nbytes

    def test_the_shards_of_the_13b_and_their_index_have_the_sizes_that_the_hub_shows(self, tmp_path: Path) -> None:
        report = write_sample(tmp_path, "13B", sparse=True)

        sizes = {path.name: nbytes for path, nbytes in report.files}
        assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert [f"{sizes[f'pytorch_model-0000{n}-of-00002.bin'] / 1e9:.1f} GB" for n in (1, 2)] == [
            "29.7 GB",
            "21.9 GB",
        ]
        assert f"{sizes['pytorch_model.bin.index.json'] / 1e3:.1f} kB" == "35.3 kB"

    def test_the_13b_is_cut_inside_a_layer(self, tmp_path: Path) -> None:
        write_sample(tmp_path, "13B", sparse=True)

        shards = [open_checkpoint(tmp_path / f"pytorch_model-0000{n}-of-00002.bin") for n in (1, 2)]
        assert [len(shard) for shard in shards] == [322, 242]
        assert list(shards[0])[-1] == "h.22.mlp.c_fc.bias"
        assert next(iter(shards[1])) == "h.22.mlp.c_proj.weight"

    def test_expected_sizes_need_no_numpy(self) -> None:
        code = "import sys; from converter.sample import sample_nbytes; sample_nbytes('13B'); print('numpy' in sys.modules)"

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout == "False\n"


class TestContents:
    def test_tiny_has_the_names_shapes_and_strides_of_the_single_files(self, tmp_path: Path) -> None:
        write_sample(tmp_path)

        catalogue = open_checkpoint(tmp_path)
        rows = [(name, tensor.dtype.name, tensor.shape, tensor.stride) for name, tensor in catalogue.items()]
        assert len(rows) == 60
        assert rows[:16] == [
            ("transformer.wte.weight", "F32", (257, 64), (64, 1)),
            ("transformer.wpe.weight", "F32", (64, 64), (64, 1)),
            ("transformer.h.0.attn.c_attn.weight", "F32", (64, 192), (1, 64)),
            ("transformer.h.0.attn.c_attn.bias", "F32", (192,), (1,)),
            ("transformer.h.0.attn.bias", "U8", (1, 1, 64, 64), (4096, 4096, 64, 1)),
            ("transformer.h.0.attn.masked_bias", "F32", (), ()),
            ("transformer.h.0.attn.c_proj.weight", "F32", (64, 64), (1, 64)),
            ("transformer.h.0.attn.c_proj.bias", "F32", (64,), (1,)),
            ("transformer.h.0.ln_1.weight", "F32", (64,), (1,)),
            ("transformer.h.0.ln_1.bias", "F32", (64,), (1,)),
            ("transformer.h.0.ln_2.weight", "F32", (64,), (1,)),
            ("transformer.h.0.ln_2.bias", "F32", (64,), (1,)),
            ("transformer.h.0.mlp.c_fc.weight", "F32", (64, 256), (1, 64)),
            ("transformer.h.0.mlp.c_fc.bias", "F32", (256,), (1,)),
            ("transformer.h.0.mlp.c_proj.weight", "F32", (256, 64), (1, 256)),
            ("transformer.h.0.mlp.c_proj.bias", "F32", (64,), (1,)),
        ]
        assert [row[0] for row in rows[-2:]] == ["transformer.ln_f.weight", "transformer.ln_f.bias"]

    def test_tiny_13b_has_bare_names_bool_masks_and_row_major_matrices(self, tmp_path: Path) -> None:
        write_sample(tmp_path, "tiny-13B")

        one, two = (open_checkpoint(tmp_path / f"pytorch_model-0000{n}-of-00002.bin") for n in (1, 2))
        rows = [(name, tensor.dtype.name, tensor.shape, tensor.stride) for name, tensor in one.items()]
        assert (len(one), len(two)) == (42, 18)
        assert rows[2:8] == [
            ("h.0.ln_1.weight", "F32", (64,), (1,)),
            ("h.0.ln_1.bias", "F32", (64,), (1,)),
            ("h.0.attn.bias", "BOOL", (1, 1, 64, 64), (4096, 4096, 64, 1)),
            ("h.0.attn.masked_bias", "F32", (), ()),
            ("h.0.attn.c_attn.weight", "F32", (64, 192), (192, 1)),
            ("h.0.attn.c_attn.bias", "F32", (192,), (1,)),
        ]
        assert next(iter(two)) == "h.2.mlp.c_proj.weight"
        with zipfile.ZipFile(tmp_path / "pytorch_model-00002-of-00002.bin") as archive:
            assert archive.namelist()[0] == "pytorch_model-00002-of-00002/data.pkl"

    def test_the_index_of_tiny_13b_names_the_shard_of_each_tensor(self, tmp_path: Path) -> None:
        write_sample(tmp_path, "tiny-13B")

        index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_bytes())
        assert index["metadata"] == {"total_size": 898_832}
        assert len(index["weight_map"]) == 60
        assert index["weight_map"]["h.2.mlp.c_fc.weight"] == "pytorch_model-00001-of-00002.bin"
        assert index["weight_map"]["h.2.mlp.c_proj.weight"] == "pytorch_model-00002-of-00002.bin"

    @pytest.mark.parametrize("model", ["tiny", "tiny-13B"])
    def test_masks_are_causal_and_norms_lie_around_one(self, model: str, tmp_path: Path) -> None:
        write_sample(tmp_path, model)

        catalogue = open_checkpoint(tmp_path)
        tensors = {name.removeprefix("transformer."): tensor.bits() for name, tensor in catalogue.items()}
        assert np.array_equal(tensors["h.3.attn.bias"][0, 0], np.tril(np.ones((64, 64))))
        assert tensors["h.3.attn.masked_bias"] == -10000
        assert tensors["ln_f.weight"].mean() == pytest.approx(1, abs=0.1)
        assert tensors["wte.weight"].mean() == pytest.approx(0, abs=0.01)
        assert tensors["wte.weight"].std() == pytest.approx(0.2, abs=0.01)
        drawn = [
            tensor.tobytes() for name, tensor in tensors.items() if not name.endswith((".attn.bias", "masked_bias"))
        ]
        assert len(set(drawn)) == 52

    @pytest.mark.parametrize(("model", "sparse"), [("tiny", False), ("tiny-13B", False), ("tiny", True)])
    def test_zipfile_finds_every_crc_right(self, model: str, sparse: bool, tmp_path: Path) -> None:
        write_sample(tmp_path, model, sparse=sparse)

        for path in tmp_path.glob("*.bin"):
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None

    def test_sparse_is_zeros_but_for_the_masks(self, tmp_path: Path) -> None:
        write_sample(tmp_path, sparse=True)

        for name, tensor in open_checkpoint(tmp_path).items():
            if name.endswith(".attn.bias"):
                assert tensor.bits().sum() == 64 * 65 // 2
            elif name.endswith(".masked_bias"):
                assert tensor.bits() == -10_000
            else:
                assert not tensor.bits().any()

    def test_config_json_has_just_the_published_keys(self, tmp_path: Path) -> None:
        write_sample(tmp_path, "6.7B", sparse=True)

        assert json.loads((tmp_path / "config.json").read_bytes()) == {
            "model_type": "gpt2", "n_embd": 4096, "tie_word_embeddings": True, "n_positions": 2048, "vocab_size": 50257,
            "n_layer": 32, "resid_pdrop": 0.0, "layer_norm_epsilon": 1e-05, "n_head": 32, "scale_attn_weights": True,
            "attn_pdrop": 0.0, "n_inner": 16384, "activation_function": "gelu", "embd_pdrop": 0.0,
        }  # fmt: skip
        assert not (tmp_path / "vocab.json").exists()

    def test_the_tokens_of_tiny_are_bytes_in_the_order_of_gpt2(self, tmp_path: Path) -> None:
        write_sample(tmp_path)

        vocabulary = json.loads((tmp_path / "vocab.json").read_bytes())
        assert sorted(vocabulary.values()) == list(range(257))
        # As in GPT-2's own vocab.json, except for the last one.
        expected = {
            "!": 0,
            "a": 64,
            "~": 93,
            "¡": 94,
            "®": 106,
            "Ã": 127,
            "ô": 176,
            "Ā": 188,
            "Ċ": 198,
            "Ġ": 220,
            "Ń": 255,
        }
        assert {token: vocabulary[token] for token in expected} == expected
        assert vocabulary["<|endoftext|>"] == 256
        lines = (tmp_path / "merges.txt").read_text().split("\n")
        assert (lines[0], lines[1], lines[-3], lines[-2], lines[-1]) == ("#version: 0.2", "h e", "in g", "Ġ the", "")
        merged = [line.replace(" ", "") for line in lines[1:-1]]
        assert len(merged) == 13
        assert merged[0] == "he"
        # They take the place of the bytes that UTF-8 does not use.
        assert [vocabulary[token] for token in merged] == [124, 125, *range(177, 188)]


class TestSeeds:
    def test_a_seed_gives_the_same_bytes_whatever_is_drawn_at_once(self, tmp_path: Path) -> None:
        write_sample(tmp_path / "one")
        with portioned(Portions(noise=1012)):
            write_sample(tmp_path / "two")

        assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")

    @pytest.mark.parametrize("seed", [0, 1235, -1, 1 << 70])
    def test_another_seed_gives_other_weights(self, seed: int, tmp_path: Path) -> None:
        write_sample(tmp_path / "one")
        write_sample(tmp_path / "two", seed=seed)

        assert _bytes(tmp_path / "one")["pytorch_model.bin"] != _bytes(tmp_path / "two")["pytorch_model.bin"]


class TestWriting:
    def test_the_report_names_each_file_with_its_size(self, tmp_path: Path) -> None:
        report = write_sample(tmp_path / "new" / "folder")

        assert {path.name for path, _ in report.files} == TINY_FILES
        assert all(path.stat().st_size == nbytes for path, nbytes in report.files)
        assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == TINY_FILES
        assert (report.model, report.seed, report.sparse) == ("tiny", 1234, False)

    @pytest.mark.parametrize("sparse", [False, True])
    def test_progress_adds_up_to_the_bytes_of_all_files(self, sparse: bool, tmp_path: Path) -> None:
        told: list[int] = []

        write_sample(tmp_path, "tiny-13B", sparse=sparse, progress=told.append)

        assert sum(told) == sample_nbytes("tiny-13B") == sum(path.stat().st_size for path in tmp_path.iterdir())

    @pytest.mark.parametrize("name", sorted(TINY_FILES))
    def test_refuses_to_replace_a_file_unless_forced(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text("mine")

        with pytest.raises(OutputError, match=f"{name}` exists: give --force"):
            write_sample(tmp_path)
        assert _bytes(tmp_path) == {name: b"mine"}

        write_sample(tmp_path, force=True)
        assert (tmp_path / name).read_bytes() != b"mine"

    def test_refuses_a_folder_with_the_shards_of_another_checkpoint(self, tmp_path: Path) -> None:
        write_sample(tmp_path, "tiny-13B")

        with pytest.raises(OutputError, match="of another checkpoint"):
            write_sample(tmp_path, "tiny", force=True)

    def test_refuses_a_target_that_is_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").mkdir()

        with pytest.raises(OutputError, match="is a folder, where a file should be written"):
            write_sample(tmp_path, force=True)

    def test_refuses_a_path_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")

        with pytest.raises(OutputError, match="can't be written: not a directory"):
            write_sample(tmp_path / "file")

    def test_refuses_more_bytes_than_the_disk_has_room_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = os.statvfs(tmp_path)
        blocks = (3 << 19) // disk.f_frsize  # of which a mebibyte is kept free
        full = os.statvfs_result((*disk[:4], blocks, *disk[5:10]))
        monkeypatch.setattr(os, "statvfs", lambda _: full)

        with pytest.raises(OutputError, match=r"needs 919,780 bytes and there is room for"):
            write_sample(tmp_path / "new")
        assert list(tmp_path.iterdir()) == []

        write_sample(tmp_path / "new", sparse=True)

    def test_an_interrupted_run_leaves_what_was_there(self, tmp_path: Path) -> None:
        write_sample(tmp_path / "old")
        before = _bytes(tmp_path / "old")

        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        for folder in ("old", "new"):
            with pytest.raises(KeyboardInterrupt):
                write_sample(tmp_path / folder, seed=1, force=True, progress=interrupt)
        assert _bytes(tmp_path / "old") == before
        assert not (tmp_path / "new").exists()

    def test_refuses_a_folder_that_another_run_writes(self, tmp_path: Path) -> None:
        def again(_: int) -> None:
            write_sample(tmp_path)

        with pytest.raises(OutputError, match="is being written by another run"):
            write_sample(tmp_path, progress=again)

    def test_an_unknown_model_is_refused_with_all_that_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(
            ModelError,
            match=r"`7B` is not a declared model: .*Cerebras-GPT-13B, tiny, tiny-13B, tiny-13B-prefixed, gpt2, bloom, .*, llama, mistral, ",
        ):
            write_sample(tmp_path / "new", "7B")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.large
    def test_memory_does_not_grow_with_the_model(self, tmp_path: Path) -> None:
        write_sample(tmp_path / "tiny")
        tracemalloc.start()
        try:
            write_sample(tmp_path / "new", "111M")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak < 16 << 20


def joined(pieces: Iterable[Piece]) -> bytes:
    return b"".join(bytes(tile) for piece in pieces for tile in piece.tiles())


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_declared_sizes_are_those_that_the_layout_gives() -> None:
    sizes = {
        (model.name, file.name): (file.nbytes, expected_nbytes(model, file))
        for model in declared()
        for file in model.files
    }

    assert {name: pair for name, pair in sizes.items() if pair[0] not in (None, pair[1])} == {}
    assert [name for name, pair in sizes.items() if pair[0] is None] == [
        ("Cerebras-GPT-13B", "pytorch_model-00001-of-00002.bin"), ("Cerebras-GPT-13B", "pytorch_model-00002-of-00002.bin"),
    ]  # fmt: skip


FAMILIES = [name for name in samples() if not name.startswith("tiny")]
NO_GGUF = ("gpt_neo", "opt", "galactica", "xglm")


class TestFamilies:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_it_goes_the_whole_way_without_torch(self, name: str, tmp_path: Path) -> None:
        write_sample(tmp_path / "source", name)
        source = open_checkpoint(tmp_path / "source")

        convert(source, tmp_path / "safe", to="safetensors")
        outputs = [tmp_path / "safe"]
        if name in NO_GGUF:
            with pytest.raises(UnsupportedError, match="can't be written as GGUF, because"):
                convert(source, tmp_path / "o.gguf")
        else:
            convert(source, tmp_path / "o.gguf")
            convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")
            outputs += [tmp_path / "o.gguf", tmp_path / "back"]

        report = verify(source, outputs, Options(level="inference"))
        # Vectors are F32 in every GGUF, which loses nothing of F16 and BF16.
        whole = {tensor.dtype.name for tensor in source.values()} <= {"F32", "U8", "BOOL"}
        widened = "identical" if whole else "equivalent"
        assert [output.verdict for output in report.outputs] == ["identical", widened, widened][: len(outputs)]
        assert [(output.inference or {})["max_difference"] for output in report.outputs] == [0] * len(outputs)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_its_weights_differ_and_its_buffers_are_those_of_the_family(self, name: str, tmp_path: Path) -> None:
        write_sample(tmp_path, name)

        catalogue = open_checkpoint(tmp_path)
        found = recognise(catalogue, catalogue.config)
        assert found is not None
        assert set(droppable(catalogue, found)) == set(found.buffers)
        drawn = {tensor.bits().tobytes() for key, tensor in catalogue.items() if key not in found.buffers}
        assert len(drawn) == len(catalogue) - len(found.buffers)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_inspect_finds_nothing_wrong_with_it(self, name: str, tmp_path: Path) -> None:
        write_sample(tmp_path, name)

        assert inspect(open_checkpoint(tmp_path)).problems == ()

    @pytest.mark.parametrize("name", FAMILIES)
    def test_its_tokenizer_merges(self, name: str, tmp_path: Path) -> None:
        write_sample(tmp_path, name)

        tokenizer = read_tokenizer(tmp_path)
        rows = json.loads((tmp_path / "config.json").read_bytes())["vocab_size"] if name != "nanogpt" else 257
        assert tokenizer.size == rows
        assert {"in", "the"} <= {token.text.removeprefix("▁") for token in tokenizer.tokens.values()}
        assert tokenizer.merges or tokenizer.kind in ("scored-pair", "unigram")

    @pytest.mark.parametrize(
        ("name", "files", "first", "dtypes"),
        [
            ("gpt2", ["pytorch_model.bin"], "wte.weight", {"F32"}),
            (
                "bloom",
                ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
                "word_embeddings.weight",
                {"F16"},
            ),
            (
                "gpt_neox",
                ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
                "gpt_neox.embed_in.weight",
                {"F16", "U8", "F32"},
            ),
            (
                "llama",
                ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
                "model.embed_tokens.weight",
                {"F16", "F32"},
            ),
            ("gptj", ["pytorch_model.bin"], "transformer.wte.weight", {"F32", "U8"}),
            ("opt", ["pytorch_model.bin"], "decoder.embed_tokens.weight", {"F16"}),
            ("qwen2", ["pytorch_model.bin"], "model.embed_tokens.weight", {"BF16"}),
            ("nanogpt", ["ckpt.pt"], "transformer.wte.weight", {"F32"}),
            (
                "tiny-13B-prefixed",
                ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
                "transformer.wte.weight",
                {"F32", "BOOL"},
            ),
        ],
    )
    def test_it_has_the_layout_that_people_have(
        self, name: str, files: list[str], first: str, dtypes: set[str], tmp_path: Path
    ) -> None:
        write_sample(tmp_path, name)

        assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt")) == files
        catalogue = open_checkpoint(tmp_path)
        assert next(iter(catalogue)) == first
        assert {tensor.dtype.name for tensor in catalogue.values()} == dtypes

    def test_a_seed_gives_the_same_bytes_and_another_gives_others(self, tmp_path: Path) -> None:
        for folder, seed in (("one", 1), ("two", 1), ("three", 2)):
            write_sample(tmp_path / folder, "llama", seed=seed)

        one, two, three = (_bytes(tmp_path / folder) for folder in ("one", "two", "three"))
        assert one == two
        assert one["pytorch_model-00001-of-00002.bin"] != three["pytorch_model-00001-of-00002.bin"]

    @pytest.mark.parametrize("spelled", ["GPT_NeoX", "gpt-neox"])
    def test_a_family_is_found_however_it_is_spelled(self, spelled: str, tmp_path: Path) -> None:
        assert write_sample(tmp_path, spelled).model == "gpt_neox"
