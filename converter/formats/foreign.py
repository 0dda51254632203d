"""The kinds of files that are not checkpoints. Files of these kinds are refused, and such archives are left unopened."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from converter.limits import limits

if TYPE_CHECKING:
    from converter.io.source import Source

HEAD: Final = 512  # bytes that tell every kind of file from the others
_LINE: Final = 120  # characters of a text that are shown
_PAGE: Final = "an HTML page, probably an error page of the server it was downloaded from"
_WORDS: Final = (b"true", b"false", b"null", b"NaN", b"Infinity")
_JSON: Final = re.compile(rb'(?:[\s{}\[\],:]++|"[^"]*+"|[-+0-9.eE]++|true|false|null|NaN|Infinity)*')  # without escapes
_PICKLE: Final = "a bare pickle, not a file of torch.save; `scan` tells what is in it"
_TRUST: Final = "it unpickles the files, so do that only if you trust them"
_JOIN: Final = (
    f"join it with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER joined.pt` ({_TRUST}), and "
    "convert joined.pt"
)
# Checkpoints whose tensors are spread over the files of ranks: a file's name, what they are, and how to join them.
_SPREAD: Final = (
    (re.compile(r"\.metadata|.*\.distcp"), "a distributed checkpoint (DCP)", _JOIN),
    (
        re.compile(r"(?:bf16_)?zero_pp_rank_\d+_mp_rank_\d+_(?:optim|model)_states\.pt"),
        "a checkpoint of DeepSpeed (ZeRO), whose weights are spread over ranks",
        "join it in the folder above with `python zero_to_fp32.py . joined`, a program that DeepSpeed wrote there "
        f"({_TRUST}), and convert the folder joined",
    ),
)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file, and the bytes at `offset` that show it.

    `sealed`: it contains files, and is not opened here. `program`: the program that it is made for runs code from it.
    """

    magic: bytes
    title: str
    how: str = ""  # how to go on
    offset: int = 0
    sealed: bool = False
    program: bool = False
    any_case: bool = False  # whether `magic`, which is lower case, matches letters in any case
    unopened: str = "unpack it, and scan what comes out"  # what `scan` says about a sealed one

    def matches(self, head: bytes) -> bool:
        """Whether a file's first HEAD bytes show this kind."""
        found = head[self.offset : self.offset + len(self.magic)]
        return (found.lower() if self.any_case else found) == self.magic


_ASK: Final = "ask its author for the weights alone, as safetensors"

FOREIGN: Final = (
    # Flatbuffers have their identifier at byte 4, after an offset that may be any four bytes. So torch.jit.load looks
    # at byte 4 first, whatever the file starts with.
    Foreign(b"PTMF", "a TorchScript program (flatbuffer)", _ASK, offset=4, program=True),
    Foreign(b"ET12", "a program of ExecuTorch", _ASK, offset=4, program=True),
    Foreign(b"version https://git-lfs", "a Git LFS pointer, not the file it stands for", "run `git lfs pull`"),
    Foreign(b"<!doctype html", _PAGE, any_case=True),
    Foreign(b"<html", _PAGE, any_case=True),
    Foreign(b"7z\xbc\xaf\x27\x1c", "a 7z archive", "take the checkpoint out of it first", sealed=True),
    # RFC 1952: the third byte is the method of compression, and 8 is the only one that readers take.
    Foreign(b"\x1f\x8b\x08", "a gzip file", "unpack it first", sealed=True),
    Foreign(b"BZh", "a bzip2 file", "unpack it first", sealed=True),
    Foreign(b"\xfd7zXZ\0", "an xz file", "unpack it first", sealed=True),
    Foreign(b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it first", sealed=True),
    Foreign(
        b"\x89HDF",
        "an HDF5 file, as Keras writes them",
        sealed=True,
        unopened="it is not opened here, and Keras may find layers of Python code in it",
    ),
    Foreign(b"lmgg", "a GGML file from before GGUF"),
    Foreign(b"fmgg", "a GGML file from before GGUF"),
    Foreign(b"tjgg", "a GGML file from before GGUF"),
    Foreign(b"PK\5\6", "an empty zip archive"),
    Foreign(b"PK\7\10", "one part of a split zip archive", "join the parts first", sealed=True),
    Foreign(
        b"ustar",
        "a tar archive",  # a sound one never gets here, because it is read
        "the checksum of its first header is wrong, so it is damaged: get the file again",
        offset=257,
        sealed=True,
    ),
    # A frame's opcode and length come first.
    Foreign(
        b"\x8c%torch.distributed.checkpoint.metadata\x94",
        "the index of a distributed checkpoint (DCP)",
        _JOIN,
        offset=11,
    ),
    *(Foreign(bytes([0x80, protocol]), _PICKLE) for protocol in (2, 3, 4, 5)),
)


def spread(name: str) -> str | None:
    """What a file of this name is a part of, if the tensors of such checkpoints are spread over files, and how to join them."""
    return next((f"{what}: {how}" for fits, what, how in _SPREAD if fits.fullmatch(name)), None)


def sealed(head: bytes) -> Foreign | None:
    """The kind of archive that a file's first HEAD bytes show, if it is one that is not opened here."""
    return next((kind for kind in FOREIGN if kind.sealed and kind.matches(head)), None)


def program(head: bytes) -> Foreign | None:
    """The kind of program that a file's first HEAD bytes show, if any. The file may start like something else, too."""
    return next((kind for kind in FOREIGN if kind.program and kind.matches(head)), None)


def known(source: Source, head: bytes) -> bool:
    """Whether `what` recognises a file. A JSON document counts if all of it is one: an unpickler stops at its first byte."""
    return not head or any(kind.matches(head) for kind in FOREIGN) or (_may_be_json(head) and _is_json(source))


def _may_be_json(head: bytes) -> bool:
    """Whether the first HEAD bytes of a file can begin a JSON document: a list or object, and no word outside quotes."""
    if head.lstrip()[:1] not in (b"{", b"["):
        return False
    bare = head.replace(b"\\\\", b"").replace(b'\\"', b"")
    rest = bare[_JSON.match(bare).end() :]  # type: ignore[union-attr]
    return not rest or (len(head) == HEAD and any(word.startswith(rest) for word in _WORDS)) or rest[:1] == b'"'


def _is_json(source: Source) -> bool:
    """Whether a whole file is a JSON document, no larger than the ones that are read here."""
    return source.size <= limits().json_bytes and _parses(bytes(source.read(0, source.size)))


def _parses(document: bytes) -> bool:
    try:
        json.loads(document.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _text(head: bytes) -> str | None:
    """The first line of a file that is English text of several words; None for any other."""
    if not head.translate(None, b"\t\r\n").isascii():
        return None
    text = head.decode()
    line = text.splitlines()[0][:_LINE] if text.strip() else ""
    return repr(line) if " " in line.strip() and "".join(text.split()).isprintable() else None


def what(head: bytes, *, broken: bool = False) -> str:
    """What a file is instead of a checkpoint, by its first HEAD bytes. `broken` says that `known` does not recognise it."""
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "a file that starts with zeros, perhaps a download that reserved its space and never finished"
    for kind in FOREIGN:
        if kind.matches(head):
            return f"{kind.title}: {kind.how}" if kind.how else kind.title
    if _may_be_json(head):
        if broken or (len(head) < HEAD and not _parses(head)):
            return "text that begins like a JSON document, but could not be read as one"
        return "a JSON document, not a checkpoint"
    if (text := _text(head)) is not None:
        return f"text and not a checkpoint, perhaps what a server answered instead of the file: {text}"
    return f"not a checkpoint that this program knows (its first bytes are {head[:8].hex(' ')})"
