"""PyTorch's checkpoints: the zip form, and the legacy stream that came before 1.6."""

from typing import Final

ZIP_NAME: Final = "torch-zip"
LEGACY_NAME: Final = "torch-legacy"
PUBLISHED_WRITER: Final = "torch 1.5 to 2.0"  # the writers of the published files, as far as a file shows
# The magic number of torch before 1.6, by pickle protocol: 2 is torch's own choice, the others its caller's.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PICKLED: Final = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
LEGACY: Final = (  # what a legacy stream begins with
    *(bytes([0x80, protocol]) + _PICKLED for protocol in (2, 3)),
    *(bytes([0x80, protocol, 0x95]) + len(_PICKLED).to_bytes(8, "little") + _PICKLED for protocol in (4, 5)),
    b"L%dL\n." % _MAGIC,
)
