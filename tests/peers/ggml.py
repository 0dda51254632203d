"""ggml's own quantisers and their inverses, through the C interface that llama.cpp's binding exports."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xllamacpp.xllamacpp
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, ReaderTensor

_LIBRARY = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
_LIBRARY.ggml_type_name.restype = ctypes.c_char_p
_LIBRARY.ggml_blck_size.restype = ctypes.c_int64
_LIBRARY.ggml_type_size.restype = ctypes.c_size_t
_LIBRARY.ggml_quantize_chunk.restype = ctypes.c_size_t
_LIBRARY.ggml_quantize_requires_imatrix.restype = ctypes.c_bool


def types() -> list[tuple[str, int, int, int]]:
    """Name, number, elements and bytes of a block of every type that ggml has, up to the first number that it lacks."""
    found = []
    for number in range(43):
        name, block = _LIBRARY.ggml_type_name(number).decode(), _LIBRARY.ggml_blck_size(number)
        if block:
            found.append((name.upper(), number, block, _LIBRARY.ggml_type_size(number)))
    return found


def dequantised(name: str, raw: np.ndarray, elements: int) -> np.ndarray:
    """The F32 elements of blocks, as ggml's C code makes them."""
    raw, values = np.ascontiguousarray(raw).view("u1"), np.empty(elements, "<f4")
    lower = name.lower()
    function = getattr(_LIBRARY, f"dequantize_row_{lower[:-1]}K" if lower.endswith("_k") else f"dequantize_row_{lower}")
    function(ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(values.ctypes.data), ctypes.c_int64(elements))
    return values


def quantised(number: int, values: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """The blocks of a matrix: bytes [rows, bytes of a row]. Types that need weights of importance get ones."""
    values = np.ascontiguousarray(values, "<f4")
    rows, columns = values.shape
    if importance is None and _LIBRARY.ggml_quantize_requires_imatrix(number):
        importance = np.ones(columns)
    weights = None if importance is None else np.ascontiguousarray(importance, "<f4")
    nbytes = columns // _LIBRARY.ggml_blck_size(number) * _LIBRARY.ggml_type_size(number)
    out = np.empty((rows, nbytes), "u1")
    _LIBRARY.ggml_quantize_init(number)
    written = _LIBRARY.ggml_quantize_chunk(
        number, ctypes.c_void_p(values.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(0),
        ctypes.c_int64(rows), ctypes.c_int64(columns), None if weights is None else ctypes.c_void_p(weights.ctypes.data),
    )  # fmt: skip
    assert written == out.size
    return out


def requantised(source: Path, target: Path, name: str, importance: np.ndarray | None = None) -> Path:
    """Write a GGUF file again, as llama-quantize --pure would: with every matrix but the positions in that type."""
    number = next(number for known, number, _, _ in types() if known == name)
    return rewritten(source, target, number, lambda tensor: quantised(number, tensor.data, importance))


def rewritten(source: Path, target: Path, number: int, blocks: Callable[[ReaderTensor], np.ndarray]) -> Path:
    """Write a GGUF file again, with every matrix but the positions in the type of that number."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, inner[0] if inner else None)
    for tensor in reader.tensors:
        if len(tensor.shape) == 2 and not tensor.name.startswith("position_embd"):
            writer.add_tensor(tensor.name, blocks(tensor), raw_dtype=GGMLQuantizationType(number))
        else:
            writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
