"""What a notebook shows: a checkpoint in a few lines, and a tensor with its histogram. There is no script in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError
from converter.inspection import said
from converter.inspection.report import inspect, stored_nbytes
from converter.pages import fragment, is_installed
from converter.statistics.measuring import measured
from converter.tensors.crc_checked import checked_tensor
from converter.text import nbytes_text, safe_name, safe_text

if TYPE_CHECKING:
    from converter.reports.details import HistogramReport, StatisticsReport
    from converter.reports.inspection import TensorReport
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

_LINES: Final = 20  # lines of the table
_MODULES: Final = 8  # modules on the map
READ: Final = 256 << 20  # bytes of a tensor that are read to be shown
_HIGH: Final = 40  # units of the tallest bar


def drawn(what: str, thing: Any) -> str | None:
    """The HTML of a "catalogue" or a "tensor"; None without jinja2."""
    if not is_installed():
        return None
    return catalogue(thing) if what == "catalogue" else tensor(thing)


def catalogue(shown: Catalogue) -> str:
    """A checkpoint: what it is, whether its pickle is plain, its largest modules and its first tensors."""
    try:
        found = inspect(shown)
    except ConverterError as error:
        return fragment("notebook_error", said=safe_text(str(error), 400))
    lines = said.fold(found.tensors)
    return fragment(
        "notebook_catalogue",
        heading=said.heading(found),
        location=safe_text(found.source.location),
        place=said.place(found),
        pickle=said.VERDICTS[found.safety.verdict][0] if found.safety.globals else None,
        totals=found.totals,
        modules=_modules(found.tensors, found.totals.nbytes),
        lines=[
            (
                safe_name(line.name),
                one.dtype,
                _shape(one.shape),
                f"{line.count}×" if line.count > 1 else "",
                nbytes_text(one.nbytes),
            )
            for line in lines[:_LINES]
            for one in line.members[:1]
        ],
        more=max(0, len(lines) - _LINES),
    )


def _modules(tensors: tuple[TensorReport, ...], whole: int) -> list[tuple[str, str, float]]:
    """The largest modules, each with its size and its share in percent. A prefix that all names have is passed over."""
    start = ""
    while True:
        sizes: dict[str, int] = {}
        for tensor in tensors:
            name, dot, _ = tensor.name[len(start) :].partition(".")
            sizes[f"{start}{name}{dot}"] = sizes.get(f"{start}{name}{dot}", 0) + tensor.nbytes
        if len(sizes) != 1 or not next(iter(sizes)).endswith("."):
            break
        start = next(iter(sizes))
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_MODULES]
    return [
        (safe_name(name.removesuffix(".")), nbytes_text(nbytes), round(100 * nbytes / whole, 1) if whole else 0.0)
        for name, nbytes in largest
    ]


def tensor(shown: Tensor) -> str:
    """A tensor: its dtype and shape, and, if it is not too large to be read for that, its statistics and histogram."""
    values: dict[str, Any] = {
        "dtype": shown.storage.encoding or shown.dtype.name,
        "shape": _shape(shown.shape),
        "size": nbytes_text(stored_nbytes(shown)),
        "facts": "",
        "bars": None,
        "note": None,
    }
    if max(shown.nbytes, shown.storage.nbytes) > READ:
        values["note"] = f"Not read, because it has more than {nbytes_text(READ)}: inspect(…, stats=True) reads it."
        return fragment("notebook_tensor", **values)
    try:
        sound, finish = checked_tensor(shown)
        (found,) = measured([sound], threads=1)
        finish()
    except ConverterError as error:
        found = error
    if isinstance(found, ConverterError):
        values["note"] = safe_text(str(found), 400)
    else:
        values |= {"facts": ", ".join(_facts(found)), "bars": _bars(found.histogram)}
    return fragment("notebook_tensor", **values)


def _facts(found: StatisticsReport) -> list[str]:
    numbers = {"min": found.min, "max": found.max, "mean": found.mean, "std": found.std, "norm": found.l2}
    known = [f"{name} {value:.6g}" for name, value in numbers.items() if value is not None]
    counts = {"zeros": found.zeros, "NaN": found.nan, "Inf": found.inf}
    return [*known, *(f"{count:,} {name}" for name, count in counts.items() if count)]


def _bars(found: HistogramReport | None) -> Mapping[str, Any] | None:
    """The histogram as heights, with what a screen reader says of it."""
    if found is None or len(found.counts) < 2:
        return None
    most = max(found.counts) or 1
    return {
        "heights": [round(_HIGH * count / most, 2) for count in found.counts],
        "high": _HIGH,
        "low_text": f"{found.low:.4g}",
        "high_text": f"{found.high:.4g}",
        "outside": found.below + found.above,
    }


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
