"""Compressed files are inflated in small pieces, whatever they inflate to."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from functools import partial

import pytest

from converter.io.codecs import codec, inflated
from tests.build.gguf_files import Bytes

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": partial(lzma.compress, format=lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("name", PACKERS)
def test_a_few_bytes_that_inflate_to_many_are_inflated_in_small_pieces(name: str) -> None:
    data = PACKERS[name](bytes(5 << 20))
    kind = codec(data[:64])
    assert kind is not None

    sizes = [len(piece) for piece in inflated(Bytes(data), kind)]

    assert sum(sizes) == 5 << 20
    assert max(sizes) <= 1 << 20
    assert sizes[0] == 1
