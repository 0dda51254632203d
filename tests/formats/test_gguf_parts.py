"""A model in several GGUF files: the first part stands for all of them, and an absent part is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.errors import FormatError, ManifestError
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.scanning.scan import fails, scan
from converter.verification.verify import verify
from tests.build.gguf_files import Info, gguf, key
from tests.build.hub_server import TINY, Hub, Repository, serve

WHOLE = "m-00001-of-00003.gguf"


def part(number: int, count: int = 3, tensors: int = 3) -> bytes:
    own = [key("general.architecture", "string", "x")] if number == 0 else []
    split = [
        key("split.no", "u16", number),
        key("split.tensors.count", "i32", tensors),
        key("split.count", "u16", count),
    ]
    return gguf([*own, *split], [Info(f"w{number}", (4,))], np.arange(number, number + 4, dtype="<f4").tobytes())


def files() -> dict[str, bytes]:
    return {f"m-{number + 1:05}-of-00003.gguf": part(number) for number in range(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_the_first_part_is_the_model(folder: Path) -> None:
    catalogue = open_checkpoint(folder / WHOLE)

    assert {name: tensor.bits().tolist() for name, tensor in catalogue.items()} == {
        "w0": [0, 1, 2, 3], "w1": [1, 2, 3, 4], "w2": [2, 3, 4, 5],
    }  # fmt: skip
    assert catalogue.location == str(folder / WHOLE)
    assert [Path(file.name).name for file in catalogue.origin.files] == list(files())
    assert catalogue.problems == inspect(catalogue).problems == ()
    assert [tensor.shard for tensor in inspect(catalogue).tensors] == [1, 2, 3]
    assert dict(open_checkpoint(folder)).keys() == dict(catalogue).keys()


def test_it_is_converted_and_verified_whole(folder: Path) -> None:
    convert(open_checkpoint(folder / WHOLE), folder / "one.gguf", no_tokenizer=True)
    convert(open_checkpoint(folder / WHOLE), folder / "one.npz")

    report = verify(open_checkpoint(folder / WHOLE), [folder / "one.gguf", folder / "one.npz"])

    assert [output.verdict for output in report.outputs] == ["identical", "identical"]
    assert verify(open_checkpoint(folder / "one.gguf"), [folder / WHOLE]).ok
    assert not [name for name in open_checkpoint(folder / "one.gguf").metadata if name.startswith("split.")]


def test_an_absent_part_is_named(folder: Path) -> None:
    (folder / "m-00002-of-00003.gguf").unlink()

    with pytest.raises(
        FormatError, match=r"first of 3 parts of a model, and `m-00002-of-00003\.gguf` is not beside it"
    ):
        open_checkpoint(folder / WHOLE)
    with pytest.raises(FormatError, match=r"lacks `m-00002-of-00003\.gguf`, which is shard 2 of 3"):
        open_checkpoint(folder)
    (folder / "one.gguf").write_bytes(gguf([], [Info("w0", (4,))], bytes(16)))
    [found] = verify(open_checkpoint(folder / "one.gguf"), [folder / WHOLE]).outputs
    assert "`m-00002-of-00003.gguf` is not beside it" in found.tensors.different[0].detail


def test_scan_names_it_and_stays_calm(folder: Path) -> None:
    calm = scan([folder / WHOLE], fickling=False)
    (folder / "m-00002-of-00003.gguf").unlink()
    (folder / "m-00003-of-00003.gguf").unlink()

    report = scan([folder / WHOLE], fickling=False)

    assert [found.rule for found in calm.files[0].findings] == []
    [found] = report.files[0].findings
    assert (found.rule, found.level, report.verdict, fails(report)) == ("incomplete", "note", "plain", False)
    assert found.message.endswith(
        "is part 1 of 3 of a model: `m-00002-of-00003.gguf`, `m-00003-of-00003.gguf` are not beside it"
    )


@pytest.mark.parametrize("name", ["m-00002-of-00003.gguf", "renamed.gguf"])
def test_another_part_is_inspected_alone_and_not_converted(folder: Path, name: str) -> None:
    (folder / "renamed.gguf").write_bytes(part(0))
    catalogue = open_checkpoint(folder / name)
    number = 2 if "00002" in name else 1

    [problem] = inspect(catalogue).problems

    assert problem.endswith(f"is part {number} of 3 of a model, and the others are not read: name the first part")
    with pytest.raises(ManifestError, match=f"is part {number} of 3"):
        convert(catalogue, folder / "out.gguf")
    with pytest.raises(ManifestError, match=f"is part {number} of 3"):
        verify(catalogue, [folder / WHOLE])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: part(2), "says that it is part 3 of 3: expected part 2 of 3"),
        (lambda: part(1, count=4), "says that it is part 2 of 4: expected part 2 of 3"),
        (lambda: part(1, tensors=9), "says that the parts have 9 tensors together, but they have 3"),
        (lambda: gguf([], [Info("w1", (4,))], bytes(16)), "says that it is a whole model: expected part 2 of 3"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(folder: Path, wrong: Callable[[], bytes], said: str) -> None:
    (folder / "m-00002-of-00003.gguf").write_bytes(wrong())

    for place in (folder, folder / WHOLE):
        with pytest.raises(ManifestError, match=rf"`m-00002-of-00003\.gguf` in .* {said}"):
            open_checkpoint(place)


def test_a_file_that_announces_very_many_parts_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-65535.gguf"
    path.write_bytes(part(0, count=65535))

    with pytest.raises(FormatError, match=r"`m-00006-of-65535\.gguf` are not beside it"):
        open_checkpoint(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as found:
        found.point(monkeypatch, tmp_path / "cache")
        yield found


@pytest.mark.parametrize("under", ["", "Q8/"])
def test_the_first_part_on_the_hub_is_the_model(under: str, hub: Hub) -> None:
    hub.repositories[TINY] = Repository({under + name: data for name, data in files().items()})

    catalogue = open_checkpoint(f"hf://{TINY}/{under}{WHOLE}")

    assert catalogue["w2"].bits().tolist() == [2, 3, 4, 5]
    assert catalogue.location.endswith(under + WHOLE)


def test_an_absent_part_on_the_hub_is_named(hub: Hub) -> None:
    hub.repositories[TINY] = Repository({name: data for name, data in files().items() if "00003-of" not in name})

    with pytest.raises(FormatError, match=r"`m-00003-of-00003\.gguf` is not beside it"):
        open_checkpoint(f"hf://{TINY}/{WHOLE}")


def test_the_first_part_at_a_url_is_the_model(hub: Hub) -> None:
    hub.on_elsewhere = serve({f"/x/{name}": data for name, data in files().items()})

    assert list(open_checkpoint(f"{hub.url('elsewhere')}/x/{WHOLE}")) == ["w0", "w1", "w2"]


def test_verify_says_of_another_part_only_that_it_is_one(folder: Path) -> None:
    paths = sorted(folder.glob("*.gguf"))

    output = verify(open_checkpoint(paths[0]), [paths[1]]).outputs[0]

    assert (output.verdict, output.tensors.missing) == ("different", ())
    [found] = output.tensors.different
    assert found.detail == (f"`{paths[1]}` is part 2 of 3 of a model, and the others are not read: name the first part")
