"""What ends the verification of an output: a part of it that can't be read any further, as a finding of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from converter.errors import ConverterError
from converter.reports.verification import Difference


class BrokenError(Exception):
    """An output that can't be read any further. This is a finding, not an error."""

    def __init__(self, name: str, what: str, detail: str) -> None:
        super().__init__(detail)
        self.difference = Difference(name, what, detail)


@contextmanager
def broken_by(*errors: type[ConverterError], name: str, what: str | None = None) -> Iterator[None]:
    """Turn errors of these classes into the output's last finding. Its name is `what`, or follows from the error's class."""
    try:
        yield
    except errors as error:
        raise BrokenError(name, what or error.damage, str(error)) from error
