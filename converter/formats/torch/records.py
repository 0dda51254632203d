"""The names of records that torch's readers look up, and the records that mark an archive as a program.

torch's zip reader (miniz) ignores the case of ASCII letters when it looks up a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from converter.io.zip_records import Archive

PICKLE: Final = "data.pkl"
_ASK: Final = "ask its author for the weights alone, as safetensors"
CODE: Final = "code/"
CONSTANTS: Final = "constants.pkl"
# What torch.jit.save writes in addition to the records of torch.save.
EXTRA: Final = "extra/"  # files that the user had torch.jit.save put beside the program (`_extra_files`)
SCRIPTED: Final = (CODE, "constants", EXTRA, "traced_inputs")
TORCHSCRIPT: Final = "a TorchScript program"
MARKS: Final = (  # a record, the kind of archive that has it, and what the user can do
    (CONSTANTS, TORCHSCRIPT, "`convert` takes its weights and leaves its code out"),
    ("model.json", "a TorchScript program of torch 1.0 to 1.2", _ASK),
    (".data/extern_modules", "a torch.package, which holds Python code", _ASK),
    (".data/python_version", "a torch.package, which holds Python code", _ASK),
    ("archive_format", "a program of torch.export (pt2)", _ASK),
    ("serialized_exported_program.json", "a program of torch.export (pt2)", _ASK),
)
KNOWN: Final = (
    PICKLE,
    "version",
    "byteorder",
    ".format_version",
    ".storage_alignment",
    ".data/version",
    ".data/serialization_id",
    *(record for record, *_ in MARKS),
)
_FOLDERS: Final = ("data/", "tensors/", "code/")


def program(archive: Archive) -> str | None:
    """The kind of program that an archive is, by the records that only such archives have; None if it is not a program."""
    names = {name.lower() for name in archive.records}
    ends = names if archive.root else {part for name in names for part in _ends(name)}
    return next((f"{what}: {how}" for record, what, how in MARKS if record in ends), None)


def another_case(archive: Archive) -> Iterator[str]:
    """Yield a sentence for each record whose name differs only in case from another, or from one that torch looks up."""
    seen: dict[str, str] = {}
    for name in archive.records:
        folded = name.lower()
        if (first := seen.setdefault(folded, name)) != name:
            yield (
                f"`{archive.root}{name:.200}` and `{archive.root}{first:.200}` in `{archive.name}` are the same record to torch, "
                "which does not look at the case, and two to others"
            )
        if name == folded:
            continue
        ends = {folded} if archive.root else _ends(folded)
        known = next((record for record in KNOWN if record in ends), None)
        known = known or next((folder for folder in _FOLDERS if folded.startswith(folder)), None)
        if known is not None and not (name.endswith(known) or name.startswith(known)):
            yield (
                f"`{archive.root}{name}` in `{archive.name}` is `{known}` to torch, which does not look at the case, and "
                "something else to others"
            )


def _ends(name: str) -> set[str]:
    """A name as it is called from each folder in it: `a/b/c` also gives `b/c` and `c`. Folders much deeper do not occur."""
    parts = name.split("/")[-3:]
    return {"/".join(parts[start:]) for start in range(len(parts))}
