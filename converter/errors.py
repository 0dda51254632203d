"""What can go wrong, one class per thing a caller can do something about.

ConverterError              the root: everything this package raises on purpose
├─ SourceError              the bytes can't be had: absent, not a regular file, shorter than they were
├─ FormatError              not a checkpoint this package reads; says what it is instead
├─ ArchiveError             a zip directory that two readers could understand differently
│  └─ CutOffError           a zip that ends before its directory: a download that broke off
├─ PickleError              bytes that are no well-formed pickle
│  └─ TruncatedPickleError  the pickle goes on after the last byte
├─ LayoutError              a tensor that does not lie within its storage
├─ ManifestError            a manifest, an index or a config.json that contradicts itself or its files
├─ LimitError               well-formed, but past a limit of `converter.limits`
├─ UnsafeError              refused because the pickle names things outside the table
├─ UnsupportedError         understood, but not something that can be carried over
├─ ModelError               no such declared model, or a checkpoint that is not the model it should be
├─ OutputError              the output exists, is an input, has no room or no permission
└─ WordError                a word that is none of those an option takes; also a ValueError
"""

from collections.abc import Sequence


class ConverterError(Exception):
    """One sentence for a person: what was found, what was expected, what to do."""


class SourceError(ConverterError):
    """The bytes can't be had."""


class FormatError(ConverterError):
    """Not a checkpoint this package reads."""


class ArchiveError(ConverterError):
    """A zip archive with an anomaly."""


class CutOffError(ArchiveError):
    """A zip archive that ends before its directory."""


class PickleError(ConverterError):
    """Bytes that are no well-formed pickle."""


class TruncatedPickleError(PickleError):
    """The pickle goes on after the last byte, at least up to `needs`, counted from the same place as its positions."""

    def __init__(self, message: str, needs: int) -> None:
        super().__init__(message)
        self.needs = needs


class LayoutError(ConverterError):
    """A tensor that does not lie within its storage."""


class ManifestError(ConverterError):
    """A JSON document beside the weights that contradicts itself or them."""


class LimitError(ConverterError):
    """Well-formed, but larger than the limits allow."""


class UnsafeError(ConverterError):
    """The pickle names globals outside the closed table."""


class UnsupportedError(ConverterError):
    """Understood, but not something that can be carried over."""


class ModelError(ConverterError):
    """No such model, or a checkpoint that is not the model it should be."""


class OutputError(ConverterError):
    """The output can't be written."""


class WordError(ConverterError, ValueError):
    """A word that is none of those an option takes."""

    def __init__(self, option: str, word: object, words: Sequence[str]) -> None:
        super().__init__(f"{option} is {word!r:.80}: choose {', '.join(words)}")
