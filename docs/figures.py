"""The site's drawings, as SVG files in docs/pictures: `python docs/figures.py`. Every number in them is computed."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from maskrcnn_jax import assign_levels, encode, iou, match, nms, paste, pyramid_anchors
from maskrcnn_jax.image.tiles import views
from maskrcnn_jax.lessons.diagrams import bottleneck, box_head, fpn, mask_head, network, rpn
from maskrcnn_jax.losses import smooth_l1

matplotlib.rcParams |= {"svg.hashsalt": "figures", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
OUT = Path(__file__).parent / "pictures"
BLUE, VERMILLION, GREEN, ORANGE, SKY, GREY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#777777"


def plane(axes: Axes, width: float, height: float, *, cell: float | None = None) -> None:
    """Image coordinates: x to the right, y down, equal scales; `cell` draws a grid."""
    axes.set(xlim=(-0.02 * width, 1.02 * width), ylim=(1.02 * height, -0.02 * height), aspect="equal")
    axes.set_axis_off()
    if cell:
        for x in np.arange(0, width + 1e-6, cell):
            axes.plot([x, x], [0, height], color="#cccccc", lw=0.6, zorder=0)
        for y in np.arange(0, height + 1e-6, cell):
            axes.plot([0, width], [y, y], color="#cccccc", lw=0.6, zorder=0)


def box(axes: Axes, xyxy: np.ndarray, colour: str, label: str = "", **options) -> None:
    """One box `[x1, y1, x2, y2]`, with its label above the top-left corner."""
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    fill = options.pop("fill", None)
    options = {"edgecolor": colour, "facecolor": fill or "none", "lw": 1.8} | options
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **options))
    if label:
        axes.text(x1, y1 - 0.15, label, color=colour, va="bottom", fontsize=8.5)


def letterbox() -> Figure:
    """An image of 1000x800 pixels in a square of 512."""
    figure = Figure(figsize=(6.6, 2.7))
    axes = figure.add_axes((0, 0, 1, 1))
    plane(axes, 1720, 820)
    box(axes, np.array([0, 10, 1000, 810]), BLUE, fill=f"{SKY}44")
    axes.text(500, 410, "image, 1000 x 800", ha="center", va="center")
    box(axes, np.array([1200, 154, 1712, 666]), "#222222", fill="#222222")
    box(axes, np.array([1200, 205, 1712, 615]), BLUE, fill="#bfe3f7")
    axes.text(1456, 410, "window\n512 x 410", ha="center", va="center")
    axes.annotate("", (1185, 410), (1015, 410), arrowprops={"arrowstyle": "-|>", "color": "#444444"})
    axes.text(1100, 385, "x 0.512", ha="center", va="bottom", fontsize=8)
    axes.text(1456, 690, "512 x 512, padding black", ha="center", va="top", fontsize=8)
    return figure


def tiles() -> Figure:
    """The views of an image of 1224 x 1024 pixels that `crystal predict` looks at."""
    figure = Figure(figsize=(8.4, 2.7), layout="constrained")
    for axes, zoom in zip(figure.subplots(1, 3), (1, 1.7, 3.2), strict=True):
        plane(axes, 1224, 1024)
        grid = views(1024, 1224, (256, 320), zooms=(zoom,))
        for view in grid:
            box(axes, view.box, BLUE, fill=f"{SKY}22", lw=0.8)
        middle = grid[len(grid) // 2]
        box(axes, middle.box, VERMILLION, lw=1.8)
        count = "1 view" if zoom == 1 else f"{len(grid)} views of {middle.width} x {middle.height}"
        axes.set_title(f"zoom {zoom}: {count}", fontsize=9)
    return figure


def anchors() -> Figure:
    """Three ratios at one cell of each of three levels."""
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    for axes, stride, size in zip(figure.subplots(1, 3), (8, 16, 32), (32, 64, 128), strict=True):
        plane(axes, 192, 192, cell=stride)
        found = pyramid_anchors((192, 192), strides=(stride,), sizes=(size,), ratios=(0.5, 1.0, 2.0))
        columns = 192 // stride
        cell = (columns // 2) * columns + columns // 2
        for anchor, colour in zip(found[3 * cell : 3 * cell + 3], (BLUE, VERMILLION, GREEN), strict=True):
            box(axes, anchor, colour)
        axes.set_title(f"stride {stride}, size {size}", fontsize=9)
    return figure


def coding() -> Figure:
    """Overlap, and the deltas from an anchor to a box."""
    figure = Figure(figsize=(8.2, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    a, b = np.array([1.0, 1.5, 6, 5.5]), np.array([3.0, 2.5, 9, 6.5])
    plane(left, 10, 7)
    shared = np.array([*np.maximum(a, b)[:2], *np.minimum(a, b)[2:]])
    box(left, shared, ORANGE, fill=f"{ORANGE}66", lw=0)
    box(left, a, BLUE, "a")
    box(left, b, VERMILLION)
    left.text(8.8, 2.35, "b", color=VERMILLION, va="bottom", ha="right", fontsize=8.5)
    overlap = float(iou(jnp.array(a)[None], jnp.array(b)[None])[0, 0])
    left.set_title(f"IoU = shared / union = 9 / {20 + 24 - 9} = {overlap:.2f}", fontsize=9)
    plane(right, 10, 7)
    box(right, a, GREY, "anchor", ls="--")
    box(right, b, VERMILLION)
    centres = [((v[0] + v[2]) / 2, (v[1] + v[3]) / 2) for v in (a, b)]
    right.annotate("", centres[1], centres[0], arrowprops={"arrowstyle": "-|>", "color": BLUE, "lw": 1.5})
    dx, dy, dw, dh = np.asarray(encode(jnp.array(b)[None], jnp.array(a)[None]))[0]
    right.set_title(f"dx {dx:.2f}   dy {dy:.2f}   dw {dw:.2f}   dh {dh:.2f}", fontsize=9)
    return figure


def suppression() -> Figure:
    """Six boxes before and after NMS at an IoU of 0.5."""
    boxes = np.array(
        [
            [1, 1.6, 5, 5.4],
            [1.8, 1, 5.8, 4.8],
            [0.4, 2.4, 4.4, 6.2],
            [6.2, 2, 9, 5.6],
            [6.6, 2.4, 9.6, 6.1],
            [4.8, 4.6, 7, 6.8],
        ]
    )
    scores = np.array([0.95, 0.8, 0.6, 0.9, 0.7, 0.5])
    kept, valid = nms(jnp.array(boxes, jnp.float32), jnp.array(scores), iou_threshold=0.5, max_outputs=6)
    kept = set(np.asarray(kept)[np.asarray(valid)].tolist())
    figure = Figure(figsize=(8.2, 2.7), layout="constrained")
    for axes, title, chosen in zip(
        figure.subplots(1, 2), ("before", "after, at 0.5"), (set(range(6)), kept), strict=True
    ):
        plane(axes, 10, 7)
        axes.set_title(title, fontsize=9)
        for index, (one, score) in enumerate(zip(boxes, scores, strict=True)):
            if index in chosen:
                colour = BLUE if index in kept else VERMILLION
                box(axes, one, colour, ls="-" if index in kept else "--")
                axes.text(one[2] - 0.1, one[3] - 0.1, f"{score:.2f}", color=colour, ha="right", va="bottom", fontsize=8)
    return figure


def matching() -> Figure:
    """Anchors labelled against two objects."""
    objects = np.array([[2.0, 1.5, 6, 5.5], [7.2, 3.5, 9.4, 6.3]])
    candidates = np.array([[2.3, 1.3, 6.2, 5.4], [3.2, 2.4, 7.4, 6.4], [6.6, 2.2, 9.2, 6], [0.3, 4.6, 2.6, 6.8]])
    table = iou(jnp.array(objects, jnp.float32), jnp.array(candidates, jnp.float32))
    found = match(table, positive_iou=0.7, negative_iou=0.3, allow_low_quality=True)
    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    axes = figure.subplots()
    plane(axes, 10.2, 7)
    for one in objects:
        box(axes, one, "#222222", fill="#dddddd", lw=1)
    style = {1: (GREEN, "positive"), -1: (ORANGE, "ignored"), 0: (VERMILLION, "negative")}
    for one, label, best in zip(candidates, np.asarray(found.label), np.asarray(table).max(0), strict=True):
        colour, word = style[int(label)]
        box(axes, one, colour)
        axes.text(one[2] + 0.08, one[1] + 0.1, f"{word}\n{best:.2f}", color=colour, va="top", fontsize=8)
    return figure


def roi_align() -> Figure:
    """2x2 bins with 2x2 samples each, and the four cells that one sample reads."""
    figure = Figure(figsize=(4.6, 3.7), layout="constrained")
    axes = figure.subplots()
    plane(axes, 8, 6, cell=1)
    x1, y1, x2, y2 = 1.1, 0.9, 6.5, 4.7
    wide, tall = (x2 - x1) / 2, (y2 - y1) / 2
    for row in range(2):
        for column in range(2):
            corner = np.array([x1 + column * wide, y1 + row * tall, x1 + (column + 1) * wide, y1 + (row + 1) * tall])
            box(axes, corner, BLUE)
            for dy in (0.25, 0.75):
                for dx in (0.25, 0.75):
                    axes.plot(corner[0] + dx * wide, corner[1] + dy * tall, "o", color=VERMILLION, ms=4)
    x, y = x1 + 1.75 * wide, y1 + 1.75 * tall
    for cx in (np.floor(x - 0.5) + 0.5, np.floor(x - 0.5) + 1.5):
        for cy in (np.floor(y - 0.5) + 0.5, np.floor(y - 0.5) + 1.5):
            weight = (1 - abs(x - cx)) * (1 - abs(y - cy))
            axes.add_patch(Rectangle((cx - 0.5, cy - 0.5), 1, 1, facecolor=f"{ORANGE}55", lw=0, zorder=0.5))
            axes.text(cx + 0.45, cy + 0.45, f"{weight:.2f}", ha="right", va="bottom", fontsize=7.5)
    axes.set_title("a sample reads the four cells around it", fontsize=9)
    return figure


def levels() -> Figure:
    """The pyramid level by the side of a square box."""
    sides = np.geomspace(16, 1024, 800)
    found = assign_levels(
        jnp.stack([jnp.zeros(800), jnp.zeros(800), jnp.array(sides), jnp.array(sides)], -1).astype(jnp.float32)
    )
    figure = Figure(figsize=(5.6, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(sides, np.asarray(found), color=BLUE, lw=1.8)
    axes.set(xscale="log", xlabel="side of the box in pixels", ylabel="pooled from", yticks=[2, 3, 4, 5])
    axes.set_yticklabels(["P2", "P3", "P4", "P5"])
    axes.set_xticks([28, 56, 112, 224, 448, 896], ["28", "56", "112", "224", "448", "896"], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    return figure


def losses() -> Figure:
    """Smooth L1 for three beta."""
    difference = np.linspace(-2, 2, 201)
    figure = Figure(figsize=(5.2, 2.3), layout="constrained")
    axes = figure.subplots()
    for beta, colour, dash in ((0.0, GREY, ":"), (1 / 9, BLUE, "-"), (1.0, VERMILLION, "--")):
        values = smooth_l1(jnp.array(difference, jnp.float32), beta)
        axes.plot(difference, np.asarray(values), color=colour, ls=dash, label=f"beta {beta:.2g}")
    axes.set(xlabel="predicted - target delta", ylabel="smooth L1")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def pasting() -> Figure:
    """A mask of 14x14 cells, and the same pasted into the pixels of its box."""
    y, x = np.mgrid[:14, :14] + 0.5
    mask = 1 / (1 + np.exp((np.abs(x - 7) / 7 + np.abs(y - 7) / 5 - 1) * 6))
    where = np.array([6.0, 4.0, 42.0, 24.0])
    pixels = paste(mask, where, height=30, width=48)
    figure = Figure(figsize=(7.4, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
    left.pcolormesh(mask, cmap="cividis", vmin=0, vmax=1, edgecolors="none")
    left.set(aspect="equal", title="probabilities, 14 x 14 cells")
    left.invert_yaxis()
    left.set_axis_off()
    plane(right, 48, 30)
    runs = np.argwhere(np.diff(np.pad(pixels, ((0, 0), (1, 1))).astype(int), axis=1))
    for (row, start), (_, end) in zip(runs[::2], runs[1::2], strict=True):
        right.add_patch(Rectangle((start, row), end - start, 1, facecolor=ORANGE, lw=0))
    box(right, where, BLUE)
    box(right, np.array([0, 0, 48, 30]), GREY, lw=1)
    right.set_title("pixels of the image, where 0.5 is reached", fontsize=9)
    left.title.set_fontsize(9)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "anchors": anchors,
    "bottleneck": bottleneck,
    "box_head": box_head,
    "coding": coding,
    "fpn": fpn,
    "letterbox": letterbox,
    "levels": levels,
    "losses": losses,
    "mask_head": mask_head,
    "matching": matching,
    "network": network,
    "nms": suppression,
    "pasting": pasting,
    "roi_align": roi_align,
    "rpn": rpn,
    "tiles": tiles,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        draw().savefig(OUT / f"{name}.svg", metadata={"Date": None, "Creator": None}, facecolor="white")
