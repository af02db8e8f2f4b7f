"""The charts of `check.html`: sizes, shapes and counts of the objects, and how well the anchors cover them.

Each state has a mark of its own as well as a colour, so that they can be told apart in grey.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from crystal.data.anchor_coverage import HALF, WELL
from crystal.pages.charts import chart, hexadecimal
from crystal.prediction import overlays

BLUE, ORANGE, VERMILLION = map(hexadecimal, (overlays.BLUE, overlays.ORANGE, overlays.VERMILLION))
GREY = "#444444"
MARKS = ((BLUE, "o", 12), (ORANGE, "^", 16), (VERMILLION, "x", 22))
MOST_MARKS = 2000


def _doubling(axes: Axes, which: str) -> None:
    """A logarithmic axis whose ticks are powers of two written as plain numbers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=2)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    axis.set_minor_locator(NullLocator())


def _plain(name: str) -> str:
    """A name as a label: matplotlib would set what stands between dollars as a formula, and hide a leading _."""
    return name.replace("$", r"\$").lstrip("_") or "-"


def logarithmic(
    title: str, values: Float[np.ndarray, " n"], label: str, *, marks: Sequence[float], mark_name: str
) -> Markup:
    """Histogram over doublings, with dashed lines at `marks`."""

    def draw(axes: Axes) -> None:
        low, high = np.log2(min(values.min(), *marks)), np.log2(max(values.max(), *marks))
        edges = 2 ** np.arange(np.floor(2 * low) / 2, np.ceil(2 * high) / 2 + 0.75, 0.5)
        axes.hist(values, edges.tolist(), color=BLUE, alpha=0.75, edgecolor="white", linewidth=0.5)
        for k, mark in enumerate(marks):
            axes.axvline(mark, color=GREY, ls=(0, (4, 2)), lw=1.1, label=mark_name if not k else None)
        _doubling(axes, "x")
        axes.set_xlabel(label)
        axes.set_ylabel("objects")
        axes.legend(frameon=False, fontsize=8)
        axes.margins(y=0.25)

    return chart(title, draw)


def counted(title: str, counts: Mapping[str, Int[np.ndarray, " n"]], label: str) -> Markup:
    """Histogram of whole numbers, an outline a split, as shares of its images."""

    def draw(axes: Axes) -> None:
        most = max((int(c.max()) for c in counts.values() if len(c)), default=0)
        step = max(1, -(-(most + 1) // 20))
        edges = np.arange(0, most + step + 1, step) - 0.5 * (step == 1)
        colours = (BLUE, VERMILLION, ORANGE, GREY)
        for k, (name, own) in enumerate(counts.items()):
            share = np.histogram(own, edges)[0] / max(len(own), 1) * 100
            dash = "-" if k % 2 == 0 else (0, (3, 1.2))
            axes.stairs(share, edges, color=colours[k % 4], lw=1.7, ls=dash, label=_plain(name))
        axes.set_xlabel(label)
        axes.set_ylabel("% of images")
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)

    return chart(title, draw)


def best_overlaps(title: str, best: Float[np.ndarray, " n"]) -> Markup:
    """How many objects are reached at each IoU or better."""

    def draw(axes: Axes) -> None:
        order = np.sort(best)
        # Each object once, from the best overlap down: the share that is still reached.
        axes.plot(np.r_[0, order, 1], np.r_[100, 100 * (1 - np.arange(len(order)) / len(order)), 0], color=BLUE, lw=1.7)
        for mark in (HALF, WELL):
            axes.axvline(mark, color=GREY, ls=(0, (4, 2)), lw=1.1)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 102)
        axes.set_xlabel("IoU with the best anchor, at least")
        axes.set_ylabel("% of objects")

    return chart(title, draw)


def reach_map(title: str, sides: Float[np.ndarray, "n 2"], best: Float[np.ndarray, " n"]) -> Markup:
    """Every object by width and height, marked by what its best anchor reaches."""

    def draw(axes: Axes) -> None:
        chosen = np.random.default_rng(0).permutation(len(sides))[:MOST_MARKS]
        state = (best[chosen] < WELL).astype(int) + (best[chosen] < HALF)
        names = (f"IoU {WELL:g} or more", f"{HALF:g} to {WELL:g}", f"under {HALF:g}")
        for k in (1, 0, 2):  # the most frequent below
            (colour, mark, area), name = MARKS[k], names[k]
            some = sides[chosen[state == k]]
            axes.scatter(some[:, 0], some[:, 1], s=area, c=colour, marker=mark, lw=1, alpha=0.7, label=name)
        handles, labels = axes.get_legend_handles_labels()
        _doubling(axes, "x")
        _doubling(axes, "y")
        # Both axes alike, so that squares lie on the diagonal.
        low, high = max(float(sides.min()), 0.25), max(float(sides.max()), 1.0)
        axes.set(xlim=(low / 1.5, high * 1.5), ylim=(low / 1.5, high * 1.5), xlabel="width, pixels")
        axes.set_ylabel("height, pixels")
        order = [labels.index(name) for name in names]
        legend = [handles[k] for k in order], [labels[k] for k in order]
        axes.legend(*legend, frameon=True, framealpha=0.85, fontsize=8, loc="best")

    return chart(title, draw, size=(3.6, 3.4))
