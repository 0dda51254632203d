"""What `scan` makes of joblib's files, whose arrays lie between the opcodes. Nothing is ever unpickled."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.io.local import LocalFile
from converter.io.parts import Portions, portioned
from converter.limits import Limits, using
from converter.reports.scan import FileScan
from converter.scanning.scan import scan_file
from tests.build.checkpoints import Entry, floats, zip_bytes
from tests.build.containers import short, storages_of_tar, tar

ECHO = b"cposix\nsystem\n(S'echo harmless'\ntR."
NAMES = short("posix") + b"\x94" + short("system") + b"\x94"  # puts the names of a function into the memo
CALL = b"h\0h\1\x93)R."  # calls what memo 0 and 1 name
NUMBER = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


@pytest.fixture(autouse=True, params=[1 << 20, 16, 1])
def window(request: pytest.FixtureRequest) -> Iterator[None]:
    """However much of a file is read at once, it has one meaning."""
    with portioned(Portions(window=request.param)):
        yield


def dtype(code: str, state: bytes = b"(K\3" + short("<") + NUMBER) -> bytes:
    return b"cnumpy\ndtype\n" + short(code) + b"\x89\x88\x87R" + state


OBJECTS = dtype("O8", b"(K\3" + short("|") + NUMBER.replace(b"K\0", b"K\x3f"))


def wrapper(dtype: bytes, shape: bytes = b"K\1\x85", *, maps: bool = False, more: bytes = b"") -> bytes:
    """The wrapper of an array without alignment."""
    state = short("subclass") + b"cnumpy\nndarray\n" + short("shape") + shape + short("order") + short("C")
    state += short("dtype") + dtype + short("allow_mmap") + (b"\x88" if maps else b"\x89") + more
    return b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(" + state + b"ub"


def record(fields: bytes, size: int, flags: int, names: bytes = short("a") + b"\x85") -> bytes:
    """A dtype with fields, as numpy writes it."""
    state = (
        b"(K\3" + short("|") + b"N" + names + b"}(" + fields + b"uK" + bytes([size]) + b"K\1K" + bytes([flags]) + b"tb"
    )
    return dtype(f"V{size}", state)


def scanned(data: bytes, tmp_path: Path) -> FileScan:
    path = tmp_path / "x.joblib"
    path.write_bytes(data)
    return scan_file(LocalFile(path), fickling=False)


FIRST = b"\x80\x04" + NAMES + b"00" + wrapper(dtype("f4")) + floats(1)
ODD = {
    "objects in a spelling that numpy does not write": dtype(">O"),
    "a text of two fields": dtype("i4,O"),
    "numbers with the flags of objects": dtype("f8", b"(K\3" + short("<") + NUMBER.replace(b"K\0", b"K\x3f")),
    "objects without their flags": dtype("O8", b"(K\3" + short("|") + NUMBER),
    "numbers with a size of their own": dtype("f8", b"(K\3" + short("<") + b"NNNK\1K\1K\0tb"),
    "a text with another size": dtype("S8", b"(K\3" + short("|") + b"NNNK\1K\1K\0tb"),
    "bytes with another size": dtype("V8", b"(K\3" + short("|") + b"NNNK\1K\1K\0tb"),
    "without a state": dtype("f8", b""),
    "with two states": dtype("f8") + b"(K\3" + short("<") + NUMBER,
    "an unknown code": dtype("q9"),
    "objects in a field, without the flags": record(short("a") + OBJECTS + b"K\0\x86", 8, 16),
    "a field that is odd": record(short("a") + dtype(">O") + b"K\0\x86", 8, 16),
    "a field that reaches past the item": record(short("a") + dtype("f8") + b"K\1\x86", 8, 16),
    "a subarray of objects, without the flags": dtype(
        "V8", b"(K\3" + short("|") + OBJECTS + b"K\1\x85\x86NNK\x08K\1K\0tb"
    ),
    "no dtype": b"N",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_follows_an_odd_dtype_is_never_plain(odd: bytes, tmp_path: Path) -> None:
    # To joblib `CALL` may be a pickle of its own, whose memo is empty; here the file's memo holds other texts.
    assert scanned(FIRST + b"0" + wrapper(odd) + CALL, tmp_path).verdict in ("malformed", "dangerous")
    assert scanned(b"\x80\x04" + wrapper(odd) + CALL, tmp_path).verdict in ("malformed", "dangerous")


@pytest.mark.parametrize(
    "state",
    [
        short("dtype") + dtype("f4"),  # given twice
        short("numpy_array_alignment_bytes") + short("16"),
        short("read") + b"N",  # an attribute that hides the method
        b"K\1K\1",
    ],
)
def test_a_wrapper_that_joblib_does_not_write_is_malformed(state: bytes, tmp_path: Path) -> None:
    assert scanned(b"\x80\x04" + wrapper(dtype("f4"), more=state) + floats(1) + b".", tmp_path).verdict == "malformed"


def test_a_wrapper_with_two_states_is_malformed(tmp_path: Path) -> None:
    again = wrapper(dtype("f4")).removesuffix(b"b")
    twice = (
        b"\x80\x04"
        + again[: again.index(b"}(")]
        + b"\x94}b"
        + b"h\0"
        + again[again.index(b"}(") :]
        + b"b"
        + floats(1)
        + b"."
    )

    assert scanned(twice, tmp_path).verdict == "malformed"


def test_objects_that_may_be_mapped_are_malformed(tmp_path: Path) -> None:
    assert scanned(b"\x80\x04" + wrapper(OBJECTS, maps=True) + b"N..", tmp_path).verdict == "malformed"


def test_an_array_within_a_frame_is_malformed(tmp_path: Path) -> None:
    # Python's unpickler reads the whole frame, and then the numbers after it.
    body = wrapper(dtype("f4")) + floats(1) + b"N0"
    framed = b"\x80\x04\x95" + len(body).to_bytes(8, "little") + body + b"."

    assert scanned(framed, tmp_path).verdict == "malformed"


def test_a_function_that_may_hand_a_wrapper_through_is_malformed(tmp_path: Path) -> None:
    state = wrapper(dtype("f4"))
    state = state[state.index(b"}(") :]
    through = b"ctorch._tensor\n_rebuild_from_type_v2\n(cjoblib.numpy_pickle\nNumpyArrayWrapper\nNNNtR"

    assert scanned(b"\x80\x04" + through + state + floats(1) + b".", tmp_path).verdict != "plain"


HONEST = {
    "a record": (record(short("a") + dtype("f8") + b"K\0\x86", 8, 16), bytes(8)),
    "an aligned record": (record(short("a") + dtype("f8") + b"K\x08\x86", 16, 144), bytes(16)),
    "a record with objects": (record(short("a") + OBJECTS + b"K\0\x86", 8, 27), b"\x80\x05]."),
    "a text": (dtype("U2", b"(K\3" + short("<") + b"NNNK\x08K\4K\x08tb"), bytes(8)),
    "bytes": (dtype("S3", b"(K\3" + short("|") + b"NNNK\3K\1K\0tb"), bytes(3)),
    "raw bytes": (dtype("V3", b"(K\3" + short("|") + b"NNNK\3K\1K\0tb"), bytes(3)),
    "dates": (dtype("M8", b"(K\4" + short("<") + NUMBER[:-2] + b"N(C\2nsK\1K\1K\1t\x86tb"), bytes(8)),
    "objects": (OBJECTS, pickle.dumps(["a", None, {"k": 1}], 5)),
}


@pytest.mark.parametrize(("honest", "data"), HONEST.values(), ids=HONEST)
def test_an_array_of_any_dtype_is_read(honest: bytes, data: bytes, tmp_path: Path) -> None:
    array = wrapper(honest) + data

    assert scanned(b"\x80\x04](" + array + array + b"K\1e.", tmp_path).verdict == "plain"
    assert scanned(b"\x80\x04](" + array + ECHO[:-1] + b"e.", tmp_path).verdict == "dangerous"


def test_the_objects_have_a_memo_of_their_own(tmp_path: Path) -> None:
    inner = b"\x80\x05" + short("a") + b"\x940" + short("b") + b"\x940h\0h\1\x86."

    assert scanned(b"\x80\x04](" + NAMES + wrapper(OBJECTS) + inner + b"e.", tmp_path).verdict == "plain"


def test_the_wrapper_of_protocol_0_is_read(tmp_path: Path) -> None:
    made = b"ccopy_reg\n_reconstructor\n(cjoblib.numpy_pickle\nNumpyArrayWrapper\nc__builtin__\nobject\nNtR"
    body = wrapper(dtype("f4"))

    assert scanned(made + body[body.index(b"}(") :] + floats(1) + b".", tmp_path).verdict == "plain"


def test_arrays_do_not_count_towards_the_limit_of_pickles(tmp_path: Path) -> None:
    array = wrapper(dtype("f4"), b"M\xe8\x03\x85") + bytes(4000)
    data = b"\x80\x04](" + array + short("a") + array + array

    with using(Limits(pickle_bytes=3000)):
        assert scanned(data + b"K\1e.", tmp_path).verdict == "plain"
        assert scanned(data + ECHO[:-1] + b"e.", tmp_path).verdict == "dangerous"
        assert scanned(data + wrapper(OBJECTS) + ECHO + b"e.", tmp_path).verdict == "dangerous"


def test_a_pickle_that_is_too_long_without_its_arrays_is_not_looked_into(tmp_path: Path) -> None:
    array = wrapper(dtype("f4"), b"M\xe8\x03\x85") + bytes(4000)
    with using(Limits(pickle_bytes=3000)):
        for long in (
            array + b"N0" * 2000,
            array + b"N0" * 1300 + array,
            array + b"B" + bytes((0, 0, 1, 0)) + bytes(1 << 16),
        ):
            found = scanned(b"\x80\x04](" + long + b"K\1e.", tmp_path)

            assert [one.rule for one in found.findings] == ["not-looked-into"], [one.message for one in found.findings]
            assert all("--limit pickle_bytes=" in one.message for one in found.findings)


NONE_TYPE = b"cbuiltins\ntype\nN\x85R"
ELLIPSIS_TYPE = b"cbuiltins\ntype\ncbuiltins\nEllipsis\n\x85R"


def test_the_type_of_none_beside_arrays_is_plain(tmp_path: Path) -> None:
    array = wrapper(dtype("f4"), more=short("numpy_array_alignment_bytes") + b"K\x10") + b"\3\xff\xff\xff" + floats(1)
    for kind in (NONE_TYPE, ELLIPSIS_TYPE):
        assert scanned(b"\x80\x04](" + kind + array + kind + array + b"K\1e.", tmp_path).verdict == "plain"
        assert scanned(b"\x80\x04](" + kind + array + wrapper(OBJECTS) + kind + b".e.", tmp_path).verdict == "plain"
    odd = b"cbuiltins\ntype\nK\1\x85R"
    assert scanned(b"\x80\x04](" + NONE_TYPE + array + odd + array + b"K\1e.", tmp_path).verdict == "dangerous"


# ---- numpy's random states ---------------------------------------------------------------------------------------------


def items(**values: bytes) -> bytes:
    return b"}(" + b"".join(short(name) + value for name, value in values.items()) + b"u"


def words(count: int, code: str = "u4") -> bytes:
    return wrapper(dtype(code), b"K" + bytes([count]) + b"\x85") + bytes(count * int(code[1]))


SEED = (
    b"cnumpy.random.bit_generator\n__pyx_unpickle_SeedSequence\n(cnumpy.random.bit_generator\nSeedSequence\n"
    b"J\x02\xad\xea\x03NtR(K\5K\0" + words(4) + b"K\4)tb"
)
WIDE = items(state=b"\x8a\x10" + b"\1" * 15 + b"\0", inc=b"K\1")
LATE = {"has_uint32": b"K\0", "uinteger": b"K\0"}
STATES = {  # the module and class of a bit generator, and its state
    "MT19937": ("_mt19937", items(state=items(key=words(200), pos=b"K\x10"))),
    "PCG64": ("_pcg64", items(state=WIDE, **LATE)),
    "PCG64DXSM": ("_pcg64", items(state=WIDE, **LATE)),
    "Philox": (
        "_philox",
        items(
            state=items(counter=words(4, "u8"), key=words(2, "u8")), buffer=words(4, "u8"), buffer_pos=b"K\4", **LATE
        ),
    ),
    "SFC64": ("_sfc64", items(state=items(state=words(4, "u8")), **LATE)),
}
MADE = b"cnumpy.random._pickle\n"


@pytest.mark.parametrize(("name", "module", "state"), [(name, *row) for name, row in STATES.items()], ids=STATES)
def test_random_states_are_plain_with_arrays_as_joblib_writes_them(
    name: str, module: str, state: bytes, tmp_path: Path
) -> None:
    bits = MADE + f"__bit_generator_ctor\ncnumpy.random.{module}\n{name}\n".encode() + b"\x85R" + state
    for made in (bits + SEED + b"\x86b", MADE + b"__generator_ctor\n" + bits + SEED + b"\x86b\x85R"):
        assert scanned(b"\x80\4" + made + b".", tmp_path).verdict == "plain"
    old = MADE + b"__randomstate_ctor\n" + short(name) + b"\x85R" + state + b"b."
    assert scanned(b"\x80\4" + old, tmp_path).verdict == "plain"


def test_a_random_state_with_something_else_for_an_array_is_unknown(tmp_path: Path) -> None:
    old = MADE + b"__randomstate_ctor\n" + short("MT19937") + b"\x85R"
    for key in (b"cnumpy\nndarray\n", dtype("u4"), SEED):
        state = items(state=items(key=key, pos=b"K\x10"))
        assert scanned(b"\x80\4](" + words(1) + old + state + b"be.", tmp_path).verdict == "unknown-globals"


def test_a_wrapper_outside_of_joblibs_files_is_unknown(tmp_path: Path) -> None:
    assert scanned(b"\x80\4cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81.", tmp_path).verdict == "unknown-globals"


# ---- the tar of torch before 0.1.10 ------------------------------------------------------------------------------------

SOUND = storages_of_tar(2, floats(1, 2))
TARS = {
    "a count that is a bool": SOUND.replace(b"K\1.", b"\x88.", 1),
    "a count below zero": SOUND.replace(b"K\1.", b"J\xff\xff\xff\xff.", 1),
    "a count that is a text": SOUND.replace(b"K\1.", b"U\1a.", 1),
    "a list": SOUND.replace(b"\nt.", b"\nl.", 1),
    "four parts": SOUND.replace(b"\nt.", b"\nNt.", 1),
    "a text of three": SOUND.replace(SOUND[SOUND.index(b"(K") : SOUND.index(b"t.") + 1], b"U\3abc", 1),
    "a class that is no storage": SOUND.replace(b"ctorch\nFloatStorage\n", b"N"),
}


@pytest.mark.parametrize("data", TARS.values(), ids=TARS)
def test_numbers_that_cannot_be_told_apart_are_malformed(data: bytes, tmp_path: Path) -> None:
    assert scanned(tar({"storages": data}), tmp_path).verdict == "malformed"


def test_torchscript_of_torch_1_4_is_a_program(tmp_path: Path) -> None:
    # Its persistent ids have a sixth part: there is no view.
    pickled = (
        b"\x80\2}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
        b"X\1\0\0\0\x30X\3\0\0\0cpuK\2NtQK\0K\2\x85K\1\x85\x89ccollections\nOrderedDict\n)RtRs."
    )
    records = {"version": b"2\n", "data/0": floats(1, 2), "data.pkl": pickled}
    script = [Entry(f"jit/{name}", data) for name, data in {**records, "constants.pkl": b"\x80\2)."}.items()]
    path = tmp_path / "jit.pt"
    path.write_bytes(zip_bytes(script))
    assert scan_file(LocalFile(path), fickling=False).verdict == "program"
    path.write_bytes(zip_bytes(script[:-1]))
    assert scan_file(LocalFile(path), fickling=False).verdict == "malformed"


STRINGS = b"cnumpy._core._internal\n_convert_to_stringdtype_kwargs\nK\1\x85R"


def test_an_array_of_strings_is_pickled_behind_its_wrapper(tmp_path: Path) -> None:
    """numpy's StringDType has objects in it. Its function is not in the closed table, so the file is unknown, but sound."""
    data = b"\x80\x04" + NAMES + b"00" + wrapper(STRINGS) + b"\x80\x02]X\1\0\0\0aa."

    found = scanned(data + b".", tmp_path)

    assert found.verdict == "unknown-globals"
    assert {str(one.rule) for one in found.findings} == {"unknown-global"}
    evil = data.replace(b"]X\1\0\0\0aa.", b"cos\nsystem\nX\1\0\0\0a\x85R.")
    assert scanned(evil + b".", tmp_path).verdict == "dangerous"
