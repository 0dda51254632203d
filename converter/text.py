"""Makes text from files fit for a terminal and for the log of a CI, and sizes fit for people."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

WIDTH: Final = 200  # characters of one name that are shown
# Control, format (bidi and zero-width among them), surrogate, private, line and paragraph separators.
_ESCAPED: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Invisible characters: many programs skip them when they compare texts, so a command could hide behind one. Control
# characters too, except line ends, tabs and the start of a colour.
# Source: Unicode 17.0, DerivedCoreProperties.txt, Default_Ignorable_Code_Point.
_INVISIBLE: Final = (
    r"\x1b(?!\[)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f"
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    r"\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Texts that the runner of a CI obeys as a command in the output of a program. docs/ci.md has the list, with
# the sources. Some are read anywhere in a line: `##[`, `##vso[`, `##teamcity[`, in any case.
_ANYWHERE: Final = r"#(?=#[\w.-]{0,40}\[)"
# Others only at its start, after blanks and colours: `::error::` of GitHub, `--- ` of Buildkite.
_BLANKS: Final = r"[^\S\r\n]*+(?:\x1b\[[0-9;]*+[A-Za-z][^\S\r\n]*+)*"
_STARTS: Final = ("::", "---", "~~~", "+++", "^^^")
_AT_START: Final = rf"((?:\A|[\r\n]){_BLANKS})(:(?=:)|-(?=--)|~(?=~~)|\+(?=\+\+)|\^(?=\^\^))"
# Most of what we print has only these characters. The expressions above are compiled where a text has others, because
# compiling them takes as long as reading a small checkpoint.
_ORDINARY: Final = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("\n·×–…")

# What stands for a character of ours where the encoding of a stream lacks it.
_SIMILAR: Final = {"×": "x", "·": "|", "…": "...", "–": "-", "≤": "<=", "≥": ">=", "²": "2", "µ": "u"}
_NUMBERS: Final = re.compile(r"(\d+)")
_DIGITS: Final = 19  # a number with this many digits is sorted as text


def safe_text(text: str, width: int = WIDTH) -> str:
    """Escape everything that could move the cursor, change colours, hide, reorder, or be a command to the runner of a CI.

    A text of more than `width` characters is cut first.
    """
    cut = text if len(text) <= width else text[: width - 1] + "…"
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(_escaped(character) for character in cut)
    return without_commands(cut)


def without_commands(text: str) -> str:
    """A text of one or more lines without commands to the runner of a CI: the first character of each is escaped."""
    found = text if _ORDINARY.issuperset(text) else re.sub(_INVISIBLE, lambda match: _code(match[0]), text)
    found = re.sub(_ANYWHERE, r"\\x23", found) if "##" in found else found
    if not any(start in found for start in _STARTS):
        return found
    return re.sub(_AT_START, lambda match: f"{match[1]}\\x{ord(match[2]):02x}", found)


def json_without_commands(document: str) -> str:
    """The same for a JSON document, whose meaning does not change, because the escape is JSON's own.

    Its lines begin with blanks, a quote, a bracket or a number, so no command can stand at the start of one.
    """
    return re.sub(_ANYWHERE, r"\\u0023", document) if "##" in document else document


def nbytes_text(nbytes: int) -> str:
    """A size in decimal units, as disks and the Hub count: `486.2 MB`."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} EB"


def cells(text: str) -> int:
    """The columns of a terminal that a text takes: two for a wide character, none for one that combines with another."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def encodable(text: str, encoding: str) -> str:
    """A text that a stream of this encoding can take: other characters become similar ones, or escapes."""
    if text.isascii():
        return text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(
            _SIMILAR.get(character, _code(character)) if not _takes(encoding, character) else character
            for character in text
        )
    return text


def _takes(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `h.2` before `h.10`."""
    return [
        (int(part), "") if part.isascii() and part.isdigit() and len(part) < _DIGITS else (-1, part)
        for part in _NUMBERS.split(name)
    ]


def as_code(text: str, width: int = 300) -> str:
    """Text as code of Markdown, escaped so that it means nothing there, or in a table."""
    return "`" + safe_text(text, width).replace("`", "'").replace("|", "/") + "`"


def _escaped(character: str) -> str:
    category = unicodedata.category(character)
    escaped = category in _ESCAPED or (category == "Zs" and character != " ")
    return _code(character) if escaped else character


def _code(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"


def os_reason(error: OSError) -> str:
    """The system's reason for an error, for the middle of a sentence: `no such file or directory`."""
    return (error.strerror or str(error)).lower()


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: `1 tensor`, `2,068 tensors`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, in backticks and separated by commas, and the number of the others."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
