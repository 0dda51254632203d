"""What to say about a mistyped command line. Imported only when one was typed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

import typer

# What people type who come from another program, and what it is called here. `{}` is the rest of the line.
_OTHER_COMMANDS: Final = {
    **dict.fromkeys(("info", "show", "ls", "list", "view", "cat", "dump", "print", "open", "keys"), "inspect {}"),
    **dict.fromkeys(("to", "export", "quantize", "quantise", "merge", "split", "reshard"), "convert {}"),
    **dict.fromkeys(("unpack", "unzip"), "extract {}"),
    **dict.fromkeys(("compare", "test", "prove", "cmp"), "verify {}"),
    **dict.fromkeys(("audit", "lint", "safety"), "scan {}"),
    **dict.fromkeys(("get", "pull", "fetch"), "download {}"),
    **dict.fromkeys(("create", "make", "new"), "sample {}"),
    "version": "--version",
}
_OTHER_OPTIONS: Final = {
    **dict.fromkeys(("--outtype", "--quantize", "--quant", "--type", "--ftype", "--precision", "-q8"), "--dtype"),
    **dict.fromkeys(("--format", "--target", "--output-format", "-f"), "--to"),
    **dict.fromkeys(("--overwrite", "-y", "--yes"), "--force"),
    **dict.fromkeys(("--pattern", "--grep", "--match", "--name"), "--filter or --include"),
    **dict.fromkeys(("--output", "--outfile", "--out", "-o"), "OUTPUT without an option in front"),
    **dict.fromkeys(("--input", "--model", "-i", "-m"), "SOURCE without an option in front"),
    **dict.fromkeys(("--jobs", "-j", "--workers"), "--threads"),
    **dict.fromkeys(("--split", "--shard-size"), "--max-shard-size"),
    "--silent": "--quiet",
}
_BEFORE: Final = {"--offline": "--offline", "--limit": "--limit NAME=VALUE"}  # options that go before every command


def no_command(args: Sequence[str], commands: Sequence[str]) -> str:
    """A sentence about a command line whose first word is no command."""
    word, *rest = args
    if os.path.lexists(word):
        return f"`{word}` is a file or a folder here, not a command: `cerebras-tool inspect {shlex.quote(word)}`"
    if word in _OTHER_COMMANDS:
        meant = _OTHER_COMMANDS[word].format(shlex.join(rest)).strip()
    elif near := get_close_matches(word, commands, n=1):
        meant = shlex.join([*near, *rest])
    else:
        return f"there is no command `{word}`; the commands are {', '.join(commands)}"
    return f"there is no command `{word}`; did you mean `cerebras-tool {meant}`?"


def usage(error: Any) -> str:
    """A sentence about what is wrong with a command line. `error` is typer's."""
    # typer calls every such error an invalid value. The sentence of an error that a command itself raised says more.
    ours = isinstance(error, typer.BadParameter) and error.param is None and error.param_hint is None
    said: str = (error.message if ours else error.format_message()).rstrip(".")
    context = error.ctx
    word = vars(error).get("option_name")
    if word is not None:
        known = [name for param in context.command.params for name in (*param.opts, *param.secondary_opts)]
        said = f"there is no option {word}"
        if word in _BEFORE:
            return f"{word} belongs before the command: `cerebras-tool {_BEFORE[word]} {context.info_name} …`"
        if word in _OTHER_OPTIONS and (there := _there(_OTHER_OPTIONS[word], known)):
            said += f"; say {there}"
        elif near := _near(word, known):
            said += f"; did you mean {' or '.join(near)}?"
    else:
        said = said[:1].lower() + said[1:]
    if context is None or (word is None and context.command is context.find_root().command):
        return said
    help_ = f"`{context.command_path} --help`"
    return f"{said} ({help_} lists all)" if word is not None else f"{said}; see {help_}"


def _there(said: str, known: Sequence[str]) -> str:
    """What to say in place of an option of another program, without the options that this command does not have."""
    return " or ".join(option for option in said.split(" or ") if not option.startswith("--") or option in known)


def _near(word: str, known: Sequence[str]) -> list[str]:
    if len(word) == 2:  # -a: the options that begin with this letter
        return sorted(name for name in known if name.startswith(f"--{word[1]}"))[:3]
    begun = [name for name in known if name.startswith(word)]
    return sorted(begun)[:3] or get_close_matches(word, known, n=2)
