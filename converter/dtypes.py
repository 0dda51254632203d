"""A row for each dtype: its names in PyTorch, safetensors, GGUF and numpy.

Names are those of safetensors (`F32`). The few dtypes that it lacks are PyTorch's, named in the same way (`C128`).
Sources: torch/storage.py `_new_dtypes` and the storage classes of torch/__init__.py; safetensors/src/tensor.rs `Dtype`;
ggml.h `ggml_type`.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, repr=False)
class Dtype:
    """One element type.

    `numpy` is a little-endian type string. If numpy lacks the type, it is an unsigned integer of the same width, so an
    array has the raw bits. `component` is how many bytes are reversed together when the byte order changes: half an
    element of complex numbers. `packed` is how many values share one element.
    """

    name: str
    itemsize: int  # bytes
    numpy: str
    torch: str
    storage: str | None = None  # PyTorch's typed storage class; None: only through UntypedStorage
    safetensors: str | None = None
    ggml: int | None = None
    component: int = 0  # bytes; 0: the whole element
    packed: int = 1
    floating: bool = False

    def __repr__(self) -> str:
        return f"<Dtype {self.name}>"

    @property
    def swapped(self) -> int:
        """Bytes that are reversed together when the byte order changes."""
        return self.component or self.itemsize


F64: Final = Dtype("F64", 8, "<f8", "float64", "DoubleStorage", "F64", 28, floating=True)
F32: Final = Dtype("F32", 4, "<f4", "float32", "FloatStorage", "F32", 0, floating=True)
F16: Final = Dtype("F16", 2, "<f2", "float16", "HalfStorage", "F16", 1, floating=True)
BF16: Final = Dtype("BF16", 2, "<u2", "bfloat16", "BFloat16Storage", "BF16", 30, floating=True)
I64: Final = Dtype("I64", 8, "<i8", "int64", "LongStorage", "I64", 27)
I32: Final = Dtype("I32", 4, "<i4", "int32", "IntStorage", "I32", 26)
I16: Final = Dtype("I16", 2, "<i2", "int16", "ShortStorage", "I16", 25)
I8: Final = Dtype("I8", 1, "|i1", "int8", "CharStorage", "I8", 24)
U8: Final = Dtype("U8", 1, "|u1", "uint8", "ByteStorage", "U8")
BOOL: Final = Dtype("BOOL", 1, "|u1", "bool", "BoolStorage", "BOOL")
U16: Final = Dtype("U16", 2, "<u2", "uint16", None, "U16")
U32: Final = Dtype("U32", 4, "<u4", "uint32", None, "U32")
U64: Final = Dtype("U64", 8, "<u8", "uint64", None, "U64")
C64: Final = Dtype("C64", 8, "<c8", "complex64", "ComplexFloatStorage", "C64", component=4)
C128: Final = Dtype("C128", 16, "<c16", "complex128", "ComplexDoubleStorage", component=8)
C32: Final = Dtype("C32", 4, "<u4", "complex32", component=2)
F8_E4M3: Final = Dtype("F8_E4M3", 1, "|u1", "float8_e4m3fn", None, "F8_E4M3", floating=True)
F8_E5M2: Final = Dtype("F8_E5M2", 1, "|u1", "float8_e5m2", None, "F8_E5M2", floating=True)
F8_E4M3FNUZ: Final = Dtype("F8_E4M3FNUZ", 1, "|u1", "float8_e4m3fnuz", None, "F8_E4M3FNUZ", floating=True)
F8_E5M2FNUZ: Final = Dtype("F8_E5M2FNUZ", 1, "|u1", "float8_e5m2fnuz", None, "F8_E5M2FNUZ", floating=True)
F8_E8M0: Final = Dtype("F8_E8M0", 1, "|u1", "float8_e8m0fnu", None, "F8_E8M0", floating=True)
F4: Final = Dtype("F4", 1, "|u1", "float4_e2m1fn_x2", None, "F4", packed=2, floating=True)

DTYPES: Final = (
    *(F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL, U16, U32, U64, C64, C128, C32),
    *(F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ, F8_E8M0, F4),
    Dtype("QI8", 1, "|i1", "qint8", "QInt8Storage"),
    Dtype("QU8", 1, "|u1", "quint8", "QUInt8Storage"),
    Dtype("QI32", 4, "<i4", "qint32", "QInt32Storage"),
    Dtype("QU4X2", 1, "|u1", "quint4x2", "QUInt4x2Storage", packed=2),
    Dtype("QU2X4", 1, "|u1", "quint2x4", "QUInt2x4Storage", packed=4),
    Dtype("BITS8", 1, "|u1", "bits8"),
    Dtype("BITS16", 2, "<u2", "bits16"),
    Dtype("BITS1X8", 1, "|u1", "bits1x8", packed=8),
    Dtype("BITS2X4", 1, "|u1", "bits2x4", packed=4),
    Dtype("BITS4X2", 1, "|u1", "bits4x2", packed=2),
)

BY_NAME: Final = {dtype.name: dtype for dtype in DTYPES}
BY_STORAGE: Final = {dtype.storage: dtype for dtype in DTYPES if dtype.storage}
BY_SAFETENSORS: Final = {dtype.safetensors: dtype for dtype in DTYPES if dtype.safetensors}
# torch keeps the C names as aliases; a pickle may hold either.
BY_TORCH: Final = {dtype.torch: dtype for dtype in DTYPES} | {
    "half": F16,
    "float": F32,
    "double": F64,
    "short": I16,
    "int": I32,
    "long": I64,
    "cfloat": C64,
    "cdouble": C128,
    "chalf": C32,
}

_SPELLINGS: Final = {"fp32": "f32", "fp16": "f16", "fp64": "f64"} | {
    name: dtype.name.lower() for name, dtype in BY_TORCH.items()
}


# A dtype of blocks as people write it without underscores: `q4km` for `q4_k_m`, `q80` for `q8_0`.
_BLOCKS: Final = re.compile(r"(i?q[1-8])[_-]?([01km]|nl|xxs|xs|s)(?:[_-]?([sml]))?")


def spelled(text: str) -> str:
    """The word that options take for a dtype, however people spell it: `f16` for `float16`, `fp16`, `half` and `F16`."""
    word = text.strip().lower().removeprefix("torch.") if isinstance(text, str) else text
    if isinstance(word, str) and (match := _BLOCKS.fullmatch(word)):
        return "_".join(filter(None, match.groups()))
    return _SPELLINGS.get(word, word) if isinstance(word, str) else word
