"""Every limit on what an input may ask for, with its reason.

A number in a file is never enough to allocate memory. Beyond that, these limits bound the work that a file can cause.

Limits hold for a context (contextvars), not for the process, so two threads can work under different limits. Work for
another thread takes them along, by `contextvars.copy_context().run`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Final

from converter.errors import LimitError, WordError


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts and bytes. Each is well above what the largest public checkpoints need."""

    pickle_bytes: int = 64 << 20  # data.pkl: 100,000 tensors take 9 MB
    opcodes: int = 10_000_000  # opcodes of a pickle: a tensor takes 32, so 300,000 tensors fit
    memo: int = 4_000_000  # entries of a pickle's memo: a tensor has about 8
    stack: int = 1_000_000  # objects on a pickle's stack above a mark, checked every 65,535 opcodes
    marks: int = 10_000  # open MARKs: torch nests three deep
    line: int = 4096  # bytes of a text argument (protocol 0)
    integer: int = 1024  # bytes of a LONG; the legacy magic has 10
    depth: int = 64  # nested containers that are followed to find tensors
    names: int = 64 << 20  # bytes of all tensors' names together: 100,000 take 6 MB
    rank: int = 64  # dimensions: numpy's own limit, and torch's
    entries: int = 1_000_000  # records of an archive
    directory_bytes: int = 256 << 20  # the zip's central directory
    name: int = 1024  # bytes of a record's name
    json_bytes: int = 64 << 20  # config.json, an index, a manifest
    header_bytes: int = 100_000_000  # the header of a safetensors file: the library's own limit
    gguf_keys: int = 100_000  # keys of a GGUF file: a model has about 40
    gguf_bytes: int = 256 << 20  # keys, values and tensors' entries: a vocabulary of 256,000 tokens takes 10 MB
    gguf_string: int = 16 << 20  # bytes of one text: the largest chat templates have 100 kB
    gguf_alignment: int = 1 << 20  # bytes: ggml itself uses 32
    expansion: int = 4  # all views may have this many times the file's size, plus 64 MiB: real ones repeat nothing
    remote_bytes: int = 64 << 20  # names and layouts of a remote file: 100,000 tensors take 20 MB
    remote_requests: int = 1000  # to open a remote file: a legacy stream needs one for each storage, a zip five
    stdin_bytes: int = 64 << 30  # standard input, kept in a temporary file: the largest single files have 50 GB
    scan_pickles: int = 10_000  # pickles that scan lists for one file: joblib and shelve write a few hundred
    scan_findings: int = 1000  # reasons, globals and calls that scan lists for one file: nobody reads more
    scan_nesting: int = 3  # archives and pickles inside one another that scan follows
    opinion_bytes: int = 1 << 20  # the pickles that fickling is asked about: it takes 10 s for 2 MB
    opinion_tensors: int = 15_000  # tensors in them: fickling 0.1.12 calls an honest pickle of 18,000 malicious

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 0:
                raise WordError(name, value, ("a whole number from 0",))


_IN_FORCE: Final = ContextVar("converter.limits", default=Limits())  # noqa: B039 (it is frozen)

# The limits in force where it is called: `limits().rank`. It is the variable's own method because that is fast, and every
# tensor calls it.
limits: Final = _IN_FORCE.get


@contextmanager
def using(wanted: Limits | None) -> Iterator[None]:
    """Put limits in force for the body of a `with`. None leaves them as they are."""
    before = _IN_FORCE.set(limits() if wanted is None else wanted)
    try:
        yield
    finally:
        _IN_FORCE.reset(before)


def parse(texts: Iterable[str]) -> Limits:
    """The limits in force, changed by `texts` such as `rank=10`. Raises LimitError for any other text."""
    values = asdict(limits())
    for text in texts:
        name, _, value = text.partition("=")
        if name not in values:
            raise LimitError(f"`{name}` is not a limit: the limits are {', '.join(values)}")
        if not (value.isascii() and value.isdigit()) or not 1 <= len(value) <= 18:
            raise LimitError(f"`{value}` is not a value for the limit `{name}`: a whole number, such as {values[name]}")
        values[name] = int(value)
    return replace(limits(), **values)
