"""Help, the manual page and completion, all made from the commands themselves."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.cli.examples import EXAMPLES
from converter.cli.manual import _plain
from converter.cli.shells import quoted
from converter.sample import write_sample

RUN = CliRunner()
ODD = ["a b.w", "a [x].w", "it's", '$1"!', "c:d=e"]
COMMANDS = RUN.invoke(app, ["help"]).stdout.partition("Commands:\n")[2]
NAMES = [line.split()[0] for line in COMMANDS.splitlines() if line[:2] == "  " and line[2:3].strip()]


def test_every_command_has_examples() -> None:
    assert sorted(EXAMPLES) == sorted(NAMES)
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("line", [line for rows in EXAMPLES.values() for _, line in rows])
def test_the_examples_are_command_lines(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is parsed: what it names may not be here, but no option, word or number of arguments is wrong."""
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(line)

    done = RUN.invoke(app, [name, "--help", *words])

    assert done.exit_code == 0
    assert line in done.stdout
    parsed = RUN.invoke(app, ["--offline", *shlex.split(line)]) if name in ("inspect", "check", "scan") else done
    assert "there is no option" not in parsed.stderr
    assert "invalid value" not in parsed.stderr
    assert "missing argument" not in parsed.stderr


@pytest.mark.parametrize("name", NAMES)
def test_usage_is_written_as_people_write_it(name: str) -> None:
    first = RUN.invoke(app, ["help", name], prog_name="cerebras-tool").stdout.splitlines()[0]

    assert first.startswith(f"Usage: cerebras-tool {name} [OPTIONS]")
    assert not set(first) & set("{}<>")
    assert first.count("[[") == 0


def test_the_manual_page_has_every_command_and_option() -> None:
    page = RUN.invoke(app, ["help", "--man"]).stdout

    assert page.isascii()
    assert page.startswith('.TH CEREBRAS\\-TOOL 1 ""')
    for name in NAMES:
        assert f".SS cerebras\\-tool {name} " in page
    assert "\\fB\\-\\-max\\-shard\\-size SIZE\\fR" in page
    assert page.count(".RS") == sum(map(len, EXAMPLES.values()))


def test_what_troff_understands_is_text() -> None:
    assert _plain(".TH 'x'\n\\fB-1… `^~") == "\\&.TH \\(aqx\\(aq \\efB\\-1\\[u2026] \\(ga\\(ha\\(ti"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff, which shows manual pages, is not on this machine")
def test_troff_sees_nothing_wrong_in_the_manual_page() -> None:
    page = RUN.invoke(app, ["help", "--man"]).stdout

    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c", "-P-b", "-P-u"],
        input=page.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert done.stderr == b""
    assert b"max-shard-size" in done.stdout.replace(b"\xe2\x88\x92", b"-").replace(b"\xe2\x80\x90", b"-")


def header(names: list[str]) -> bytes:
    """A safetensors file with one F32 number for each name."""
    tensors = {n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)}
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(names))


def completed(line: str, shell: str = "bash") -> list[str]:
    """What a shell is offered at the end of a line."""
    variables = {
        "_CEREBRAS_TOOL_COMPLETE": f"complete_{shell}",
        "_CEREBRAS_TOOL_LINE": line,
        "_CEREBRAS_TOOL_BREAKS": " \t\n\"'@><=;|&(:",  # as bash has them, if nobody changed them
    }
    return RUN.invoke(app, [], prog_name="cerebras-tool", env=variables).stdout.splitlines()


def test_a_shell_completes_commands_options_words_models_and_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(tmp_path / "odd", "tiny")
    monkeypatch.chdir(tmp_path)

    assert completed("cerebras-tool ins") == ["inspect"]
    assert set(completed("cerebras-tool inspect --s")) >= {"--sort", "--stats"}
    assert completed("cerebras-tool convert odd --to g") == ["gguf"]
    assert completed("cerebras-tool convert odd x --dtype q8") == ["q8_0"]
    assert completed("cerebras-tool convert odd x --dtype Q8") == ["Q8_0"]
    assert completed("cerebras-tool convert odd x --dtype Q4_K_") == ["Q4_K_M", "Q4_K_S"]
    assert completed("cerebras-tool convert odd x --dtype bF") == ["bF16"]
    assert completed("cerebras-tool convert odd x --dtype Z") == []
    assert completed("cerebras-tool models 11") == ["111M"]
    assert completed("cerebras-tool inspect odd --filter transformer.ln") == [
        "transformer.ln_f.weight", "transformer.ln_f.bias",
    ]  # fmt: skip
    assert completed("cerebras-tool inspect odd --filter transformer.w") == ["transformer.wte.", "transformer.wpe."]
    assert completed("cerebras-tool convert odd out.gguf --exclude transformer.h.3.ln_1.") == [
        "transformer.h.3.ln_1.weight", "transformer.h.3.ln_1.bias",
    ]  # fmt: skip
    assert completed("cerebras-tool inspect nowhere --filter t") == []


@pytest.mark.parametrize(
    ("shell", "typed", "told"),
    [
        ("bash", "--filter a", ["a\\ b.", "a\\ \\[x\\]."]),
        ("bash", "--filter a\\ ", ["a\\ b.", "a\\ \\[x\\]."]),
        ("bash", "--filter a\\", ["a\\ b.", "a\\ \\[x\\]."]),  # what bash writes where two escaped names part
        ("bash", "--filter 'a ", ["a b.", "a [x]."]),
        ("bash", '--filter "a b', ["a b.w"]),
        ("bash", "--filter i", ["it\\'s"]),
        ("bash", "--filter 'i", ["it'\\''s"]),
        ("bash", "--filter 'it'\\''", ["s"]),
        ("bash", "--filter 'it'\\'", ["it\\'s"]),
        ("bash", '--filter "$', ['\\$1\\""\'!\'"']),
        ("bash", "--filter c:", ["d\\=e"]),  # bash keeps what stands before a break
        ("bash", "--filter c\\:d", ["c\\:d\\=e"]),
        ("bash", "--filter=c", ["c\\:d\\=e"]),
        ("bash", "--filter='c", ["c:d=e"]),
        ("bash", "--filter 'c:'d", ["c\\:d\\=e"]),
        ("zsh", "--filter a", ["a b.", "a [x]."]),  # zsh and fish put the quotes themselves
        ("zsh", "--filter 'a ", ["a b.", "a [x]."]),
        ("zsh", "--filter a\\ b", ["a b.w"]),
        ("zsh", "--filter=c", ["--filter=c\\:d=e"]),
        ("zsh", "--filter 'it'\\''", ["it's"]),
        ("fish", "--filter 'a ", ["a b.", "a [x]."]),
        ("fish", "--filter 'it\\'", ["it's"]),
        ("fish", "--filter=c", ["--filter=c:d=e"]),
        ("fish", '--filter "\\$', ['$1"!']),
    ],
)
def test_a_shell_takes_names_with_blanks_brackets_and_quotes_whole(
    shell: str, typed: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.safetensors").write_bytes(header(ODD))

    assert completed(f"cerebras-tool inspect odd.safetensors {typed}", shell) == told


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_bash_reads_each_completed_name_back(quote: str) -> None:
    names = [*ODD, "p*?{a,b}", "~x", "#y", "a\\b`c`", "x;y&z|(w)<v>", "ü^%"]
    line = " ".join(quote + quoted(name, quote) + quote for name in names)

    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, check=True, timeout=60)

    assert done.stdout.decode().splitlines() == names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    shown = RUN.invoke(app, ["--show-completion", shell], prog_name="cerebras-tool")
    sourced = RUN.invoke(app, [], prog_name="cerebras-tool", env={"_CEREBRAS_TOOL_COMPLETE": f"source_{shell}"})

    assert shown.exit_code == sourced.exit_code == 0
    assert shown.stdout.strip() == sourced.stdout.strip()
    assert "_CEREBRAS_TOOL_COMPLETE=complete_" in shown.stdout


def test_an_unknown_shell_is_one_sentence() -> None:
    done = RUN.invoke(app, ["--show-completion", "tcsh"])

    assert done.exit_code == 2
    assert "'tcsh' is not one of bash, zsh, fish" in done.stderr
