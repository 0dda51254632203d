"""PyTorch's checkpoints: the zip form, the legacy stream before 1.6, and the tar before 0.1.10."""

from typing import Final

PUBLISHED_WRITER: Final = "torch 1.5 to 2.0"  # the writers of the published files, as far as a file shows
