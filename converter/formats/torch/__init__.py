"""PyTorch's checkpoints: the zip form, and the legacy stream that came before 1.6."""

from typing import Final

PUBLISHED_WRITER: Final = "torch 1.5 to 2.0"  # the writers of the published files, as far as a file shows
