"""Small charts as inline SVG (matplotlib), and the curves of training runs: a chart a quantity, one line a run.

Small multiples instead of one busy chart: on a narrow screen they go below each other and stay readable. Lines differ
in dash as well as in colour, so that they can be told apart in grey.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crystal.prediction.overlays import BLUE, VERMILLION, Colour

Curve = tuple[np.ndarray, np.ndarray]  # steps, values

SMOOTHED_POINTS = 60  # about so many points are left of a noisy curve


def hexadecimal(colour: Colour) -> str:
    """RGB as matplotlib takes it.

    >>> hexadecimal((0, 114, 178))
    '#0072b2'
    """
    return f"#{bytes(colour).hex()}"


LINES = ((hexadecimal(BLUE), "-"), (hexadecimal(VERMILLION), (0, (4, 1.5))))


def curve(metrics: Sequence[Mapping[str, float]], key: str) -> Curve:
    """The steps at which `key` was logged, and its values; lines of the log without it or with null are left out."""
    pairs = [(line["step"], line[key]) for line in metrics if line.get(key) is not None and "step" in line]
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    return steps, values


def smooth(steps: np.ndarray, values: np.ndarray) -> Curve:
    """Means over stretches of equal length: a loss at every step becomes a readable curve."""
    stretch = len(steps) // SMOOTHED_POINTS
    if stretch < 2:
        return steps, values
    whole = len(steps) // stretch * stretch
    return steps[:whole].reshape(-1, stretch).mean(1), values[:whole].reshape(-1, stretch).mean(1)


def chart(title: str, draw: Callable[[Axes], None], *, size: tuple[float, float] = (3.6, 2.3)) -> Markup:
    """An SVG element without fixed size, to be put into a page.

    Args:
        title: stands above the chart, and is its text for screen readers.
        draw: fills the axes.
        size: (width, height) in inches, for the proportions and how large text is against them.
    """
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.25)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    # Inside a page neither the XML declaration, with its link to a document type, nor the name spaces are needed.
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg[svg.index("<svg") + len("<svg") :])
    return Markup('<svg role="img" aria-label="{}"').format(title) + Markup(svg)


def line_chart(title: str, curves: Mapping[str, Curve], *, top: float | None = None, markers: bool = False) -> Markup:
    """Curves over the training steps, as a `chart`.

    Args:
        title: of the chart.
        curves: name of the run -> its curve; two runs at most.
        top: upper end of the vertical axis; from the data if not given. The lower end is 0.
        markers: whether each value gets a dot, for curves of few points.
    """

    def draw(axes: Axes) -> None:
        for (name, (steps, values)), (colour, dash) in zip(curves.items(), LINES, strict=False):
            marker = "o" if markers else None
            axes.plot(steps, values, label=name, linewidth=1.6, marker=marker, markersize=3.5, color=colour, ls=dash)
        axes.set_xlabel("training step")
        axes.set_ylim(0, top)
        if curves:
            axes.legend(frameon=False, fontsize=8)

    return chart(title, draw)
