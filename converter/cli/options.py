"""The arguments and options that several commands share, and how a word or a size on the command line is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from converter.text import safe_text
from converter.words import Part
from converter.words import Root as AnyRoot

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a folder, owner/name, hf://… or https://…")]
Root = Annotated[str | None, typer.Option("--root", metavar="KEY", help="The key that tensor names start below.")]
Ema = Annotated[bool, typer.Option("--ema", help="Take the averaged weights, where they stand beside the model's.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
IgnoreGlobals = Annotated[
    bool, typer.Option("--ignore-globals", help="Carry over the tensors of a pickle that asks for more; drop the rest.")
]
CarryValues = Annotated[
    bool, typer.Option("--carry-values", help="Take numbers, texts and small arrays beside the weights along, too.")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="Read and write with N threads instead of one a processor."),
]
NoCrc = Annotated[
    bool, typer.Option("--no-crc", help="Read a file that was saved without CRCs, or damaged; check none.")
]


def part(root: str | None, ema: bool) -> AnyRoot:
    """The part that --root or --ema asks for, or None."""
    if ema and root is not None:
        raise typer.BadParameter("--root and --ema exclude each other")
    return Part.EMA if ema else root


def one_of(words: Iterable[str], spelled: Callable[[str], str] = str) -> dict[str, Any]:
    """What makes an option take one of some words, which stand where the idea is at home; `spelled` normalises a word."""
    known = list(words)

    def parser(text: str) -> str:
        word = spelled(text)
        if word not in known:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, known))}.")
        return word

    return {"parser": parser, "metavar": f"<{'|'.join(known)}>"}


def nbytes(text: str | None) -> int | None:
    """Read a size as people write it: 5GB, 500MB, 1000000, decimal units; 5GiB, binary ones."""
    if text is None:
        return None
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]I?|)B?", text.strip().upper())
    size = int(float(match[1]) * units[match[2]]) if match else 0
    if size < 1:
        raise typer.BadParameter(f"`{safe_text(text)}` is no size such as 5GB")
    return size
