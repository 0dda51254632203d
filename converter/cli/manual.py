"""A manual page in the language of man(7), made from the same texts as `--help`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer

_SPECIAL = re.compile(r"[\\\-'.`^~]")
_ESCAPES: Mapping[str, str] = {
    "\\": "\\e",
    "-": "\\-",
    "'": "\\(aq",
    ".": "\\&.",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
}


def page(group: Any, context: Any, examples: Mapping[str, Sequence[tuple[str, str]]], version: str) -> str:
    """The page of the whole program: its commands, their arguments and options, and examples."""
    lines = [
        f'.TH CEREBRAS\\-TOOL 1 "" "cerebras\\-tool {_plain(version)}"',
        ".SH NAME",
        "cerebras\\-tool \\- inspect, convert and verify checkpoints without running their pickles",
        ".SH SYNOPSIS",
        ".B cerebras\\-tool",
        "[OPTIONS] COMMAND [ARGUMENTS]",
        ".SH DESCRIPTION",
        _plain(group.help),
        ".SH OPTIONS",
        *_parameters(group, context),
        ".SH COMMANDS",
    ]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = typer.Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(inner))
        lines += [
            f".SS cerebras\\-tool {_plain(name)} {_plain(usage)}",
            _plain(command.help),
            *_parameters(command, inner),
        ]
        for said, line in examples[name]:
            lines += [".PP", _plain(said), ".PP", ".RS", ".B cerebras\\-tool", _plain(line), ".RE"]
    lines += [
        ".SH EXIT STATUS",
        "0: done, or equal. 1: the check failed. 2: it could not be done, and one sentence on standard error says why. "
        "130: interrupted.",
    ]
    return "\n".join(lines) + "\n"


def _parameters(command: Any, context: Any) -> Iterator[str]:
    for parameter in command.get_params(context):
        if parameter.param_type_name == "option":
            names, help = parameter.get_help_record(context)
            yield ".TP"
            yield f"\\fB{_plain(names)}\\fR"
            yield _plain(help)


def _plain(text: str) -> str:
    """A text in which no character has a meaning for troff, in ASCII and on one line."""
    ready = _SPECIAL.sub(lambda found: _ESCAPES[found[0]], " ".join(text.split()))
    return "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in ready)
