"""The functions that other programs call: with paths, texts and catalogues, with wrong words, from two threads."""

from __future__ import annotations

import ast
import inspect
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from typer.testing import CliRunner

import converter as ct
from converter import errors, words
from converter.cli.app import app
from converter.dtypes import BF16, BOOL, C32, F4, F8_E4M3, F16, F32, Dtype
from converter.formats import WRITABLE
from converter.io.local import LocalFile
from converter.io.source import Memory
from converter.limits import using
from converter.reports.checking import CheckReport, UnreadReport
from converter.tensors.tensor import Storage, Tensor
from tests.build.checkpoints import floats, row_major, view, write_checkpoint

NAME = "transformer.h.1.attn.c_attn.weight"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
# Options that are named whoever calls: with the command that has them, of other programs, and in what only commands print.
NOT_OURS = {
    ("checking/rules.py", "--tie"),
    ("errors.py", "--limit"),
    ("formats/gguf/encodings.py", "--allow-requantize"),
    ("hub/locations.py", "--offline"),
    *(("inspection/said.py", name) for name in ("--ema", "--filter", "--root")),
    ("models/tokenizers/sentencepiece.py", "--byte"),
    *(("scanning/second_opinion.py", name) for name in ("--net", "--user")),
    *(("words.py", name) for name in ("--limit", "--write-manifest")),
}


def tensor(dtype: Dtype, data: bytes, shape: tuple[int, ...]) -> Tensor:
    return Tensor(dtype, shape, row_major(shape), 0, Storage(Memory(data), 0, len(data), "0"))


@pytest.fixture(params=[str, Path, ct.open], ids=["text", "path", "catalogue"])
def source(request: pytest.FixtureRequest, tiny: Path) -> Any:
    """The tiny sample in each form that a function accepts."""
    return request.param(tiny)


class TestEveryFunctionTakesEverySource:
    def test_inspect(self, source: Any) -> None:
        assert ct.inspect(source).totals.parameters == 220_608

    @pytest.mark.parametrize("kind", [str, Path])
    def test_convert(self, source: Any, kind: Any, tmp_path: Path) -> None:
        report = ct.convert(source, kind(tmp_path / "model.gguf"), dtype="q8_0")

        assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"
        assert report.format == "gguf"

    def test_extract(self, source: Any, tmp_path: Path) -> None:
        report = ct.extract(source, tmp_path / "plain", form="named")

        assert report.form == "named"
        assert (tmp_path / "plain" / "manifest.json").is_file()

    def test_verify(self, source: Any, tmp_path: Path) -> None:
        ct.convert(source, tmp_path / "a.safetensors")
        ct.convert(source, tmp_path / "b.safetensors", dtype="bf16")

        report = ct.verify(source, tmp_path / "a.safetensors", str(tmp_path / "b.safetensors"))

        assert report.ok
        assert [output.verdict for output in report.outputs] == ["identical", "equivalent"]

    def test_scan(self, source: Any) -> None:
        assert ct.scan(source).verdict == "plain"

    def test_check(self, source: Any) -> None:
        assert ct.check(source).counts == {"error": 0, "warning": 0}


class TestAnOpenCatalogueIsTakenAsItWasOpened:
    """An earlier version opened its location again, so what was chosen when it was opened did not count."""

    @pytest.fixture
    def averaged(self, tmp_path: Path) -> Path:
        made = {"state_dict": {"w": view("0", (2,))}, "ema": {"w": view("1", (2,))}}
        return write_checkpoint(tmp_path / "ema.pt", made, {"0": floats(1, 2), "1": floats(8, 9)})

    @pytest.mark.parametrize("chosen", [{"ema": True}, {"root": "ema"}], ids=str)
    def test_verify_compares_the_part_that_was_chosen(self, chosen: Any, averaged: Path, tmp_path: Path) -> None:
        model, part = ct.open(averaged), ct.open(averaged, **chosen)
        ct.convert(model, tmp_path / "model.safetensors")
        ct.convert(part, tmp_path / "part.safetensors")

        assert ct.verify(tmp_path / "part.safetensors", part).ok
        assert ct.verify(tmp_path / "model.safetensors", model).ok
        assert not ct.verify(tmp_path / "model.safetensors", part).ok
        assert not ct.verify(tmp_path / "part.safetensors", model).ok

    def test_verify_compares_the_weights_that_were_chosen(self, tiny: Path, tmp_path: Path) -> None:
        both = tmp_path / "both"
        ct.convert(tiny, both, to="safetensors")
        write_checkpoint(both / "pytorch_model.bin", {"w": view("0", (2,))}, {"0": floats(1, 2)})

        assert ct.verify(tiny, ct.open(both)).ok
        assert ct.verify(both / "pytorch_model.bin", ct.open(both, weights="bin")).ok
        assert not ct.verify(tiny, ct.open(both, weights="bin")).ok

    def test_check_looks_at_the_part_that_was_chosen(self, tmp_path: Path) -> None:
        made = {"state_dict": {"w": view("0", (2,))}, "ema": {"w": view("1", (2,))}}
        path = write_checkpoint(tmp_path / "m.pt", made, {"0": floats(1, 2), "1": floats(float("nan"), 9)})
        averaged = ct.open(path, ema=True)

        assert ct.check(ct.open(path)).counts["error"] == 0
        assert [fault.rule for fault in ct.check(averaged).checkpoints[0].faults] == ["nan"]
        assert averaged["w"].numpy()[1] == 9  # it stays open

    def test_its_files_beside_the_weights_are_found(self, tiny: Path, tmp_path: Path) -> None:
        ct.convert(tiny, tmp_path / "out", to="safetensors")

        found = ct.verify(tiny, ct.open(tmp_path / "out"), tmp_path / "out").outputs

        assert (found[0].verdict, found[0].companions, found[0].agree) == ("identical", "equal", found[1].agree)
        (tmp_path / "out" / "vocab.json").write_text("{}")
        assert ct.verify(tiny, ct.open(tmp_path / "out")).outputs[0].companions == "different"

    def test_nothing_is_chosen_twice(self, tiny: Path) -> None:
        opened = ct.open(tiny)
        for call in (
            lambda: ct.check(opened, ema=True),
            lambda: ct.check(opened, root="a"),
            lambda: ct.open(opened, limits=ct.Limits()),
            lambda: ct.inspect(opened, weights="bin"),
        ):
            with pytest.raises(ct.WordError, match="because the catalogue is open already"):
                call()

    @pytest.mark.parametrize("engine", ["transformers", "llama.cpp"])
    def test_an_engine_that_reads_files_takes_no_catalogue(self, engine: Any, tiny: Path) -> None:
        with pytest.raises(ct.WordError, match="give the path of the output instead of a catalogue"):
            ct.verify(tiny, ct.open(tiny), engine=engine, level="inference")

    def test_one_that_was_closed_is_refused(self, tiny: Path, tmp_path: Path) -> None:
        with ct.open(tiny) as closed:
            pass
        for call in (
            lambda: ct.open(closed),
            lambda: ct.inspect(closed),
            lambda: ct.check(closed),
            lambda: ct.scan(closed),
            lambda: ct.convert(closed, tmp_path / "out.npz"),
            lambda: ct.verify(closed, tiny),
            lambda: ct.verify(tiny, closed),
        ):
            with pytest.raises(ct.SourceError, match="was closed"):
                call()

        assert list(tmp_path.iterdir()) == []


class TestTheWorkingFolderMayChange:
    """An earlier version looked for the files beside a relative path in the folder that the program was in by then."""

    @pytest.fixture
    def opened(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.chdir(tiny.parent)
        catalogue = ct.open(tiny.name)
        monkeypatch.chdir(tmp_path)
        return catalogue

    def test_the_tokenizer_goes_along(self, opened: Any, tiny: Path, tmp_path: Path) -> None:
        ct.convert(opened, tmp_path / "out", to="safetensors")
        ct.convert(opened, tmp_path / "out.gguf")
        ct.convert(tiny, tmp_path / "before", to="safetensors")
        ct.convert(tiny, tmp_path / "before.gguf")

        names = [path.name for path in (tmp_path / "out").iterdir()]
        assert sorted(names) == sorted(path.name for path in (tmp_path / "before").iterdir())
        assert "vocab.json" in names
        assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "before.gguf").read_bytes()

    def test_every_function_takes_it(self, opened: Any, tiny: Path, tmp_path: Path) -> None:
        assert ct.scan(opened).verdict == "plain"
        assert ct.check(opened).checkpoints[0].faults == ct.check(tiny).checkpoints[0].faults
        assert ct.verify(tiny, opened).outputs[0].companions == "equal"
        assert ct.extract(opened).folder == f"parameters/{tiny.name}"
        assert opened.location == f"{tiny.name}/pytorch_model.bin"  # as it was given

    def test_a_copy_is_read_by_both_readers(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ct.convert(tiny, tmp_path / "out.safetensors")
        ct.extract(tiny, tmp_path / "plain")
        monkeypatch.chdir(tmp_path)
        copies = [ct.open("out.safetensors"), ct.open("plain")]
        monkeypatch.chdir(tiny)

        for copy in copies:
            found = ct.verify(tiny, copy).outputs[0]
            # A parameters folder has no tokenizer, which is said of it.
            assert (found.verdict, {note.name for note in found.notes} - {"tokenizer"}) == ("identical", set())

    def test_files_of_many_are_opened_again(
        self, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(sharded.parent)
        catalogue = ct.open(sharded.name)
        monkeypatch.chdir(tmp_path)
        for source in catalogue.origin.sources:
            assert isinstance(source, LocalFile)
            assert source.let_go()

        assert all(catalogue[name].bits().size for name in catalogue)


WRONG = {
    "to": (lambda at, out: ct.convert(at, out, to="onnx"), "to is 'onnx': choose safetensors, gguf, parameters, npz"),  # type: ignore[arg-type]
    "dtype": (lambda at, out: ct.convert(at, f"{out}.gguf", dtype="q9_9"), "dtype is 'q9_9': choose keep, f32, f16"),  # type: ignore[arg-type]
    "form": (lambda at, out: ct.extract(at, out, form="nmaed"), "form is 'nmaed': choose storages, named"),  # type: ignore[arg-type]
    "sort": (lambda at, out: ct.inspect(at, sort="sise"), "sort is 'sise': choose name, size"),  # type: ignore[arg-type]
    "level": (lambda at, out: ct.verify(at, at, level="bits"), "level is 'bits': choose tensors, inference"),  # type: ignore[arg-type]
    "engine": (lambda at, out: ct.verify(at, at, engine="torch"), "engine is 'torch': choose numpy, transformers, llama"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize(("call", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_word_lists_the_right_ones_before_anything_is_read_or_written(
    call: Any, said: str, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"

    with pytest.raises(ValueError, match=said) as raised:
        call(absent, tmp_path / "out")

    assert isinstance(raised.value, ct.WordError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_shard_size": -5},
        {"max_shard_size": "5GB"},
        {"max_shard_size": 0},
        {"threads": 0},
        {"dtype": None},
        {"dtype": ["f16"]},
    ],
)
def test_a_wrong_number_is_a_value_error_before_anything_is_read(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ct.convert(tmp_path / "absent", tmp_path / "out.safetensors", **wrong)

    assert list(tmp_path.iterdir()) == []


TOGETHER = {
    "hashes without statistics": (
        lambda at: ct.inspect(at, sha256=True),
        "sha256 is True: choose False, or give stats=True, too",
    ),
    "tokens without inference": (lambda at: ct.verify(at, at, tokens="x"), "'tensors': choose inference, which tokens"),
    "a prompt without inference": (lambda at: ct.verify(at, at, prompt=""), "'tensors': choose inference, which prompt"),
    "an engine without inference": (
        lambda at: ct.verify(at, at, engine="transformers"),
        "level is 'tensors': choose inference, which engine is for",
    ),
    "tokens and a prompt": (
        lambda at: ct.verify(at, at, level="inference", tokens="x", prompt="y"),
        "prompt is 'y': choose None, because tokens are given, too",
    ),
    "a root that is no text": (lambda at: ct.convert(at, "out.npz", root=3), "root is 3: choose a key as text"),  # type: ignore[arg-type]
    "the same of open_checkpoint": (lambda at: ct.open_checkpoint(at, root=3), "root is 3: choose a key as text"),  # type: ignore[arg-type]
    "ema that is a key": (lambda at: ct.open(at, ema="model_ema"), "ema is 'model_ema': choose True, False, and give"),  # type: ignore[arg-type]
    "ema and a root": (lambda at: ct.check(at, ema=True, root="x"), "root is 'x': choose None, because `ema`"),
    "a limit below zero": (lambda at: ct.Limits(entries=-3), "entries is -3: choose a whole number from 0"),
    "a limit that is a text": (lambda at: ct.Limits(entries="3"), "entries is '3': choose a whole number from 0"),  # type: ignore[arg-type]
    "a limit that is no whole number": (lambda at: ct.Limits(rank=1.5), "rank is 1.5: choose"),  # type: ignore[arg-type]
    "a limit that is a truth": (lambda at: ct.Limits(rank=True), "rank is True: choose"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "said"), TOGETHER.values(), ids=TOGETHER)
def test_what_would_not_count_is_refused_before_anything_is_read(call: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ct.WordError) as raised:
        call(tmp_path / "absent")

    assert said in str(raised.value)
    assert list(tmp_path.iterdir()) == []


class TestMessagesNameOptionsAsPythonDoes:
    def test_an_output_that_exists(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "x.npz").touch()
        with pytest.raises(ct.OutputError, match="exists: give force=True to replace it"):
            ct.convert(tiny, tmp_path / "x.npz")
        with pytest.raises(ct.OutputError, match="is not empty: give force=True"):
            ct.extract(tiny, tmp_path)

        ct.convert(tiny, tmp_path / "x.npz", force=True)  # what is advised works

    def test_an_ending_that_no_format_has(self, tiny: Path, tmp_path: Path) -> None:
        with pytest.raises(ct.OutputError, match=r"say to='safetensors', 'gguf', 'parameters', 'npz'$"):
            ct.convert(tiny, tmp_path / "x")

    def test_a_folder_of_several_checkpoints(self, tmp_path: Path) -> None:
        for name in ("a.gguf", "b.gguf", "pytorch_model.bin"):
            (tmp_path / name).touch()
        with pytest.raises(ct.FormatError, match="weights='bin'"):
            ct.open(tmp_path)

    def test_averaged_weights_that_are_absent(self, tiny: Path) -> None:
        with pytest.raises(ct.FormatError, match="leave ema out, or root='NAME' takes the part below a name"):
            ct.inspect(tiny, ema=True)

    def test_a_checkpoint_without_crcs(self, tiny: Path, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "m.pt", {"w": view("0", (2,))}, {"0": floats(1, 2)})
        unchecked = replace(ct.open(path), unchecked=True)
        with pytest.raises(ct.UnsupportedError, match="give check_crc=False to go on"):
            ct.convert(unchecked, tmp_path / "x.npz")

        ct.convert(unchecked, tmp_path / "x.npz", check_crc=False)

    def test_what_a_conversion_leaves_behind(self, tiny: Path, tmp_path: Path) -> None:
        text = {
            "w": view("0", (2,)),
            "epoch": "3",
            "model_ema": {"w": view("1", (2,))},
            "other": {"w": view("1", (2,))},
        }
        path = write_checkpoint(tmp_path / "m.pt", text, {"0": floats(1, 2), "1": floats(3, 4)})
        (tmp_path / "own.py").touch()
        report = ct.convert(path, tmp_path / "out", to="safetensors")

        said = " ".join(left.reason for left in report.dropped)
        assert "--" not in said, said

    def test_a_head_that_is_not_tied(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "m.pt", {"w": view("0", (2,))}, {"0": floats(1, 2)})

        assert "tie=True finds no head beside an embedding" in ct.convert(path, tmp_path / "x.npz", tie=True).notes

    def test_a_dtype_by_name(self) -> None:
        assert words.rule("tensor-type", "wte", "keep") == "--tensor-type wte=keep"
        with words.in_python():
            assert words.rule("tensor-type", "wte", "keep") == "tensor_type={'wte': 'keep'}"

    def test_a_limit(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pkl"
        path.write_bytes(b"\x80\x02X" + (200_000).to_bytes(4, "little") + b"a" * 200_000 + b".")
        with using(ct.Limits(pickle_bytes=100)):
            said = ct.scan(path).files[0].findings[-1].message
        assert said.endswith("work within using(Limits(pickle_bytes=…)) of converter.limits to read on")

        assert ct.scan(path).verdict == "plain"

    def test_no_message_outside_of_the_commands_names_an_option_of_theirs(self) -> None:
        package, found = Path(ct.__file__).parent, set[tuple[str, str]]()
        for path in package.rglob("*.py"):
            if path.is_relative_to(package / "cli"):
                continue
            tree = ast.parse(path.read_text())
            docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)}
            texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
            for text in texts:
                if isinstance(text, str) and text not in docs:
                    options = re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
                    found |= {(path.relative_to(package).as_posix(), one) for one in options}

        assert found == NOT_OURS

    def test_the_command_line_is_told_otherwise(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "x.npz").touch()
        with pytest.raises(ct.OutputError):
            ct.convert(tiny, tmp_path / "x.npz")
        done = CliRunner().invoke(app, ["convert", str(tiny), str(tmp_path / "x.npz")])

        assert "exists: give --force to replace it" in done.output

    def test_every_option_is_an_argument_of_a_function(self) -> None:
        arguments = {name for name in ct.__all__ if inspect.isfunction(getattr(ct, name))}
        arguments = {name for function in arguments for name in inspect.signature(getattr(ct, function)).parameters}
        named: set[str] = set()
        for path in (Path(ct.__file__).parent).rglob("*.py"):
            named |= set(re.findall(r"\b(?:option|rule)\('([a-z-]+)'", path.read_text()))

        with words.in_python():
            said = {words.option(name).partition("=")[0] for name in named}
            assert said <= arguments | {"HF_HUB_OFFLINE", "cerebras-tool verify --write-manifest"}
        assert {"force", "no-crc", "root"} <= named


def test_every_error_is_exported() -> None:
    ours = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }

    assert {name for name in ct.__all__ if name.endswith("Error")} == ours
    assert len(ours) > 20
    assert all(vars(errors)[name] is getattr(ct, name) for name in ours)


@pytest.mark.parametrize("form", [str, Path])
def test_download_takes_texts_and_paths(form: Any) -> None:
    with pytest.raises(ct.ModelError, match="`absent` is not a declared model"):
        ct.download(form("absent"))
    with pytest.raises(ct.SourceError, match="`a/b/c` names no repository"):
        ct.download(form("a/b/c"))


def test_download_refuses_a_catalogue_that_is_not_from_the_hub(tiny: Path) -> None:
    with pytest.raises(ct.SourceError, match="names no repository"):
        ct.download(ct.open(tiny))


def test_what_an_output_can_not_take_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ct.OutputError, match="leave max_shard_size out"):
        ct.convert(tiny, tmp_path / "plain", to="parameters", max_shard_size=1000)
    with pytest.raises(ct.SourceError, match="is not a folder: tokenizer names"):
        ct.convert(tiny, tmp_path / "out", to="safetensors", tokenizer=tmp_path / "absent")
    with pytest.raises(ct.WordError, match="root"):
        ct.inspect(ct.open(tiny), root="model")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["bfloat16", "BF16", "torch.bfloat16"])
def test_a_dtype_may_be_spelled_as_people_do(word: Any, tiny: Path, tmp_path: Path) -> None:
    assert ct.convert(tiny, tmp_path / "x.safetensors", dtype=word).dtype == "bf16"


def test_the_words_for_type_checkers_are_those_of_the_formats() -> None:
    assert get_args(words.Target) == tuple(format.name for format in WRITABLE)
    assert get_args(words.DtypeWord) == tuple(
        dict.fromkeys(word for format in WRITABLE for word in (*format.dtypes, *format.mixtures))
    )


def test_a_wrong_path_is_one_sentence(tmp_path: Path) -> None:
    for call in (ct.open, ct.inspect, ct.scan):
        with pytest.raises(ct.ConverterError, match=r"(no such file or folder: `.*absent`|`.*absent` can't be opened)"):
            call(tmp_path / "absent")


class TestCatalogue:
    def test_leaving_the_block_closes_the_files(self, tiny: Path) -> None:
        with ct.open(tiny) as catalogue:
            kept = catalogue[NAME]
            kept.numpy()

        with pytest.raises(ct.SourceError, match="was closed"):
            kept.numpy()

    def test_a_name_that_is_missing_brings_those_that_are_like_it(self, tiny: Path) -> None:
        catalogue = ct.open(tiny)

        with pytest.raises(KeyError) as raised:
            catalogue[NAME.replace("attn.weight", "attn.wieght")]

        assert str(raised.value).endswith(
            f"did you mean `{NAME}`, `transformer.h.3.attn.c_attn.weight`, `transformer.h.2.attn.c_attn.weight`?"
        )
        with pytest.raises(KeyError, match=r"there is no tensor `absent` in `[^`]*`$"):
            catalogue["absent"]
        assert catalogue.get("absent") is None
        assert catalogue.get("absent", 1) == 1

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("wte.weight", "transformer.wte.weight"),
            ("h.0.ln_1.bias", "transformer.h.0.ln_1.bias"),
            ("token_embd.weight", "transformer.wte.weight"),
            ("blk.1.attn_qkv.weight", NAME),
        ],
    )
    def test_a_name_of_another_form_brings_the_one_that_is_here(self, name: str, meant: str, tiny: Path) -> None:
        with pytest.raises(KeyError) as raised:
            ct.open(tiny)[name]

        assert str(raised.value).endswith(f"did you mean `{meant}`?")

    def test_in_a_gguf_file_the_names_of_the_folder_are_known(self, tiny: Path, tmp_path: Path) -> None:
        ct.convert(tiny, tmp_path / "x.gguf")

        with pytest.raises(KeyError) as raised:
            ct.open(tmp_path / "x.gguf")[NAME]

        assert str(raised.value).endswith("did you mean `blk.1.attn_qkv.weight`?")

    def test_of_no_known_family_names_that_end_alike_come_first(self, tmp_path: Path) -> None:
        names = ["net.block.7.a", "net.block.7.b", "b.7.a.net"]
        path = write_checkpoint(tmp_path / "m.pt", dict.fromkeys(names, view("0", (2,))), {"0": floats(1, 2)})

        with pytest.raises(KeyError) as raised:
            ct.open(path)["7.a"]

        assert "did you mean `net.block.7.a`" in str(raised.value)

    def test_what_completes_a_name_offers_what_people_use(self, tiny: Path) -> None:
        catalogue = ct.open(tiny)
        offered = [name for name in dir(catalogue) if not name.startswith("_")]

        assert {"close", "config", "format", "get", "items", "keys", "location", "metadata", "tied"} <= set(offered)
        assert not {"arrange", "expect", "identities", "pass_by", "with_tensors"} & set(offered)
        offered = [name for name in dir(catalogue[NAME]) if not name.startswith("_")]
        assert {"bits", "dtype", "nbytes", "numpy", "shape"} <= set(offered)
        assert "array" not in offered

    def test_it_is_frozen(self, tiny: Path) -> None:
        catalogue: Any = ct.open(tiny)

        with pytest.raises(AttributeError):
            catalogue.location = "elsewhere"
        with pytest.raises(AttributeError):
            catalogue.origin.config = {}

    def test_its_table_is_escaped(self) -> None:
        from converter.tensors.catalogue import Catalogue, Origin

        one = tensor(F32, bytes(4), (1,))
        names = ["<script>alert(1)</script>", *(f"w{number}" for number in range(30))]
        shown = Catalogue(dict.fromkeys(names, one), Origin("<b>", "torch-zip"))._table()

        assert "<script>" not in shown
        assert "<b>&lt;b&gt;</b>" in shown
        assert "&lt;script&gt;" in shown
        assert shown.count("<tr>") == 21
        assert "and 11 more" in shown

    def test_a_notebook_completes_its_keys(self, tiny: Path) -> None:
        assert NAME in ct.open(tiny)._ipython_key_completions_()

    def test_two_threads_read_one_catalogue(self, tiny: Path) -> None:
        catalogue = ct.open(tiny)
        expected = {name: found.bits().tobytes() for name, found in catalogue.items()}

        def read(names: list[str]) -> dict[str, bytes]:
            return {name: catalogue[name].bits().tobytes() for name in names * 5}

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(read, [list(catalogue), list(reversed(list(catalogue)))]))

        assert found == [expected, expected]


class TestTensor:
    @pytest.mark.parametrize(
        ("dtype", "data", "values"),
        [
            (F32, struct.pack("<2f", 1.5, -2), np.array([1.5, -2], "f4")),
            (F16, struct.pack("<2e", 1.5, -2), np.array([1.5, -2], "f2")),
            (BF16, b"\xc0\x3f\x00\xc0", np.array([1.5, -2], "f4")),
            (F8_E4M3, b"\x3c\xc0", np.array([1.5, -2], "f4")),
            (C32, struct.pack("<4e", 1.5, -2, 0.25, 4), np.array([1.5 - 2j, 0.25 + 4j], "c8")),
            (BOOL, b"\1\0", np.array([True, False])),
        ],
    )
    def test_numpy_gives_numbers(self, dtype: Dtype, data: bytes, values: Any) -> None:
        found = tensor(dtype, data, (2,)).numpy()

        assert found.dtype == values.dtype
        assert found.tolist() == values.tolist()

    def test_bits_are_those_of_the_file(self) -> None:
        found = tensor(BF16, b"\xc0\x3f\x00\xc0", (2,)).bits()

        assert found.dtype == np.dtype("<u2")
        assert found.tolist() == [0x3FC0, 0xC000]

    def test_packed_dtypes_have_bits_only(self) -> None:
        with pytest.raises(ct.UnsupportedError, match=r"F4 packs 2 elements into one: `bits\(\)`"):
            tensor(F4, b"\1", (1,)).numpy()

    def test_an_array_is_read_only_unless_it_is_a_copy(self) -> None:
        one = tensor(F32, bytes(8), (2,))
        own = one.numpy(writable=True)
        own[0] = 1

        assert own.tolist() == [1, 0]
        assert not one.numpy().flags.writeable

    def test_asarray_and_arithmetic_work(self) -> None:
        one = tensor(BF16, b"\xc0\x3f\x00\xc0", (2,))

        assert np.asarray(one).dtype == np.float32
        assert np.asarray(one, dtype="f8").tolist() == [1.5, -2.0]
        assert (np.asarray(one) * 2).tolist() == [3.0, -4.0]

    def test_numpy_is_told_that_reading_copies(self) -> None:
        one = tensor(F32, bytes(8), (2,))

        with pytest.raises(ValueError, match="leave copy=False out"):
            np.array(one, copy=False)
        assert np.array(one, copy=True).flags.writeable
        assert np.asarray(one).tolist() == [0, 0]

    def test_the_repr_of_its_dtype_is_short(self) -> None:
        assert repr(BF16) == str(BF16) == "<Dtype BF16>"

    def test_its_repr_is_a_line(self, tiny: Path) -> None:
        assert repr(ct.open(tiny)[NAME]) == "<Tensor F32 [64, 192], transposed, 49.2 kB>"


class TestReportsInANotebook:
    """What a notebook or a prompt shows of a report is one line, however many tensors it names."""

    def test_each_is_one_line(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        ct.convert(tiny, "a.safetensors")
        ct.convert(tiny, "b.safetensors", dtype="f16")
        name = str(tiny / "pytorch_model.bin")

        assert repr(ct.inspect(tiny)) == f"<Inspection {name!r}: torch-zip, 60 tensors, 898.8 kB>"
        planned = ct.convert(tiny, "c.safetensors", dry_run=True)
        assert repr(planned) == f"<ConversionReport {name!r} to 'c.safetensors': 52 tensors, 887.3 kB, not written>"
        assert repr(ct.extract(tiny, "p")) == f"<ExtractReport {name!r} to 'p': 60 tensors, 898.8 kB>"
        assert repr(ct.verify(tiny, "a.safetensors", "b.safetensors")) == (
            f"<Verification of {name!r}: 'a.safetensors' identical, 'b.safetensors' equivalent>"
        )
        assert repr(ct.diff("a.safetensors", "a.safetensors")) == "<DiffReport 'a.safetensors', 'a.safetensors': same>"
        assert repr(ct.diff("a.safetensors", "b.safetensors")) == (
            "<DiffReport 'a.safetensors', 'b.safetensors': different, 52 changed tensors>"
        )
        assert repr(ct.diff_three_way("a.safetensors", "a.safetensors", "b.safetensors")) == (
            "<ThreeWayReport 'a.safetensors', 'a.safetensors', 'b.safetensors': different, 52 changed tensors>"
        )
        assert repr(ct.scan("a.safetensors", fickling=False)) == "<ScanReport 1 file: plain>"

    def test_what_could_not_be_checked_is_counted(self) -> None:
        unread = CheckReport((), {"error": 0, "warning": 0}, (UnreadReport("x.bin", {}),))

        assert (repr(unread), unread.ok) == (
            "<CheckReport 0 checkpoints: 0 errors, 0 warnings, 1 could not be checked>",
            False,
        )

    def test_check_says_whether_all_is_well(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.bin").write_bytes((tiny / "pytorch_model.bin").read_bytes()[:1000])
        both = ct.check(tiny, tmp_path / "bad.bin")
        one = ct.check(tiny)

        assert (repr(one), one.ok) == ("<CheckReport 1 checkpoint: 0 errors, 0 warnings>", True)
        assert (repr(both), both.ok) == (
            "<CheckReport 2 checkpoints: 1 error, 0 warnings>",
            False,
        )


@pytest.mark.parametrize("place", [3, None, b"odd", ["odd"], ("odd",)], ids=repr)
def test_a_place_of_another_type_is_refused_in_words(place: Any, tiny: Path, tmp_path: Path) -> None:
    kind = type(place).__name__
    expected = f"a place is a str, a path or a catalogue, not {kind}; give several as separate arguments"
    for call in (
        ct.open,
        ct.inspect,
        ct.scan,
        lambda given: ct.verify(tiny, given),
        lambda given: ct.diff(tiny, given),
    ):
        with pytest.raises(TypeError, match=re.escape(expected)):
            call(place)
    assert list(tmp_path.iterdir()) == []
