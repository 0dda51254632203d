"""Time and memory against the size of the model, an SVG for each task that was measured at more than one size."""

from __future__ import annotations

from pathlib import Path

from tests.bench import results
from tests.bench.results import UNSIZED, Results
from tests.bench.tasks import OURS, TASKS


def draw(found: Results, folder: Path) -> list[Path]:
    """Draw them. Raises ImportError where there is no matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same results give the same file.
    mpl.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9}
    drawn = []
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
