"""Archives, arrays, streams and compressed files at random, files inside files, and files that are two formats at once."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import zlib
from collections.abc import Callable

from tests.build.checkpoints import Entry, zip_bytes
from tests.build.gguf_files import Info, gguf, key
from tests.peers.oracle import weights
from tests.peers.oracle.programs import joined
from tests.peers.oracle.zips import Checkpoints, Seeds

try:
    import lz4.frame as lz4_frame
except ImportError:
    lz4_frame = None
try:
    import zstandard
except ImportError:
    zstandard = None


class Maker(Checkpoints):
    """Makes files of every kind."""

    # Arrays

    def arrays_zip(self) -> bytes:
        rng = self.rng
        names = ("a.npy", "a", "b.npy", "a.NPY", "x/y.npy", "arr_0.npy", "data.pkl")
        entries = [
            Entry(rng.choice(names), self.array(), deflated=rng.random() < 0.4) for _ in range(rng.randrange(1, 3))
        ]
        return self.zip(entries, rare=0.3)

    def array(self) -> bytes:
        """An npy; many hold objects, and say so in odd ways."""
        rng = self.rng
        if rng.random() < 0.15:
            return self.bytes_changed(rng.choice(self.seeds.arrays))
        descr = rng.choice(("'O'", "'|O'", "'object'", "'|\\x4f'", "'\\117'", "'O8'", "\"O\"", "'<f4'", "'|O4'", "u'O'", "'' 'O'", "'<O'", "'object_'",
                            "[('a', 'O')]", "[('a','<f4'),('b','|\\x4f')]", "[('a',[('b','O')])]", "b'O'", "('O',(1,))", "'O,f4'", "{'names':['a'],'formats':['O']}",
                            "'|\\N{LATIN CAPITAL LETTER O}'", "'''O'''", "'\\u004f'", "r'O'", "'U1'", "'V8'", "'M8'"))  # fmt: skip
        shape = rng.choice(("(1,)", "()", "(0,)", "(2, 2)", "(True,)", "(1,1,)", "(0x1,)", "(-1,)", "(1_0,)"))
        parts = [f"'descr': {descr}", "'fortran_order': False", f"'shape': {shape}"]
        if rng.random() < 0.2:
            rng.shuffle(parts)
        text = rng.choice(("{%s}", "{%s, }", " {%s}", "{%s} # c", "dict(%s)", "{%s,\n}", "({%s})")) % ", ".join(parts)
        if rng.random() < 0.1:
            parts.append(rng.choice(("'descr': '<f4'", "'descr': 'O'", "'x': 1")))
            text = "{" + ", ".join(parts) + "}"
        version = rng.choice((1, 1, 1, 2, 3))
        header = text.encode("utf-8" if version == 3 else "latin-1", "replace")
        if rng.random() < 0.8:
            header += b" " * (-(len(header) + 11) % 64) + b"\n"
        size = len(header) + (rng.choice((-1, 1, 5)) if rng.random() < 0.05 else 0)
        start = (
            b"\x93NUMPY"
            + bytes([version, rng.choice((0, 0, 0, 1))])
            + struct.pack("<H" if version == 1 else "<I", size)
        )
        return start + header + rng.choice((self.payload(), bytes(8), self.payload() + b"x"))

    # Compressed

    def compressed(self, inner: bytes | None = None) -> bytes:
        rng = self.rng
        data = (self.payload() if rng.random() < 0.6 else self.joblib()) if inner is None else inner
        for _ in range(rng.choice((1, 1, 1, 2))):
            data = self.compress(data)
        if rng.random() < 0.15:
            data = rng.choice(
                (
                    data[: rng.randrange(1, len(data))],
                    data + b"x",
                    data + data,
                    bytes(4) + data,
                    self.bytes_changed(data),
                )
            )
        return data

    def compress(self, data: bytes) -> bytes:
        rng = self.rng
        ways: list[Callable[[], bytes]] = [
            lambda: zlib.compress(data, rng.randrange(10)),
            lambda: gzip.compress(data, 6, mtime=0),
            lambda: gzip.compress(data[:5], mtime=0) + gzip.compress(data[5:], mtime=0),
            lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"name\0" + gzip.compress(data, mtime=0)[10:],
            lambda: bz2.compress(data, 1),
            lambda: bz2.compress(data[:3]) + bz2.compress(data[3:]),
            lambda: lzma.compress(data),
            lambda: lzma.compress(data, lzma.FORMAT_ALONE),
            lambda: lzma.compress(data, check=lzma.CHECK_NONE) + lzma.compress(b""),
            lambda: _deflated(data, rng.choice((9, 15)), rng.choice((0, 9))),
        ]
        if lz4_frame is not None:
            ways += [
                lambda: lz4_frame.compress(data),
                lambda: struct.pack("<II", 0x184D2A50 + rng.randrange(16), 3) + b"abc" + lz4_frame.compress(data),
            ]
        if zstandard is not None:
            ways += [
                lambda: zstandard.compress(data),
                lambda: struct.pack("<II", 0x184D2A50, 0) + zstandard.compress(data),
            ]
        return rng.choice(ways)()

    def joblib(self) -> bytes:
        """A file of joblib with a payload put in somewhere."""
        rng = self.rng
        data = rng.choice([seed for seed in self.seeds.joblib if seed[:1] == b"\x80"])
        way = rng.randrange(4)
        if way == 0:
            return data[:-1] + self.payload()[2:]
        if way == 1:
            at = rng.randrange(2, len(data))
            return data[:at] + b"cos\nsystem\n0" + data[at:]
        return data if way == 2 else self.bytes_changed(data)

    # Tars

    def tar(self) -> bytes:
        rng = self.rng
        plain = b"\x80\x02K\0."
        members = [("storages", plain + b"\x80\x02]."), ("tensors", plain), ("pickle", b"\x80\x02}.")]
        if rng.random() < 0.85:
            at = rng.randrange(3)
            members[at] = (members[at][0], self.payload())
        members += [("sys_info", b"\x80\x02}.")]
        way = rng.random()
        if way < 0.1:
            members = [(rng.choice(("a", "x.pkl", "w.npy", "data.pkl")), self.inner())]
        elif way < 0.2:
            members.append((rng.choice(("pickle", "tensors", "./pickle", "PICKLE", "dir/pickle")), self.payload()))
        elif way < 0.25:
            rng.shuffle(members)
        file = io.BytesIO()
        form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.type = rng.choice(
                    (tarfile.REGTYPE,) * 9
                    + (tarfile.AREGTYPE, tarfile.CONTTYPE, b"S" if rng.random() < 0.1 else tarfile.REGTYPE)
                )
                archive.addfile(info, io.BytesIO(data))
                if rng.random() < 0.05:
                    link = tarfile.TarInfo(rng.choice(("pickle", "b")))
                    link.type, link.linkname = rng.choice((tarfile.LNKTYPE, tarfile.SYMTYPE)), name
                    archive.addfile(link)
        data = bytearray(file.getvalue().rstrip(b"\0"))
        data += bytes(-len(data) % 512 + rng.choice((0, 512, 1024, 1024)))
        if rng.random() < 0.4:
            self.old_header(data)
        return bytes(data)

    def old_header(self, data: bytearray, at: int = 0) -> None:
        """Take the magic away, as in the first tars, and write another first name; the checksum is corrected."""
        rng = self.rng
        data[at + 257 : at + 265] = rng.choice((bytes(8), b"ustar  \0", b"\0star\x0000", b"        "))
        if rng.random() < 0.3:
            start = rng.choice((b"GGUF", b"\x93NUMPY", b"PK\3\4", b"\x80\x02N.", b"\x1f\x8b", b"x\x9c"))
            data[at : at + len(start)] = start
        checksum(data, at, self.rng.choice((b"%06o\0 ", b"%6o \0", b"%07o\0", b" %05o \0")))

    # Safetensors and GGUF

    def safetensors(self, text: str = "x", tail: bytes = b"") -> bytes:
        rng = self.rng
        data = rng.randbytes(rng.choice((0, 8, 16)))
        header: dict[str, object] = {"__metadata__": {"k": text}} if rng.random() < 0.8 or text != "x" else {}
        header["w"] = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}
        if rng.random() < 0.2:
            dtype, width = rng.choice(
                (("F16", 2), ("BF16", 2), ("I64", 8), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("C64", 8))
            )
            if not len(data) % width:
                header["w"] = {"dtype": dtype, "shape": [len(data) // width], "data_offsets": [0, len(data)]}
        packed = json.dumps(header, separators=(",", ":")).encode()
        packed += b" " * (-len(packed) % 8)
        made = struct.pack("<Q", len(packed)) + packed + data + tail
        return self.bytes_changed(made) if rng.random() < 0.15 else made

    def gguf(self, text: str = "llama") -> bytes:
        rng = self.rng
        data = rng.randbytes(16)
        made = gguf([key("general.architecture", "string", text), key("a.b", "u32", 1)], [Info("w", (4,))], data)
        return self.bytes_changed(made) if rng.random() < 0.3 else made

    # Two formats at once

    def inner(self) -> bytes:
        """A file of any kind, to be put inside another."""
        rng = self.rng
        ways = (
            self.payload,
            self.hostile_zip,
            self.tar,
            self.array,
            self.arrays_zip,
            self.compressed,
            self.safetensors,
            self.gguf,
            self.joblib,
            self.stream,
        )
        return rng.choice(ways)()

    def pair(self) -> bytes:
        """Two formats in one file."""
        rng = self.rng
        way = rng.randrange(9)
        first, second = self.inner(), self.inner()
        if way == 0:
            return first + second
        if way == 1:
            return first + self.zip(weights.records(rng, weights.checkpoint(rng), self.payload()), rare=0.2)
        if way == 2:
            return first + zip_bytes([Entry("a.npy", self.array())], before=b"")
        if way == 3:
            return self.pickle_in_safetensors()
        if way == 4:
            return self.tar_over(self.roomy_safetensors())
        if way == 5:
            return self.tar_over(self.roomy_gguf())
        if way == 6:
            return self.tar_over(joined([b"\x80\x02X" + struct.pack("<I", 600), b" " * 600, b"0", self.payload()[2:]]))
        if way == 7:
            # The directory counts from the first byte of what comes before the archive.
            return (
                self.zip(weights.records(rng, weights.checkpoint(rng), self.payload()), 0.0).replace(
                    b"PK\3\4", b"PK\3\4", 1
                )
                + second
            )
        return zip_bytes(weights.records(rng, weights.checkpoint(rng), self.payload()), before=first)

    def pickle_in_safetensors(self) -> bytes:
        """A safetensors whose length is the opcode of a text, which covers the header up to a text that ends with its line."""
        rng = self.rng
        start = b'{"__metadata__":{"k":"'
        covered = 3 + len(start)
        size = 0x58 + 256 * covered
        tensor = b'","j":"x"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
        data = b"0" + self.payload()
        data = b"00" + data[3:] if data[1:2] == b"\x80" and rng.random() < 0.5 else data
        rest = tensor % (len(data), len(data))
        filler = b"V" + b"a" * (size - len(start) - len(rest) - 2)
        return struct.pack("<Q", size) + start + filler + rest + b"\n" + b"0" + data[:0] + data

    def roomy_safetensors(self) -> bytes:
        return self.safetensors(" " * 700)

    def roomy_gguf(self) -> bytes:
        return self.gguf(" " * 700)

    def tar_over(self, first: bytes) -> bytes:
        """A file that is a tar, too: its first 512 bytes are the header of a member, and its data follow them."""
        rng = self.rng
        made = bytearray(first)
        made += bytes(max(0, 512 - len(made)))
        member = self.tar()
        size = -(-(len(made) - 512) // 512) * 512
        made += bytes(512 + size - len(made))
        made[100:108] = made[108:116] = made[116:124] = b"0000644 "
        made[124:136] = b"%011o " % size
        made[136:148] = b"%011o " % 0
        made[156:157] = b"0"
        made[257:265] = rng.choice((b"ustar  \0", b"        ", b"ustar 00"))
        checksum(made, 0, b"%06o  ")
        return bytes(made) + member


def checksum(data: bytearray, at: int, form: bytes) -> None:
    """Write the checksum of a tar's header."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = (form % sum(data[at : at + 512]))[:8].ljust(8)


def _deflated(data: bytes, bits: int, level: int) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, bits)
    return deflater.compress(data) + deflater.flush()


# What is made, how often, and what its file is called.
KINDS: tuple[tuple[str, int, Callable[[Maker], bytes], tuple[str, ...]], ...] = (
    ("checkpoint", 36, Maker.checkpoint, ("a.bin", "a.pt", "a.pth", "a.ckpt")),
    ("zip", 20, Maker.hostile_zip, ("a.bin", "a.pt", "a.zip")),
    ("legacy stream", 9, Maker.stream, ("a.bin", "a.pt")),
    ("npy", 6, Maker.array, ("a.npy", "a.bin")),
    ("npz", 5, Maker.arrays_zip, ("a.npz", "a.bin")),
    ("compressed", 6, Maker.compressed, ("a.joblib", "a.pkl.gz", "a.bin")),
    ("joblib", 4, Maker.joblib, ("a.joblib", "a.pkl")),
    ("tar", 5, Maker.tar, ("a.bin", "a.tar", "a.pt")),
    ("safetensors", 2, Maker.safetensors, ("a.safetensors", "a.bin")),
    ("gguf", 2, Maker.gguf, ("a.gguf", "a.bin")),
    ("two at once", 8, Maker.pair, ("a.bin", "a.safetensors", "a.gguf", "a.npy", "a.pt")),
)


def container(rng: random.Random, seeds: Seeds) -> tuple[str, str, bytes]:
    """One file: its kind, its name, its bytes."""
    kind, _, make, names = rng.choices(KINDS, [weight for _, weight, _, _ in KINDS])[0]
    return kind, rng.choice(names), make(Maker(rng, seeds))
