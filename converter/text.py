"""Text that came from a file, made fit for a terminal, and sizes made fit for people."""

import unicodedata
from typing import Final

WIDTH: Final = 200  # characters of one name that are shown
# Control, format (bidi and zero-width among them), surrogate, private, line and paragraph separators.
_ESCAPED: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def safe_text(text: str, width: int = WIDTH) -> str:
    """Escape whatever could move the cursor, change colours, hide or reorder; cut what is longer than `width`."""
    cut = text if len(text) <= width else text[: width - 1] + "…"
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(_escaped(character) for character in cut)


def nbytes_text(nbytes: int) -> str:
    """Give a size in decimal units, as disks and the Hub count: `486.2 MB`."""
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
