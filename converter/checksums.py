"""CRC-32 as zip archives have it, by the fastest library that is installed."""

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this machine
    from zlib import crc32

__all__ = ["crc32"]
