"""What each format is called, and the first bytes or the file by which it is recognised.

All of it is in one module, because every file that is opened is compared with all formats.
"""

import re
from typing import Final

GENERATION: Final = "generation_config.json"  # beside weights, or made from what a GGUF file says

GGUF: Final = "gguf"
GGUF_MAGIC: Final = b"GGUF"

NPZ: Final = "npz"
NPY: Final = "npy"
NPY_MAGIC: Final = b"\x93NUMPY"
ARRAY: Final = ".npy"  # the ending of a record's name in an npz

PARAMETERS: Final = "parameters"
MANIFEST: Final = "manifest.json"  # the file that marks a parameters folder
BEGINS_MANIFEST: Final = re.compile(rb'\s*+\{\s*+"schema"\s*+:\s*+"cerebras-tool/manifest/')

SAFETENSORS: Final = "safetensors"

TORCH_ZIP: Final = "torch-zip"
TORCH_LEGACY: Final = "torch-legacy"
TORCH_TAR: Final = "torch-tar"
PUBLISHED_WRITER: Final = "torch 1.5 to 2.0"  # the writers of the published files, as far as a file shows
# The magic number of torch before 1.6, by pickle protocol: 2 is torch's own choice, the others its caller's.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PICKLED: Final = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
LEGACY_MAGICS: Final = (
    *(bytes([0x80, protocol]) + _PICKLED for protocol in (2, 3)),
    *(bytes([0x80, protocol, 0x95]) + len(_PICKLED).to_bytes(8, "little") + _PICKLED for protocol in (4, 5)),
    b"L%dL\n." % _MAGIC,
)


_LEAST: Final = 8  # bytes; no checkpoint has fewer
_MARKS: Final = (b"PK\3\4", GGUF_MAGIC, NPY_MAGIC, b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", *LEGACY_MAGICS)
_HEADER: Final = 100_000_000  # bytes of a header of safetensors, at most: the library's own limit

# A shard's file name: the model's name, the shard's number from 1, how many there are, and the ending.
SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)")

# The name of an index of shards, and the ending of their names.
INDEX: Final = re.compile(r".+(\.bin|\.safetensors)\.index(?:\.[\w-]+)?\.json")


def could_begin(head: bytes) -> bool:
    """Whether a file of fewer than 8 bytes could be the start of a checkpoint: part of a known mark, or of a header's length."""
    if len(head) >= _LEAST:
        return False
    length = int.from_bytes(head, "little")
    return any(mark.startswith(head) for mark in _MARKS) or len(head) < 4 or length < _HEADER


def shard_name(match: re.Match[str], number: int) -> str:
    """The name of another file of the set that a match of SHARD belongs to."""
    return f"{match[1]}-{number:05}-of-{match[3]}{match[4]}"


def first_is_array(head: bytes) -> bool:
    """Whether a zip's first record is an array: in an npz all records are, and in a zip of torch.save none is."""
    end = 30 + int.from_bytes(head[26:28], "little")
    return head.startswith(b"PK\3\4") and head[30:end].endswith(ARRAY.encode())


def has_header(head: bytes) -> bool:
    """Whether a file begins with a header of safetensors: its length, of which 6 bytes are used at most, and its `{`."""
    return head[6:8] == b"\0\0" and head[8:].lstrip(b" \t\r\n")[:1] == b"{"
