"""numpy's files: npz, a zip of arrays by name, and npy, one array without a name."""

from typing import Final

NPZ_NAME: Final = "npz"
NPY_NAME: Final = "npy"
MAGIC: Final = b"\x93NUMPY"  # an array's first bytes
ARRAY: Final = ".npy"  # the ending of a record's name


def first_is_array(head: bytes) -> bool:
    """Whether a zip's first record is an array: all of an npz are, and none that torch.save writes."""
    end = 30 + int.from_bytes(head[26:28], "little")
    return head.startswith(b"PK\3\4") and head[30:end].endswith(ARRAY.encode())
