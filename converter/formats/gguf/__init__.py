"""GGUF, versions 2 and 3."""

from typing import Final

NAME: Final = "gguf"
MAGIC: Final = b"GGUF"  # a file's first bytes
