"""The first half of `crystal inspect`'s page: from the file's pixels to proposals.

Each section says what the stage does, shows its real numbers, and says what to look for.
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes

from crystal.inspection.inspector import Inspection
from crystal.pages.charts import chart
from crystal.pages.inspect_pictures import (
    LEVEL_COLOURS,
    ORANGE,
    SKY,
    WIDTH,
    busiest,
    channels,
    close_up,
    coloured,
    draw_boxes,
    enlarged,
    feature_map,
)
from crystal.pages.page import colour_keys, figure, table
from crystal.prediction.overlays import over_histogram
from maskrcnn_jax.boxes.geometry import iou

BEST = 60  # boxes drawn at once


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(0, "box"), counted(1, "mask"), counted(1200, "mask")
    ('no boxes', '1 mask', '1,200 masks')
    """
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"1 {noun}" if count == 1 else f"{count:,} {plural}" if count else f"no {plural}"


def look(text: str) -> str:
    """What to look for in the pictures above."""
    return f"<p class=look><strong>Look:</strong> {text}</p>"


def level_of_anchor(inspection: Inspection) -> Int[np.ndarray, " a"]:
    """The level, 2 and up, that each anchor belongs to."""
    cells = [inspection.maps[f"P{level}"].shape[:2] for level in LEVEL_COLOURS]
    per_cell = len(inspection.config.anchors.ratios)
    return np.repeat(list(LEVEL_COLOURS), [height * width * per_cell for height, width in cells])


def level_key(levels: Sequence[int]) -> str:
    """What the levels' colours mean."""
    return f"<p class=keys>{colour_keys((LEVEL_COLOURS[level], f'P{level}') for level in levels)}</p>"


def _image(inspection: Inspection) -> Iterator[str]:
    height, width = inspection.place.original
    tall, wide = inspection.place.size
    original = f"The file, {width} x {height} pixels, over the histogram of its brightness."
    yield "<p>The network sees every image in one size, so that it is compiled once. "
    if inspection.equalised is not None:
        yield (
            "Before that, CLAHE stretches the contrast of each of 8 x 8 tiles by itself, so that a faint edge in a dim "
            "corner counts as much as one in bright light; its clip limit keeps noise from being stretched as well. "
        )
    else:
        yield "This run does not use CLAHE, so none is applied. "
    yield (
        f"The letterbox then scales by {inspection.place.scale:.3f}, keeps the proportions and fills up with black.</p>"
        "<div class=grid>" + figure(over_histogram(enlarged(inspection.image)), original, "the image")
    )
    if inspection.equalised is not None:
        yield figure(
            over_histogram(enlarged(inspection.equalised)), "After CLAHE: the histogram is spread.", "after CLAHE"
        )
    window = inspection.place.window
    seen = f"What the network sees: {wide} x {tall} pixels; the frame is the part that is image, not padding."
    yield (
        figure(draw_boxes(inspection.pixels, window[None], [ORANGE], pale=1.0), seen, "after the letterbox") + "</div>"
    )
    yield look(
        "does a crystal that you can see in the file still show in the last picture? What is lost there no network "
        "finds; a larger image size or smaller crops would keep it."
    )


def _maps(inspection: Inspection, names: Sequence[str]) -> str:
    tall, _ = inspection.place.size
    figures = ""
    for name in names:
        features = inspection.maps[name]
        rows, columns, count = features.shape
        caption = f"{name}: {columns} x {rows} cells of {tall // rows} pixels, {count} channels."
        figures += figure(feature_map(features), caption, f"strength of {name}")
    return f"<div class='grid maps'>{figures}</div>"


def _single(inspection: Inspection, names: Sequence[str]) -> str:
    figures = ""
    for name in names:
        chosen = busiest(inspection.maps[name], 6)
        caption = f"{name}, row by row: channels {', '.join(map(str, chosen))}."
        figures += figure(channels(inspection.maps[name], chosen), caption, f"channels of {name}")
    return (
        "<details><summary>Single channels</summary><p>The six that vary most over the map, each over its own "
        f"range.</p><div class=grid>{figures}</div></details>"
    )


def _backbone(inspection: Inspection) -> Iterator[str]:
    names = [f"C{i}" for i in range(1, 6)]
    blocks = sum(inspection.config.backbone.depths)
    yield (
        f"<p>A ResNet of {blocks} residual blocks turns pixels into features, in stages that each halve the "
        "resolution. Early maps answer to edges and are sharp; late ones answer to what a whole neighbourhood looks "
        "like and are coarse. Bright cells respond most: the mean of all channels' magnitudes.</p>"
    )
    yield _maps(inspection, names) + _single(inspection, names[1:])
    yield look("from which map on does a crystal light up as a whole, rather than along its edges?")


def _fpn(inspection: Inspection) -> Iterator[str]:
    names = [f"P{i}" for i in range(2, 7)]
    yield (
        "<p>To find small objects takes fine cells, to know what they are takes wide sight. The feature pyramid gives "
        "every level both: from the top down each coarse map is doubled in size and added to the finer one of the "
        "backbone. P6 is P5 at every second cell, for the largest anchors only.</p>"
    )
    yield _maps(inspection, names) + _single(inspection, names)
    yield look("the same crystal on neighbouring levels. Where is it a few cells wide? That level will answer for it.")


def _score_chart(inspection: Inspection, level: np.ndarray) -> str:
    probability = np.exp(-np.logaddexp(0, -inspection.objectness.astype(float)))  # sigmoid, without overflow

    def draw(axes: Axes) -> None:
        for number, dash in zip(LEVEL_COLOURS, ("-", (0, (5, 1.2)), (0, (3, 1)), (0, (1, 1)), "-."), strict=True):
            own = np.sort(probability[level == number])[::-1]
            colour = tuple(c / 255 for c in LEVEL_COLOURS[number])
            axes.step(own, np.arange(1, len(own) + 1), label=f"P{number}", color=colour, ls=dash, lw=1.8)
        axes.set_yscale("log")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("objectness, probability")
        axes.set_ylabel("anchors with that or more")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    return f"<figure>{chart('anchors by objectness', draw)}</figure>"


def _anchors(inspection: Inspection) -> Iterator[str]:
    a, level = inspection.config.anchors, level_of_anchor(inspection)
    probability = np.exp(-np.logaddexp(0, -inspection.objectness.astype(float)))  # sigmoid, without overflow
    best = np.argsort(-inspection.objectness, kind="stable")[:BEST]
    where = inspection.anchors[best[0]]
    centre = (where[:2] + where[2:]) / 2
    middles = (inspection.anchors[:, :2] + inspection.anchors[:, 2:]) / 2
    # All anchors of the one cell of each level that is nearest to the best anchor's centre.
    distance = ((middles - centre) ** 2).sum(1)
    cells = np.concatenate(
        [np.flatnonzero((level == n) & (distance <= distance[level == n].min())) for n in LEVEL_COLOURS]
    )
    shapes = ", ".join(f"{r:g}" for r in a.ratios)
    yield (
        f"<p>At every cell of every level stand {len(a.ratios)} anchors: boxes of one size a level "
        f"({', '.join(f'{s:g}' for s in a.sizes)} pixels) in proportions height / width of {shapes}. They are there "
        f"before the image is seen: {len(inspection.anchors):,} in all. The region proposal network says of each how "
        "likely it covers an object (objectness), and how to move it onto that object.</p>"
    )
    yield level_key(list(LEVEL_COLOURS)) + "<div class=grid>"
    yield figure(
        draw_boxes(inspection.pixels, inspection.anchors[cells], [LEVEL_COLOURS[int(n)] for n in level[cells]]),
        "The anchors of a single cell of each level, about the best anchor's centre.",
        "anchors of one cell a level",
    )
    yield figure(
        draw_boxes(
            inspection.pixels, inspection.anchors[best[::-1]], [LEVEL_COLOURS[int(n)] for n in level[best[::-1]]]
        ),
        f"The {len(best)} anchors of highest objectness, where they stand; the best on top.",
        "the best anchors",
    )
    yield _score_chart(inspection, level) + "</div><h3>Objectness of each cell</h3>"
    yield "<p>The best of a cell's anchors; dark blue is 0, yellow 1.</p><div class='grid maps'>"
    for number in LEVEL_COLOURS:
        rows, columns, _ = inspection.maps[f"P{number}"].shape
        cell = probability[level == number].reshape(rows, columns, -1).max(-1)
        size = a.sizes[number - 2]
        caption = f"P{number}, anchors of {size:g} pixels: at most {cell.max():.3f}."
        yield figure(enlarged(coloured(cell, 0, 1), WIDTH, cells=True), caption, f"objectness on P{number}")
    yield "</div>" + look(
        "each crystal should light up on the level whose anchors are about its size. One that is dark on all of them "
        "will not be found, however good the rest is."
    )


def _proposals(inspection: Inspection) -> Iterator[str]:
    rpn, ranked, kept = inspection.config.rpn, inspection.ranked, inspection.proposals
    level = level_of_anchor(inspection)[ranked.anchor]
    valid = np.flatnonzero(ranked.valid)
    order = valid[np.argsort(-ranked.scores[valid], kind="stable")]
    before, after = ranked.boxes[order[:BEST]], kept.boxes[kept.valid][:BEST]
    together = "on each level by itself" if rpn.per_level else "over all levels together"
    yield (
        "<p>The best anchors are moved by their deltas, clipped to the image, and ranked. Many then cover one and the "
        "same object, so non-maximum suppression goes from the best down and drops every box that overlaps a better "
        f"one by an IoU of more than {rpn.nms_iou:g}, {together}.</p>"
    )
    yield table(
        ("", "boxes"),
        (
            ("anchors", f"{len(inspection.anchors):,}"),
            ("ranked best and moved", f"{len(ranked.anchor):,}"),
            ("of those large enough", f"{len(valid):,}"),
            (f"left after NMS ({rpn.after_nms[1]:,} at most)", f"{int(kept.valid.sum()):,}"),
        ),
    )
    yield "<div class=grid>"
    for boxes, when in ((before, "before NMS"), (after, "after NMS")):
        yield figure(
            draw_boxes(inspection.pixels, boxes[::-1], [SKY] * len(boxes)), f"The best {len(boxes)} {when}.", when
        )
    if len(after):
        first = int(ranked.selected[0])
        boxes = jnp.asarray(ranked.boxes)
        overlap = np.asarray(iou(boxes[first][None], boxes))[0]
        fell = ranked.valid & (overlap > rpn.nms_iou) & (level == level[first] if rpn.per_level else True)
        fell[first] = False
        boxes = np.concatenate([ranked.boxes[fell], ranked.boxes[first][None]])
        yield figure(
            close_up(inspection.pixels, ranked.boxes[first], boxes, [SKY] * int(fell.sum()) + [ORANGE]),
            f"The best proposal, orange, and {counted(int(fell.sum()), 'box')} that fell to it.",
            "the best proposal and what it suppressed",
        )
    yield "</div>" + look(
        "a box for every crystal among the right ones, and far fewer on any one of them. Boxes on nothing do no harm "
        "yet: the box head will call them background."
    )


FIRST_HALF = (
    ("image", "Image, CLAHE, letterbox", _image),
    ("backbone", "Backbone: C1 to C5", _backbone),
    ("fpn", "Feature pyramid: P2 to P6", _fpn),
    ("anchors", "Anchors and objectness", _anchors),
    ("proposals", "Proposals, before and after NMS", _proposals),
)
