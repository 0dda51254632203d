"""All formats that the same bytes can be read as, by different programs. A file that is two of them is refused.

A scanner, a viewer and a loader need not choose the same one. torch looks at the first bytes and tries tar, then zip,
then pickle; zipfile and torch.jit look at the last bytes; joblib inflates; safetensors and GGUF go by their headers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from converter.errors import AmbiguousError, ConverterError, PickleError, TruncatedPickleError
from converter.formats.foreign import program
from converter.io.tar import is_header

if TYPE_CHECKING:
    from converter.io.source import Source

TAR: Final = "a tar archive"
ZIP: Final = "a zip archive after something else"
PICKLE: Final = "a pickle"
_LOOKED_AT: Final = 8 << 20  # bytes; a pickle must name a global within this part of the file to count
_ZIP: Final = b"PK\3\4"
_NAME: Final = r"[A-Za-z_][\w.]{0,200}"  # compiled only where a file names something


def check_single(source: Source, head: bytes, title: str, contents: str) -> None:
    """Raise AmbiguousError if a file, whose first HEAD bytes show that it is `title`, is something else as well.

    `contents` is the `contents` of its format.
    """
    others = other_readings(
        source, head, pickled=contents == "pickles", archive=contents == "records", tar=contents == "members"
    )
    if others:
        raise AmbiguousError(f"`{source.name}` is two files in one: as {title}, and as {' and as '.join(others)}")


def other_readings(source: Source, head: bytes, *, pickled: bool, archive: bool, tar: bool = False) -> list[str]:
    """What else a file is. `pickled`: it starts with a pickle. `archive`: it is a zip archive. `tar`: it is a tar."""
    found = []
    if (code := program(head)) is not None:
        found.append(code.title)
    if not tar and is_header(head):
        found.append(TAR)
    if not head.startswith(_ZIP):  # no compressed file starts like a zip
        from converter.io.codecs import codec, is_compressed

        kind = codec(head)
        if kind is not None and is_compressed(source, kind):
            found.append(kind.title)
    if not archive:
        from converter.io.zip_ends import archive_ends

        if archive_ends(source) is not None:
            found.append(ZIP)
    if not pickled and names_a_global(source, head):
        found.append(PICKLE)
    return found


def _refused(value: object) -> object:
    """Refuse a persistent id, as an unpickler without persistent_load does. Every zip starts with such an opcode."""
    raise PickleError(f"a persistent id ({type(value).__name__}), which only the program that wrote it understands")


def _lenient(at: int, error: ConverterError, ends: bool) -> None:
    """Ignore an error that some unpickler accepts; stop at one where every unpickler stops."""
    if ends:
        raise error


def names_a_global(source: Source, head: bytes) -> bool:
    """Whether a file, read as a pickle, names a global: an unpickler would have imported it by then."""
    if not _may_name(head, source.size):
        return False
    # Imported here, because hardly any file that is no pickle starts with such opcodes.
    from converter.pickles.loop import run

    size = len(head)
    while True:
        used: dict[tuple[str, str], int] = {}
        needs = 0
        try:
            run(head, {}, _refused, used=used, note=_lenient, total=source.size)
        except TruncatedPickleError as error:
            needs = error.needs
        except ConverterError:
            pass
        if any(re.fullmatch(_NAME, module) and re.fullmatch(_NAME, name) for module, name in used):
            return True
        most = min(source.size, _LOOKED_AT)
        if not size < needs <= most:
            return False
        size = min(most, max(needs, 16 * size))
        head = bytes(source.read(0, size))


def _may_name(head: bytes, total: int) -> bool:
    """Whether the opcodes at the start of a file name a global, or go on behind `head`. They are not run."""
    from converter.pickles.opcodes import BINPERSID, GLOBAL, INST, PERSID, STACK_GLOBAL, decode

    try:
        for code, _, _ in decode(head, refuse=lambda at, error: None, total=total):
            if code in (GLOBAL, INST, STACK_GLOBAL):
                return True
            if code in (PERSID, BINPERSID):  # no reader of a checkpoint accepts these at its start
                return False
    except TruncatedPickleError:
        return True
    except ConverterError:
        pass
    return False
