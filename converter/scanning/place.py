"""Where in a file a scanner is looking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

# Endings that say of a file that it is a pickle or a checkpoint, in lower case.
ENDINGS: Final = (
    ".pkl", ".pickle", ".pck", ".pcl", ".p", ".dill", ".joblib", ".pt", ".pt2", ".pth", ".ptl", ".bin", ".ckpt", ".mar", ".npy",
    ".npz", ".safetensors", ".gguf",
)  # fmt: skip


class Claim(Enum):
    """What is claimed of bytes: it decides how much has to speak for a pickle in them."""

    DATA = auto()  # anything that may start with a pickle: a storage, a text, the rest of a broken archive
    WHOLE = auto()  # a whole file or record: pickles up to its end, if it starts with one
    PICKLE = auto()  # its name or a header says that it is a pickle, whatever it starts with


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file. `name` is the way to it, empty for the file itself; `depth` counts what it is nested in.

    The name of an archive inside another ends with a slash, so that the names of its records can follow.
    """

    name: str = ""
    depth: int = 0
    claim: Claim = Claim.WHOLE

    def into(self) -> Place:
        """The place of what an archive here holds."""
        return Place(f"{self.name}/", self.depth + 1)
