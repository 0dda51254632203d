"""The count of elements before each storage of a legacy stream: all of its eight bytes count."""

import struct

import pytest

from converter.errors import LayoutError
from converter.formats.torch import legacy
from converter.io.source import Memory
from tests.build.checkpoints import floats, legacy_bytes, view

COUNT = 4
SOUND = legacy_bytes({"w": view("0", (COUNT,))}, {"0": floats(1, 2, 3, 4)})
AT = len(SOUND) - 16 - 8


def test_the_count_stands_where_it_is_changed() -> None:
    assert struct.unpack_from("<q", SOUND, AT) == (COUNT,)
    assert bytes(next(iter(legacy.read(Memory(SOUND, "x"))["w"].tiles()))) == floats(1, 2, 3, 4)


@pytest.mark.parametrize("bit", range(64))
def test_a_flipped_bit_of_the_count_is_noticed(bit: int) -> None:
    data = bytearray(SOUND)
    data[AT + bit // 8] ^= 1 << bit % 8
    (count,) = struct.unpack_from("<q", data, AT)

    with pytest.raises(LayoutError) as raised:
        legacy.read(Memory(bytes(data), "x"))
    assert str(raised.value) == f"storage `0` has {count:,} elements where the pickle says 4"
