"""Blocks of every type of GGUF, with arbitrary bytes except for the scales."""

from __future__ import annotations

import hashlib
import struct

from converter.formats.gguf.encodings import BY_NAME

# Where a block has numbers in half precision: its scale, and its minimum.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0,), "Q1_0": (0,), "Q2_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "IQ1_S": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,),
    "IQ3_S": (0,),
}  # fmt: skip


def block(name: str, number: int = 0) -> bytes:
    """A block of arbitrary bytes, others for each number, with a scale of about 0.0371 and a minimum of about -0.137."""
    seed = name if number == 0 else f"{name} {number}"
    raw = bytearray(hashlib.shake_256(seed.encode()).digest(BY_NAME[name].nbytes))
    for position, value in zip(HALVES.get(name, ()), (0.0371, -0.137), strict=False):
        struct.pack_into("<e", raw, position, value)
    if name == "Q8_K":
        struct.pack_into("<f", raw, 0, 0.0371)
    if name == "IQ1_M":
        raw[55] = 0x2B  # the scale's upper four bits
    if name == "MXFP4":
        raw[0] = 120  # 2^-8
    return bytes(raw)
