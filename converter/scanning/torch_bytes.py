"""Files of torch inside a pickle: `pickle.dumps(tensor)` writes each storage as a whole file of torch, in one text.

`torch.storage._load_from_bytes` gives that text to torch.load. Where the text is looked into as the file that it is, the
call does no more than that file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.io.source import Memory
from converter.limits import limits
from converter.pickles.arguments import LOAD_FROM_BYTES
from converter.scanning.place import Claim, Place

if TYPE_CHECKING:
    from converter.scanning.pickle_stream import PickleRun
    from converter.scanning.walker import Walker


def look(walker: Walker, found: PickleRun, place: Place) -> frozenset[bytes] | None:
    """Look into the files that a pickle gives to torch.load, and return them. None if it is called in any other way.

    The call must have one argument, a text, and the pickle must not change what it returns.
    """
    calls = [(at, call) for at, call in found.calls if (call.module, call.name) == LOAD_FROM_BYTES]
    if not calls or len(found.calls) >= limits().scan_findings or place.depth >= limits().scan_nesting:
        return None
    files: dict[bytes, int] = {}
    for at, call in calls:
        args = call.args
        if call.how != "REDUCE" or type(args) is not tuple or len(args) != 1 or type(args[0]) is not bytes:
            return None
        if call.callee is not None or call.state is not None or call.items is not None:
            return None
        files.setdefault(args[0], at)
    for file, at in files.items():
        way = f"{place.name}{', ' if place.name else ''}text at byte {at:,}, as a file of torch"
        walker.record(Memory(file, way), Place(way, place.depth + 1, Claim.PICKLE))
    return frozenset(files)
