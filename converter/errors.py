"""What can go wrong: one class for each thing that a caller can do something about.

ConverterError              the root: everything this package raises on purpose
├─ SourceError              the bytes can't be read: absent, not a regular file, changed while they were read
├─ FormatError              not a checkpoint this package reads; says what it is instead
│  ├─ CutOffError           a file that ends too early: a download that broke off
│  ├─ AmbiguousError        a file that is two kinds of file at once
│  ├─ ForeignFileError      a file that is something else: a gzip file, an HTML page, a numpy array
│  ├─ NoWeightsError        a folder without weights; models may be in its folders
│  ├─ RootError             a key for `root` that the checkpoint does not have
│  └─ ProgramError          an archive that torch runs as a program: TorchScript, torch.package, torch.export
├─ ArchiveError             a zip directory that two readers could understand differently
├─ PickleError              bytes that are not a well-formed pickle
│  ├─ FrameError            an opcode that crosses the end of its frame
│  └─ TruncatedPickleError  the pickle goes on after the last byte
│     └─ EndOfDataError     the last byte ends an opcode, and no STOP follows
├─ LayoutError              a tensor that does not lie within its storage
│  └─ NamesError            two tensors whose names here are the same, though torch tells their keys apart
├─ ManifestError            a manifest, an index or a config.json that contradicts itself or its files
├─ LimitError               well-formed, but past a limit of `converter.limits`
├─ UnsafeError              refused because the pickle names things outside the table
├─ UnsupportedError         understood, but not something that can be carried over
├─ ModelError               no such declared model, or a checkpoint that is not the model it should be
├─ OutputError              the output exists, is an input, has no room or no permission
├─ MissingTensorError       a name that a catalogue does not have; also a KeyError
├─ WordError                a word that is none of those an option takes; also a ValueError
├─ RuleError                a rule on names (--include, --rename …) that can't be used; also a ValueError
├─ JobError                 a job of `batch` that can't be used, or its journal
├─ PolicyError              a policy of `scan` that can't be used: malformed, or from the folder that is scanned
└─ ReadError                a copy that is verified can't be read: `verify` reports that, and has not failed itself

What follows from a cause is an attribute of its class. Nothing is decided by the text of a message, because the author
of a file chooses the names in it.
"""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, Final

_MANY: Final = 10_000  # names; among more than these, looking for similar ones would take seconds


class ConverterError(Exception):
    """One sentence for people: what was found, what was expected, what to do."""

    exit_code: ClassVar[int] = 2  # the exit code of a command that this error ends
    advice: ClassVar[str] = ""  # a command adds this to the sentence
    rule: ClassVar[str] = (
        "malformed"  # the rule that `scan` reports it under: a key of `converter.scanning.rules.RULES`
    )
    damage: ClassVar[str] = "unreadable"  # the name that `verify` gives to a copy that raises it


class SourceError(ConverterError):
    """The bytes can't be read."""

    rule = "not-looked-into"


class FormatError(ConverterError):
    """Not a checkpoint this package reads."""


class NoWeightsError(FormatError):
    """A folder without a file of weights. `folders` are those in it that hold models."""

    def __init__(self, message: str, folders: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.folders = folders


class CutOffError(FormatError):
    """A file that ends too early."""

    damage = "truncated"


class AmbiguousError(FormatError):
    """A file that is two kinds of file at once."""


class ForeignFileError(FormatError):
    """A file that is not a checkpoint but something else."""

    rule = "not-looked-into"


class RootError(FormatError):
    """A key for `root` that the checkpoint does not have."""


class ProgramError(FormatError):
    """An archive that torch runs as a program."""

    rule = "program"


class ArchiveError(ConverterError):
    """A zip archive with an anomaly."""


class PickleError(ConverterError):
    """Bytes that are not a well-formed pickle."""


class TruncatedPickleError(PickleError):
    """The pickle goes on after the last byte, at least up to `needs`, counted from the same place as its positions."""

    def __init__(self, message: str, needs: int) -> None:
        super().__init__(message)
        self.needs = needs


class FrameError(PickleError):
    """An opcode that crosses the end of its frame, or a STOP or FRAME before that end, which is byte `end`.

    `apart` says whether unpicklers read different bytes from there on.
    """

    def __init__(self, message: str, end: int, *, apart: bool) -> None:
        super().__init__(message)
        self.end = end
        self.apart = apart


class EndOfDataError(TruncatedPickleError):
    """The data ends where an opcode should begin, so every unpickler stops there."""


class LayoutError(ConverterError):
    """A tensor that does not lie within its storage."""


class NamesError(LayoutError):
    """Two tensors that a reader of the file tells apart, and whose names here would be the same."""


class ManifestError(ConverterError):
    """A JSON document beside the weights that contradicts itself or them."""


class LimitError(ConverterError):
    """Well-formed, but larger than the limits allow."""

    advice = "; docs/security/limits.md has the limits that `--limit` raises"
    rule = "not-looked-into"


class UnsafeError(ConverterError):
    """The pickle names globals outside the closed table."""


class UnsupportedError(ConverterError):
    """Understood, but not something that can be carried over."""

    rule = "not-looked-into"


class ModelError(ConverterError):
    """No such model, or a checkpoint that is not the model it should be."""


class OutputError(ConverterError):
    """The output can't be written."""


class MissingTensorError(ConverterError, KeyError):
    """A name that a catalogue does not have.

    `meant` gives the tensors that have such a name elsewhere: in GGUF, or without the name's prefix. It is called
    only when the message is needed, and only then are similar names searched for.
    """

    def __init__(
        self, name: object, names: Collection[str], where: str, meant: Callable[[str], Sequence[str]] | None = None
    ) -> None:
        super().__init__(name)
        self._name, self._names, self._where, self._meant = name, names, where, meant

    def _near(self) -> Sequence[str]:
        from difflib import get_close_matches

        name = str(self._name)
        if self._meant is not None and (found := self._meant(name)):
            return found[:3]
        if longer := [other for other in self._names if name and other.endswith(f".{name}")]:
            return longer[:3]
        return get_close_matches(name, self._names, 3, 0.7) if len(self._names) < _MANY else []

    def __str__(self) -> str:
        near = self._near()
        hint = f"; did you mean {', '.join(f'`{name}`' for name in near)}?" if near else ""
        return f"there is no tensor `{self._name!s:.200}` in `{self._where}`{hint}"


class WordError(ConverterError, ValueError):
    """A word that an option does not take."""

    def __init__(self, option: str, word: object, words: Sequence[str]) -> None:
        super().__init__(f"{option} is {word!r:.80}: choose {', '.join(words)}")


class RuleError(ConverterError, ValueError):
    """A rule on the names of tensors that can't be used: malformed, or without a possible result."""


class JobError(ConverterError):
    """A job of `batch` that can't be used, or its journal."""


class PolicyError(ConverterError):
    """A policy of `scan` that can't be used."""


class ReadError(ConverterError):
    """The bytes of a copy can't be read, or are not what its own checksums say."""
