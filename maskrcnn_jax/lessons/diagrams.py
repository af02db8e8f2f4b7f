"""Diagrams of the network and of its parts, with the shapes of the paper's configuration; for lessons and for the site.

One unit is an inch. Blue blocks have weights.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, GREEN, GREY = "#0072b2", "#009e73", "#777777"


def block(axes: Axes, x: float, y: float, text: str, *, width: float = 1.6, height: float = 0.7, colour: str = BLUE):
    """A labelled block of a diagram, centred at (x, y)."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=f"{colour}22",
            edgecolor=colour,
            lw=1.3,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "", **options) -> None:
    """An arrow of a diagram, with a note beside its middle."""
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "#444444", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, **(style | options)))
    if text:
        axes.text(
            (start[0] + end[0]) / 2 + 0.06, (start[1] + end[1]) / 2, text, fontsize=7.5, color="#444444", va="center"
        )


def diagram(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty diagram; one unit is an inch, y grows upwards."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def network() -> Figure:
    """The network from left to right."""
    figure, axes = diagram(9.2, 2.9)
    block(axes, 0.8, 1.45, "image\n[h, w, 3]", width=1.1, colour=GREY)
    block(axes, 2.3, 1.45, "ResNet\nC2 .. C5", width=1.2)
    block(axes, 3.8, 1.45, "FPN\nP2 .. P6", width=1.2)
    block(axes, 5.3, 2.35, "RPN\nscores, deltas", width=1.3)
    block(axes, 7.0, 2.35, "proposals\ntop-k, NMS", width=1.3, colour=GREEN)
    block(axes, 5.3, 0.9, "RoI Align\n7x7 and 14x14", width=1.3, colour=GREEN)
    block(axes, 7.0, 1.3, "box head\nclasses, deltas", width=1.3)
    block(axes, 7.0, 0.45, "mask head\n28x28", width=1.3)
    block(axes, 8.5, 0.9, "detections\nNMS by class", width=1.2, colour=GREEN)
    for start, end in (
        ((1.35, 1.45), (1.7, 1.45)),
        ((2.9, 1.45), (3.2, 1.45)),
        ((4.4, 1.6), (4.65, 2.2)),
        ((5.95, 2.35), (6.35, 2.35)),
        ((4.4, 1.3), (4.65, 1.05)),
        ((6.35, 2.1), (5.6, 1.25)),
        ((5.95, 1.05), (6.35, 1.25)),
        ((5.95, 0.75), (6.35, 0.5)),
        ((7.65, 1.25), (7.9, 1.1)),
        ((7.65, 0.5), (7.9, 0.7)),
    ):
        arrow(axes, start, end)
    axes.text(0.25, 2.6, "blue: layers with weights · green: geometry without weights", fontsize=8, color="#444444")
    return figure


def bottleneck() -> Figure:
    """The residual block of ResNet50 and 101."""
    figure, axes = diagram(7.2, 1.9)
    for x, text in ((1.4, "1x1, c/4\nnorm, ReLU"), (3.2, "3x3, c/4\nnorm, ReLU"), (5.0, "1x1, c\nnorm")):
        block(axes, x, 0.6, text, width=1.3)
    axes.text(6.25, 0.6, "+", ha="center", va="center", fontsize=15)
    for start, end in (((0.2, 0.6), (0.75, 0.6)), ((2.05, 0.6), (2.55, 0.6)), ((3.85, 0.6), (4.35, 0.6))):
        arrow(axes, start, end)
    arrow(axes, (5.65, 0.6), (6.12, 0.6))
    arrow(axes, (6.38, 0.6), (7.1, 0.6))
    axes.text(6.42, 0.75, "ReLU", fontsize=8)
    axes.plot([0.45, 0.45, 6.25], [0.6, 1.4, 1.4], color="#444444", lw=1.1)
    arrow(axes, (6.25, 1.4), (6.25, 0.75))
    axes.text(3.2, 1.5, "the identity; where shapes change, a 1x1 convolution and a norm", ha="center", fontsize=8)
    return figure


def fpn() -> Figure:
    """Bottom-up, lateral and top-down paths."""
    figure, axes = diagram(6.4, 3.0)
    for level, y in zip((5, 4, 3, 2), (2.35, 1.75, 1.15, 0.5), strict=True):
        block(axes, 0.9, y, f"C{level}   1/{2**level}", width=1.2, height=0.42, colour=GREY)
        block(axes, 3.1, y, "1x1, 256", width=1.1, height=0.42)
        block(axes, 5.2, y, f"3x3, 256   P{level}", width=1.5, height=0.42)
        arrow(axes, (1.5, y), (2.55, y))
        arrow(axes, (3.65, y), (4.45, y))
        if level < 5:
            arrow(axes, (4.05, y + 0.6), (4.05, y + 0.03), "x2, +")
    arrow(axes, (5.2, 2.56), (5.2, 2.78))
    axes.text(5.2, 2.86, "P6: every second cell of P5", ha="center", fontsize=8.5)
    return figure


def rpn() -> Figure:
    """One level through the RPN's head."""
    figure, axes = diagram(7.2, 1.7)
    block(axes, 0.9, 0.85, "a level\n[h, w, 256]", width=1.2, colour=GREY)
    block(axes, 2.8, 0.85, "3x3, 256\nReLU", width=1.2)
    block(axes, 4.7, 1.3, "1x1, a", width=1.2, height=0.5)
    block(axes, 4.7, 0.4, "1x1, 4a", width=1.2, height=0.5)
    for start, end in (
        ((1.5, 0.85), (2.2, 0.85)),
        ((3.4, 0.95), (4.1, 1.25)),
        ((3.4, 0.75), (4.1, 0.45)),
        ((5.3, 1.3), (5.65, 1.3)),
        ((5.3, 0.4), (5.65, 0.4)),
    ):
        arrow(axes, start, end)
    axes.text(5.75, 1.3, "a scores a cell", va="center", fontsize=8.5)
    axes.text(5.75, 0.4, "a times 4 deltas", va="center", fontsize=8.5)
    return figure


def box_head() -> Figure:
    """Pooled features to classes and deltas."""
    figure, axes = diagram(8.2, 1.7)
    block(axes, 0.9, 0.85, "a RoI\n[7, 7, 256]", width=1.2, colour=GREY)
    block(axes, 2.6, 0.85, "dense 1024\nReLU", width=1.2)
    block(axes, 4.3, 0.85, "dense 1024\nReLU", width=1.2)
    block(axes, 6.1, 1.3, "dense k", width=1.2, height=0.5)
    block(axes, 6.1, 0.4, "dense 4k", width=1.2, height=0.5)
    for start, end in (
        ((1.5, 0.85), (2.0, 0.85)),
        ((3.2, 0.85), (3.7, 0.85)),
        ((4.9, 0.95), (5.5, 1.25)),
        ((4.9, 0.75), (5.5, 0.45)),
        ((6.7, 1.3), (7.05, 1.3)),
        ((6.7, 0.4), (7.05, 0.4)),
    ):
        arrow(axes, start, end)
    axes.text(7.13, 1.3, "class logits", va="center", fontsize=8.5)
    axes.text(7.13, 0.4, "deltas a class", va="center", fontsize=8.5)
    return figure


def mask_head() -> Figure:
    """Pooled features to a mask a class."""
    figure, axes = diagram(8.2, 1.0)
    block(axes, 0.8, 0.5, "a RoI\n[14, 14, 256]", width=1.3, colour=GREY)
    block(axes, 2.6, 0.5, "four times\n3x3, 256, ReLU", width=1.4)
    block(axes, 4.5, 0.5, "2x2 transposed\nReLU", width=1.4)
    block(axes, 6.1, 0.5, "1x1, k", width=0.9)
    for start, end in (
        ((1.45, 0.5), (1.9, 0.5)),
        ((3.3, 0.5), (3.8, 0.5)),
        ((5.2, 0.5), (5.65, 0.5)),
        ((6.55, 0.5), (6.9, 0.5)),
    ):
        arrow(axes, start, end)
    axes.text(6.98, 0.5, "[28, 28] a class", va="center", fontsize=8.5)
    return figure
