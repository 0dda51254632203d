"""safetensors: a header of JSON, then the tensors row by row."""

from typing import Final

from converter.formats.format import Format, lazily

SAFETENSORS: Final = Format(
    name="safetensors",
    title="safetensors",
    # A header's length, of which at most 6 bytes are used, and the header's `{`.
    matches=lambda head: head[6:8] == b"\0\0" and head[8:].lstrip(b" \t\r\n")[:1] == b"{",
    read=lazily("converter.formats.safetensors.reader", "read"),
    endings=(".safetensors",),
    plan=lazily("converter.formats.safetensors.writer", "plan"),
    dtypes=("keep", "f32", "f16", "bf16"),
    shard=50_000_000_000,  # the size at which transformers cuts
    check=lazily("converter.formats.safetensors.check", "check"),
    disagreements=lazily("converter.formats.safetensors.witness", "disagreements"),
    engines=("numpy", "transformers"),
)
