"""Every limit on what an input may ask for, with its reason.

Nothing is allocated on a file's word alone; these bound what honest work on a dishonest file may cost.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts and bytes; each well above what the largest public checkpoints need."""

    pickle_bytes: int = 64 << 20  # data.pkl: 100,000 tensors take 9 MB
    opcodes: int = 10_000_000  # 32 a tensor: 300,000 tensors
    memo: int = 4_000_000  # entries; a tensor has about 8
    stack: int = 1_000_000  # objects between two marks
    marks: int = 10_000  # open MARKs: torch nests three deep
    line: int = 4096  # bytes of a text argument (protocol 0)
    integer: int = 1024  # bytes of a LONG; the legacy magic has 10
    depth: int = 64  # nested containers that are followed to find tensors
    names: int = 64 << 20  # characters of all tensors' names together: 100,000 take 6 MB
    rank: int = 64  # dimensions: numpy's own limit, and torch's
    entries: int = 1_000_000  # records of an archive
    directory_bytes: int = 256 << 20  # the zip's central directory
    name: int = 1024  # bytes of a record's name
    json_bytes: int = 64 << 20  # config.json, an index, a manifest
    gguf_keys: int = 100_000  # a model has about 40
    gguf_bytes: int = 256 << 20  # keys, values and tensors' entries: a vocabulary of 256,000 tokens takes 10 MB
    gguf_string: int = 16 << 20  # a value: the largest chat templates have 100 kB
    gguf_alignment: int = 1 << 20


LIMITS: Final = Limits()
