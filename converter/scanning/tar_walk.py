"""Walks through every member of a tar archive. Links and devices are only reported, and nothing is extracted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.errors import ConverterError
from converter.formats.torch.tar import LAYOUTS, is_checkpoint
from converter.io.source import Window
from converter.io.tar import Member, members
from converter.io.zip_directory import refused_name
from converter.scanning import tar_checkpoint
from converter.scanning.place import PICKLES, Claim, Place

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.walker import Walker


def look(walker: Walker, source: Source, place: Place) -> bool:
    """Look at every member of a tar archive. Return whether it is a checkpoint, as far as the members' names show."""
    found: dict[str, Member] = {}
    try:
        for member in members(source):
            inner = f"{place.name}{member.name}"
            if member.name in found:
                walker.findings.report("malformed", f"`{member.name:.200}` is there twice", inner)
            elif (reason := refused_name(member.name.removesuffix("/"))) is not None:
                walker.findings.report("malformed", f"its name {reason}", inner)
            if member.other and member.other != "a folder":
                walker.findings.report("malformed", f"{member.other}, where files were expected", inner)
            # If a name occurs twice, the first member is looked into, too.
            if not member.other and member.nbytes:
                _member(walker, source, member, place)
            found[member.name] = member
    except ConverterError as error:
        walker.findings.report(error.rule, str(error), place.name.rstrip("/"))
    return is_checkpoint(found)


def _member(walker: Walker, source: Source, member: Member, place: Place) -> None:
    claim = Claim.PICKLE if member.name.lower().endswith(PICKLES) else Claim.WHOLE
    inner = Place(f"{place.name}{member.name}", place.depth, claim)
    content = Window(source, member.offset, member.nbytes, inner.name)
    layout = LAYOUTS.get(member.name.removeprefix("./"))
    try:
        if layout is None:
            walker.record(content, inner)
        else:
            tar_checkpoint.look(walker, content, inner, layout)
    except ConverterError as error:
        walker.findings.report(error.rule, str(error), inner.name)
