"""Weights as bytes inside a pickle: another pickle, or a file of torch, in an attribute. They are named, and never left out unsaid."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from converter.api import inspect
from converter.conversion.convert import convert
from converter.conversion.surgery import rules
from converter.errors import UnsupportedError
from converter.opening import open_checkpoint
from converter.pickles import buried, loop
from tests.build.checkpoints import Call, Global, dumps, floats, legacy_bytes, view, write_checkpoint

T = view("0", (2,))
STORAGES = {"0": floats(1, 2)}


def _file(folder: Path) -> bytes:
    return write_checkpoint(folder / "inner.pt", {"w": T}, STORAGES).read_bytes()


def _pickle(value: Any) -> bytes:
    """As `pickle.dumps` writes a tensor: its storage is a whole file of torch."""
    storage = Call(Global("torch.storage", "_load_from_bytes"), (legacy_bytes(value, STORAGES),))
    size = Call(Global("collections", "OrderedDict"), ())
    return dumps({"w": Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, 0, (2,), (1,), False, size))})


def holder(**inside: Any) -> Call:
    return Call(Global("nets", "Net"), (), inside)


PICKLE = _pickle({"w": T})
STORAGE_ALONE = dumps(Call(Global("torch.storage", "_load_from_bytes"), (b"\x80\x02.",)))
CUT_OFF = PICKLE[:-9]
# What a file holds, and what has tensors in its bytes.
BURIED: dict[str, tuple[Any, str]] = {
    "an attribute": (holder(lr=0.1, modules_=PICKLE), "modules_"),
    "an attribute beside tensors": (holder(classes_=T, modules_=PICKLE), "modules_"),
    "a storage alone": (holder(classes_=T, s=STORAGE_ALONE), "s"),
    "a file of torch before 1.6": (holder(classes_=T, s=legacy_bytes({"w": T}, STORAGES)), "s"),
    "cut off": (holder(classes_=T, s=CUT_OFF), "s"),
    "a list of pickles": (holder(classes_=T, folds=[b"", PICKLE]), "folds.1"),
    "an object in an object": (holder(classes_=T, inner=holder(dump=PICKLE)), "inner.dump"),
    "a bytearray": (holder(classes_=T, s=Call(Global("builtins", "bytearray"), (PICKLE,))), "s.0"),
    "a BytesIO": (holder(classes_=T, s=Call(Global("_io", "BytesIO"), (), (PICKLE, 0, None))), "s.0"),
    "an argument of a function": (Call(Global("nets", "load"), (PICKLE,)), "0"),
    "a state that a method takes": (Call(Global("nets", "Net"), (), PICKLE), "tensor"),
    "below the model's key": ({"epoch": 3, "model": PICKLE}, "model"),
    "alone": (PICKLE, "tensor"),
}


@pytest.mark.parametrize("name", BURIED)
def test_weights_in_bytes_are_listed_and_refused_by_name(name: str, tmp_path: Path) -> None:
    value, at = BURIED[name]
    path = write_checkpoint(tmp_path / "a.pt", value, STORAGES)

    with pytest.raises(
        UnsupportedError, match=rf"`{at}` is a pickle or a file of torch inside the pickle.*state_dict\(\).*--exclude"
    ):
        convert(open_checkpoint(path), tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
    assert [(other.name, other.kind) for other in inspect(path).others if other.role == "unsupported"] == [
        (at, "pickled tensor")
    ]


def test_a_file_of_torch_in_an_attribute_is_one_too(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pt", holder(classes_=T, dump=_file(tmp_path)), STORAGES)

    assert [other.name for other in open_checkpoint(path).unsupported] == ["dump"]


def test_the_rest_is_written_if_they_are_excluded(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pt", holder(classes_=T, modules_=PICKLE), STORAGES)

    report = convert(open_checkpoint(path), tmp_path / "a.safetensors", surgery=rules(exclude=["modules_"]))

    assert list(open_checkpoint(tmp_path / "a.safetensors")) == ["classes_"]
    assert report.excluded == ("modules_",)


# Bytes that hold no tensors, or lie where a state dict has its weights anyway.
OTHERS: dict[str, Any] = {
    "a pickle of numbers": holder(w=T, s=pickle.dumps({"a": 1})),
    "a pickle of a class": holder(w=T, s=dumps(Call(Global("mine", "Box"), ()))),
    "text": holder(w=T, s=b"torch._utils _rebuild_tensor_v2"),
    "a zip of something else": holder(w=T, s=b"PK\3\4" + bytes(22) + b"\7\0\0\0one.txt"),
    "a beginning": holder(w=T, s=b"\x80\x04"),
    "training state": holder(w=T, optimizer=PICKLE),
    "the extra state of a layer": {"w": T, "_extra_state": PICKLE},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_bytes_are_left_behind_by_name(name: str, tmp_path: Path) -> None:
    value = OTHERS[name]
    path = write_checkpoint(tmp_path / "a.pt", value, STORAGES)

    report = convert(open_checkpoint(path), tmp_path / "a.safetensors")

    assert list(open_checkpoint(tmp_path / "a.safetensors")) == ["w"]
    assert len(report.dropped) == 1


def test_bytes_that_many_share_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bytes] = []

    def counted(data: bytes, *given: Any, **more: Any) -> Any:
        runs.append(data)
        return loop.run(data, *given, **more)

    monkeypatch.setattr(buried, "run", counted)
    shared = {f"s{index}": pickle.dumps({"a": 1}) for index in range(50)}

    open_checkpoint(write_checkpoint(tmp_path / "a.pt", holder(w=T, **shared), STORAGES))

    assert len(runs) == 1
