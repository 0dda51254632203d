"""Completion as each shell wants it: the script that asks, the words of a line that was begun, and names that it can take."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer

VARIABLE: Final = "_CEREBRAS_TOOL_COMPLETE"  # a shell sets it to ask for completion
_LINE: Final = "_CEREBRAS_TOOL_LINE"  # the command line up to the cursor, as it was typed
_BREAKS: Final = "_CEREBRAS_TOOL_BREAKS"  # bash's $COMP_WORDBREAKS
_PROGRAM: Final = "cerebras-tool"

# Each asks with the raw line. bash inserts an answer as it stands, from the last break or open quote on.
# zsh and fish quote the answers themselves.
_SCRIPTS: Final = {
    "bash": f"""\
_cerebras_tool_completion() {{
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <({_LINE}="${{COMP_LINE:0:COMP_POINT}}" {_BREAKS}="$COMP_WORDBREAKS" {VARIABLE}=complete_bash "$1" 2>/dev/null)
}}

complete -o default -F _cerebras_tool_completion {_PROGRAM}""",
    "zsh": f"""\
#compdef {_PROGRAM}

_cerebras_tool_completion() {{
    local told
    local -a found
    told=$({_LINE}="${{(j: :)words[1,CURRENT]}}" {VARIABLE}=complete_zsh {_PROGRAM} 2>/dev/null)
    found=("${{(@f)told}}")
    if [[ -n $told ]]; then _describe value found; else _files; fi
}}

compdef _cerebras_tool_completion {_PROGRAM}""",
    "fish": f"""\
function __cerebras_tool_completion
    set -l told (env {_LINE}=(commandline -cp | string collect) {VARIABLE}=complete_fish {_PROGRAM} 2>/dev/null)
    if test (count $told) -gt 0
        string join -- \\n $told
    else
        __fish_complete_path (commandline -ct)
    end
end

complete --command {_PROGRAM} --no-files --arguments "(__cerebras_tool_completion)\"""",
}

# The characters that a backslash escapes inside quotes; elsewhere it escapes all.
_ESCAPED: Final = {
    "bash": {"'": "", '"': '\\$`"'},
    "zsh": {"'": "", '"': '\\$`"'},
    "fish": {"'": "\\'", '"': '\\$"'},
}
_SPECIAL: Final = re.compile(r"[^\w./+,%-]")


@dataclass(frozen=True, slots=True)
class Begun:
    """A command line up to the cursor: its words, without quotes; the last is the one that is being typed."""

    words: tuple[str, ...]
    quote: str  # the quote that is still open, or ""
    kept: int  # characters of the last word before the open quote or after the last break: bash keeps them


def begun(shell: str, line: str, breaks: str = "") -> Begun:
    """Read a line as that shell would, however it breaks off. `breaks` end a word for bash's completion alone."""
    words: list[str] = []
    word, quote, broken, opened, inside, at = "", "", 0, 0, False, 0
    while at < len(line):
        character = line[at]
        at += 1
        if character == "\\" and not (quote and line[at : at + 1] not in _ESCAPED[shell][quote]):
            word, inside = word + line[at : at + 1], True
            at += 1
        elif quote:
            if character == quote:
                quote = ""
            else:
                word += character
        elif character in "'\"":
            quote, opened, inside = character, len(word), True
        elif character.isspace():
            if inside:
                words.append(word)
            word, broken, inside = "", 0, False
        else:
            word, inside = word + character, True
            if character in breaks:
                broken = len(word)
    return Begun((*words, word), quote, opened if quote else broken)


def script(shell: str) -> str:
    """The script with which that shell asks for completions. Raises typer.BadParameter for a shell that has none."""
    if shell not in _SCRIPTS:
        raise typer.BadParameter(f"{shell!r} is not one of {', '.join(_SCRIPTS)}")
    return _SCRIPTS[shell]


def answer(program: Any, asked: str) -> list[str]:
    """The lines that a shell reads: the script for `source_SHELL`, the words that fit for `complete_SHELL`."""
    what, _, shell = asked.partition("_")
    source = script(shell)
    if what == "source":
        return [source]
    line = begun(shell, os.environ.get(_LINE, ""), os.environ.get(_BREAKS, ""))
    completion: Any = import_module("typer.completion")
    completion.completion_init()  # without it, no shell is known
    last = line.words[-1]
    asker = completion.shell_completion.get_completion_class(shell)(program, {}, _PROGRAM, VARIABLE)
    items = asker.get_completions(list(line.words[1:-1]), last)
    # For `--filter=mod`, typer gives values without the option.
    option = last[: last.find("=") + 1] if last.startswith("-") else ""
    return [
        _written(shell, line, option + item.value, " ".join((item.help or "").split()))
        for item in items
        if item.type == "plain"  # the shell itself knows files
    ]


def _written(shell: str, line: Begun, value: str, said: str) -> str:
    if shell == "bash":
        return quoted(value[line.kept :], line.quote)
    if shell == "zsh":
        return re.sub(r"([\\:])", r"\\\1", value) + (said and f":{said}")
    return value + (said and f"\t{said}")


def quoted(value: str, quote: str) -> str:
    """A value as bash takes it whole where that quote is open (without the last quote, which bash sets), or none."""
    if quote == "'":
        return value.replace("'", "'\\''")
    if quote == '"':
        # Nothing but other quotes keeps bash from taking `!` for an event of its history.
        return re.sub(r'([\\$`"])', r"\\\1", value).replace("!", "\"'!'\"")
    return _SPECIAL.sub(r"\\\g<0>", value)
