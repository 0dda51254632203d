"""An output as it was given: a place, or a catalogue that is open already and was perhaps opened in a special way."""

from __future__ import annotations

from pathlib import Path

from converter.formats.companions import SIDECAR
from converter.opening import folder_beside, open_checkpoint
from converter.tensors.catalogue import Catalogue


class Given:
    """An output to compare. Reports call it `location`. It is `lone` if it is a file that need not have anything beside it."""

    def __init__(self, output: str | Path | Catalogue) -> None:
        self._catalogue = output if isinstance(output, Catalogue) else None
        self.location = str(output) if self._catalogue is None else self._catalogue.location
        self._path = Path(self.location) if self._catalogue is None else self._catalogue.path
        self.lone = self._path.is_file() and (self._catalogue is None or not self._catalogue.origin.folder)

    def opened(self) -> Catalogue:
        """The catalogue. Raises ConverterError or OSError if a place can't be opened."""
        if self._catalogue is not None:
            return self._catalogue
        return open_checkpoint(self.location if "://" in self.location else self._path)

    def sidecar(self) -> Path:
        """Where `convert` writes what the output's format has no room for."""
        if self.lone:
            return self._path.with_name(f"{self._path.stem}.{SIDECAR}")
        beside = None if self._catalogue is None else folder_beside(self._catalogue)
        return (beside or self._path) / SIDECAR
