"""The second half of `crystal inspect`'s page: from proposals to outlined crystals.

A proposal that the heads look at is called a RoI, region of interest. A few of them, the same in all sections, are
followed one by one: those behind the best detections, then those most probably an object.
"""

import html
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from crystal.console import printable
from crystal.inspection.inspector import Inspection
from crystal.pages.charts import chart
from crystal.pages.inspect_features import BEST, counted, level_key, look
from crystal.pages.inspect_pictures import (
    LEVEL_COLOURS,
    ORANGE,
    SKY,
    WIDTH,
    busiest,
    channels,
    draw_boxes,
    feature_map,
    mask_cells,
    on_white,
    pasted,
    sampling,
)
from crystal.pages.page import colour_keys, figure, table
from crystal.prediction.overlays import MAX_LABELS, beside, draw_outlines
from maskrcnn_jax.roi.masks import paste

SAMPLED, MASKS = 3, 6  # RoIs whose grid is drawn, detections whose mask is
SIDE = 400  # pixels of a small picture
POOLED_FROM = (2, 3, 4, 5)


def _levels(inspection: Inspection) -> Iterator[str]:
    roi, valid = inspection.config.roi, inspection.proposals.valid
    boxes, levels = inspection.proposals.boxes[valid], inspection.levels[valid]
    sides = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1))
    how = {"floor": "rounded down", "round": "rounded"}[roi.level_rounding]
    yield (
        "<p>A RoI is read from the level where it is a fair number of cells wide: level = 4 + log2(side / "
        f"{roi.canonical_size:g}), {how} and kept within 2 and 5, where side is the square root of its area in "
        "pixels (FPN, equation 1).</p>"
    )
    rows = []
    for level in POOLED_FROM:
        own = sides[levels == level]
        span = f"{own.min():.1f} to {own.max():.1f}" if len(own) else "–"
        rows.append((f"P{level}", f"{2**level}", f"{len(own):,}", span))
    yield table(("level", "pixels a cell", "RoIs", "their sides, pixels"), rows)
    yield level_key(POOLED_FROM) + "<div class=grid>"
    colours = [LEVEL_COLOURS[int(level)] for level in levels[:BEST][::-1]]
    caption = f"The best {min(BEST, len(boxes))} RoIs in the colour of the level that each is read from."
    yield figure(draw_boxes(inspection.pixels, boxes[:BEST][::-1], colours), caption, "RoIs by level")

    def draw(axes: Axes) -> None:
        # From half a step lower: float32's 22.627416 lies below its own rounded-down logarithm's power.
        edges = 2.0 ** np.arange(np.floor(2 * np.log2(max(sides.min(), 1))) / 2 - 0.5, np.log2(sides.max()) + 0.75, 0.5)
        bottom = np.zeros(len(edges) - 1)
        for level in POOLED_FROM:
            count = np.histogram(np.maximum(sides[levels == level], 1), edges)[0]
            colour = tuple(c / 255 for c in LEVEL_COLOURS[level])
            axes.bar(edges[:-1], count, np.diff(edges), bottom, align="edge", color=colour, edgecolor="white", lw=0.6)
            bottom += count
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("side, pixels")
        axes.set_ylabel("RoIs")

    if len(sides):
        yield f"<figure>{chart('RoIs by size and level', draw)}</figure>"
    yield "</div>"
    used = np.unique(levels)
    if len(used) == 1:
        yield f"<p>All of this image's RoIs fall to P{used[0]}: none has the size for another level.</p>"
    else:
        yield look("large crystals and small ones have different colours: each is read where it is some cells wide.")


def _align(inspection: Inspection) -> Iterator[str]:
    roi, rows, columns = inspection.config.roi, *inspection.grid
    o, last = roi.box_size, {"mean": "the mean", "max": "the largest"}[roi.reduce]
    s = roi.sampling_ratio
    samples = f"{s} x {s} points in each" if s else "about a point a cell"
    kept = f", bilinearly between the four nearest cells' centres, and keeps {last} of them"
    if s == 1:
        samples, kept = "one point in the middle of each", ", bilinearly between the four nearest cells' centres"
    if roi.pooling == "corners":
        yield (
            f"<p>The heads need {o} x {o} numbers a channel, whatever the RoI's size. Here a grid of {o} x {o} points "
            "is laid over it, the outermost on its border, and each point is read between the four nearest cells' "
            "centres (crop_and_resize, as Matterport does it).</p>"
        )
    else:
        yield (
            f"<p>The heads need {o} x {o} numbers a channel, whatever the RoI's size. RoI Align cuts it into {o} x {o} "
            f"bins without rounding a coordinate, and reads {samples}{kept}. (RoI Pool, before it, rounded to whole "
            "cells, and masks were off by up to half a cell.)</p>"
        )
    tall = inspection.place.size[0]
    for place, index in enumerate(inspection.chosen[:SAMPLED]):
        level = int(inspection.levels[index])
        features = inspection.maps[f"P{level}"]
        box = inspection.proposals.boxes[index] * features.shape[0] / tall
        used = [axis.position[place][:, axis.used[place]].ravel() for axis in (rows, columns)]
        inside = [axis.inside[place][:, axis.used[place]].ravel() for axis in (rows, columns)]
        points = [position[within] for position, within in zip(used, inside, strict=True)]
        pooled = inspection.pooled[place]
        wide, high = box[2] - box[0], box[3] - box[1]
        yield f"<h3>RoI {place + 1}: {_probable(inspection, int(index), 1)}</h3><div class='grid pairs'>"
        yield figure(
            on_white(sampling(features, box, *points, bins=None if roi.pooling == "corners" else o), WIDTH),
            f"On P{level} it is {wide:.1f} x {high:.1f} cells; {len(points[0])} x {len(points[1])} points are read.",
            f"sampling grid of RoI {place + 1}",
        )
        yield figure(feature_map(pooled), f"Pooled: the strength of its {o} x {o} bins.", f"pooled RoI {place + 1}")
        numbers = busiest(pooled, 9)
        yield figure(
            channels(pooled, numbers),
            f"The nine channels that vary most: {', '.join(map(str, numbers))}.",
            f"pooled channels of RoI {place + 1}",
        )
        yield "</div>"
    yield look(
        "how the points fall between cells' centres: that is where rounding would have moved them. In the pooled bins "
        "the crystal should stand out from its surroundings, for this is all that the heads see of it."
    )


def _probable(inspection: Inspection, index: int, count: int) -> str:
    """The `count` likeliest classes of a RoI, in words."""
    probabilities = inspection.probabilities[index]
    best = np.argsort(-probabilities, kind="stable")[:count]
    return ", ".join(f"{html.escape(printable(inspection.config.classes[k][1]))} {probabilities[k]:.3f}" for k in best)


def _boxes(inspection: Inspection) -> Iterator[str]:
    refined, settings = inspection.refined, inspection.config.detection
    which = "its likeliest class, if that is not background" if settings.one_class else "every class that reaches it"
    yield (
        "<p>The box head says of each RoI how likely it is each class, and once more how to move the box, for each "
        f"class by itself. What counts is a probability of {settings.score_threshold:g} or more, and of each RoI "
        f"{which}. Non-maximum suppression at IoU {settings.nms_iou:g}, class by class, leaves one box an object.</p>"
    )
    proposals, valid = inspection.proposals, np.flatnonzero(refined.valid)
    yield table(
        ("", "boxes"),
        (
            ("RoIs", f"{int(proposals.valid.sum()):,}"),
            (f"RoI and class of {settings.score_threshold:g} or more", f"{len(valid):,}"),
            (f"left after NMS ({settings.max_detections:,} at most)", f"{int(inspection.detections.valid.sum()):,}"),
        ),
    )
    best_pair = {int(refined.roi[i]): i for i in valid[::-1]}  # the best comes last
    first = {int(refined.roi[i]): n for n, i in enumerate(refined.selected[refined.filled], 1)}
    rows, before, after = [], [], []
    for place, index in enumerate(inspection.chosen.tolist(), 1):
        x1, y1, x2, y2 = proposals.boxes[index]
        moved, became = "–", "background, or too unlikely"
        before.append(proposals.boxes[index])
        if index in best_pair:
            new = np.asarray(refined.boxes[best_pair[index]])
            after.append(new)
            shift = (new[:2] + new[2:] - [x1 + x2, y1 + y2]) / 2
            growth = (new[2:] - new[:2]) / np.maximum([x2 - x1, y2 - y1], 1e-6)
            across, down = np.round(shift, 1) + 0.0  # no -0.0
            moved = f"{across:+.1f}, {down:+.1f}; {growth[0]:.2f}, {growth[1]:.2f}"
            became = f"detection\N{NO-BREAK SPACE}{first[index]}" if index in first else "suppressed by a better one"
        size = f"{x2 - x1:.0f}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{y2 - y1:.0f}"
        rows.append((f"{place}", f"P{inspection.levels[index]}", size, _plain(inspection, index), moved, became))
    yield table(("RoI", "level", "size", "likeliest classes", "centre moved by; sides times", "became"), rows)
    yield f"<p class=keys>{colour_keys(((SKY, 'RoI'), (ORANGE, 'refined box')))}</p><div class=grid>"
    yield figure(
        draw_boxes(
            inspection.pixels, np.array(before + after).reshape(-1, 4), [SKY] * len(before) + [ORANGE] * len(after)
        ),
        f"The {len(before)} RoIs of the table, and what they were refined to.",
        "RoIs and refined boxes",
    )
    if not len(valid):
        yield "</div><p>No class of any RoI reaches the score, so nothing is detected.</p>"
        return
    yield figure(
        draw_boxes(inspection.pixels, refined.boxes[valid][::-1], [SKY] * len(valid)),
        f"Before NMS: {counted(len(valid), 'refined box')} of score {settings.score_threshold:g} or more.",
        "refined boxes before NMS",
    )
    kept = inspection.detections.boxes[inspection.detections.valid]
    yield figure(
        draw_boxes(inspection.pixels, kept[::-1], [ORANGE] * len(kept)),
        f"After NMS: {counted(len(kept), 'detection')}.",
        "detections",
    )
    yield "</div>" + look("does the orange box fit the crystal better than the blue one it came from?")


def _plain(inspection: Inspection, index: int) -> str:
    return html.unescape(_probable(inspection, index, min(3, inspection.config.num_classes)))


def _masks(inspection: Inspection) -> Iterator[str]:
    found = inspection.detections
    boxes, masks, scores = (part[found.valid][:MASKS] for part in (found.boxes, found.masks, found.scores))
    m, (height, width) = found.masks.shape[-1], inspection.place.size
    yield (
        f"<p>Each detection is pooled again, from its refined box, and the mask head draws its class's outline on "
        f"{m} x {m} cells: dark blue is surely outside, yellow surely inside. Stretched over the box, every pixel "
        "of 0.5 or more belongs to the crystal.</p>"
    )
    yield "<div class='grid pairs'>"
    for number, (box, mask, score) in enumerate(zip(boxes, masks, scores, strict=True), 1):
        name = printable(inspection.config.classes[int(found.classes[number - 1])][1])
        pixels = paste(np.asarray(mask), np.asarray(box), height=height, width=width)
        cells, said = on_white(mask_cells(mask, box), SIDE), f"{int(pixels.sum()):,} pixels of the network's image"
        picture = pasted(inspection.pixels, pixels, box)
        caption = f"Detection {number}, {name} {score:.3f}: its {m} x {m} cells, and pasted, {said}."
        yield figure(beside([cells, on_white(picture, SIDE)]), caption, f"mask of detection {number}")
    yield "</div>"
    scale = 1000 / max(inspection.image.shape[1], 1)
    labels = [f"{score:.2f}" for score in inspection.prediction.scores]
    result = draw_outlines(inspection.image, inspection.prediction.rles, labels=labels, scale=scale)
    count = len(inspection.prediction.rles)
    scored = ", with scores" if 0 < count <= MAX_LABELS else ""
    caption = f"The result in the file's own pixels: {counted(count, 'outline')}{scored}."
    yield f"<h3>Pasted into the image</h3>{figure(result, caption, 'the result')}"
    yield look("thin ends and sharp corners: a mask of so few cells rounds them off, the more the larger the crystal.")


SECOND_HALF = (
    ("levels", "The level of each RoI", _levels),
    ("align", "RoI Align", _align),
    ("boxes", "Box head: classes and refined boxes", _boxes),
    ("masks", "Mask head, and the result", _masks),
)
