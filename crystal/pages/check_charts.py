"""The charts of `check.html`: sizes, shapes and counts of the objects, and how well the anchors cover them.

Each state has a mark of its own as well as a colour, so that they can be told apart in grey.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from crystal.data.anchor_coverage import HALF, WELL
from crystal.pages.charts import hexadecimal
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


def over_doublings(
    axes: Axes, values: Float[np.ndarray, " n"], label: str, *, anchors: Float[np.ndarray, " k"]
) -> None:
    """Histogram over doublings, with dashed lines where the anchors are."""
    low, high = np.log2(min(values.min(), anchors.min())), np.log2(max(values.max(), anchors.max()))
    edges = 2 ** np.arange(np.floor(2 * low) / 2, np.ceil(2 * high) / 2 + 0.75, 0.5)
    axes.hist(values, edges.tolist(), color=BLUE, alpha=0.75, edgecolor="white", linewidth=0.5)
    for k, anchor in enumerate(anchors):
        axes.axvline(anchor, color=GREY, ls=(0, (4, 2)), lw=1.1, label="anchors" if not k else None)
    _doubling(axes, "x")
    axes.set(xlabel=label, ylabel="objects")
    axes.legend(frameon=False, fontsize=8)
    axes.margins(y=0.25)


def objects_an_image(axes: Axes, counts: Mapping[str, Int[np.ndarray, " n"]]) -> None:
    """Histogram of the numbers of objects, an outline a split, as shares of its images."""
    most = max((int(c.max()) for c in counts.values() if len(c)), default=0)
    step = max(1, -(-(most + 1) // 20))
    edges = np.arange(0, most + step + 1, step) - 0.5 * (step == 1)
    colours = (BLUE, VERMILLION, ORANGE, GREY)
    for k, (name, own) in enumerate(counts.items()):
        share = np.histogram(own, edges)[0] / max(len(own), 1) * 100
        dash = "-" if k % 2 == 0 else (0, (3, 1.2))
        axes.stairs(share, edges, color=colours[k % 4], lw=1.7, ls=dash, label=_plain(name))
    axes.set(xlabel="objects", ylabel="% of images", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)


def share_reached(axes: Axes, best: Float[np.ndarray, " n"]) -> None:
    """Share of the objects that some anchor overlaps at each IoU or better."""
    order = np.sort(best)
    # Each object once, from the best overlap down: the share that is still reached.
    axes.plot(np.r_[0, order, 1], np.r_[100, 100 * (1 - np.arange(len(order)) / len(order)), 0], color=BLUE, lw=1.7)
    for mark in (HALF, WELL):
        axes.axvline(mark, color=GREY, ls=(0, (4, 2)), lw=1.1)
    axes.set(xlim=(0, 1), ylim=(0, 102), xlabel="IoU with the best anchor, at least", ylabel="% of objects")


def by_width_and_height(axes: Axes, sides: Float[np.ndarray, "n 2"], best: Float[np.ndarray, " n"]) -> None:
    """Every object by width and height, marked by the IoU of its best anchor."""
    chosen = np.random.default_rng(0).permutation(len(sides))[:MOST_MARKS]
    state = (best[chosen] < WELL).astype(int) + (best[chosen] < HALF)
    names = (f"IoU {WELL:g} or more", f"{HALF:g} to {WELL:g}", f"under {HALF:g}")
    for k, ((colour, mark, area), name) in enumerate(zip(MARKS, names, strict=True)):
        some = sides[chosen[state == k]]
        # The most frequent below the others.
        order = (2, 1, 3)[k]
        axes.scatter(*some.T, s=area, c=colour, marker=mark, lw=1, alpha=0.7, label=name, zorder=order)
    _doubling(axes, "x")
    _doubling(axes, "y")
    # Both axes alike, so that squares lie on the diagonal.
    limits = max(float(sides.min()), 0.25) / 1.5, max(float(sides.max()), 1.0) * 1.5
    axes.set(xlim=limits, ylim=limits, xlabel="width, pixels", ylabel="height, pixels")
    axes.legend(framealpha=0.85, fontsize=8)
