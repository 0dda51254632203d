"""CRC-32 as in zip archives, computed by the fastest installed library."""

from functools import lru_cache
from typing import Final

try:
    from isal.isal_zlib import crc32
except ImportError:  # there is no wheel for this machine
    from zlib import crc32

__all__ = ["crc32", "crc32_combine", "crc32_zeros"]

# Polynomials over GF(2) in the CRC's order of bits: the coefficient of x^0 is the highest of 32 bits.
_POLYNOMIAL: Final = 0xEDB88320
_ONE: Final = 1 << 31
_BYTE: Final = 1 << 23  # x^8: the factor by which a zero byte multiplies the register
_MASK: Final = 0xFFFFFFFF


def crc32_zeros(nbytes: int) -> int:
    """The CRC-32 of `nbytes` zero bytes, in time logarithmic in their number."""
    return _product(_MASK, _power(nbytes)) ^ _MASK


def crc32_combine(first: int, second: int, nbytes: int) -> int:
    """The CRC-32 of two runs of bytes in a row, from the CRC-32 of each; the second run has `nbytes` bytes."""
    return _product(first, _power(nbytes)) ^ second


@lru_cache(64)  # the runs of a file have only a few different lengths
def _power(nbytes: int) -> int:
    """x^(8 · nbytes): the factor by which that many bytes multiply the register."""
    result, power = _ONE, _BYTE
    while nbytes:
        if nbytes & 1:
            result = _product(result, power)
        power = _product(power, power)
        nbytes >>= 1
    return result


def _product(one: int, other: int) -> int:
    product, bit = 0, _ONE
    while bit:
        if one & bit:
            product ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)  # times x
        bit >>= 1
    return product
