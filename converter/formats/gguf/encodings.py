"""A row for each way in which GGUF stores elements. Sources: ggml.h `ggml_type`, llama.h `llama_ftype`, ggml-common.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Encoding:
    """How GGUF stores elements: `block` of them in `nbytes` bytes.

    `file_type` is the general.file_type of a file in which most tensors have it; None if there is no such type.
    """

    name: str
    ggml: int
    block: int
    nbytes: int
    file_type: int | None = None

    def size(self, elements: int) -> int:
        """The bytes of a row of that many elements, which are whole blocks."""
        return elements // self.block * self.nbytes


ENCODINGS: Final = (
    Encoding("F32", 0, 1, 4, 0),
    Encoding("F16", 1, 1, 2, 1),
    Encoding("Q4_0", 2, 32, 18, 2),
    Encoding("Q4_1", 3, 32, 20, 3),
    Encoding("Q5_0", 6, 32, 22, 8),
    Encoding("Q5_1", 7, 32, 24, 9),
    Encoding("Q8_0", 8, 32, 34, 7),
    Encoding("Q8_1", 9, 32, 36),
    Encoding("Q2_K", 10, 256, 84, 10),
    Encoding("Q3_K", 11, 256, 110, 12),
    Encoding("Q4_K", 12, 256, 144, 15),
    Encoding("Q5_K", 13, 256, 176, 17),
    Encoding("Q6_K", 14, 256, 210, 18),
    Encoding("Q8_K", 15, 256, 292),
    Encoding("IQ2_XXS", 16, 256, 66, 19),
    Encoding("IQ2_XS", 17, 256, 74, 20),
    Encoding("IQ3_XXS", 18, 256, 98, 23),
    Encoding("IQ1_S", 19, 256, 50, 24),
    Encoding("IQ4_NL", 20, 32, 18, 25),
    Encoding("IQ3_S", 21, 256, 110, 26),
    Encoding("IQ2_S", 22, 256, 82, 28),
    Encoding("IQ4_XS", 23, 256, 136, 30),
    Encoding("I8", 24, 1, 1),
    Encoding("I16", 25, 1, 2),
    Encoding("I32", 26, 1, 4),
    Encoding("I64", 27, 1, 8),
    Encoding("F64", 28, 1, 8),
    Encoding("IQ1_M", 29, 256, 56, 31),
    Encoding("BF16", 30, 1, 2, 32),
    Encoding("TQ1_0", 34, 256, 54, 36),
    Encoding("TQ2_0", 35, 256, 66, 37),
    Encoding("MXFP4", 39, 32, 17, 38),
    Encoding("NVFP4", 40, 64, 36, 39),
    Encoding("Q1_0", 41, 128, 18, 40),
    Encoding("Q2_0", 42, 64, 18, 41),
)
# Numbers that ggml no longer reads: early forms of Q4, and blocks that were interleaved for one kind of processor.
REMOVED: Final = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
# What llama-quantize makes of a matrix whose rows are not whole blocks of 256; F16 if they are not whole blocks of 32 either.
FALLBACKS: Final = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
}
# Made only by ggml's own library. Those of few bits are of no use unless the importance of the columns is known: ggml ends the
# program without it, or llama-quantize refuses.
ALONE: Final = ("IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
WEIGHED_ONLY: Final = frozenset(("IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"))
BY_NAME: Final = {encoding.name: encoding for encoding in ENCODINGS}
BY_ID: Final = {encoding.ggml: encoding for encoding in ENCODINGS}
LARGEST_BLOCK: Final = max(encoding.block for encoding in ENCODINGS)  # a multiple of every other block


def fitting(encoding: Encoding, columns: int) -> Encoding:
    """The encoding for rows of that many elements: this one, or what llama-quantize takes in its place."""
    if columns % encoding.block:
        encoding = BY_NAME[FALLBACKS.get(encoding.name, "F16")]
    return BY_NAME["F16"] if columns % encoding.block else encoding


def title(ggml: int) -> str:
    """What to call a type of elements, by its number in the file."""
    return BY_ID[ggml].name if ggml in BY_ID else REMOVED.get(ggml, f"ggml type {ggml}")


def way_out(ggml: int) -> str:
    """What to do about a type that is not decoded here."""
    if ggml in REMOVED:
        return f"ggml no longer has {REMOVED[ggml]}, so make the file again from the original model"
    return (
        f"{title(ggml)} is newer than this program, so turn the file into F16 with `llama-quantize --allow-requantize`"
    )
