"""Where in a file the scanner is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

# Endings of the names of pickles and checkpoints, in lower case.
ENDINGS: Final = (
    ".pkl", ".pickle", ".pck", ".pcl", ".p", ".dill", ".joblib", ".pt", ".pt2", ".pth", ".ptl", ".bin", ".ckpt", ".mar", ".npy",
    ".npz", ".safetensors", ".gguf",
)  # fmt: skip
PICKLES: Final = (".pkl", ".pickle")  # those that promise a pickle from the first byte to the last


class Claim(Enum):
    """What the surroundings say about some bytes. The less they promise a pickle, the more evidence for one is needed."""

    DATA = auto()  # bytes that may start with a pickle: a storage, a text, the rest of a broken archive
    WHOLE = auto()  # a whole file or record: if it starts with a pickle, pickles are expected up to its end
    PICKLE = auto()  # a pickle by its name or a header, whatever it starts with


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file. `name` is the path to it, empty for the file itself; `depth` counts how deep it is nested.

    The name of an archive inside another ends with a slash, so that the names of its records can follow.
    """

    name: str = ""
    depth: int = 0
    claim: Claim = Claim.WHOLE

    def into(self) -> Place:
        """The place of something that the archive at this place holds."""
        return Place(f"{self.name}/", self.depth + 1)
