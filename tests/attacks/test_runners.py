"""What a name can make a CI runner do when we print it. Numbers: README.md."""

from __future__ import annotations

import json
import re
import struct
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from converter.cli import streams
from converter.cli.app import main
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.reports import to_json
from converter.reports.scan import ScanReport
from converter.text import json_without_commands, safe_name, safe_text, without_commands
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint, zip_bytes
from tests.build.checkpoints import Entry as Record
from tests.build.gguf_files import Info, gguf, key
from tests.build.hub_server import TINY, Exchange, Hub

# How each runner finds a command in a line. None of them asks here whether a command of that name exists.
RUNNERS: dict[str, str] = {
    # github.com/actions/runner, src/Runner.Common/ActionCommand.cs, TryParseV2: TrimStart, `::`, and a second `::`.
    "GitHub Actions": r"\A\s*::.*::",
    # The same, TryParse: `##[` anywhere. Azure's log colours and groups lines by it, too.
    "GitHub Actions, first form": r"##\[",
    # github.com/microsoft/azure-pipelines-agent, Command.cs: `##vso[` anywhere, compared as people compare words.
    "Azure Pipelines": r"(?i)##vso\[",
    # jetbrains.com/help/teamcity/service-messages.html
    "TeamCity": r"(?i)##teamcity\[",
    # docs.gitlab.com/ci/jobs/job_logs: `section_start:UNIX_TIMESTAMP:SECTION_NAME\r\e[0K`
    "GitLab": r"section_(?:start|end):\d+:[^\r]*\r\x1b\[0K",
    # docs.travis-ci.com: travis_fold, travis_time
    "Travis CI": r"travis_(?:fold|time):[^\r]*\r\x1b\[0K",
    # buildkite.com/docs/pipelines/configure/managing-log-output
    "Buildkite": r"\A\s*(?:---|\+\+\+|~~~|\^\^\^)(?:\s|\Z)",
    "Buildkite, images and links": r"\x1b\]133[89];",
    # gitea.com/gitea/act and code.forgejo.org: commandPatternGA, commandPatternADO
    "Gitea and Forgejo": r"\A(?:::[^ ]+(?: .+)?::|##\[[^ ]+(?: .+)?\])",
    # jenkins.io: ConsoleNote.PREAMBLE
    "Jenkins": r"\x1b\[8mha:",
}
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\u200b-\u200f\u00ad]")

COMMANDS = [
    "::error file=a::owned",
    "::add-mask::e",
    "  ::stop-commands::owned",
    "\u2003\t::set-output name=a::b",
    "\n::warning::owned",
    "x\r::debug::owned",
    "x\r\n \x1b[31m::notice::owned",
    "##[error]owned",
    "x ##[set-env name=PATH]owned",
    "##vso[task.setvariable variable=PATH]owned",
    "x##VSO[task.complete result=Succeeded;]owned",
    "####vso[task.logissue type=error]owned",
    "##\u200bvso[task.debug]owned",
    "##v\u034fso[task.debug]owned",
    "#\ufe0f#vso[task.debug]owned",
    "##teamcity[buildStop comment='owned' readdToQueue='false']",
    "x##TeamCity[publishArtifacts '.']",
    "section_start:1560896352:owned[collapsed=true]\r\x1b[0Kowned",
    "travis_fold:start:owned\r\x1b[0K",
    "--- owned",
    "+++ owned",
    "~~~ owned",
    "^^^ +++",
    "\n--- owned",
    "\x1b]1339;url='https://example.org';content=owned\x07",
    "\x1b[8mha:////owned\x1b[0m",
]
# Wherever a long name is wrapped, one of these has a command there.
WRAPPED = [f"{'x' * shift}{'::error::a' * 30}" for shift in range(10)]
NAMES = [*COMMANDS, *WRAPPED]
FILES = [name.replace("/", "")[:80] for name in COMMANDS[::3]]  # what can be the name of a file

Program = Callable[..., int]


def found(text: str) -> list[tuple[str, str]]:
    """Return the lines that a runner would treat as a command, each with the runner."""
    lines = re.split(r"\r\n|\r|\n", text)
    seen = [(line, _INVISIBLE.sub("", unicodedata.normalize("NFC", line))) for line in lines]
    # A command that ends with a carriage return and a code is searched for in the whole text.
    across = [(text, text)]
    return [
        (runner, line)
        for runner, pattern in RUNNERS.items()
        for line, read in (across if r"\r" in pattern else seen)
        if re.search(pattern, read)
    ]


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """Run the program as `main` does, and look at every line that it printed."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["cerebras-tool", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        run_out.append(out + err)
        assert found(out) == [], arguments
        assert found(err) == [], arguments
        return int(ended.value.code or 0)

    run_out: list[str] = []
    yield run
    assert any(run_out)


@pytest.mark.parametrize("name", [name for name in COMMANDS if "\r" not in name and "\n" not in name], ids=ascii)
def test_o11_each_of_these_is_a_command_to_a_runner(name: str) -> None:
    assert found(name)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_o11_a_name_that_is_shown_is_no_command(name: str) -> None:
    shown = safe_text(name, 1000)

    assert found(shown) == []
    assert found(without_commands(f"a\n{shown}\n  {shown}\nb")) == []
    assert safe_text(shown, 1000) == shown
    assert shown.endswith(safe_text(name[-5:]))


@pytest.mark.parametrize("name", ["aten::add", "a.b", "x # y", "a##b", "# [x]", "-- x", "C++", "a[0]", "~/x", "a -> b"])
def test_o11_other_names_are_shown_as_they_are(name: str) -> None:
    assert safe_text(name) == without_commands(name) == name


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_o11_a_json_document_says_the_same_and_is_no_command(name: str) -> None:
    value = {name: [name, f"\\{name}", {"a": f"{name}\\"}]}
    document = json_without_commands(json.dumps(value, indent=2))

    assert found(document) == []
    assert json.loads(document) == value


@pytest.mark.parametrize("text", ["#" * 100_000, "##" * 50_000, "\n" * 100_000, " " * 100_000, "\x1b[1" * 50_000])
def test_o11_looking_for_commands_takes_time_that_grows_with_the_text(text: str) -> None:
    assert len(without_commands(text)) >= len(text)


def test_o11_whole_lines_are_looked_at_however_they_were_written(capsys: pytest.CaptureFixture[str]) -> None:
    with streams.without_commands_on_streams():
        for text in ("a", "\n:", ":error", "::b\n#", "#v", "so[x]\n", "  ", "::x::", "y\n", "c\n::d::"):
            sys.stdout.write(text)

        # At the end of the program they are flushed.
        sys.stdout.flush()

    assert capsys.readouterr().out == "a\n\\x3a:error::b\n\\x23#vso[x]\n  \\x3a:x::y\nc\n\\x3a:d::"


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Files with commands in every place where a name can be."""
    tensors = {name: view("0", (1,)) for name in NAMES}
    values = {f"note{name}": name for name in NAMES}
    calls = {f"call{name}": Call(Global(name[:60], name[:60]), (name,)) for name in COMMANDS if "\n" not in name}
    write_checkpoint(tmp_path / "calls.bin", {**tensors, **values, **calls}, {"0": floats(1, 2)})
    write_checkpoint(tmp_path / "x.bin", {**tensors, **values}, {"0": floats(1, 2)})
    write_checkpoint(tmp_path / "other.bin", {f"{name}!": view("0", (2,)) for name in NAMES}, {"0": floats(1, 3)})
    header = {name: {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]} for name in NAMES}
    header["__metadata__"] = {name: name for name in NAMES}
    body = json.dumps(header).encode()
    (tmp_path / "odd.safetensors").write_bytes(struct.pack("<Q", len(body)) + body + bytes(4))
    keys = [key(f"k{number}.{name[:40]}", "string", name) for number, name in enumerate(COMMANDS)]
    infos = [Info(name[:60], (1,), offset=32 * number) for number, name in enumerate(COMMANDS)]
    (tmp_path / "x.gguf").write_bytes(gguf(keys, infos, bytes(32 * len(infos))))
    pickle = (tmp_path / "calls.bin").read_bytes()
    for number, name in enumerate(COMMANDS):
        (tmp_path / f"zip{number}.zip").write_bytes(zip_bytes([Record(name, pickle)]))
    return tmp_path


def test_o11_no_command_prints_one(places: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    summary, evil = places / "summary.md", places / COMMANDS[0]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    source = places / "x.bin"
    assert program("convert", source, places / "x.safetensors", "--ignore-globals") == 0
    assert program("convert", places / "other.bin", places / "other.safetensors") == 0
    assert program("extract", source, places / "params", "--form", "named", "--ignore-globals") == 0
    for words in (
        ("inspect", source), ("inspect", source, "--all", "--stats"), ("inspect", source, "--json"),
        ("inspect", places / "x.safetensors", "--all"), ("inspect", places / "odd.safetensors"),
        ("inspect", places / "odd.safetensors", "--json"), ("inspect", places / "x.gguf", "--all"),
        ("inspect", places / "x.gguf", "--json"), ("inspect", places / "params"), ("inspect", places / "calls.bin"),
        ("extract", source, evil, "--ignore-globals"), ("extract", source, evil), ("extract", source, places / "x" / "y", "--json"),
        ("extract", places / "calls.bin", places / "calls"), ("convert", places / "calls.bin", places / "calls.safetensors"),
        ("convert", source, places / "dry.safetensors", "--dry-run", "--ignore-globals"),
        ("convert", source, places / "dry.safetensors", "--dry-run", "--ignore-globals", "--json"),
        ("convert", source, places / "x.gguf", "--force", "--ignore-globals"),
        ("verify", source, places / "other.safetensors", "--junit", places / "x.xml"),
        ("verify", source, places / "other.safetensors", "--json"),
        ("verify", places / "x.safetensors", places / "other.safetensors", places / "params", "--write-manifest", places / "golden.json"),
        ("scan", places, "--explain", "--no-fickling", "--sarif", places / "x.sarif"),
        ("scan", places, "--explain", "--no-fickling", "--json"),
    ):  # fmt: skip
        assert program(*words) in (0, 1, 2), words
    for document in ("x.sarif", "x.xml", "summary.md"):
        assert found((places / document).read_text()) == [], document


def test_o11_messages_about_paths_and_words_hold_no_command(places: Path, program: Program, tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    raw = (places / "x.bin").read_bytes()
    for number, name in enumerate(FILES):
        folder = places / name
        folder.mkdir()
        (folder / f"{name}.bin").write_bytes(raw)
        (folder / "config.json").write_text(
            json.dumps(config | {"model_type": name, "architectures": [name], name: name})
        )
        index = {"weight_map": {"a": name, name: "b"}}
        (places / f"index{number}").mkdir()
        (places / f"index{number}" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        for words in (
            ("inspect", folder), ("inspect", folder / name), ("inspect", folder, "--root", name), ("inspect", folder, "--sort", name),
            ("inspect", folder, "--filter", name), ("inspect", places / f"index{number}"), ("--limit", f"{name}=1", "inspect", folder),
            ("convert", folder, folder / "out", "--to", name), ("convert", folder, folder / "out", "--max-shard-size", name),
            ("convert", folder, folder / f"{name}.safetensors"), ("verify", folder, folder / f"{name}.safetensors"),
            ("verify", folder, folder / "absent", "--tokens", folder / name, "--level", "inference"),
            ("models", name), ("download", name), ("sample", folder / "sample", "--model", name), (name,), (f"--{name}",),
            ("inspect", f"ftp://{name}"), ("inspect", f"https://u:p@{name}"), ("inspect", f"http://example.org/{name}"), ("inspect", f"hf://{name}"), ("scan", folder / name),
        ):  # fmt: skip
            assert program(*words) in (0, 1, 2), words
    assert program("sample", places / COMMANDS[0] / "sample") == 0


def test_o11_no_command_comes_from_a_server(hub: Hub, program: Program) -> None:
    for name in COMMANDS[::3]:
        header = re.sub(r"[\r\n]+", " ", name).encode("utf-8").decode("latin-1")

        def answer(exchange: Exchange, header: str = header) -> bool:
            exchange.reply(
                206, b"x", {"Content-Range": header, "Content-Encoding": header, "X-HF-Warning": f"a;{header}"}
            )
            return True

        hub.on_resolve = answer
        assert program("inspect", f"hf://{TINY}") == 2
        hub.on_resolve = lambda exchange: False
        hub.on_api = lambda exchange, name=name: (  # type: ignore[misc]
            exchange.reply(200, json.dumps({"sha": "0" * 40, "siblings": [{"rfilename": f"{name}.bin"}]}).encode())
            is None
        )
        assert program("inspect", f"hf://{TINY}/x.bin") == 2
        hub.on_api = lambda exchange: False


def test_o11_a_filter_takes_a_name_as_it_is_printed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {name: view("0", (1,)) for name in NAMES}, {"0": floats(1, 2)})
    catalogue = open_checkpoint(path)
    for name in NAMES:
        for printed in (safe_name(name), safe_text(name)):  # in a table, and on a page
            assert name in [tensor.name for tensor in inspect(catalogue, filter=printed).tensors]


def test_o11_a_report_of_ours_is_json_that_python_writes(tmp_path: Path) -> None:
    assert json.loads(to_json(ScanReport("plain", (), 0, 0)))["verdict"] == "plain"
