"""Makes text from files fit for a terminal and for the log of a CI, and sizes fit for people."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

WIDTH: Final = 200  # characters of one text that are shown
LONGEST: Final = 4096  # characters of one tensor's name that are shown
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
# Most of what we print has only these characters. The expressions above are compiled only when a text has others, because
# compiling them takes as long as reading a small checkpoint.
_ORDINARY: Final = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("\n·×–…")

# What stands for a character of ours where the encoding of a stream lacks it.
_SIMILAR: Final = {"×": "x", "·": "|", "…": "...", "–": "-", "≤": "<=", "≥": ">=", "²": "2", "µ": "u"}
_NUMBERS: Final = re.compile(r"(\d+)")
_DIGITS: Final = 19  # a number with this many digits is sorted as text
_LAYER: Final = re.compile(r"(?<![^.])(?:0|[1-9][0-9]*)(?![^.])")  # `00` is no number: it would not print as itself
_NO_LAYER: Final = 9  # a number with this many digits is not the number of a layer


def safe_text(text: str, width: int = WIDTH) -> str:
    """Escape everything that could move the cursor, change colours, hide, reorder, or be a command to the runner of a CI.

    A text of more than `width` characters is cut first.
    """
    cut = text if len(text) <= width else text[: width - 1] + "…"
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(_escaped(character) for character in cut)
    return without_commands(cut)


def safe_name(name: str) -> str:
    r"""The name of a tensor as it is shown and can be typed: safe, an empty one as `""`, blanks at its ends as `\x20`.

    A name of more than `LONGEST` characters is cut first.
    """
    cut = safe_text(name, LONGEST)
    if not cut:
        return '""'
    if cut[0] != " " and cut[-1] != " ":
        return cut
    inner = cut.strip(" ")
    before = len(cut) - len(cut.lstrip(" "))
    behind = len(cut) - before - len(inner)
    return without_commands(_code(" ") * before + inner + _code(" ") * behind)


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


def without_middle(text: str, width: int = 200) -> str:
    """Cut a text to `width` characters in its middle, because the two ends of a name say the most."""
    if len(text) <= width:
        return text
    behind = (width - 1) * 2 // 3
    return f"{text[: width - 1 - behind]}…{text[len(text) - behind :]}"


def in_columns(text: str, width: int) -> str:
    """Cut a text in its middle to `width` columns of a terminal. Some characters take two columns."""
    if cells(text) <= width:
        return text
    return without_middle(text, max(width // 2 if cells(text) > len(text) else width, 1))


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
    """Text as code of Markdown, escaped so that it means nothing there. In a table it needs `in_table`, too."""
    safe = safe_text(text, width)
    longest = max(map(len, re.findall("`+", safe)), default=0)
    if not longest:
        return f"`{safe}`"
    fence = "`" * (longest + 1)
    return f"{fence} {safe} {fence}"


def in_table(cell: str) -> str:
    """A cell of a Markdown table, where `|` is written with a backslash. After another backslash that would not help."""
    return cell.replace(r"\|", r"\\x7c").replace("|", r"\|")


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


def absent(count: int, one: str) -> str:
    """What is missing, with its verb: `1 byte is missing`, `20 bytes are missing`."""
    return f"{plural(count, one)} {'is' if count == 1 else 'are'} missing"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, in backticks and separated by commas, and the number of the others."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + more(len(names), most)


def more(count: int, shown: int = 1, before: str = " and ") -> str:
    """How many of a list are left after those that are shown: ` and 5 more`. Nothing if none are left."""
    return f"{before}{count - shown:,} more" if count > shown else ""


def shortened(names: Sequence[str], most: int) -> str:
    """The first names of a list without marks around them, and the number of the others."""
    shown = ", ".join(safe_name(name) for name in names[:most])
    return shown + more(len(names), most)


def numbered(name: str) -> tuple[int | None, tuple[str, ...]]:
    """The first part of a name that is a number, and the text around it. Without a number: None and the whole name."""
    match = _LAYER.search(name)
    if match is None or len(match[0]) >= _NO_LAYER:
        return None, (name,)
    return int(match[0]), (name[: match.start()], name[match.end() :])


def together(around: Sequence[str], numbers: Iterable[int]) -> str:
    """One name for several that differ only in one number: `h.{0..3}.weight`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    listed = ",".join(f"{a}..{b}" if b > a + 1 else f"{a},{b}" if b > a else f"{a}" for a, b in runs)
    before, behind = around
    return f"{before}{{{listed}}}{behind}"
