"""The arguments and options that several commands share, and how words and sizes on the command line are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from converter.text import safe_text
from converter.words import WEIGHTS, Part
from converter.words import Root as AnyRoot


def offer_tensors(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of tensors that a shell offers. Imported when a shell asks."""
    from converter.cli.completing import tensors

    return tensors(ctx, incomplete)


def offer_models(incomplete: str) -> list[str]:
    """The names of models that a shell offers. Imported when a shell asks."""
    from converter.cli.completing import models

    return models(incomplete)


def offer_samples(incomplete: str) -> list[str]:
    """The names of samples that a shell offers. Imported when a shell asks."""
    from converter.cli.completing import samples

    return samples(incomplete)


def one_of(words: Iterable[str], spelled: Callable[[str], str] = str, *, metavar: str | None = None) -> dict[str, Any]:
    """Let an option take one of some words, which a table elsewhere defines. `spelled` normalises a word.

    `metavar` stands in the help for the words, where a line has no room for them.
    """
    known = list(words)

    def parser(text: str) -> str:
        word = spelled(text)
        if word not in known:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, known))}.")
        return word

    def offered(incomplete: str) -> list[str]:
        begun = incomplete.casefold()
        found = [word for word in known if word.startswith(begun)]
        if incomplete == begun or any(spelled(word.upper()) != word for word in found):
            return found
        # Shells drop an answer that does not begin with what was typed.
        upper = [letter.isupper() for letter in incomplete if letter.isalpha()][-1]
        return [incomplete + (rest.upper() if upper else rest) for rest in (word[len(begun) :] for word in found)]

    return {"parser": parser, "autocompletion": offered, "metavar": metavar or f"<{'|'.join(known)}>"}


Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a folder, owner/name, hf://… or https://…")]
# A list, so that a second --root can be refused: a plain option would only show the last one.
Root = Annotated[list[str] | None, typer.Option("--root", metavar="KEY", help="Read only the tensors below this key.")]
Ema = Annotated[bool, typer.Option("--ema", help="Use the averaged weights in place of the model's.")]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="The weights to take from a folder with several kinds.", **one_of(WEIGHTS)),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print errors only: no progress bar and no report. --json still prints its document."
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say on stderr how long each request, file and phase took.")
]
Log = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Add the lines of --verbose to FILE, with the time.")
]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="PATH", help="Write a JUnit report, too; - is stdout.")]
Sarif = Annotated[
    Path | None, typer.Option("--sarif", metavar="PATH", help="Write what was found as SARIF 2.1.0, too; - is stdout.")
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="PATH", help="Write a page to look at in a browser, too: one file, for offline use."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
IgnoreGlobals = Annotated[
    bool,
    typer.Option(
        "--ignore-globals", help="Convert the tensors even if the pickle asks for other things, and leave those out."
    ),
]
CarryValues = Annotated[
    bool, typer.Option("--carry-values", help="Carry over numbers, texts and small arrays beside the weights, too.")
]
WithCode = Annotated[
    bool, typer.Option("--with-code", help="Carry code beside the weights along, too: *.py and the like.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        envvar="CEREBRAS_TOOL_THREADS",
        help="Work with N threads instead of one per processor.",
    ),
]
NoCrc = Annotated[bool, typer.Option("--no-crc", help="Don't check CRCs: read a file that has none, or is damaged.")]


def check_html(html: Path | None) -> None:
    """Raise UnsupportedError, before anything is read, if a page is asked for and can't be made here."""
    if html is not None:
        from converter.pages import check_installed

        check_installed()


def part(root: list[str] | None, ema: bool) -> AnyRoot:
    """The part that --root or --ema asks for, or None."""
    if ema and root:
        raise typer.BadParameter("--root and --ema exclude each other")
    if root and len(root) > 1:
        raise typer.BadParameter("--root takes one key, and was given more than once: run the command for each")
    return Part.EMA if ema else next(iter(root or ()), None)


Filter = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", metavar="GLOB", autocompletion=offer_tensors, help="Only tensors whose name matches. Repeatable."
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include", metavar="GLOB", autocompletion=offer_tensors, help="Only tensors whose name matches. Repeatable."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        autocompletion=offer_tensors,
        help="Leave out tensors whose name matches. Repeatable.",
    ),
]
Strip = Annotated[
    list[str] | None,
    typer.Option("--strip", metavar="PART", help="Leave out a trainer's state: optimizer, or ema. Repeatable."),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        "--rename", metavar="OLD=NEW", help="Rename what matches OLD; or a .json file of rules. Repeatable, in order."
    ),
]
Merge = Annotated[
    list[str] | None,
    typer.Option("--merge", metavar="SOURCE", help="Add the tensors of another checkpoint. Repeatable."),
]
TensorType = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-type", metavar="GLOB=TYPE", help="The dtype of what matches; the last match counts. Repeatable."
    ),
]


def nbytes(text: str | None) -> int | None:
    """Read a size as people write it: 5GB, 500MB and 1000000 are decimal, 5GiB is binary."""
    if text is None:
        return None
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]I?|)B?", text.strip().upper())
    size = int(float(match[1]) * units[match[2]]) if match else 0
    if size < 1:
        raise typer.BadParameter(f"`{safe_text(text)}` is not a size such as 5GB")
    return size
