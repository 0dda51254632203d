"""Random checkpoints in zips and in streams from before torch 1.6, as torch writes them and as it does not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.build.checkpoints import Entry, zip_bytes
from tests.peers.oracle import honest, weights
from tests.peers.oracle.programs import OUTSIDE, Pieces, joined, pickle_pieces


@dataclass
class Seeds:
    """Honest files that mutations start from."""

    pickles: list[Pieces]
    joblib: list[bytes]
    arrays: list[bytes]


def seeds() -> Seeds:
    return Seeds(honest.pickles(), honest.joblib_files(), honest.arrays())


class Checkpoints:
    """Makes files from one random generator."""

    def __init__(self, rng: random.Random, seeds: Seeds) -> None:
        self.rng, self.seeds = rng, seeds

    def payload(self) -> bytes:
        """A short pickle that asks for something outside the table; now and then any pickle, or a harmless one."""
        rng = self.rng
        way = rng.random()
        if way < 0.15:
            return joined(pickle_pieces(rng, self.seeds.pickles))
        if way < 0.2:
            return joined(rng.choice(self.seeds.pickles))
        module, name = rng.choice(OUTSIDE[:12])
        start = rng.choice((b"\x80\x02", b"\x80\x04", b"", b"", b"\x80\x03", b"\x80\x05"))
        return start + f"c{module}\n{name}\n".encode() + rng.choice((b".", b")R.", b"X\1\0\0\0a\x85R."))

    def inner(self) -> bytes:
        """A file of any kind, to be put inside another."""
        return self.payload()

    def checkpoint(self) -> bytes:
        made = weights.checkpoint(self.rng)
        return self.zip(weights.records(self.rng, made), rare=0.15)

    def stream(self) -> bytes:
        made = weights.checkpoint(self.rng)
        if self.rng.random() < 0.3:
            made = replace(made, legacy=self.payload())
        try:
            data = weights.legacy_stream(self.rng, made)
        except ValueError:
            data = honest.saved({"w": 1}, zip=False)
        if self.rng.random() < 0.2:
            data = self.bytes_changed(data)
        return data

    def hostile_zip(self) -> bytes:
        rng = self.rng
        made = weights.checkpoint(rng)
        entries = weights.records(rng, made, self.payload() if rng.random() < 0.7 else None)
        for _ in range(rng.randrange(3)):
            entries = self.tricked(entries)
        return self.zip(entries, rare=0.5)

    def tricked(self, entries: list[Entry]) -> list[Entry]:
        """The records with one added or changed."""
        rng = self.rng
        at = rng.randrange(len(entries))
        entry = entries[at]
        name = entry.name if isinstance(entry.name, str) else "x"
        root, _, rest = name.rpartition("/")
        way = rng.randrange(10)
        if way == 0:
            entries[at] = replace(entry, name=f"{root}/{rest.upper()}")
        elif way == 1:
            entries.insert(rng.randrange(len(entries) + 1), replace(entry, data=self.payload()))
        elif way == 2:
            entries.insert(
                rng.randrange(len(entries) + 1), replace(entry, name=f"{root}/{rest.swapcase()}", data=self.payload())
            )
        elif way == 3:
            entries[at] = replace(entry, deflated=True)
        elif way == 4:
            flags = rng.choice((1, 8, 0x800, 0x808, 0x2000, 0x40))
            entries[at] = replace(entry, central={"flags": flags}, local=rng.choice(({}, {"flags": flags})))
        elif way == 5:
            entries.append(
                Entry(
                    f"{name.partition('/')[0]}/{rng.choice(('extra/x.pkl', 'other.bin', 'a.npy', 'code/x', 'extra.PKL'))}",
                    self.payload(),
                )
            )
        elif way == 6:
            field = rng.choice(("crc32", "compressed", "nbytes", "header", "method"))
            entries[at] = replace(
                entry,
                central={field: rng.choice((0, 1, 8, 65535 if field == "method" else 2**32 - 1, len(entry.data)))},
            )
        elif way == 7:
            rng.shuffle(entries)
        elif way == 8:
            entries[at] = replace(entry, data=rng.choice((self.payload(), self.inner())))
        else:
            entries[at] = replace(
                entry,
                name=rng.choice(
                    (f"{root}\\{rest}", f"/{name}", f"{name}\0x", f"../{name}", f"x{name}", rest, f"{root}//{rest}")
                ),
            )
        return entries

    def zip(self, entries: Sequence[Entry], rare: float) -> bytes:
        """Write an archive; `rare` is how often something in it is not as torch writes it."""
        rng = self.rng
        options: dict[str, object] = {}
        if rng.random() < rare:
            way = rng.randrange(9)
            if way == 0:
                options["before"] = rng.choice((b"x", bytes(64), self.payload(), b"\x93NUMPY", b"PK\3\4" + bytes(30)))
            elif way == 1:
                comment = rng.choice(
                    (b"x", b"PK\5\6", b"PK\5\6" + bytes(18), bytes(65530), bytes(65536), self.payload())
                )
                options["after"], options["end"] = comment, {"comment": len(comment) % 65536}
            elif way == 2:
                options["after"] = rng.choice((b"x", b"PK\5\6" + bytes(18), bytes(4096), bytes(70000), self.payload()))
            elif way == 3:
                options["zip64"] = False
            elif way == 4:
                options["end"] = {
                    rng.choice(("count", "count_here", "nbytes", "start", "disk")): rng.choice((0, 1, 2, 65535))
                }
            elif way == 5:
                options["end64"] = {
                    rng.choice(("count", "count_here", "nbytes", "start", "size")): rng.choice((0, 1, 2, 44, 2**40))
                }
            elif way == 6:
                options["between"] = rng.choice((b"x", bytes(40), self.payload()))
            elif way == 7:
                options["alignment"] = rng.choice((1, 4096))
            else:
                inner = self.zip(entries, 0.0)
                return self.bytes_changed(inner)
        return zip_bytes(entries, **options)  # type: ignore[arg-type]

    def bytes_changed(self, data: bytes) -> bytes:
        rng, made = self.rng, bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(made)) if made else 0
            way = rng.randrange(4)
            if way == 0:
                made[at : at + 1] = bytes([rng.randrange(256)])
            elif way == 1:
                del made[at : at + rng.choice((1, 4, 16))]
            elif way == 2:
                made[at:at] = rng.choice((b"\0", b"PK\5\6", self.payload()))
            else:
                made = made[: max(1, at)]
        return bytes(made)
