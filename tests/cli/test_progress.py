"""The line that shows how far a command has come, and the times of its steps."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from converter import steps
from converter.cli import commands
from converter.cli.app import app
from converter.cli.progress import Above, Bar, Progress
from converter.sample import write_sample
from tests.build.hub_server import SIGNATURE, TINY, TOKEN, Exchange, Hub

RUN = CliRunner()
TIMES = re.compile(r"^ *\d+\.\d{3} s  ")


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_sample(tmp_path / "odd", "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- the line ----------------------------------------------------------------------------------------------------------


def bar(unit: str = "bytes") -> Bar:
    """A bar over 10 GB, of which 2.5 GB were done in ten seconds."""
    made = Bar("converting", io.StringIO(), unit)
    made.expect(10_000_000_000)
    made.at("h.3.attn.c_attn.weight")
    made._samples.clear()
    made.line(200, 100.0)
    made.add(2_500_000_000)
    return made


def test_it_says_what_it_is_at_and_how_long_the_rest_takes() -> None:
    # 7.5 GB at 250 MB/s take 30 seconds; a part of a second more is a second more
    assert bar().line(120, 110.0) == (
        "converting   25%  0:00:31  [#####...............]  2.5 GB of 10.0 GB  250.0 MB/s  h.3.attn.c_attn.weight"
    )


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (80, "converting   25%  0:00:31  [#####...............]  2.5 GB of 10.0 GB  250.0 MB/s"),
        (70, "converting   25%  0:00:31  [#####...............]  2.5 GB of 10.0 GB"),
        (60, "converting   25%  0:00:31  [#####...............]"),
        (40, "converting   25%  0:00:31  h.3.…n.weight"),
        (28, "converting   25%  0:00:31"),
        (20, "converting   25%"),
        (8, "con…ting"),
    ],
)
def test_what_has_no_room_is_left_out(width: int, said: str) -> None:
    assert bar().line(width, 110.0) == said


@pytest.mark.parametrize(("done", "said"), [(1_000, "0%  ["), (99_000_000, "1%  ["), (100_000_000, "1%  0:16:31  [")])
def test_before_a_hundredth_is_done_no_time_is_told(done: int, said: str) -> None:
    """A first piece that waits for the disk would make it hundreds of hours."""
    shown = bar()
    shown.add(done - 2_500_000_000)

    assert shown.line(80, 110.0).startswith(f"converting    {said}")


def test_work_that_is_no_file_has_no_bytes() -> None:
    assert bar("share").line(100, 110.0) == (
        "converting   25%  0:00:31  [#####...............]  h.3.attn.c_attn.weight"
    )


def test_files_are_counted() -> None:
    out = io.StringIO()
    followed = Progress(Bar("scanning", out, "files"), False, None)
    followed.start(12_000)
    for name in ("a.pkl", "b.pkl"):
        followed.begin(name)

    assert Bar.line(followed._bar, 60, 0.0) == "scanning  2/12,000  b.pkl"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["/".join(["folder"] * 30) + "/end.bin", "模型" * 40 + ".bin", "\x1b[2J" * 40 + ".bin"]
)
@pytest.mark.parametrize("width", [20, 39, 60, 79])
def test_a_name_never_makes_it_longer_than_a_line(name: str, width: int) -> None:
    shown = bar()
    shown.at(name)

    line = shown.line(width, 110.0)

    assert cell_len(line) <= width
    assert "\x1b" not in line


def test_before_the_total_is_known_it_says_only_what_it_is_at() -> None:
    shown = Bar("reading", io.StringIO(), "bytes")
    shown.at("model/pytorch_model.bin")

    assert shown.line(79, 0.0) == "reading  model/pytorch_model.bin"


def test_more_work_makes_the_share_smaller_and_too_much_work_is_all_of_it() -> None:
    shown = bar()
    shown.more(15_000_000_000)
    assert "  10%  " in shown.line(79, 110.0)

    shown.add(30_000_000_000)
    assert shown.line(79, 111.0).startswith("converting  100%  [####################]")


def test_a_second_part_of_the_work_goes_on_where_the_first_ended() -> None:
    shown = bar()
    shown.expect(2_500_000_000)

    assert "  50%  " in shown.line(79, 110.0)


def test_it_is_redrawn_from_its_beginning_in_the_width_of_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    shown = Bar("verifying", out, "bytes")
    shown.at("transformer.h.0.attn.c_attn.weight")
    for columns in ("80", "30"):
        monkeypatch.setenv("COLUMNS", columns)
        shown.draw()
    shown.erase()

    # Erasing goes to the end of the screen, because a line that is too long for a narrower window takes two.
    assert out.getvalue() == (
        "\x1b[Jverifying  transformer.h.0.attn.c_attn.weight\r\x1b[Jverifying  transf…attn.weight\r\x1b[J"
    )


def test_the_lines_of_others_are_written_above_it() -> None:
    out = io.StringIO()
    shown = Bar("verifying", out, "bytes")
    shown.draw()

    print("a note", file=Above(shown, out))

    assert out.getvalue() == "\x1b[Jverifying\r\x1b[Ja note\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "drawn"), [("xterm", True), ("dumb", False), ("", False)])
def test_a_terminal_that_can_not_move_its_cursor_has_none(
    term: str, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", term)

    with commands.showing("reading") as followed:
        assert (sys.stderr is terminal) is not drawn
        followed.start(10)

    assert sys.stderr is terminal
    assert bool(terminal.getvalue()) is drawn
    assert terminal.getvalue().endswith("\x1b[J" if drawn else "")


# ---- the times -----------------------------------------------------------------------------------------------------------

STEPS = {
    "inspect odd": ["read odd/pytorch_model.bin", "open odd", "total reading"],
    "inspect odd --stats": ["read odd/pytorch_model.bin", "open odd", "measure 60 tensors", "total reading"],
    "check odd": ["read odd/pytorch_model.bin", "open odd", "measure 60 tensors", "check odd", "total checking"],
    "convert odd o.gguf": ["read odd/pytorch_model.bin", "open odd", "plan o.gguf", "write {0}/o.gguf", "sync 1 file", "total converting"],
    "verify odd odd --level inference": [
        *["read odd/pytorch_model.bin", "open odd"] * 2, "compare odd", "compute odd", "total verifying",
    ],
    "scan odd/pytorch_model.bin": ["scan odd/pytorch_model.bin", "total scanning"],
}  # fmt: skip


@pytest.mark.parametrize("line", STEPS)
def test_verbose_says_how_long_each_file_and_phase_took(line: str, odd: Path) -> None:
    done = RUN.invoke(app, [*shlex.split(line), "-v", "--log", "times.log"])

    assert done.exit_code == 0, done.stderr
    said = done.stderr.splitlines()
    assert [bool(TIMES.match(one)) for one in said] == [True] * len(said)
    assert [" ".join(TIMES.sub("", one).split()) for one in said] == [step.format(odd) for step in STEPS[line]]
    logged = (odd / "times.log").read_text().splitlines()
    assert [one[26:] for one in logged] == said
    assert all(re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  ", one) for one in logged)


def test_every_file_that_is_written_is_named(odd: Path) -> None:
    done = RUN.invoke(app, ["convert", "odd", "st", "--to", "safetensors", "--max-shard-size", "500kB", "-v"])

    written = re.findall(r" s  write +(\S+)", done.stderr)
    assert sorted(written) == sorted(str(path) for path in (odd / "st").iterdir())
    assert len(written) == 6


def test_a_log_grows_and_replaces_nothing(odd: Path) -> None:
    for _ in range(2):
        RUN.invoke(app, ["scan", "odd", "--log", "times.log"])
    assert (odd / "times.log").read_text().count("total     scanning") == 2

    before = (odd / "odd" / "pytorch_model.bin").read_bytes()
    done = RUN.invoke(app, ["scan", "odd", "--log", "odd/pytorch_model.bin"])
    absent = RUN.invoke(app, ["scan", "odd", "--log", "nowhere/times.log"])

    assert (done.exit_code, absent.exit_code) == (2, 2)
    assert done.stderr == (
        "error: `odd/pytorch_model.bin` exists and is not a log of this program: choose another path for --log\n"
    )
    assert absent.stderr == "error: `nowhere/times.log` can't be written: no such file or directory\n"
    assert (odd / "odd" / "pytorch_model.bin").read_bytes() == before


def test_a_step_that_fails_is_timed_too(odd: Path) -> None:
    (odd / "cut.bin").write_bytes((odd / "odd" / "pytorch_model.bin").read_bytes()[:-1000])

    done = RUN.invoke(app, ["inspect", "cut.bin", "-v"])

    assert done.exit_code == 2
    assert " s  open      cut.bin: failed\n" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_quiet_and_verbose_exclude_each_other(odd: Path) -> None:
    done = RUN.invoke(app, ["inspect", "odd", "-q", "-v"])

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --quiet and --verbose exclude each other")


def test_requests_are_timed_and_waits_are_shown(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(Progress, "at", lambda self, name: shown.append(name))
    left = 1

    def fail(exchange: Exchange) -> bool:
        nonlocal left
        if left:
            left -= 1
            exchange.reply(503)
            return True
        return False

    hub.on_api = fail
    done = RUN.invoke(app, ["inspect", TINY, "-v"])

    assert done.exit_code == 0, done.stderr
    assert re.search(r"(?m)^ *\d+\.\d{3} s  request   http://127\.0\.0\.1", done.stderr)
    assert re.search(r"(?m)^ *\d+\.\d{3} s  receive   [\d,]+ bytes$", done.stderr)
    assert SIGNATURE not in done.stderr
    assert TOKEN not in done.stderr
    waits = [name for name in shown if "attempt 2 of 6 comes in" in name]
    assert len(waits) == 1
    assert "the server answered 503" in waits[0]


# ---- who is told ---------------------------------------------------------------------------------------------------------


def test_a_follower_hears_of_its_own_context_only() -> None:
    heard: list[tuple[str, str]] = []

    class Listening(steps.Follower):
        def ended(self, verb: str, name: str, seconds: float) -> None:
            heard.append((verb, name))

    with steps.followed_by(Listening()), steps.step("read", "inside"):
        pass
    with steps.step("read", "outside"):
        pass

    assert heard == [("read", "inside")]
