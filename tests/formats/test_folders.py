"""Folders: shards and their index, one file, several, none."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from converter.api import convert, inspect
from converter.cli.app import app
from converter.errors import ConverterError, FormatError, LayoutError, ManifestError, NoWeightsError, SourceError
from converter.io.strict_json import load_json
from converter.opening import open_checkpoint
from tests.build.checkpoints import floats, legacy_bytes, view, write_checkpoint, write_shards

RUN = CliRunner()
A, B = {"a": view("0", (2,))}, {"b": view("0", (3,)), "c": view("1", (1,))}
ONE, TWO = {"0": floats(1, 2)}, {"0": floats(3, 4, 5), "1": floats(6)}
FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def shards(folder: Path, **options: Any) -> Path:
    write_shards(folder, [A, B], [ONE, TWO], **options)
    return folder


@pytest.mark.parametrize("index", [True, False], ids=["with their index", "by their names"])
def test_shards_are_one_checkpoint(index: bool, tmp_path: Path) -> None:
    catalogue = open_checkpoint(shards(tmp_path, index=index))

    assert {name: tensor.bits().tolist() for name, tensor in catalogue.items()} == {
        "a": [1, 2],
        "b": [3, 4, 5],
        "c": [6],
    }
    assert [(s.shard, s.key) for s in catalogue.storages] == [(1, "0"), (2, "0"), (2, "1")]
    assert [Path(file.name).name for file in catalogue.origin.files] == [FIRST, SECOND]
    assert (catalogue.problems, catalogue.missing, catalogue.tied()) == ((), (), [])


def test_one_file_is_the_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "pytorch_model.bin", A, ONE)
    write_checkpoint(tmp_path / "training_args.bin", A, ONE)
    write_checkpoint(tmp_path / "optimizer.pt", A, ONE)
    (tmp_path / "config.json").write_text('{"n_layer": 2}')
    (tmp_path / "README.md").write_text("hello")
    catalogue = open_checkpoint(tmp_path)

    assert (list(catalogue), catalogue.config) == (["a"], {"n_layer": 2})


def test_an_index_goes_before_other_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "another.bin", A, ONE)

    catalogue = open_checkpoint(shards(tmp_path))

    assert list(catalogue) == ["a", "b", "c"]
    assert catalogue.origin.notes == ("`pytorch_model.bin.index.json` was taken; to take `another.bin`, name it",)


def test_an_index_may_leave_shards_beside_it_out(tmp_path: Path) -> None:
    shards(tmp_path, weight_map={"a": FIRST})

    assert list(open_checkpoint(tmp_path)) == ["a"]


class TestSeveralKinds:
    """A folder with the weights of one model in several forms."""

    @staticmethod
    def safe(folder: Path, name: str = "model.safetensors", tensor: str = "safe") -> None:
        header = json.dumps({tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        header += b" " * (-len(header) % 8)
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + floats(1))

    @staticmethod
    def index(folder: Path, name: str, **weight_map: str) -> None:
        (folder / name).write_text(json.dumps({"weight_map": weight_map}))

    def test_the_safe_one_is_taken_and_that_is_said(self, tmp_path: Path) -> None:
        self.safe(tmp_path)
        write_checkpoint(tmp_path / "pytorch_model.bin", A, ONE)

        taken = open_checkpoint(tmp_path)
        other = open_checkpoint(tmp_path, weights="bin")

        assert list(taken) == list(open_checkpoint(tmp_path, weights="safetensors")) == ["safe"]
        assert taken.origin.notes == ("`model.safetensors` was taken: --weights bin takes `pytorch_model.bin`",)
        assert (list(other), other.origin.notes) == (["a"], ())
        with pytest.raises(FormatError, match=r"no weights of the kind gguf: there is `model\.safetensors`, `pytorch"):
            open_checkpoint(tmp_path, weights="gguf")

    def test_the_kind_is_chosen_in_a_folder_only(self, tmp_path: Path) -> None:
        self.safe(tmp_path)

        with pytest.raises(SourceError, match="is one file: --weights chooses among the files of a folder"):
            open_checkpoint(tmp_path / "model.safetensors", weights="safetensors")

    def test_two_indices_and_the_shards_of_one(self, tmp_path: Path) -> None:
        for number in (1, 2):
            self.safe(tmp_path, f"model-0000{number}-of-00002.safetensors", f"t{number}")
        names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        self.index(tmp_path, "model.safetensors.index.json", t1=names[0], t2=names[1])
        self.index(tmp_path, "pytorch_model.bin.index.json", t1=FIRST, t2=SECOND)

        catalogue = open_checkpoint(tmp_path)
        named = open_checkpoint(tmp_path / "model.safetensors.index.json")

        assert list(catalogue) == list(named) == ["t1", "t2"]
        assert catalogue.origin.notes == (
            "`model.safetensors.index.json` was taken; `pytorch_model.bin.index.json` is here without its shards",
        )
        assert named.location == str(tmp_path / "model.safetensors.index.json")
        with pytest.raises(ManifestError, match=f"lacks 2 of the 2 shards .* names: `{FIRST}`"):
            open_checkpoint(tmp_path / "pytorch_model.bin.index.json")

    def test_two_indices_with_all_their_shards(self, tmp_path: Path) -> None:
        shards(tmp_path)
        self.safe(tmp_path, "model-00001-of-00001.safetensors")
        self.index(tmp_path, "model.safetensors.index.json", safe="model-00001-of-00001.safetensors")

        assert list(open_checkpoint(tmp_path)) == ["safe"]
        assert list(open_checkpoint(tmp_path, weights="bin")) == ["a", "b", "c"]
        assert open_checkpoint(tmp_path).origin.notes == (
            "`model.safetensors.index.json` was taken: --weights bin takes `pytorch_model.bin.index.json`",
        )

    def test_a_safe_one_that_is_not_whole_goes_behind_one_that_is(self, tmp_path: Path) -> None:
        shards(tmp_path)
        self.safe(tmp_path, "model-00001-of-00002.safetensors")
        names = {"safe": "model-00001-of-00002.safetensors", "t": "model-00002-of-00002.safetensors"}
        self.index(tmp_path, "model.safetensors.index.json", **names)

        catalogue = open_checkpoint(tmp_path)

        assert list(catalogue) == ["a", "b", "c"]
        assert catalogue.origin.notes == (
            f"`pytorch_model.bin.index.json` was taken; `model.safetensors.index.json` was left aside, because `{tmp_path}` lacks 1 of "
            "the 2 shards that `model.safetensors.index.json` names: `model-00002-of-00002.safetensors`",
        )
        with pytest.raises(ManifestError, match=r"lacks 1 of the 2 shards"):  # which is why it is not advised
            open_checkpoint(tmp_path, weights="safetensors")

    @pytest.mark.parametrize("with_index", [True, False])
    def test_weights_of_another_kind_that_lack_a_shard_are_not_advised(self, with_index: bool, tmp_path: Path) -> None:
        self.safe(tmp_path)
        write_checkpoint(tmp_path / FIRST, A, ONE)
        if with_index:
            self.index(tmp_path, "pytorch_model.bin.index.json", a=FIRST, b=SECOND)

        (note,) = open_checkpoint(tmp_path).origin.notes

        assert "--weights" not in note
        assert f"`{SECOND}`" in note
        with pytest.raises(ConverterError, match=f"lacks .*`{SECOND}`"):
            open_checkpoint(tmp_path, weights="bin")

    def test_files_of_another_kind_among_which_none_is_usual_are_named(self, tmp_path: Path) -> None:
        self.safe(tmp_path)
        for name in ("a.bin", "b.bin"):
            write_checkpoint(tmp_path / name, A, ONE)

        assert open_checkpoint(tmp_path).origin.notes == (
            "`model.safetensors` was taken; to take one of `a.bin`, `b.bin`, name it",
        )

    @pytest.mark.parametrize("second", ["model.other.safetensors.index.json", "pytorch_model.bin.index.json"])
    def test_a_lost_shard_beside_an_empty_index(self, second: str, tmp_path: Path) -> None:
        one, two = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
        self.safe(tmp_path, one)
        self.index(tmp_path, "model.safetensors.index.json", safe=one, lost=two)
        self.index(tmp_path, second)

        with pytest.raises(ManifestError) as caught:
            open_checkpoint(tmp_path)

        assert str(caught.value) == (
            f"`{tmp_path}` lacks 1 of the 2 shards that `model.safetensors.index.json` names: `{two}`; fetch what is absent, or name a "
            f"shard that is here, which is then read alone; `{tmp_path / second}` has no `weight_map`"
        )

    def test_an_empty_index_beside_a_whole_one_is_left_aside(self, tmp_path: Path) -> None:
        shards(tmp_path)
        self.index(tmp_path, "other.bin.index.json")

        catalogue = open_checkpoint(tmp_path)

        assert list(catalogue) == ["a", "b", "c"]
        assert catalogue.origin.notes == (
            f"`other.bin.index.json` was left aside: `{tmp_path / 'other.bin.index.json'}` has no `weight_map`",
        )

    def test_two_kinds_that_both_lack_a_shard(self, tmp_path: Path) -> None:
        self.safe(tmp_path, "model-00001-of-00002.safetensors")
        write_checkpoint(tmp_path / FIRST, A, ONE)

        with pytest.raises(FormatError) as caught:
            open_checkpoint(tmp_path)

        assert str(caught.value) == (
            f"`{tmp_path}` lacks `model-00002-of-00002.safetensors`, which is shard 2 of 2, and lacks `{SECOND}`, which is shard 2 of 2; "
            "fetch what is absent, or name a shard that is here, which is then read alone"
        )

    @pytest.mark.parametrize("here", [0, 1], ids=["without its shards", "with one of its shards"])
    def test_a_stale_index_beside_the_whole_file(self, here: int, tmp_path: Path) -> None:
        self.safe(tmp_path)
        names = {f"t{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
        self.index(tmp_path, "model.safetensors.index.json", **names)
        for number in range(1, here + 1):
            self.safe(tmp_path, names[f"t{number}"], f"t{number}")

        catalogue = open_checkpoint(tmp_path)

        assert list(catalogue) == ["safe"]
        [note] = catalogue.origin.notes
        assert f"was left aside, because `{tmp_path}` lacks {2 - here} of the 2 shards" in note

    def test_transformers_order_decides_between_two_of_one_kind(self, tmp_path: Path) -> None:
        for name in ("model.safetensors", "model.fp16.safetensors", "consolidated.safetensors"):
            self.safe(tmp_path, name, name)

        catalogue = open_checkpoint(tmp_path)

        assert list(catalogue) == ["model.safetensors"]
        assert catalogue.origin.notes == (
            "`model.safetensors` was taken; to take `consolidated.safetensors`, `model.fp16.safetensors`, name it",
        )

    def test_other_kinds_are_not_guessed(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "pytorch_model.bin", A, ONE)
        (tmp_path / "model-Q4_0.gguf").write_bytes(b"GGUF")

        with pytest.raises(FormatError, match=r"several checkpoints: .*; name one of them, or choose with --weights"):
            open_checkpoint(tmp_path)
        assert list(open_checkpoint(tmp_path, weights="bin")) == ["a"]

    def test_what_a_trainer_saves_beside_them_is_no_model(self, tmp_path: Path) -> None:
        for name in ("model.bin", "optimizer.bin", "scheduler.bin", "sampler.bin", "rng_state_0.pth", "scaler.pt"):
            write_checkpoint(tmp_path / name, A, ONE)

        catalogue = open_checkpoint(tmp_path)

        assert (catalogue.origin.files[0].name, catalogue.origin.notes) == (str(tmp_path / "model.bin"), ())

    def test_the_commands_say_it(self, tmp_path: Path) -> None:
        self.safe(tmp_path, tensor="a")
        write_checkpoint(tmp_path / "pytorch_model.bin", {"a": view("0", (1,))}, {"0": floats(1)})
        said = "`model.safetensors` was taken: --weights bin takes `pytorch_model.bin`"

        inspected = RUN.invoke(app, ["inspect", str(tmp_path)])
        document = RUN.invoke(app, ["inspect", str(tmp_path), "--json"])
        page = RUN.invoke(app, ["inspect", str(tmp_path), "--markdown"])
        chosen = RUN.invoke(app, ["inspect", str(tmp_path), "--weights", "bin", "--json"])
        converted = RUN.invoke(app, ["convert", str(tmp_path), str(tmp_path / "out.npz"), "--json"])
        verified = RUN.invoke(app, ["verify", str(tmp_path), str(tmp_path / "out.npz")])

        assert f"! {said}" in inspected.stdout
        assert json.loads(document.stdout)["notes"] == [said]
        assert f"`` {said} ``" in page.stdout
        assert json.loads(chosen.stdout)["source"]["format"] == "torch-zip"
        assert said in json.loads(converted.stdout)["notes"]
        assert said in verified.stderr


class TestOneShard:
    """A shard that is named alone."""

    @pytest.mark.parametrize(("index", "whole"), [(True, "model/pytorch_model.bin.index.json"), (False, "model")])
    def test_it_says_what_reads_the_whole(
        self, index: bool, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("model").mkdir()
        shards(Path("model"), index=index)

        done = RUN.invoke(app, ["convert", f"model/{SECOND}", "out.npz"], env={"COLUMNS": "1000"})

        assert done.exit_code == 0, done.output
        note = f"`{SECOND}` is part 2 of 2 of a model, and the others are not read: `cerebras-tool convert {whole} out.npz` reads the whole"
        assert f"! {note}" in done.output
        assert list(open_checkpoint(whole)) == ["a", "b", "c"]
        assert (
            f"`{SECOND}` is part 2 of 2 of a model"
            in RUN.invoke(app, ["inspect", f"model/{SECOND}"], env={"COLUMNS": "1000"}).output
        )

    def test_it_says_which_others_are_absent(self, tmp_path: Path) -> None:
        name = "model-00002-of-00003.safetensors"
        TestSeveralKinds.safe(tmp_path, name)

        assert open_checkpoint(tmp_path / name).origin.notes == (
            f"`{name}` is part 2 of 3 of a model, and the others are not read: `model-00001-of-00003.safetensors`, "
            "`model-00003-of-00003.safetensors` are not beside it",
        )

    def test_the_only_part_is_the_whole(self, tmp_path: Path) -> None:
        TestSeveralKinds.safe(tmp_path, "model-00001-of-00001.safetensors")

        assert open_checkpoint(tmp_path / "model-00001-of-00001.safetensors").origin.notes == ()


class TestModelFolders:
    """Folders in folders."""

    def test_each_is_named_with_the_command_that_opens_it(self, tmp_path: Path) -> None:
        for name in ("checkpoint-1000", "checkpoint-500", "a b", ".cache", "owner/name", "empty/empty"):
            (tmp_path / name).mkdir(parents=True)
            if "empty" not in name:
                write_checkpoint(tmp_path / name / "pytorch_model.bin", A, ONE)
        (tmp_path / "loop").symlink_to(tmp_path)

        with pytest.raises(FormatError) as caught:
            open_checkpoint(tmp_path)

        assert str(caught.value) == (
            f"`{tmp_path}` has no weights of its own, but models in its folders: `cerebras-tool inspect '{tmp_path}/a b'`, `cerebras-tool inspect "
            f"{tmp_path}/checkpoint-500`, `cerebras-tool inspect {tmp_path}/checkpoint-1000`, "
            f"`cerebras-tool inspect {tmp_path}/owner/name`"
        )

    @pytest.mark.parametrize(
        "words",
        [
            ["inspect", "{}"], ["check", "{}", "--json"], ["diff", "other", "{}"], ["extract", "{}", "out"], ["verify", "{}", "other"],
            ["verify", "other", "{}", "--json"], ["--offline", "convert", "{}", "out", "--to", "safetensors"],
        ],
        ids=" ".join,
    )  # fmt: skip
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_each_command_is_the_one_that_was_typed(
        self, words: list[str], slash: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("runs/a b", "runs/2", "other"):
            Path(name).mkdir(parents=True)
            write_checkpoint(Path(name) / "pytorch_model.bin", A, ONE)

        done = RUN.invoke(app, [word.format(f"runs{slash}") for word in words], env={"COLUMNS": "1000"})

        assert done.exit_code in (1, 2)
        for folder in ("'runs/a b'", "runs/2"):
            assert f"`cerebras-tool {' '.join(words).format(folder)}`" in done.output

    def test_in_python_they_are_named_alone(self, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        write_checkpoint(tmp_path / "1" / "pytorch_model.bin", A, ONE)

        with pytest.raises(NoWeightsError, match=f"models in its folders: `{tmp_path}/1`$") as caught:
            inspect(tmp_path)

        assert caught.value.folders == [f"{tmp_path}/1"]

    def test_their_number_is_bounded(self, tmp_path: Path) -> None:
        for number in range(1, 1500):
            (tmp_path / f"{number}").mkdir()
            (tmp_path / f"{number}" / "model.bin").touch()

        with pytest.raises(FormatError, match=r"inspect \S+/14`, and 989 more$"):
            open_checkpoint(tmp_path)

    def test_weights_of_its_own_go_first(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint-1").mkdir()
        for folder in (tmp_path, tmp_path / "checkpoint-1"):
            write_checkpoint(folder / "pytorch_model.bin", A, ONE)

        assert list(open_checkpoint(tmp_path)) == ["a"]


class TestCacheOfTheHub:
    """`models--owner--name`: blobs, and for each revision a folder of links to them."""

    @staticmethod
    def fill(folder: Path, commit: str) -> None:
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / commit).mkdir(parents=True)
        write_checkpoint(folder / "blobs" / commit, {commit: view("0", (2,))}, ONE)
        link = folder / "snapshots" / commit / "pytorch_model.bin"
        link.symlink_to(os.path.relpath(folder / "blobs" / commit, link.parent))

    def test_stands_for_its_snapshot(self, tmp_path: Path) -> None:
        folder = tmp_path / "models--owner--name"
        self.fill(folder, "c1")

        assert list(open_checkpoint(folder)) == list(open_checkpoint(folder / "snapshots" / "c1")) == ["c1"]

    def test_with_several_revisions(self, tmp_path: Path) -> None:
        folder = tmp_path / "models--owner--name"
        self.fill(folder, "c1")
        self.fill(folder, "c2")

        with pytest.raises(SourceError, match=f"several revisions: name one of them, as in `{folder}/snapshots/c1`"):
            open_checkpoint(folder)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("c2")
        assert list(open_checkpoint(folder)) == ["c2"]

    @pytest.mark.parametrize("ref", ["../../secret", "/etc", "", "c9"])
    def test_a_ref_leads_nowhere_else(self, ref: str, tmp_path: Path) -> None:
        folder = tmp_path / "models--owner--name"
        self.fill(folder, "c1")
        (tmp_path / "secret").mkdir()
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(ref)

        assert list(open_checkpoint(folder)) == ["c1"]


class TestIndex:
    def test_with_a_name_that_no_shard_has(self, tmp_path: Path) -> None:
        catalogue = open_checkpoint(shards(tmp_path, weight_map={"a": FIRST, "b": SECOND, "c": SECOND, "d": FIRST}))

        assert catalogue.missing == ("d",)
        assert catalogue.problems == ("1 tensor is in the index, but in no shard: `d`",)

    def test_without_a_name_that_a_shard_has(self, tmp_path: Path) -> None:
        catalogue = open_checkpoint(shards(tmp_path, weight_map={"a": FIRST, "b": SECOND}))

        assert list(catalogue) == ["a", "b", "c"]
        assert catalogue.problems == ("1 tensor is in a shard, but not in the index: `c`",)

    def test_with_names_in_another_shard(self, tmp_path: Path) -> None:
        catalogue = open_checkpoint(shards(tmp_path, weight_map={"a": SECOND, "b": FIRST, "c": SECOND}))

        assert catalogue.problems == ("2 tensors are in another shard than the index says: `a`, `b`",)

    @pytest.mark.parametrize(
        "file",
        ["../a.bin", "/etc/passwd", "..", ".", "", ".hidden.bin", "sub/a.bin", "a\\b.bin", "a\0.bin", "-a.bin", "~", 5, None, ["a.bin"],
         "C:a.bin", "http://x/a.bin", "a.bin\n"],
    )  # fmt: skip
    def test_with_a_file_name_that_is_a_path(self, file: Any, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="not a plain file name"):
            open_checkpoint(shards(tmp_path, weight_map={"a": FIRST, "b": file}))

    def test_without_one_of_its_shards(self, tmp_path: Path) -> None:
        shards(tmp_path)
        (tmp_path / SECOND).unlink()

        with pytest.raises(ManifestError, match=f"lacks 1 of the 2 shards .* `{SECOND}`"):
            open_checkpoint(tmp_path)

    def test_with_a_folder_for_a_shard(self, tmp_path: Path) -> None:
        (tmp_path / "folder.bin").mkdir()

        catalogue = open_checkpoint(shards(tmp_path, weight_map={"a": "folder.bin"}))

        assert list(catalogue) == ["a", "b", "c"]  # the shards' names show that they are one set
        assert catalogue.origin.notes == (
            f"`pytorch_model.bin.index.json` was left aside, because `{tmp_path}` lacks 1 of the 1 shards that "
            "`pytorch_model.bin.index.json` names: `folder.bin`",
        )

    @pytest.mark.parametrize(
        "text",
        [
            "", "[]", "{", "null", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": 1, "a": 2}}', "{}", '{"weight_map": NaN}',
            '{"weight_map": {"\\ud800": "a.bin"}}', '{"x": {"x": {}, "x": {}}}', "\ufeff{}", "[" * 100_000, '{"a": ' + "9" * 10_000 + "}",
            '{"weight_map": {"a": "a.bin"}} x',
        ],
        ids=range(15),
    )  # fmt: skip
    def test_that_is_not_one(self, text: str, tmp_path: Path) -> None:
        shards(tmp_path)
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)

        with pytest.raises(ManifestError):
            open_checkpoint(tmp_path)

    def test_that_is_not_utf_8(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')

        with pytest.raises(ManifestError):
            load_json(tmp_path / "config.json")

    def test_twice(self, tmp_path: Path) -> None:
        shards(tmp_path)
        (tmp_path / "pytorch_model.bin.index.json").rename(tmp_path / "one.bin.index.json")
        (tmp_path / "two.bin.index.json").write_text(json.dumps({"weight_map": {"a": FIRST}}))

        with pytest.raises(FormatError, match=r"several checkpoints: `one\.bin\.index\.json`, .*; name one of them$"):
            open_checkpoint(tmp_path)

    def test_of_a_damaged_shard(self, tmp_path: Path) -> None:
        shards(tmp_path)
        (tmp_path / SECOND).write_bytes((tmp_path / SECOND).read_bytes()[:-5])

        with pytest.raises(ConverterError, match=SECOND):
            open_checkpoint(tmp_path)


class TestShards:
    def test_of_which_two_have_the_same_name(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [A, A], [ONE, ONE], weight_map={"a": FIRST, "x": SECOND})

        with pytest.raises(LayoutError, match="`a` is in two shards"):
            open_checkpoint(tmp_path)

    def test_without_an_index_and_one_missing(self, tmp_path: Path) -> None:
        shards(tmp_path, index=False)
        (tmp_path / FIRST).unlink()
        write_checkpoint(tmp_path / "pytorch_model-00003-of-00003.bin", A, ONE)

        with pytest.raises(FormatError, match=r"lacks .* shard 1 of 2, and lacks .* shard 1 of 3;"):
            open_checkpoint(tmp_path)

    def test_without_an_index_and_the_last_missing(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [A, B, {"d": view("0", (1,))}], [ONE, TWO, {"0": floats(1)}], index=False)
        (tmp_path / "pytorch_model-00003-of-00003.bin").unlink()

        with pytest.raises(FormatError, match=r"lacks `pytorch_model-00003-of-00003\.bin`, which is shard 3 of 3"):
            open_checkpoint(tmp_path)

    def test_that_is_alone_of_several(self, tmp_path: Path) -> None:
        shards(tmp_path, index=False)
        (tmp_path / SECOND).unlink()

        with pytest.raises(FormatError, match=r"lacks `pytorch_model-00002-of-00002\.bin`, which is shard 2 of 2"):
            open_checkpoint(tmp_path)

    def test_of_two_sets(self, tmp_path: Path) -> None:
        shards(tmp_path, index=False)
        write_checkpoint(tmp_path / "other-00001-of-00001.bin", A, ONE)

        with pytest.raises(FormatError, match="several checkpoints"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize("name", ["x-00001-of-00000.bin", "x-00000-of-00001.bin", "x-00002-of-00001.bin"])
    def test_numbered_in_no_order(self, name: str, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / name, A, ONE)
        write_checkpoint(tmp_path / name.replace("x-0000", "x-0001"), A, ONE)

        with pytest.raises(FormatError):
            open_checkpoint(tmp_path)

    def test_of_different_formats(self, tmp_path: Path) -> None:
        shards(tmp_path)
        (tmp_path / FIRST).write_bytes(legacy_bytes(A, ONE))

        with pytest.raises(FormatError, match="different formats"):
            open_checkpoint(tmp_path)


class TestFolders:
    def test_with_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="no weight file"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
    def test_of_a_distributed_checkpoint(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"x")

        with pytest.raises(
            FormatError, match=r"distributed checkpoint .*dcp_to_torch FOLDER joined\.pt` .*convert joined"
        ):
            open_checkpoint(tmp_path)

    def test_of_deepspeed(self, tmp_path: Path) -> None:
        for name in ("mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"):
            write_checkpoint(tmp_path / name, A, ONE)

        with pytest.raises(FormatError, match=r"DeepSpeed \(ZeRO\).* `python zero_to_fp32\.py \. joined`"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize("times", [1, 2])
    def test_one_file_of_a_distributed_checkpoint(self, times: int, tmp_path: Path) -> None:
        file = tmp_path / "__0_0.distcp"
        file.write_bytes(write_checkpoint(file, A["a"], ONE).read_bytes() * times)

        with pytest.raises(
            ConverterError, match=r"one file of a distributed checkpoint .*dcp_to_torch FOLDER joined\.pt`"
        ):
            convert(file, tmp_path / "a.safetensors")

    def test_its_index(self, tmp_path: Path) -> None:
        pickled = b"\x8c%torch.distributed.checkpoint.metadata\x94\x8c\x08Metadata\x94\x93\x94)\x81\x94."
        index = tmp_path / ".metadata"
        index.write_bytes(b"\x80\x04\x95" + len(pickled).to_bytes(8, "little") + pickled)

        with pytest.raises(
            FormatError, match=r"is the index of a distributed checkpoint .*dcp_to_torch FOLDER joined\.pt`"
        ):
            open_checkpoint(index)

    def test_one_file_of_deepspeed(self, tmp_path: Path) -> None:
        """ZeRO's third stage leaves empty tensors under the model's names."""
        file = write_checkpoint(tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt", {"module": A}, ONE)

        with pytest.raises(ConverterError, match=r"one file of a checkpoint of DeepSpeed .* `python zero_to_fp32\.py"):
            convert(file, tmp_path / "a.safetensors")
        assert not (tmp_path / "a.safetensors").exists()
        assert any("zero_to_fp32" in problem for problem in inspect(file).problems)

    def test_with_several_files(self, tmp_path: Path) -> None:
        for name in ("a.bin", "b.pt"):
            write_checkpoint(tmp_path / name, A, ONE)

        with pytest.raises(FormatError, match=r"several checkpoints: `a\.bin`, `b\.pt`"):
            open_checkpoint(tmp_path)

    def test_with_a_root(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", {"x": A, "y": 1}, ONE)

        assert list(open_checkpoint(tmp_path, root="x")) == ["a"]

    @pytest.mark.parametrize(
        ("text", "config", "said"),
        [
            ('{"limit": [0.0, Infinity]}', {"limit": [0.0, math.inf]}, "holds Infinity: other programs may refuse it"),
            ('{"a": -Infinity, "b": Infinity}', {"a": -math.inf, "b": math.inf}, "holds -Infinity and Infinity: other"),
            ('\ufeff{"a": 1}', {"a": 1}, "begins with a byte order mark: other programs may refuse it"),
            ('\ufeff{"a": Infinity}', {"a": math.inf}, "begins with a byte order mark and holds Infinity: other"),
            ("[]", None, "holds a JSON list, not an object; the weights are read without it"),
            ('{"a": 1} // a comment', None, "is not a valid JSON document: Extra data"),
            ('{"a": 1, "a": 2}', None, "a name occurs twice in one object; the weights are read without it"),
            ("", None, "is not a valid JSON document: Expecting value"),
            ("[" * 100_000, None, "is not a valid JSON document: "),
        ],
        ids=range(9),
    )
    def test_with_an_odd_config(self, text: str, config: Any, said: str, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", A, ONE)
        (tmp_path / "config.json").write_text(text)

        for place in (tmp_path, tmp_path / "a.bin"):
            catalogue = open_checkpoint(place)

            assert (list(catalogue), catalogue.config) == (["a"], config)
            [note] = catalogue.origin.notes
            assert said in note
            assert note.startswith(f"`{tmp_path / 'config.json'}` ")

    def test_with_nan_in_its_config(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", A, ONE)
        (tmp_path / "config.json").write_text('{"a": NaN}')

        catalogue = open_checkpoint(tmp_path)

        assert catalogue.config is not None
        assert math.isnan(catalogue.config["a"])
        assert catalogue.origin.notes == (f"`{tmp_path / 'config.json'}` holds NaN: other programs may refuse it",)

    def test_with_a_folder_for_its_config(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", A, ONE)
        (tmp_path / "config.json").mkdir()
        said = f"`{tmp_path / 'config.json'}` is a folder: a file was expected; the weights are read without it"

        for place in (tmp_path, tmp_path / "a.bin"):
            catalogue = open_checkpoint(place)

            assert (list(catalogue), catalogue.config, catalogue.origin.notes) == (["a"], None, (said,))
        result = RUN.invoke(app, ["check", str(tmp_path), "--json"])
        faults = json.loads(result.stdout)["checkpoints"][0]["faults"]
        assert (result.exit_code, [(fault["rule"], fault["message"]) for fault in faults]) == (1, [("config", said)])

    def test_with_a_config_that_may_not_be_read(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", A, ONE)
        with (tmp_path / "config.json").open("wb") as file:
            file.truncate((64 << 20) + 1)

        [note] = open_checkpoint(tmp_path).origin.notes

        assert note.endswith("67,108,865 bytes: at most 67,108,864 are read; the weights are read without it")

    def test_that_may_not_be_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Path) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", refuse)

        with pytest.raises(SourceError, match="permission denied"):
            open_checkpoint(tmp_path)


def test_an_index_that_is_not_of_these_shards_says_how_to_read_what_is_there(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2, "<f4")}, tmp_path / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    with pytest.raises(ManifestError, match="fetch what is absent, or name a shard that is here"):
        open_checkpoint(tmp_path)
    assert list(open_checkpoint(tmp_path / "model-00001-of-00002.safetensors")) == ["a"]


@pytest.mark.parametrize("name", ["MODEL.SAFETENSORS", "Model.SafeTensors", "weights.PT"])
def test_endings_in_capitals_are_endings(name: str, tmp_path: Path) -> None:
    if name.endswith("PT"):
        write_checkpoint(tmp_path / name, {"a": view("0", (2,))}, {"0": floats(1, 2)})
    else:
        save_file({"a": np.zeros(2, "<f4")}, tmp_path / name)

    assert list(open_checkpoint(tmp_path)) == ["a"]
