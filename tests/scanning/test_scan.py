"""What `scan` finds in files of every kind. Nothing here is ever unpickled."""

import json
import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from converter.cli.app import app
from converter.errors import SourceError
from converter.io.local import LocalFile
from converter.io.source import Memory
from converter.pickles.opcodes import NAMES
from converter.reports import to_json
from converter.reports.scan import FileScan
from converter.resources import load_json
from converter.sample import write_sample
from converter.scanning import sarif
from converter.scanning.pickle_stream import noteworthy, run_pickle
from converter.scanning.rules import RULES
from converter.scanning.scan import scan, scan_file
from tests.build.checkpoints import (
    LEGACY_MAGIC,
    Call,
    Entry,
    Global,
    Raw,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    view,
    write_checkpoint,
    zip_bytes,
)
from tests.build.depth import some
from tests.build.gguf_files import Info, gguf, key, text
from tests.build.hub_server import Hub, Repository
from tests.build.seeds import safetensors_file
from tests.reports.closed import closed

RUN = CliRunner()
ECHO = b"cposix\nsystem\n(S'echo harmless'\ntR."
LS = Call(Global("os", "system"), ("ls",))
NAMESPACE = Call(Global("trainers", "Namespace"), (), {"lr": 1})


def look(data: bytes, tmp_path: Path, name: str = "x", **options: Any) -> FileScan:
    path = tmp_path / name
    path.write_bytes(data)
    return scan_file(LocalFile(path), **{"fickling": False} | options)


def rules(found: FileScan) -> list[str]:
    return [finding.rule for finding in found.findings]


def names(found: FileScan) -> list[str]:
    return [f"{one.module}.{one.name}" for pickle in found.pickles for one in pickle.globals]


def npy(data: bytes, descr: str = "|O") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def torch_zip(value: Any, **options: Any) -> bytes:
    return zip_bytes(checkpoint_entries(value, {"0": floats(1, 2)}, **options))


PLAIN = {"w": view("0", (2,))}

VERDICTS: dict[str, tuple[bytes, str, str]] = {
    "a checkpoint": (torch_zip(PLAIN), "plain", "PyTorch checkpoint (zip)"),
    "a legacy stream": (legacy_bytes({"w": view("0", (2,))}, {"0": floats(1, 2)}), "plain", "PyTorch checkpoint (legacy stream)"),
    "a checkpoint with a trainer's arguments": (torch_zip(PLAIN | {"args": NAMESPACE}), "unknown-globals", "PyTorch checkpoint (zip)"),
    "a checkpoint that runs a program": (torch_zip(PLAIN | {"x": LS}), "dangerous", "PyTorch checkpoint (zip)"),
    "a legacy stream that runs a program": (legacy_bytes({"w": view("0", (2,)), "x": LS}, {"0": floats(1, 2)}), "dangerous", "PyTorch checkpoint (legacy stream)"),
    "a bare pickle of text": (dumps({"a": 1}), "plain", "pickle"),
    "a bare pickle that runs a program": (dumps(LS), "dangerous", "pickle"),
    "protocol 0": (ECHO, "dangerous", "pickle"),
    "the second of two pickles": (dumps(1) + ECHO, "dangerous", "pickle"),
    "the second of two pickles, both without a PROTO": (b"N." + ECHO, "dangerous", "pickle"),
    "a program behind 100,000 bytes of protocol 0": (b"(lp0\n" + b"I1\na" * 25_000 + b"0" + ECHO, "dangerous", "pickle"),
    "a program behind a text of 100,000 bytes": (b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"0" + ECHO, "dangerous", "pickle"),
    "a call that is thrown away": (b"\x80\x02(cposix\nsystem\nX\x02\0\0\0lso0N.", "dangerous", "pickle"),
    "a global that is thrown away": (b"\x80\x02cposix\nsystem\n0N.", "dangerous", "pickle"),
    "INST": (b"(S'ls'\niposix\nsystem\n.", "dangerous", "pickle"),
    "an extension's number": (b"\x80\x02\x82\x05)R.", "malformed", "pickle"),
    "a name that is put together": (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x9400h\0h\1\x93\x8c\x02ls\x85R.", "dangerous", "pickle"),
    "a payload before broken bytes": (ECHO[:-1] + b"\xff\xff", "malformed", "pickle"),
    "bytes after the pickle": (dumps(1) + b"\xff", "malformed", "pickle"),
    "a pickle that is cut off": (dumps({"a": 1})[:-3], "malformed", "pickle"),
    "a frame that ends within an opcode": (b"\x80\x04\x95\x01\0\0\0\0\0\0\0\x8c\x02ab.", "malformed", "pickle"),
    "an array of objects": (npy(ECHO), "dangerous", "numpy array (npy)"),
    "an array of numbers": (npy(b"\0" * 8, "<f8"), "plain", "numpy array (npy)"),
    "an array whose header is cut off": (npy(ECHO)[:40], "malformed", "numpy array (npy)"),
    "an archive of arrays": (zip_bytes([Entry("a.npy", npy(ECHO), deflated=True)]), "dangerous", "numpy archive (npz)"),
    "a zip with a pickle": (zip_bytes([Entry("readme", b"hello"), Entry("a/b.bin", dumps(LS))]), "dangerous", "zip archive"),
    "a zip with a deflated pickle": (zip_bytes([Entry("b", dumps(LS), deflated=True)]), "dangerous", "zip archive"),
    "a zip without one": (zip_bytes([Entry("readme", b"hello")]), "malformed", "zip archive"),
    "a zip in a zip": (zip_bytes([Entry("a.zip", zip_bytes([Entry("b", ECHO)]))]), "dangerous", "zip archive"),
    "zips in zips without end": (zip_bytes([Entry("a", zip_bytes([Entry("b", zip_bytes([Entry("c", zip_bytes([Entry("d", zip_bytes([Entry("e")]))]))]))]))]), "malformed", "zip archive"),
    "a zip cut off before its directory": (zip_bytes([Entry("a", ECHO), Entry("b", b"x" * 200)])[:150], "malformed", "zip archive that is not sound"),
    "a zip with something before it": (b"#!/bin/sh\n" + zip_bytes([Entry("a", ECHO)]), "malformed", "not a checkpoint that this program knows (its first bytes are 23 21 2f 62 69 6e 2f 73)"),
    "a zip behind a pickle": (dumps(1) + zip_bytes([Entry("a", ECHO)]), "malformed", "pickle"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + b"\0" * 60, "malformed", "a 7z archive"),
    "tar": (b"a" * 257 + b"ustar\0" + b"0" * 300, "malformed", "a tar archive"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 60, "malformed", "a gzip file"),
    "a tar in a zip": (zip_bytes([Entry("readme", b"a" * 257 + b"ustar\0" + b"0" * 300)]), "malformed", "zip archive"),
    "text": (b"click\nnumpy\nrequests\n", "malformed", "not a checkpoint that this program knows (its first bytes are 63 6c 69 63 6b 0a 6e 75)"),
    "JSON": (b'{"a": 1}', "plain", "a JSON document, not a checkpoint"),
    "nothing": (b"", "plain", "an empty file"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "verdict", "kind"), VERDICTS.values(), ids=VERDICTS)
def test_verdict(data: bytes, verdict: str, kind: str, tmp_path: Path) -> None:
    found = look(data, tmp_path)

    assert (found.verdict, found.kind) == (verdict, kind)
    assert bool(found.findings) == (verdict != "plain")
    if b"posix" in data or b"osix" in data:
        assert "posix.system" in names(found) or "header is cut off" in found.findings[0].message


@pytest.mark.parametrize("data", [b"\x80\2\x85.", b"\x80\2R.", b"\x80\2s.", b"\x80\2(e.", b"\x80\2K\1\x87."])
def test_a_pickle_that_takes_too_much_is_told_in_our_words(data: bytes, tmp_path: Path) -> None:
    found = look(data, tmp_path)

    said = " ".join(finding.message for finding in found.findings)
    assert found.verdict == "malformed"
    assert not any(word in said for word in ("Error", "pop from", "index"))
    assert "the pickle can't be run: an opcode " in said


def test_a_global_is_given_with_its_place_and_who_abused_it(tmp_path: Path) -> None:
    found = look(torch_zip(PLAIN | {"x": LS}), tmp_path)

    (pickle,) = found.pickles
    assert pickle.place == "archive/data.pkl"
    assert [(one.module, one.name, one.known, one.danger, one.evidence) for one in pickle.globals] == [
        ("torch._utils", "_rebuild_tensor_v2", True, None, None),
        ("torch", "FloatStorage", True, None, None),
        ("collections", "OrderedDict", True, None, None),
        ("os", "system", False, "runs programs", "Python's own warning about pickle"),
    ]
    data = (tmp_path / "x").read_bytes()
    start = data.index(b"\x80\x02")
    assert data[start + pickle.globals[3].byte :].startswith(b"cos\nsystem\n")
    assert pickle.opcodes == {"REDUCE": 3}


@pytest.mark.parametrize(
    ("value", "expressions"),
    [
        (LS, ["os.system('ls')"]),
        (Call(Global("a", "b"), (1, 2.5, None, True), {"k": [b"x"]}), ["a.b(1, 2.5, None, True).__setstate__({'k': [b'x']})"] * 2),
        (Call(Call(Global("a", "b"), ("c",)), ()), ["a.b('c')", "a.b('c')()"]),
        (Raw(b"ca\nb\n)}X\x01\0\0\0kK\x01s\x92"), ["a.b(**{'k': 1})"]),
        (Raw(b"ca\nb\n)\x81"), ["a.b()"]),
        (Raw(b"(K\x01ia\nb\n"), ["a.b(1)"]),
        (Raw(b"\x82\x05)R"), ["copyreg._extension_registry[5]()"]),
        (Call(Global("a", "b"), ("x" * 500,)), [f"a.b('{'x' * 120}'…)"]),
        (Call(Global("a", "b"), (10**1000,)), ["a.b(0x" + f"{10**1000:x}"[:118] + ")"]),
        (Call(Global("a", "b"), tuple(range(9))), ["a.b(0, 1, 2, 3, 4, 5, …)"]),
    ],
)  # fmt: skip
def test_explain_writes_what_would_be_called(value: Any, expressions: list[str], tmp_path: Path) -> None:
    (pickle,) = look(dumps(value), tmp_path, explain=True).pickles

    assert [call.expression for call in pickle.calls] == expressions
    assert look(dumps(value), tmp_path).pickles[0].calls == ()


def test_explain_ends_for_values_that_hold_themselves_or_each_other_many_times(tmp_path: Path) -> None:
    doubled = b"]q\0" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(40))
    itself = b"]q\0(h\0e"

    for opcodes in (doubled, itself):
        (pickle,) = look(b"\x80\x02ca\nb\n" + opcodes + b"\x85R.", tmp_path, explain=True).pickles
        # The other value on the stack makes it malformed, but the call is still shown.
        assert all(len(call.expression) <= 400 for call in pickle.calls)


def test_weights_that_look_like_a_pickle_at_first_are_weights(tmp_path: Path) -> None:
    data = b"\x80\x02\xff\xff" + b"N." + b"(" * 30

    found = look(zip_bytes(checkpoint_entries({"w": view("0", (9,))}, {"0": data})), tmp_path)

    assert (found.verdict, rules(found)) == ("plain", [])


def test_data_that_nothing_refers_to_is_named(tmp_path: Path) -> None:
    entries = checkpoint_entries(PLAIN, {"0": floats(1, 2), "hidden": b"x" * 1000})

    found = look(zip_bytes([*entries, Entry("archive/payload.py", b"import os")]), tmp_path)

    assert rules(found) == ["hidden-data", "hidden-data"]
    assert "`hidden`" in found.findings[0].message or "data/hidden" in found.findings[0].message
    assert "payload.py" in found.findings[1].message


def test_a_program_of_torchscript_is_called_one(tmp_path: Path) -> None:
    entries = checkpoint_entries(PLAIN, {"0": floats(1, 2)})

    found = look(zip_bytes([*entries, Entry("archive/constants.pkl", dumps(()))]), tmp_path)

    assert "program" in rules(found)


def two_of(name: str) -> bytes:
    """A header of safetensors that has a key twice."""
    header = f'{{"{name}":{{}},"{name}":{{}}}}'.encode()
    return struct.pack("<Q", len(header)) + header


NAMED_LIKE_A_PROGRAM: dict[str, tuple[str, bytes]] = {  # malformed files: a path, and what is in it
    "a torch zip without its version": ("programs.bin", torch_zip(PLAIN, version=None)),
    "a torch zip in a folder": ("packages/model.bin", torch_zip(PLAIN, version=None)),
    "a torch zip of version 11": ("site-packages/x/pytorch_model.bin", torch_zip(PLAIN, version=b"11")),
    "a version": ("x.bin", torch_zip(PLAIN, version=b"package")),
    "a byte order": ("x.bin", torch_zip(PLAIN, byteorder=b"program")),
    "a legacy stream's protocol": ("x.pt", LEGACY_MAGIC + dumps("program") + dumps({})),
    "a legacy stream in a folder": ("packaged/x.pt", LEGACY_MAGIC + dumps(1002) + dumps({})),
    "an entry of safetensors": ("x.safetensors", safetensors_file({"program": ("F 32\xe9", (2,), floats(1, 2))})),
    "a name that occurs twice in safetensors": ("packages.safetensors", two_of("package.weight")),
    "metadata of safetensors": ("program", safetensors_file({}, {"a": 1})),  # type: ignore[dict-item]
    "a key of GGUF that occurs twice": ("x.gguf", gguf([key("general.program", "u32", 1)] * 2)),
    "a key of GGUF of no type": ("x.gguf", gguf([text("the.package") + struct.pack("<I", 99)])),
    "a key of GGUF that holds arrays of arrays": ("x.gguf", gguf([text("program") + struct.pack("<IIQ", 9, 9, 1)])),
    "a truth value of GGUF": ("x.gguf", gguf([key("is.a.program", "bool", 2)])),
    "a tensor that occurs twice in GGUF": ("x.gguf", gguf([], [Info("packages.weight")] * 2, bytes(64))),
    "a tensor of nine dimensions in GGUF": ("x.gguf", gguf([], [Info("program", rank=9)], bytes(64))),
    "GGUF of version 9": ("torch.package/x.gguf", gguf([key("a", "u32", 1)], version=9)),
}


@pytest.mark.parametrize(("name", "data"), NAMED_LIKE_A_PROGRAM.values(), ids=NAMED_LIKE_A_PROGRAM)
def test_what_a_malformed_file_or_anything_in_it_is_called_changes_no_verdict(
    name: str, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    (file,) = scan([path], fickling=False).files

    assert (file.verdict, rules(file)) == ("malformed", ["malformed"])
    assert re.search("program|package", file.findings[0].message)  # the name is in the sentence, and only there
    assert RUN.invoke(app, ["scan", str(path), "--no-fickling"]).exit_code == 1


def test_a_torch_file_that_extract_would_refuse_is_malformed(tmp_path: Path) -> None:
    found = look(torch_zip({"w": view("0", (99,))}), tmp_path)

    assert (found.verdict, rules(found)) == ("malformed", ["malformed"])


# ---- folders, exit codes, output ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sample(tmp_path / "f" / "tiny", "tiny")
    (tmp_path / "f" / "README.md").write_text("# hello")
    (tmp_path / "f" / "x.pkl").write_bytes(dumps(NAMESPACE))
    (tmp_path / "f" / "link").symlink_to("x.pkl")
    (tmp_path / "f" / "links").symlink_to("tiny")
    os.mkfifo(tmp_path / "f" / "fifo")
    return tmp_path / "f"


def test_a_folder_with_nothing_to_scan_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.txt").symlink_to("a.txt")

    with pytest.raises(SourceError, match="holds nothing to scan: 1 file without a pickle"):
        scan([tmp_path])


def test_a_link_that_is_named_is_followed(folder: Path) -> None:
    assert scan([folder / "link"], fickling=False).verdict == "unknown-globals"


@pytest.mark.parametrize(
    ("data", "options", "code"),
    [
        (dumps(1), [], 0), (dumps(NAMESPACE), [], 1), (dumps(LS), [], 1), (dumps(1)[:-1], [], 1),
        (dumps(1), ["--fail-on", "dangerous"], 0), (dumps(NAMESPACE), ["--fail-on", "dangerous"], 0),
        (dumps(LS), ["--fail-on", "dangerous"], 1), (dumps(1)[:-1], ["--fail-on", "dangerous"], 1),
        (dumps(NAMESPACE), ["--fail-on", "unknown"], 1), (b"hello", [], 1), (b"{}", [], 0),
        (b"", [], 0),
    ],
)  # fmt: skip
def test_exit_code(data: bytes, options: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)

    assert RUN.invoke(app, ["scan", str(tmp_path / "x"), "--no-fickling", *options]).exit_code == code


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["scan", str(tmp_path / "x.bin")])

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: `")


def test_a_person_reads_verdict_reason_place_and_expression(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(ECHO)

    done = RUN.invoke(app, ["scan", str(tmp_path / "x"), "--explain", "--no-fickling"], env={"COLUMNS": "300"})

    assert done.stdout.splitlines() == [
        f"dangerous        {tmp_path}/x · pickle",
        "  error: posix.system runs programs when the file is unpickled (Python's own warning about pickle) [byte 0]",
        "  would run: posix.system('echo harmless')  (REDUCE at byte 33)",
    ]


def test_a_repository_is_scanned_file_by_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"pytorch_model.bin": torch_zip(PLAIN), "training_args.bin": dumps(LS), "config.json": b"{}"}
    with Hub({"someone/model": Repository(files)}) as hub:
        hub.point(monkeypatch, tmp_path / "cache")
        report = scan(["hf://someone/model"], fickling=False)
        one = scan(["hf://someone/model/config.json"], fickling=False)

    assert [(file.location.rsplit("/", 1)[1], file.verdict) for file in report.files] == [
        ("training_args.bin", "dangerous"), ("pytorch_model.bin", "plain"),
    ]  # fmt: skip
    assert report.skipped == 1
    assert [file.verdict for file in one.files] == ["plain"]  # it is JSON, with which no pickle begins


# ---- JSON and SARIF -------------------------------------------------------------------------------------------------


def everything(tmp_path: Path) -> list[Path]:
    write_checkpoint(tmp_path / "a.bin", PLAIN | {"x": LS, "y": NAMESPACE}, {"0": floats(1, 2), "hidden": ECHO})
    (tmp_path / "b ü%.pkl").write_bytes(dumps([ECHO]) + b"\xff")
    (tmp_path / "c.npy").write_bytes(npy(b"\0" * 8, "<f8"))
    (tmp_path / "d.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    return sorted(tmp_path.iterdir())


def test_the_report_fits_its_schema_and_uses_all_of_it(tmp_path: Path) -> None:
    schema = closed(load_json("reports", "scan.json"))
    report = scan(everything(tmp_path), explain=True)
    document = json.loads(to_json(report))

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    properties = schema["properties"]["files"]["items"]["properties"]
    assert set(properties["findings"]["items"]["properties"]["rule"]["enum"]) == set(RULES)
    assert document["files"][0]["pickles"][0]["calls"]
    assert [file["verdict"] for file in document["files"]] == ["dangerous", "malformed", "malformed", "plain"]


def test_sarif_keeps_the_published_rules(tmp_path: Path) -> None:
    log = sarif.to_sarif(scan(everything(tmp_path), fickling=False))
    schema = json.loads((Path(__file__).parent.parent / "data" / "sarif-2.1.0-subset.json").read_text())

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(log, schema)
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        # Section 3.27.6 and 3.4.5: indices point to what the ids and URIs name.
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        where = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert run["artifacts"][where["index"]]["location"]["uri"] == where["uri"]
    assert len({rule["id"] for rule in rules}) == len(rules)


def test_sarif_names_files_below_the_current_folder_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = everything(tmp_path)
    monkeypatch.chdir(tmp_path)

    inside = sarif.to_sarif(scan(paths, fickling=False))
    monkeypatch.chdir("/")
    outside = sarif.to_sarif(scan([f"../..{paths[1]}"], fickling=False))

    assert inside["runs"][0]["artifacts"][1]["location"]["uri"] == "b%20%C3%BC%25.pkl"
    first = inside["runs"][0]["artifacts"][1]["location"]
    assert (first["uriBaseId"], inside["runs"][0]["originalUriBaseIds"]["SRCROOT"]["uri"]) == (
        "SRCROOT",
        f"file://{tmp_path}/",
    )
    # The folder is the root here, so a path that goes up from it leads to the same file.
    assert outside["runs"][0]["artifacts"][0]["location"]["uri"] == quote(str(paths[1])[1:])


def test_sarif_is_written_beside_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(ECHO)

    done = RUN.invoke(app, ["scan", str(tmp_path / "x"), "--no-fickling", "--sarif", str(tmp_path / "x.sarif")])
    nowhere = RUN.invoke(app, ["scan", str(tmp_path / "x"), "--no-fickling", "--sarif", str(tmp_path / "x" / "y")])

    text = (tmp_path / "x.sarif").read_text()
    assert text.isascii()
    (result,) = json.loads(text)["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("dangerous-global", "error")
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 1, "byteOffset": 0, "byteLength": 1}
    assert done.exit_code == 1
    assert nowhere.exit_code == 2


# ---- the second pass over a pickle -----------------------------------------------------------------------------------


class Reduced:
    """An object that a pickle makes by a call and gives a state."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduced, (self.value,), {"a state of more than ten characters": self.value}


CALLED = ["REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "BUILD", "EXT1", "EXT2", "EXT4"]
TEXTS = st.text(max_size=30) | st.binary(max_size=30) | st.sampled_from([b"x" * 300, b"\x80\2N." * 5])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=14), inner, max_size=4)
    | st.tuples(inner, inner) | st.builds(Reduced, inner) | st.frozensets(st.integers(), max_size=3),
    max_leaves=25,
)  # fmt: skip


@given(VALUES, st.integers(0, 5))
@settings(max_examples=some(400, 100), deadline=None)
def test_calls_and_texts_are_those_of_pickletools(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    calls: dict[str, int] = {}
    texts = []
    for opcode, argument, at in pickletools.genops(data):
        if opcode.name in CALLED:
            calls[opcode.name] = calls.get(opcode.name, 0) + 1
        if (
            isinstance(argument, str | bytes | bytearray)
            and len(argument) > 10
            and opcode.name not in ("GLOBAL", "INST")
        ):
            texts.append((at, argument))

    found = list(noteworthy(b"before" + data + b"behind", 6))

    assert Counter(NAMES[code] for code, _, _ in found if NAMES[code] in CALLED) == calls
    assert [at - 6 for _, argument, at in found if argument is not None] == [at for at, _ in texts]
    assert found[-1][0] == data[-1] == ord(".")


def test_a_record_of_many_pickles_is_copied_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = b"\x80\2N." * 500 + b"\x80\2B" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"."
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.writestr("x.pkl", data)
    copied: list[int] = []
    read = Memory.read

    def noted(self: Memory, at: int, size: int) -> Any:
        copied.append(size)
        return read(self, at, size)

    monkeypatch.setattr(Memory, "read", noted)

    assert len(scan_file(LocalFile(tmp_path / "many.zip"), fickling=False).pickles) == 501
    assert sum(copied) < 3 * len(data)


def test_a_pickle_that_fails_is_let_go() -> None:
    error = run_pickle(b"\x80\2](]]]]", 0).error

    assert error is not None
    traceback: Any = error.__traceback__
    assert traceback is error.__context__ is error.__cause__ is None


def test_numbers_that_start_like_a_number_of_copyregs_registry_are_no_pickle(tmp_path: Path) -> None:
    """EXT2 has no name in the file. In a storage it occurs by chance, in one of 85 files of random bytes."""
    (tmp_path / "1").write_bytes(b"\x83\xf2\x3c\xbd\x12\x99" + bytes(range(200)))
    (tmp_path / "x.pkl").write_bytes(dumps(1))
    (tmp_path / "y.pkl").write_bytes(b"\x83\xf2\x3c.")

    assert [(Path(file.location).name, file.verdict) for file in scan([tmp_path], fickling=False).files] == [
        ("y.pkl", "malformed"), ("x.pkl", "plain"),
    ]  # fmt: skip


def test_pickles_and_texts_that_are_pickles_may_be_many_only_if_they_have_bytes(tmp_path: Path) -> None:
    """Each takes as much time as 64 bytes; what is left out is named."""
    texts = [b"\x80\2ca%d\nabc\n." % number for number in range(3000)]
    small = b"\x80\4](" + b"".join(b"C" + bytes([len(text)]) + text for text in texts) + b"e."
    cases = {
        "small": small,
        "large": b"\x80\2B" + struct.pack("<I", 400_000) + b"a" * 400_000 + b"0N." + small,
        "N": b"N." * 3000,
    }
    for name, data in cases.items():
        (tmp_path / f"{name}.pkl").write_bytes(data)

    found = {name: scan_file(LocalFile(tmp_path / f"{name}.pkl"), fickling=False) for name in cases}

    assert {name: file.verdict for name, file in found.items()} == {
        "small": "malformed",
        "large": "unknown-globals",
        "N": "malformed",
    }
    assert [len(file.pickles) < 2000 for file in found.values()] == [True, False, True]
    assert "with so few bytes each" in found["N"].findings[-1].message
