"""However many threads write, the bytes are the same, an error ends all of them, and memory stays small."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.errors import ArchiveError, OutputError
from converter.io import writer
from converter.io.checksums import crc32_combine
from converter.io.parts import Buffers, Digests, Part, Portions, portioned
from converter.io.publish import Piece, Plan, PlannedFile, publish
from converter.opening import open_checkpoint
from converter.tensors.crc_checked import checked
from tests.build.checkpoints import view, write_checkpoint
from tests.build.children import interruptible
from tests.build.depth import share

ROOT = Path(__file__).parent.parent.parent
THREADS = (1, 2, 3, 8)
SHAPES = {"empty": (0, 5), "scalar": (), "row": (1, 3000), "odd": (701, 333), "vector": (5001,), "cube": (17, 31, 13)}


def everything(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def small() -> Iterator[None]:
    """Make parts, tiles and jobs so small that a tiny checkpoint gives every thread many of them."""
    with portioned(Portions(run=64 << 10, strided=40_000, together=10_000, tiles=100_000)):
        yield


@pytest.fixture
def one_by_one() -> Iterator[None]:
    """Let a thread take one part at a time."""
    with portioned(Portions(together=1)):
        yield


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    """A checkpoint of every shape, row-major and transposed, and its arrays."""
    generator = np.random.default_rng(5)
    tensors, storages = {}, {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for key, (name, shape) in enumerate(SHAPES.items()):
        values = generator.standard_normal(shape, "f4")
        storages[str(key)] = values.tobytes()
        tensors[name] = view(str(key), shape)
        tensors[f"{name}.t"] = view(str(key), shape[::-1], tuple(s // 4 for s in values.strides)[::-1])
        arrays |= {name: values, f"{name}.t": values.T}
    path = write_checkpoint(tmp_path_factory.mktemp("shapes") / "x.bin", tensors, storages)
    return path, arrays


class TestBytes:
    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("threads", THREADS)
    def test_safetensors_has_numpys_bytes(
        self, shapes: tuple[Path, dict[str, np.ndarray[Any, Any]]], tmp_path: Path, threads: int
    ) -> None:
        path, arrays = shapes
        convert(open_checkpoint(path), tmp_path / "x.safetensors", threads=threads)

        data = (tmp_path / "x.safetensors").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        tied = json.loads(header.pop("__metadata__").get("cerebras_tool.tied", "{}"))
        found = {name: data[start + e["data_offsets"][0] : start + e["data_offsets"][1]] for name, e in header.items()}
        assert found == {name: array.tobytes() for name, array in arrays.items() if name not in tied}

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("threads", THREADS)
    def test_f16_has_numpys_bytes_and_counts_every_element_once(
        self, shapes: tuple[Path, dict[str, np.ndarray[Any, Any]]], tmp_path: Path, threads: int
    ) -> None:
        path, arrays = shapes
        report = convert(open_checkpoint(path), tmp_path / "x.safetensors", dtype="f16", threads=threads)

        written = open_checkpoint(tmp_path / "x.safetensors")
        halves = {name: arrays[name].astype("<f2") for name in written}
        assert {name: tensor.bits().tobytes() for name, tensor in written.items()} == {
            name: half.tobytes() for name, half in halves.items()
        }
        kept = [name for name in arrays if name in {p.name for f in report.files for p in f.tensors}]
        assert report.loss.rounded + report.loss.underflowed == sum(
            int((halves[name].astype("f4") != arrays[name]).sum()) for name in kept
        )

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize(
        ("output", "options"),
        [
            ("x.safetensors", {}),
            ("x.safetensors", {"dtype": "bf16"}),
            ("folder", {"to": "safetensors", "max_shard_size": 200_000}),
            ("x.gguf", {}),
            ("x.gguf", {"dtype": "q8_0"}),
            ("x.gguf", {"dtype": "q4_0"}),
            ("parameters", {"to": "parameters"}),
        ],
        ids=str,
    )
    def test_every_format_has_the_same_bytes(
        self, tiny: Path, tmp_path: Path, output: str, options: dict[str, Any]
    ) -> None:
        for threads in THREADS:
            convert(open_checkpoint(tiny), tmp_path / str(threads) / output, threads=threads, **options)

        first, *others = [everything(tmp_path / str(threads)) for threads in THREADS]
        assert all(other == first for other in others)

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("form", ["storages", "named"])
    @pytest.mark.parametrize("sha256", [False, True])
    def test_a_folder_has_the_right_digests(self, tiny: Path, tmp_path: Path, form: str, sha256: bool) -> None:
        import hashlib

        for threads in THREADS:
            extract(open_checkpoint(tiny), tmp_path / str(threads), form=form, sha256=sha256, threads=threads)

        first, *others = [everything(tmp_path / str(threads)) for threads in THREADS]
        assert all(other == first for other in others)
        for entry in json.loads(first["manifest.json"])["files"]:
            data = first[entry["path"]]
            assert entry["crc32"] == f"{zlib.crc32(data):08x}"
            assert entry.get("sha256") == (hashlib.sha256(data).hexdigest() if sha256 else None)

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("threads", THREADS)
    def test_progress_counts_every_byte_once_in_the_main_thread(self, tiny: Path, tmp_path: Path, threads: int) -> None:
        told: list[tuple[int, bool]] = []

        def progress(nbytes: int) -> None:
            told.append((nbytes, threading.current_thread() is threading.main_thread()))

        report = convert(open_checkpoint(tiny), tmp_path / "x.safetensors", threads=threads, progress=progress)

        assert sum(nbytes for nbytes, _ in told) == report.nbytes
        assert all(main for _, main in told)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_crcs_of_runs_combine_to_zlibs(data: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    runs = [data[start:end] for start, end in itertools.pairwise(ends)]

    whole = 0
    for run in runs:
        whole = crc32_combine(whole, zlib.crc32(run), len(run))

    digests = Digests([len(run) for run in runs])
    for index in random.Random(len(data)).sample(range(len(runs)), len(runs)):
        digests.take(index, memoryview(runs[index]))
    assert whole == digests.crc32 == zlib.crc32(data)


def test_a_long_run_combines() -> None:
    first, second = os.urandom(1000), bytes(range(256)) * 4100

    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_sha256_takes_one_part_only() -> None:
    with pytest.raises(AssertionError):
        Digests([1, 2], sha256=True)


@pytest.mark.usefixtures("one_by_one")
class TestErrors:
    @pytest.mark.parametrize("threads", THREADS)
    @pytest.mark.parametrize("failing", [0, 1, 17, 39])
    def test_an_error_stops_all_threads_and_leaves_nothing(self, tmp_path: Path, threads: int, failing: int) -> None:
        begun: list[int] = []

        def part(number: int) -> Part:
            def tiles(buffers: Buffers) -> Iterator[memoryview]:
                begun.append(number)
                if number == failing:
                    raise ValueError(number)
                threading.Event().wait(0.002)
                yield memoryview(bytes(100))

            return Part(100, tiles)

        pieces = tuple(Piece(str(number), (part(number),)) for number in range(40))
        before = threading.active_count()
        with pytest.raises(ValueError, match=str(failing)):
            publish(Plan((PlannedFile("", pieces),), folder=False), tmp_path / "out", threads=threads)

        assert list(tmp_path.iterdir()) == []
        assert threading.active_count() <= before
        assert max(begun) <= failing + 2 * threads

    def test_of_several_errors_that_of_the_earliest_part_is_raised(self, tmp_path: Path) -> None:
        together = threading.Barrier(4)

        def part(number: int) -> Part:
            def tiles(buffers: Buffers) -> Iterator[memoryview]:
                together.wait()
                threading.Event().wait(0.05 * (4 - number))  # the later the part, the earlier it fails
                raise OutputError(f"part {number}")
                yield memoryview(b"")  # type: ignore[unreachable]

            return Part(1, tiles)

        pieces = tuple(Piece(str(number), (part(number),)) for number in range(4))
        with pytest.raises(OutputError, match="part 0"):
            publish(Plan((PlannedFile("", pieces),), folder=False), tmp_path / "out", threads=4)

    @pytest.mark.parametrize("count", [9, 11])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_part_of_another_size_than_planned_is_our_mistake(self, tmp_path: Path, count: int, threads: int) -> None:
        wrong = Part(10, lambda buffers: iter([memoryview(bytes(count))]))
        right = Part(10, lambda buffers: iter([memoryview(bytes(10))]))

        with pytest.raises(AssertionError, match="were planned"):
            publish(
                Plan((PlannedFile("", (Piece("a", (right, wrong, right)),)),), folder=False),
                tmp_path / "out",
                threads=threads,
            )

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("threads", THREADS)
    @pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
    @pytest.mark.parametrize("turn", [False, True], ids=["row-major", "transposed"])
    def test_one_wrong_bit_is_found(self, tmp_path: Path, threads: int, where: float, turn: bool) -> None:
        values = np.random.default_rng(1).standard_normal((400, 300), "f4").tobytes()
        shape, stride = ((300, 400), (1, 300)) if turn else ((400, 300), (300, 1))
        path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", shape, stride)}, {"0": values})
        data = bytearray(path.read_bytes())
        data[data.index(values) + int(where * (len(values) - 1))] ^= 1
        path.write_bytes(data)

        with pytest.raises(ArchiveError, match="is damaged"):
            convert(open_checkpoint(path), tmp_path / "x.safetensors", threads=threads)
        assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("threads", THREADS)
def test_a_storage_in_order_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    values = np.random.default_rng(1).standard_normal((700, 300), "f4").tobytes()
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (700, 300))}, {"0": values})
    catalogue = open_checkpoint(path)
    asked: list[tuple[int, int]] = []
    source = catalogue.origin.sources[0]
    read = source.readinto

    def counted(offset: int, buffer: memoryview) -> None:
        asked.append((offset, len(buffer)))
        read(offset, buffer)

    monkeypatch.setattr(source, "readinto", counted)
    convert(catalogue, tmp_path / "x.safetensors", threads=threads)

    start = path.read_bytes().index(values)
    assert sum(size for offset, size in asked if offset >= start and offset + size <= start + len(values)) == len(
        values
    )


def random_reads(size: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size)), max_size=60)


@given(random_reads(200), st.booleans(), st.booleans())
def test_whatever_is_read_the_crc_is_checked(reads: list[tuple[int, int]], damaged: bool, scattered: bool) -> None:
    from converter.dtypes import U8
    from converter.io.source import Memory
    from converter.tensors.catalogue import Catalogue, Origin
    from converter.tensors.tensor import Storage, Tensor

    data = bytes(range(200))
    storage = Storage(Memory(data), 0, 200, "0", crc32=zlib.crc32(data) ^ damaged)
    catalogue, finish = checked(Catalogue({"w": Tensor(U8, (200,), (1,), 0, storage)}, Origin("x", "torch-zip")))
    source = catalogue["w"].storage
    found = 0
    for start, count in reads:
        buffer = memoryview(bytearray(min(count, 200 - start)))
        if scattered:
            source.prefetch(0, 200)
        try:
            source.readinto(start, buffer)
        except ArchiveError:
            found += 1
        else:
            assert buffer == data[start : start + len(buffer)]
    try:
        finish()
    except ArchiveError:
        found += 1
    assert found == (damaged and bool(reads))


SLOW = """
import os, sys, time
from converter.io.parts import Portions, portioned
write = os.pwrite
def slowly(*arguments):
    count = write(*arguments)
    print(flush=True)
    time.sleep(0.01)
    return count
os.pwrite = slowly
from converter.cli.app import app
with portioned(Portions(together=4096, run=4096, strided=4096, synced=20_000)):
    app(sys.argv[1:])
"""


def start(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=interruptible,
    )


def writes(patch: pytest.MonkeyPatch, *words: object) -> int:
    """Run a command in this process, with parts as small as those in a child; return how many bytes it writes."""
    counts: list[int] = []
    write = os.pwrite

    def counted(descriptor: int, data: memoryview, offset: int) -> int:
        counts.append(write(descriptor, data, offset))
        return counts[-1]

    with patch.context() as inner, portioned(Portions(together=4096, run=4096, strided=4096)):
        inner.setattr(os, "pwrite", counted)
        assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    return sum(counts)


@pytest.mark.parametrize(
    ("command", "lines"),
    share([(command, lines) for command in ("convert", "extract") for lines in (1, 30, 120)], 0, 2),
)
def test_control_c_leaves_nothing(tiny: Path, tmp_path: Path, command: str, lines: int) -> None:
    target = tmp_path / "deep" / ("x.safetensors" if command == "convert" else "folder")
    with start(command, tiny, target, "--threads", 4) as running:
        assert running.stdout is not None
        for _ in range(lines):
            assert running.stdout.readline() == b"\n"
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)

    assert running.returncode in (130, 1)
    assert list(tmp_path.iterdir()) == []


OUTPUTS: dict[str, list[str]] = {"x.safetensors": [], "x.gguf": ["--dtype", "q8_0"], "folder": ["--to", "parameters"]}


@pytest.mark.parametrize(
    ("number", "output"),
    share([(number, output) for number in (signal.SIGKILL, signal.SIGINT) for output in OUTPUTS], 0, 2),
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tiny: Path, tmp_path: Path, number: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OUTPUTS[output]
    words = ["convert", tiny, tmp_path / "out" / output, *options, "--resume", "--threads", 3]
    noted = tmp_path / "out" / f".{output}.partial.journal"
    with start(*words) as running:
        assert running.stdout is not None
        for _ in range(60):
            assert running.stdout.readline() == b"\n"
        # On a busy machine no part may be whole by now.
        while noted.read_bytes().count(b"\n") < 2:
            assert running.stdout.readline() == b"\n"
        running.send_signal(number)
        running.communicate(timeout=30)
    journal = noted.read_bytes()
    written = writes(monkeypatch, *words)
    in_all = writes(monkeypatch, *words[:2], tmp_path / "anew" / output, *options)

    assert everything(tmp_path / "out") == everything(tmp_path / "anew")
    assert journal.count(b"\n") > 1
    assert written < in_all


def test_a_partial_output_that_was_cut_is_not_taken_for_whole(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["convert", tiny, tmp_path / "x.safetensors", "--resume", "--threads", 2]
    with start(*words) as running:
        assert running.stdout is not None
        for _ in range(60):
            running.stdout.readline()
        running.kill()
        running.communicate(timeout=30)
    os.truncate(tmp_path / ".x.safetensors.partial", 5000)
    writes(monkeypatch, *words)

    convert(open_checkpoint(tiny), tmp_path / "whole.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.usefixtures("one_by_one")
def test_a_source_that_can_not_be_read_by_several_is_read_by_one(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    real: Callable[..., None] = writer.write

    def noted(files: Any, policy: Any, *rest: Any) -> None:
        asked.append(policy.threads)
        real(files, policy, *rest)

    monkeypatch.setattr("converter.io.publish.write", noted)
    catalogue = open_checkpoint(tiny)
    catalogue.origin.sources[0].concurrent = False

    convert(catalogue, tmp_path / "x.safetensors", threads=8)
    extract(catalogue, tmp_path / "folder", threads=8)

    assert asked == [1, 1]


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_number_of_threads_that_is_none_is_refused(tiny: Path, tmp_path: Path, number: str) -> None:
    done = CliRunner().invoke(app, ["convert", str(tiny), str(tmp_path / "x.gguf"), "--threads", number])

    assert done.exit_code == 2
    assert "--threads" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the /proc that tells the memory of a process")
@pytest.mark.parametrize("dtype", share(["f16", "keep"], 0, 2))
def test_eight_threads_take_no_more_memory_than_two(tmp_path: Path, dtype: str) -> None:
    """A gathered tile is the same 40 MiB in all, however many threads share it."""
    values = np.resize(np.random.default_rng(1).standard_normal(1 << 20, "f4"), 40 << 20).tobytes()
    tensors = {"a": view("0", (5 << 10, 8 << 10), (1, 5 << 10)), "b": view("0", (8 << 10, 5 << 10))}
    path = write_checkpoint(tmp_path / "x.bin", tensors, {"0": values})
    # A child's ru_maxrss starts with its parent's memory; the kernel's own mark starts again.
    script = (
        "import sys; from converter.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    words = ["convert", path, tmp_path / "x.safetensors", "--dtype", dtype, "--threads", "8"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], cwd=ROOT, check=True, capture_output=True, text=True
    )

    largest = int(done.stdout.split()[-1]) * 1024
    assert largest < 130_000_000
