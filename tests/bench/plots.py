"""SVGs: one of all tasks at one size, and time and memory against size for each task that was measured at several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import results
from tests.bench.results import UNSIZED, Results
from tests.bench.tasks import OURS, TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def overview(found: Results) -> Figure:
    """Draw all tasks at one size: our time and the best peer's, as multiples of what `cp` takes."""
    from matplotlib.figure import Figure

    size = results.broadest(found)
    rows = results.compared(found[size])
    figure = Figure(figsize=(9, 0.5 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (cp, ours, peer) in enumerate(rows.values()):
        for way, at, colour in ((ours, place - 0.2, "tab:blue"), (peer, place + 0.2, "tab:gray")):
            times = results.ratio(way, cp)
            axes.barh(at, times, height=0.38, color=colour)
            label = "cerebras-tool" if way is ours else way["name"]
            axes.text(times, at, f" {times:.2g}  {label}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [TASKS[task].title for task in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.4)
    axes.set_xlabel(f"seconds, as a multiple of what cp takes for the same file ({size}); shorter is better")
    return figure


def draw(found: Results, folder: Path) -> list[Path]:
    """Draw them. Raises ImportError if matplotlib is not installed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same results give the same file.
    mpl.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9}
    drawn = [folder / "overview.svg"]
    overview(found).savefig(drawn[0], metadata={"Date": None})
    for name in results.plotted(found):
        task = TASKS[name]
        measured = [
            (size, tasks[name]["nbytes"] / 1e9, tasks[name])
            for size, tasks in found.items()
            if size != UNSIZED and name in tasks
        ]
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, label in zip(figure.subplots(1, 2), ("seconds", "resident MB"), strict=True):
            for way in dict.fromkeys(way["name"] for _, _, result in measured for way in result["ways"]):
                points = [(nbytes, w) for _, nbytes, r in measured if (w := results.ways(r).get(way))]
                values = [results.median(w) if label == "seconds" else w["resident"] / 1e6 for _, w in points]
                ours = points[0][1]["side"] == OURS
                axes.plot([x for x, _ in points], values, marker="o", linewidth=2.5 if ours else 1, label=way)
            axes.set(xscale="log", yscale="log", ylabel=label)
            axes.set_xticks([nbytes for _, nbytes, _ in measured], [f"{s}, {n:.2g} GB" for s, n, _ in measured])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle(task.title)
        drawn.append(folder / f"{task.name}.svg")
        figure.savefig(drawn[-1], metadata={"Date": None})
    return drawn
