"""The rows of crystals.csv and drops.csv.

Boxes, centres and points are continuous pixels of the original picture (pixel i covers [i, i + 1)), x to the right and
y down. In micrometres they are counted from the drop's centre of mass, or the picture's centre where no drop was found.
Columns are empty where something is not known: a drop without a class `drop`, micrometres without a scale.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from crystal.prediction.measurements import equivalent_diameter
from crystal.prediction.results import FoundCrystal, Result, counted
from crystal.prediction.wells import Well, wells_of

SIZES = ("area", "length", "width", "equivalent_diameter")
CRYSTAL_COLUMNS = (
    *("image", "crystal", "class", "score", "x1", "y1", "x2", "y2"),
    *("area_px", "centre_x", "centre_y", "length_px", "width_px", "zoom"),
    *("equivalent_diameter_px", "shoot_x", "shoot_y", "shoot_radius_px", "outside"),
    *("area_um2", "length_um", "width_um", "equivalent_diameter_um", "shoot_x_um", "shoot_y_um", "overlay"),
)
DROP_COLUMNS = (
    *("rank", "image", "well", "subwell", "crystals", "hit_score"),
    *(f"largest_{name}_px" for name in SIZES),
    *("drop_score", "drop_area_px", "drop_centre_x", "drop_centre_y"),
    *("dispense_x", "dispense_y", "dispense_radius_px", "um_per_pixel"),
    *("largest_area_um2", *(f"largest_{name}_um" for name in SIZES[1:])),
    *("drop_area_um2", "dispense_x_um", "dispense_y_um", "dispense_radius_um", "overlay"),
)


class DropSummary(NamedTuple):
    """What a picture holds, in a few numbers.

    Attributes:
        file_name: of the picture, in the tables.
        stem: of its own files.
        crystals: how many count.
        hit_score: that of the best crystal, also below the threshold; 0 where none reaches `results.LEAST_SCORE`.
        largest: the one of the largest area among those that count.
        row: its row of drops.csv, without the rank and the well.
    """

    file_name: str
    stem: str
    crystals: int
    hit_score: float
    largest: FoundCrystal | None
    row: dict[str, Any]


def _sizes(crystal: FoundCrystal, prefix: str, um: float | None) -> dict[str, Any]:
    area, diameter = float(crystal.area), equivalent_diameter(crystal.area)
    lengths = {"length": crystal.length, "width": crystal.width, "equivalent_diameter": diameter}
    sizes: dict[str, Any] = {f"{prefix}area_px": crystal.area}
    sizes |= {f"{prefix}{name}_px": f"{value:.2f}" for name, value in lengths.items()}
    if um:
        sizes[f"{prefix}area_um2"] = f"{area * um**2:.2f}"
        sizes |= {f"{prefix}{name}_um": f"{value * um:.2f}" for name, value in lengths.items()}
    return sizes


def _centre(result: Result) -> tuple[float, float]:
    return result.drop.centre if result.drop else (result.width / 2, result.height / 2)


def _point(name: str, x: float, y: float, result: Result, um: float | None) -> dict[str, str]:
    cells = {f"{name}_x": f"{x:.1f}", f"{name}_y": f"{y:.1f}"}
    if um:
        left, top = _centre(result)
        cells |= {f"{name}_x_um": f"{(x - left) * um:.1f}", f"{name}_y_um": f"{(y - top) * um:.1f}"}
    return cells


def crystal_rows(result: Result, score_threshold: float, um: float | None) -> list[dict[str, Any]]:
    """The rows of crystals.csv of one picture: the crystals that reach the threshold, those outside the drop too.

    Args:
        result: what was found.
        score_threshold: in [0, 1].
        um: micrometres a pixel; None where that is not known.
    """
    rows = []
    for number, crystal in enumerate((c for c in result.crystals if c.score >= score_threshold), 1):
        row = {"image": result.file_name, "crystal": number, "class": crystal.kind, "score": f"{crystal.score:.4f}"}
        row |= {name: f"{v:.2f}" for name, v in zip(("x1", "y1", "x2", "y2"), crystal.box, strict=True)}
        row |= {"centre_x": f"{crystal.centre[0]:.2f}", "centre_y": f"{crystal.centre[1]:.2f}"}
        row |= {"zoom": f"{crystal.zoom:g}", "shoot_radius_px": f"{crystal.shoot.radius:.2f}"}
        row |= _sizes(crystal, "", um) | _point("shoot", crystal.shoot.x, crystal.shoot.y, result, um)
        row |= {"outside": "" if crystal.outside is None else str(crystal.outside).lower()}
        rows.append(row | {"overlay": f"overlays/{result.stem}.jpg"})
    return rows


def drop_summary(result: Result, score_threshold: float, um: float | None, *, outside: bool) -> DropSummary:
    """The row of drops.csv of one picture, but for its place among the others.

    Args:
        result: what was found.
        score_threshold: from which a crystal counts.
        um: micrometres a pixel; None where that is not known.
        outside: whether crystals outside the drop count.
    """
    shown = counted(result.crystals, score_threshold, outside)
    hit = max((c.score for c in counted(result.crystals, 0, outside)), default=0.0)
    largest = max(shown, key=lambda crystal: crystal.area, default=None)
    row: dict[str, Any] = {"image": result.file_name, "crystals": len(shown), "hit_score": f"{hit:.4f}"}
    row |= {"overlay": f"overlays/{result.stem}.jpg", "um_per_pixel": f"{um:g}" if um else ""}
    if largest:
        row |= _sizes(largest, "largest_", um)
    if drop := result.drop:
        row |= {"drop_score": f"{drop.score:.4f}", "drop_area_px": drop.area}
        row |= {"drop_centre_x": f"{drop.centre[0]:.1f}", "drop_centre_y": f"{drop.centre[1]:.1f}"}
        if um:
            row["drop_area_um2"] = f"{drop.area * um**2:.2f}"
        if point := drop.dispense:
            row |= _point("dispense", point.x, point.y, result, um)
            row["dispense_radius_px"] = f"{point.radius:.2f}"
            if um:
                row["dispense_radius_um"] = f"{point.radius * um:.2f}"
    return DropSummary(result.file_name, result.stem, len(shown), hit, largest, row)


def ranked(summaries: Sequence[DropSummary]) -> list[tuple[DropSummary, Well | None]]:
    """Pictures in the order in which a person looks at them, each with its well where the names tell wells.

    By hit score, then the number of crystals, then the area of the largest, then the name.
    """
    pairs = list(zip(summaries, wells_of(PurePath(s.file_name).stem for s in summaries), strict=True))
    pairs.sort(key=lambda pair: _rank(pair[0]))
    return pairs


def _rank(summary: DropSummary) -> tuple[float, int, int, str]:
    area = summary.largest.area if summary.largest else 0
    return -round(summary.hit_score, 4), -summary.crystals, -area, summary.file_name


def drop_rows(pairs: Sequence[tuple[DropSummary, Well | None]]) -> list[dict[str, Any]]:
    """The rows of drops.csv, from what `ranked` gives."""
    return [
        {"rank": rank, **summary.row, "well": well.name if well else "", "subwell": well.drop if well else ""}
        for rank, (summary, well) in enumerate(pairs, 1)
    ]
