"""Pictures and numbers for the first half of `crystal inspect`'s page: from the file's pixels to proposals.

Each function makes what the template of the same name in `templates/inspect/` shows.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup
from matplotlib.axes import Axes

from crystal.inspection.inspector import Inspection
from crystal.pages.charts import chart, hexadecimal
from crystal.pages.pictures import (
    LEVEL_COLOURS,
    ORANGE,
    SKY,
    Array,
    Image,
    busiest,
    channels,
    close_up,
    coloured,
    draw_boxes,
    enlarged,
    feature_map,
)
from crystal.prediction.overlays import over_histogram
from maskrcnn_jax.boxes.geometry import iou

BEST = 60  # boxes drawn at once


class Map(NamedTuple):
    """A feature map: its size in cells, pixels of the network's image a cell, and its pictures: the strength of all
    channels together, and those of the channels `shown`.
    """

    name: str
    columns: int
    rows: int
    channels: int
    cell: int
    strength: Image
    shown: list[int]
    picture: Image


def level_of_anchor(inspection: Inspection) -> Int[np.ndarray, " a"]:
    """The level, 2 and up, that each anchor belongs to."""
    cells = [inspection.maps[f"P{level}"].shape[:2] for level in LEVEL_COLOURS]
    per_cell = len(inspection.config.anchors.ratios)
    return np.repeat(list(LEVEL_COLOURS), [height * width * per_cell for height, width in cells])


def image(inspection: Inspection) -> dict[str, Image | None]:
    """The file, after CLAHE, and in its letterbox."""
    equalised, window = inspection.equalised, inspection.place.window
    return {
        "file": over_histogram(enlarged(inspection.image)),
        "equalised": None if equalised is None else over_histogram(enlarged(equalised)),
        "letterboxed": draw_boxes(inspection.pixels, window[None], [ORANGE], pale=1.0),
    }


def maps(inspection: Inspection) -> list[Map]:
    """C1 to C5 and P2 to P6."""
    found = []
    for name, features in inspection.maps.items():
        rows, columns, count = features.shape
        shown = busiest(features, 6)
        found.append(
            Map(
                name=name,
                columns=columns,
                rows=rows,
                channels=count,
                cell=inspection.place.size[0] // rows,
                strength=feature_map(features),
                shown=shown.tolist(),
                picture=channels(features, shown),
            )
        )
    return found


def _score_chart(probability: Float[np.ndarray, " a"], level: Int[np.ndarray, " a"]) -> Markup:
    def draw(axes: Axes) -> None:
        for number, dash in zip(LEVEL_COLOURS, ("-", (0, (5, 1.2)), (0, (3, 1)), (0, (1, 1)), "-."), strict=True):
            own = np.sort(probability[level == number])[::-1]
            colour = hexadecimal(LEVEL_COLOURS[number])
            axes.step(own, np.arange(1, len(own) + 1), label=f"P{number}", color=colour, ls=dash, lw=1.8)
        axes.set_yscale("log")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("objectness, probability")
        axes.set_ylabel("anchors with that or more")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    return chart("anchors by objectness", draw)


def anchors(inspection: Inspection) -> dict[str, Any]:
    """The anchors of one cell of each level, the best ones, and the objectness of every cell."""
    level = level_of_anchor(inspection)
    probability = np.exp(-np.logaddexp(0, -inspection.objectness.astype(float)))  # sigmoid, without overflow
    best = np.argsort(-inspection.objectness, kind="stable")[:BEST]
    middles = (inspection.anchors[:, :2] + inspection.anchors[:, 2:]) / 2
    # All anchors of the one cell of each level that is nearest to the best anchor's centre.
    distance = ((middles - middles[best[0]]) ** 2).sum(1)
    near = [np.flatnonzero((level == n) & (distance <= distance[level == n].min())) for n in LEVEL_COLOURS]

    def drawn(chosen: Int[np.ndarray, " n"]) -> Image:
        colours = [LEVEL_COLOURS[int(n)] for n in level[chosen]]
        return draw_boxes(inspection.pixels, inspection.anchors[chosen], colours)

    levels = []
    for number, size in zip(LEVEL_COLOURS, inspection.config.anchors.sizes, strict=True):
        rows, columns, _ = inspection.maps[f"P{number}"].shape
        cells = probability[level == number].reshape(rows, columns, -1).max(-1)
        picture = enlarged(coloured(cells, 0, 1), cells=True)
        levels.append({"name": f"P{number}", "size": size, "highest": cells.max(), "picture": picture})
    return {
        "one_cell": drawn(np.concatenate(near)),
        "best": drawn(best[::-1]),
        "shown": len(best),
        "chart": _score_chart(probability, level),
        "levels": levels,
    }


def proposals(inspection: Inspection) -> dict[str, Any]:
    """The best boxes before and after non-maximum suppression, and what the best one suppressed."""
    rpn, ranked, found = inspection.config.rpn, inspection.ranked, inspection.proposals
    valid = np.flatnonzero(ranked.valid)
    order = valid[np.argsort(-ranked.scores[valid], kind="stable")]

    def drawn(boxes: Float[Array, "n 4"]) -> dict[str, Any]:
        return {"picture": draw_boxes(inspection.pixels, boxes[::-1], [SKY] * len(boxes)), "shown": len(boxes)}

    best = None
    if len(order) and found.valid.any():
        first = int(ranked.selected[0])
        level = level_of_anchor(inspection)[ranked.anchor]
        overlap = np.asarray(iou(jnp.asarray(ranked.boxes[first][None]), jnp.asarray(ranked.boxes)))[0]
        fell = ranked.valid & (overlap > rpn.nms_iou) & (level == level[first] if rpn.per_level else True)
        fell[first] = False
        boxes = np.concatenate([ranked.boxes[fell], ranked.boxes[first][None]])
        suppressed = int(fell.sum())
        picture = close_up(inspection.pixels, ranked.boxes[first], boxes, [SKY] * suppressed + [ORANGE])
        best = {"picture": picture, "suppressed": suppressed}
    return {
        "ranked": len(valid),
        "before": drawn(ranked.boxes[order[:BEST]]),
        "after": drawn(found.boxes[found.valid][:BEST]),
        "best": best,
    }
