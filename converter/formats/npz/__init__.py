"""numpy's files: npz, a zip of arrays by name, and npy, one array without a name."""

from typing import Final

from converter.formats.format import Format, lazily

MAGIC: Final = b"\x93NUMPY"  # an array's first bytes
ARRAY: Final = ".npy"  # the ending of a record's name


def _first_is_array(head: bytes) -> bool:
    """Whether a zip's first record is an array. All records of an npz are; those of torch.save are not."""
    end = 30 + int.from_bytes(head[26:28], "little")
    return head.startswith(b"PK\3\4") and head[30:end].endswith(ARRAY.encode())


NPZ: Final = Format(
    name="npz",
    title="numpy archive (npz)",
    matches=_first_is_array,
    read=lazily("converter.formats.npz.reader", "read"),
    endings=(".npz",),
    plan=lazily("converter.formats.npz.writer", "plan"),
    dtypes=("keep", "f32", "f16", "bf16"),
    contents="records",
)
# It has no endings, because .npy files lie beside weights for many reasons.
NPY: Final = Format(
    name="npy",
    title="numpy array (npy)",
    matches=lambda head: head.startswith(MAGIC),
    read=lazily("converter.formats.npz.reader", "read_array"),
    contents="array",
)
