"""What follows from the cause of an error: exit code, advice, the rule of `scan`, the word of `verify`."""

import ast
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter import errors
from converter.cli.app import app
from converter.errors import ConverterError, MissingTensorError
from converter.formats import open_file
from converter.formats.foreign import FOREIGN, HEAD, sealed, what
from converter.scanning.rules import RULES
from tests.build.checkpoints import Entry, checkpoint_entries, floats, view, zip_bytes
from tests.build.gguf_files import Info, gguf, key
from tests.build.seeds import safetensors_file

PACKAGE = Path(errors.__file__).parent


def descendants(kind: type[ConverterError]) -> list[type[ConverterError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in descendants(child))]


CAUSES = [kind for kind in descendants(ConverterError) if kind.__module__ == errors.__name__]


def drawn() -> dict[str, str]:
    """The tree in the docstring: a class, and what it is drawn below."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for before, name in re.findall(r"^([│├└─ ]*)(\w+Error)  ", errors.__doc__ or "", re.MULTILINE):
        depth = len(before) // 3
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    assert drawn() == {kind.__name__: kind.__bases__[0].__name__ for kind in CAUSES}


def test_every_cause_is_in_one_module() -> None:
    names = {kind.__name__ for kind in CAUSES}
    elsewhere = [
        f"{path.name}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        if path != Path(errors.__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and names & {base.id if isinstance(base, ast.Name) else "" for base in node.bases}
    ]

    assert elsewhere == []


FOLLOWS = {  # exit code, rule of `scan`, word of `verify`
    "ConverterError": (2, "malformed", "unreadable"),
    "SourceError": (2, "not-looked-into", "unreadable"),
    "FormatError": (2, "malformed", "unreadable"),
    "CutOffError": (2, "malformed", "truncated"),
    "AmbiguousError": (2, "malformed", "unreadable"),
    "ForeignFileError": (2, "not-looked-into", "unreadable"),
    "NoWeightsError": (2, "malformed", "unreadable"),
    "RootError": (2, "malformed", "unreadable"),
    "ProgramError": (2, "program", "unreadable"),
    "ArchiveError": (2, "malformed", "unreadable"),
    "PickleError": (2, "malformed", "unreadable"),
    "FrameError": (2, "malformed", "unreadable"),
    "TruncatedPickleError": (2, "malformed", "unreadable"),
    "EndOfDataError": (2, "malformed", "unreadable"),
    "LayoutError": (2, "malformed", "unreadable"),
    "NamesError": (2, "malformed", "unreadable"),
    "ManifestError": (2, "malformed", "unreadable"),
    "LimitError": (2, "not-looked-into", "unreadable"),
    "UnsafeError": (2, "malformed", "unreadable"),
    "UnsupportedError": (2, "not-looked-into", "unreadable"),
    "ModelError": (2, "malformed", "unreadable"),
    "OutputError": (2, "malformed", "unreadable"),
    "MissingTensorError": (2, "malformed", "unreadable"),
    "WordError": (2, "malformed", "unreadable"),
    "RuleError": (2, "malformed", "unreadable"),
    "JobError": (2, "malformed", "unreadable"),
    "PolicyError": (2, "malformed", "unreadable"),
    "ReadError": (2, "malformed", "unreadable"),
}


def test_what_follows_from_each_cause() -> None:
    assert {kind.__name__: (kind.exit_code, kind.rule, kind.damage) for kind in CAUSES} == FOLLOWS
    assert {kind.rule for kind in CAUSES} <= set(RULES)


@pytest.mark.parametrize(
    "kind", [kind for kind in CAUSES if kind is not MissingTensorError]
)  # it writes its own message
def test_a_command_ends_with_the_code_and_the_advice_of_the_cause(
    kind: type[ConverterError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        error = kind.__new__(kind, "it is so")
        Exception.__init__(error, "it is so")
        raise error

    monkeypatch.setattr("converter.opening.open_checkpoint", refuse)
    monkeypatch.setattr(kind, "exit_code", 7)
    monkeypatch.setattr(kind, "advice", "; go on so")
    done = CliRunner().invoke(app, ["inspect", "x"])

    assert (done.exit_code, done.stderr) == (7, "error: it is so; go on so\n")


def test_past_a_limit_a_command_says_where_limits_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [kind.__name__ for kind in CAUSES if kind.advice] == ["LimitError"]
    assert errors.LimitError.advice == "; docs/security/limits.md has the limits that `--limit` raises"


SOUND = checkpoint_entries({"w": view("0", (2,))}, {"0": floats(1, 2)})
CUT_OFF: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\x08\0\0\0\0\0\0",
    "a zip without its directory": zip_bytes(SOUND)[:300],
    "a zip without its last byte": zip_bytes(SOUND)[:-1],
    "a header of safetensors": safetensors_file({"w": ("F32", (2,), floats(1, 2))})[:20],
    "the data of safetensors": safetensors_file({"w": ("F32", (2,), floats(1, 2))})[:-1],
    "the keys of GGUF": gguf([key("a", "u32", 1)])[:-1],
    "the number of keys of GGUF": gguf([key("a", "u32", 1)])[:20],
    "the data of GGUF": gguf([], [Info("w", (4,))], floats(1, 2, 3)),
}
PROGRAMS: dict[str, bytes] = {
    "TorchScript of torch 1.0": zip_bytes([*SOUND, Entry("archive/model.json", b"{}")]),
    "torch.package": zip_bytes([*SOUND, Entry("archive/.data/extern_modules", b"sys")]),
    "torch.export": zip_bytes([Entry("model/archive_format", b"pt2")]),
}


@pytest.mark.parametrize("name", CUT_OFF)
def test_a_file_that_ends_too_early_is_cut_off(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CUT_OFF[name])

    with pytest.raises(errors.CutOffError):
        open_file(tmp_path / "x")


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_archive_that_torch_runs_is_a_program(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(PROGRAMS[name])

    with pytest.raises(errors.ProgramError, match=name.partition(" ")[0]):
        open_file(tmp_path / "x")


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.magic.hex())
def test_what_is_something_else_is_foreign(kind: Any, tmp_path: Path) -> None:
    data = bytes(kind.offset or 0).replace(b"\0", b"n") + kind.magic + bytes(20)
    (tmp_path / "x").write_bytes(data)

    with pytest.raises(errors.ForeignFileError) as caught:
        open_file(tmp_path / "x")

    assert str(caught.value) == f"`{tmp_path / 'x'}` is {what(data[:HEAD])}"
    assert what(data[:HEAD]).startswith(kind.title)
    assert sealed(data[:HEAD]) == (kind if kind.sealed else None)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_bare_pickle_of_every_protocol_is_called_one(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"w": [1.0, 2.0]}, protocol))

    with pytest.raises(errors.ForeignFileError, match=r"is a bare pickle, not a file of torch\.save"):
        open_file(tmp_path / "x.bin")


def test_letters_count_in_any_case_only_where_the_format_says_so() -> None:
    assert what(b"<!DocType HTML><html>") == what(b"<!doctype html>")
    assert sealed(b"bzh is no word, and no archive") is None


@pytest.mark.parametrize(
    "head",
    [
        b'{"a": [1, -2.5e3, null, true, NaN, -Infinity, "\\"}"]}',
        b"[[], {}]\n",
        b'{"a": "' + b"x" * HEAD,
        b"[" + b"1" * (HEAD - 5) + b", fal",
        b"  \r\n{}",
    ],
)
def test_what_begins_as_json_is_called_json(head: bytes) -> None:
    assert what(head[:HEAD]) == "a JSON document, not a checkpoint"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"{% if messages %}", "text and not a checkpoint"),
        (b"{'a': 1, 'b': 2}", "text and not a checkpoint"),
        (b"[2026-11-30 12:00] the job started", "text and not a checkpoint"),
        (b"{\\rtf1 \\ansi a letter}", "text and not a checkpoint"),
        (b"{\0\1\2", "not a checkpoint that this program knows"),
        (b"[1,2", "text that begins like a JSON document, but could not be read as one"),
        (b"  \r\n{", "text that begins like a JSON document, but could not be read as one"),
        (b"[core]\n\tbare = false\n", "not a checkpoint that this program knows"),
    ],
)
def test_what_only_begins_with_a_bracket_is_not_called_json(head: bytes, said: str) -> None:
    assert what(head).startswith(said)
