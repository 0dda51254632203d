"""Folders: shards and their index, one file, several, none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConverterError, FormatError, LayoutError, ManifestError, SourceError
from converter.io.strict_json import load_json
from converter.opening import open_checkpoint
from tests.build.checkpoints import floats, legacy_bytes, view, write_checkpoint, write_shards

A, B = {"a": view("0", (2,))}, {"b": view("0", (3,)), "c": view("1", (1,))}
ONE, TWO = {"0": floats(1, 2)}, {"0": floats(3, 4, 5), "1": floats(6)}
FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def shards(folder: Path, **options: Any) -> Path:
    write_shards(folder, [A, B], [ONE, TWO], **options)
    return folder


@pytest.mark.parametrize("index", [True, False], ids=["with their index", "by their names"])
def test_shards_are_one_checkpoint(index: bool, tmp_path: Path) -> None:
    catalogue = open_checkpoint(shards(tmp_path, index=index))

    assert {name: tensor.array().tolist() for name, tensor in catalogue.items()} == {
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

    assert list(open_checkpoint(shards(tmp_path))) == ["a", "b", "c"]


def test_an_index_may_leave_shards_beside_it_out(tmp_path: Path) -> None:
    shards(tmp_path, weight_map={"a": FIRST})

    assert list(open_checkpoint(tmp_path)) == ["a"]


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

        with pytest.raises(ManifestError, match="lacks"):
            open_checkpoint(shards(tmp_path, weight_map={"a": "folder.bin"}))

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
        (tmp_path / "model.bin.index.json").write_text(json.dumps({"weight_map": {"a": FIRST}}))

        with pytest.raises(FormatError, match="several checkpoints"):
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

        with pytest.raises(FormatError, match="several checkpoints"):
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

    def test_with_several_files(self, tmp_path: Path) -> None:
        for name in ("a.bin", "b.pt"):
            write_checkpoint(tmp_path / name, A, ONE)

        with pytest.raises(FormatError, match=r"several checkpoints: `a\.bin`, `b\.pt`"):
            open_checkpoint(tmp_path)

    def test_with_a_root(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", {"x": A, "y": 1}, ONE)

        assert list(open_checkpoint(tmp_path, root="x")) == ["a"]

    def test_with_a_config_that_is_none(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", A, ONE)
        (tmp_path / "config.json").write_text("[]")

        with pytest.raises(ManifestError, match="not an object"):
            open_checkpoint(tmp_path)

    def test_that_may_not_be_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Path) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", refuse)

        with pytest.raises(SourceError, match="permission denied"):
            open_checkpoint(tmp_path)
