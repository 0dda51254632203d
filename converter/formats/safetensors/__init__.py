"""safetensors: a header of JSON, then the tensors row by row."""

from typing import Final

NAME: Final = "safetensors"


def has_header(head: bytes) -> bool:
    """Whether a file begins with a header's length, of which no more than 6 bytes are used, and the header's `{`."""
    return head[6:8] == b"\0\0" and head[8:].lstrip(b" \t\r\n")[:1] == b"{"
