"""A short run of the oracle, and whether it would notice."""

from __future__ import annotations

import _compat_pickle
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from converter.pickles.closed_table import TABLE
from tests.build.checkpoints import Entry, checkpoint_entries, floats, view, zip_bytes
from tests.peers.oracle import worker
from tests.peers.oracle.child import CONTAINER, PICKLE
from tests.peers.oracle.judge import Ours, judge, ours
from tests.peers.oracle.pool import Child
from tests.peers.oracle.zips import seeds

PAYLOAD = b"\x80\x02cos\nmkdir\nX\3\0\0\0hit\x85R."
PLAIN = Ours("plain", {}, [], "", "", 0.0)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.close()


@pytest.mark.parametrize(("what", "count"), [("pickles", 2000), ("containers", 400)])
def test_both_sentences_hold_of_files_made_at_random(what: str, count: int, child: Child) -> None:
    found = worker.run(worker.WHAT[what], 7, 0, count, seeds(), child, None)

    assert found["figures"]["files"] == count
    assert found["kinds"] == {}


def array(payload: bytes) -> bytes:
    header = b"{'descr': 'O', 'fortran_order': False, 'shape': (1,)}\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + payload


def tar(payload: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("storages")
        info.size = len(payload)
        archive.addfile(info, io.BytesIO(payload))
    return file.getvalue()


HOSTILE = {
    "pickle in C": PAYLOAD,
    "pickle in Python": b"cos\nmkdirX",  # the file ends inside a name, which loses its last character
    "joblib": zlib.compress(PAYLOAD),
    "torch": zip_bytes(checkpoint_entries({"w": view("0", (2,))}, {"0": floats(1, 2)}, pickle=PAYLOAD)),
    "torch, tar": tar(PAYLOAD),
    "numpy": array(PAYLOAD),
}


@pytest.mark.parametrize("loader", HOSTILE)
def test_each_loader_names_globals_and_runs_nothing(loader: str, child: Child) -> None:
    answer = child.one(CONTAINER, HOSTILE[loader])

    assert [loader, "os", "mkdir"] in answer["asked"]
    assert answer["ran"] == []
    finding = judge(CONTAINER, "a.bin", HOSTILE[loader], PLAIN, answer)
    assert finding is not None
    assert finding.kind.startswith("plain, but asked for by ")


def test_what_runs_a_program_is_never_handed_over(child: Child) -> None:
    entries = [*checkpoint_entries({}, {}, pickle=PAYLOAD), Entry("archive/CONSTANTS.pkl", b"\x80\x02).")]

    answer = child.one(CONTAINER, zip_bytes(entries))

    assert not [asked for asked in answer["asked"] if asked[0] == "torch"]
    assert answer["weights"] is None


def test_a_file_that_ends_the_loaders_costs_nobody_else_the_answer(child: Child) -> None:
    bomb = b"(" * 3 + b"r\xff\xff\xff\x0f".join([b"N"] * 3)  # a memo of gigabytes

    child.ask([(PICKLE, b"N."), (PICKLE, bomb), (PICKLE, PAYLOAD)])
    first, _, last = child.answers()

    assert first["asked"] == []
    assert last["asked"][0] == ["pickle in C", "os", "mkdir"]


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_weights_that_differ_are_noticed(child: Child) -> None:
    data, other = (saved({"w": torch.tensor([1.0, last])}) for last in (2.0, 3.0))

    answer = child.one(CONTAINER, data)

    assert judge(CONTAINER, "a.pt", data, ours(CONTAINER, "a.pt", data), answer) is None
    finding = judge(CONTAINER, "a.pt", data, ours(CONTAINER, "a.pt", other), answer)
    assert finding is not None
    assert finding.kind == "weights: another bytes"


def test_names_that_differ_are_noticed(child: Child) -> None:
    data, other = (saved({name: torch.ones(1)}) for name in ("v", "w"))

    finding = judge(CONTAINER, "a.pt", data, ours(CONTAINER, "a.pt", other), child.one(CONTAINER, data))

    assert finding is not None
    assert finding.kind == "weights: other names"


def test_a_name_that_torch_has_twice_is_noticed_unless_its_part_is_left_out(child: Child) -> None:
    state = {"w": torch.ones(1)}
    twice = {1: torch.ones(1), "1": torch.zeros(1)}
    beside, among = saved({"state_dict": state, "twice": twice}), saved({"twice": twice})

    said = ours(CONTAINER, "a.pt", beside)

    assert said.beside == ["twice"]
    assert judge(CONTAINER, "a.pt", beside, said, child.one(CONTAINER, beside)) is None
    finding = judge(CONTAINER, "a.pt", among, replace(said, beside=[]), child.one(CONTAINER, among))
    assert finding is not None
    assert finding.kind == "weights: a name that torch has twice"


def test_honest_files_give_no_finding(child: Child) -> None:
    file = io.BytesIO()
    np.save(file, np.arange(3.0))
    for data in (
        saved({"w": torch.ones(2, dtype=torch.bfloat16)}),
        file.getvalue(),
        pickle.dumps({"a": [1, 2.5, "x"]}),
    ):
        assert judge(CONTAINER, "a.bin", data, ours(CONTAINER, "a.bin", data), child.one(CONTAINER, data)) is None


def test_the_same_numbers_make_the_same_files() -> None:
    honest = seeds()

    assert worker.made(PICKLE, 3, 5, honest) == worker.made(PICKLE, 3, 5, honest)
    assert worker.made(CONTAINER, 3, 5, honest) == worker.made(CONTAINER, 3, 5, honest)


def test_what_the_table_knows_by_a_name_of_python_2_it_knows_by_that_of_today() -> None:
    """Then it does not matter whether a loader translates names, as loaders do up to protocol 2."""
    for module, name in TABLE:
        now = _compat_pickle.NAME_MAPPING.get((module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name))
        assert now in TABLE, (module, name)
