"""PyTorch's checkpoints: the zip form, and the legacy stream that came before 1.6."""

from typing import Final

from converter.formats.format import Format, lazily

_ENDINGS: Final = (".bin", ".pt", ".pth", ".ckpt")
# The magic number of torch before 1.6, by pickle protocol. 2 is torch's default; a caller can choose the others.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PICKLED: Final = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_LEGACY: Final = (
    *(bytes([0x80, protocol]) + _PICKLED for protocol in (2, 3)),
    *(bytes([0x80, protocol, 0x95]) + len(_PICKLED).to_bytes(8, "little") + _PICKLED for protocol in (4, 5)),
    b"L%dL\n." % _MAGIC,
)

TORCH_ZIP: Final = Format(
    name="torch-zip",
    title="PyTorch checkpoint (zip)",
    matches=lambda head: head.startswith(b"PK\3\4"),  # a zip's local header; PyTorch itself checks no more than that
    read=lazily("converter.formats.torch.reader", "read"),
    endings=_ENDINGS,
    engines=("numpy", "transformers"),
    pickled=True,
    contents="records",
)
TORCH_LEGACY: Final = Format(
    name="torch-legacy",
    title="PyTorch checkpoint (legacy stream)",
    matches=lambda head: head.startswith(_LEGACY),
    read=lazily("converter.formats.torch.legacy", "read"),
    endings=_ENDINGS,
    engines=("numpy", "transformers"),
    pickled=True,
    contents="pickles",
)
