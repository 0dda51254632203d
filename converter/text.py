"""Makes text from a file safe for a terminal, and sizes and lists readable for people."""

import unicodedata
from collections.abc import Sequence
from typing import Final

WIDTH: Final = 200  # characters of one name that are shown
# Control, format (bidi and zero-width among them), surrogate, private, line and paragraph separators.
_ESCAPED: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def safe_text(text: str, width: int = WIDTH) -> str:
    """Escape everything that could move the cursor, or colour, hide or reorder text; cut text at `width` characters."""
    cut = text if len(text) <= width else text[: width - 1] + "…"
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(_escaped(character) for character in cut)


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


def _escaped(character: str) -> str:
    category = unicodedata.category(character)
    if category in _ESCAPED or (category == "Zs" and character != " "):
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"
    return character


def os_reason(error: OSError) -> str:
    """The system's reason for an error, for the middle of a sentence: `no such file or directory`."""
    return (error.strerror or str(error)).lower()


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: `1 tensor`, `2,068 tensors`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, in backticks and with commas between them, and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
