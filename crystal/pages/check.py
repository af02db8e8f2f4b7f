"""`crystal check` and its page: problems, how well the anchors cover the objects, sizes, pictures.

Of large datasets a sample is shown, and the page says of how many.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crystal.console import Bars, console, printable
from crystal.data.anchor_coverage import HALF, WELL, Coverage, by_side, coverage_of
from crystal.data.check import CheckedDataset, Row, check, rows_of
from crystal.data.options import Check
from crystal.data.problems import SEVERITIES
from crystal.files import OutputError, explained_writing, refuse_replacing
from crystal.pages.charts import chart
from crystal.pages.check_charts import by_width_and_height, objects_an_image, over_doublings, share_reached
from crystal.pages.check_pictures import close_up, contact_sheet, faulty
from crystal.pages.page import write_page
from crystal.pages.pictures import Image
from crystal.training.config import PRESETS, override
from crystal.training.following import MOST_SLOTS, fixed_by, follow, in_words

MISSED = 18  # pictures of objects out of reach
MOST_KINDS, MOST_ROWS, MOST_MISSED = 50, 1000, 200  # of the tables
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def _overview(checked: CheckedDataset) -> list[tuple[Any, ...]]:
    """A row a number: its name, then its value in each split."""
    names = ("images", "objects", "crowds", "images without objects", *(f"{severity}s" for severity in SEVERITIES))
    columns = []
    for name, problems in checked.problems.items():
        records = checked.splits[name].records if name in checked.splits else ()
        objects = [i for record in records for i in record.instances]
        crowds = sum(i.crowd for i in objects)
        empty = sum(all(i.crowd for i in record.instances) for record in records)
        counts = [sum(p.effect.severity == severity for p in problems) for severity in SEVERITIES]
        columns.append((len(records), len(objects) - crowds, crowds, empty, *counts))
    return list(zip(names, *columns, strict=True))


def _kinds(checked: CheckedDataset) -> list[tuple[Any, ...]]:
    """(severity, how often, problem, what training does), the worst and most frequent first."""
    kinds = Counter((p.effect, p.text) for problems in checked.problems.values() for p in problems)
    ordered = sorted(kinds.items(), key=lambda item: (SEVERITIES.index(item[0][0].severity), -item[1]))
    return [(effect.severity, f"{count:,}", text, effect.words) for (effect, text), count in ordered[:MOST_KINDS]]


def _sides(coverage: Coverage) -> list[tuple[Any, ...]]:
    """(range of the shorter side, objects, share reached at IoU HALF, share at WELL)."""
    half, well = (by_side(coverage.objects.sides, coverage.best >= least) for least in (HALF, WELL))
    return [(name, count, a, b) for (name, count, a), (_, _, b) in zip(half, well, strict=True)]


def _missed(coverage: Coverage) -> tuple[list[tuple[Image, str]], list[tuple[str, ...]]]:
    """The objects that no anchor reaches, the worst first: pictures with captions, and rows of a table."""
    pictures, rows = [], []
    for rank, index in enumerate(coverage.missed[:MOST_MISSED]):
        place, number = (int(k) for k in coverage.objects.places[index])
        split, record = coverage.records[place]
        name, best = f"{split}: {printable(record.file_name)}", f"{math.floor(100 * coverage.best[index]) / 100:.2f}"
        size = "{:.1f} x {:.1f}".format(*coverage.objects.sides[index])
        rows.append((name, str(record.instances[number].annotation_id), size, best))
        if rank < MISSED and (picture := close_up(record, number)) is not None:
            pictures.append((picture, f"{name}: {size} pixels, IoU {best}"))
    return pictures, rows


def _charts(checked: CheckedDataset, coverage: Coverage) -> dict[str, list[Any]]:
    sides, anchors = np.maximum(coverage.objects.sides, 0.25), coverage.config.anchors
    if not len(sides):
        return {"coverage": [], "sizes": []}
    counts = {
        name: np.array([sum(not i.crowd for i in r.instances) for r in split.records], int)
        for name, split in checked.splits.items()
        if split.records
    }
    sizes, ratios = np.array(anchors.sizes), np.array(anchors.ratios)
    size, shape, label = np.sqrt(sides.prod(1)), sides[:, 1] / sides[:, 0], "square root of the box's area, pixels"
    best, exact = coverage.best, coverage.objects.sides
    return {
        "coverage": [
            chart("objects by their best anchor", lambda axes: by_width_and_height(axes, exact, best), size=(3.6, 3.4)),
            chart("objects reached at each overlap", lambda axes: share_reached(axes, best)),
        ],
        "sizes": [
            chart("size", lambda axes: over_doublings(axes, size, label, anchors=sizes)),
            chart("shape", lambda axes: over_doublings(axes, shape, "height / width", anchors=ratios)),
            chart("objects an image", lambda axes: objects_an_image(axes, counts)),
        ],
    }


def write_check_page(
    path: Path, dataset: Path, checked: CheckedDataset, rows: Sequence[Row], coverage: Coverage, training: str
) -> None:
    """Write the page, with a line on what training does, replacing an earlier one when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    readable = {
        name: [record for record, fine in zip(split.records, checked.readable[name], strict=True) if fine]
        for name, split in checked.splits.items()
    }
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        path,
        "check.html",
        dataset=dataset.resolve().name,
        splits=[printable(name) for name in checked.problems],
        overview=_overview(checked),
        kinds=_kinds(checked),
        rows=[(r.severity, f"{r.split}: {r.file_name}", r.text, r.training) for r in rows[:MOST_ROWS]],
        all_rows=len(rows),
        coverage=coverage,
        training=training,
        half=HALF,
        well=WELL,
        sides=_sides(coverage),
        missed=_missed(coverage),
        charts=_charts(checked, coverage),
        faulty=faulty(checked),
        sheets=[(name, len(records), list(contact_sheet(records))) for name, records in readable.items()],
    )


def _print(rows: list[Row], most: int) -> None:
    table = Table(title_justify="left", pad_edge=False)
    for name, ratio in (("image", 3), ("", None), ("problem", 5), ("what training does", 4)):
        table.add_column(name, ratio=ratio, overflow="fold")
    before = None
    for row in rows[: most or None]:
        where = f"{row.split}: {row.file_name}"
        shown = "" if where == before else where  # once a file
        table.add_row(shown, Text(row.severity, STYLES[row.severity]), row.text, row.training)
        before = where
    if rows:
        # Into a file the width is nobody's: wide enough for one line a problem in most cases.
        wide = console if console.is_terminal else Console(file=console.file, width=160, markup=False)
        wide.print(table)
    if most and len(rows) > most:
        console.print(f"... and {len(rows) - most} more lines: --rows 0 shows all")


def check_command(options: Check) -> int:
    """`crystal check`: the table, the page. Returns the exit code: 1 where there is an error, else 0."""
    dataset, config = options.dataset, override(PRESETS[options.preset](), list(options.set))
    page = options.out or (dataset if dataset.is_dir() else dataset.parent) / "check.html"
    if page.suffix.lower() not in (".html", ".htm"):  # a slip must not cost the annotations
        raise OutputError(f"--out {page}: the page needs a name that ends in .html")
    refuse_replacing(page, "</title>", "a page")
    with Bars() as bars:
        checked = check(
            dataset,
            slots=config.slots or MOST_SLOTS,
            crowds_as_objects=options.crowds_as_objects,
            start=lambda name, total: bars.add(name, total),
        )
    lines = rows_of(checked)
    _print(lines, options.rows)
    split = checked.splits.get("train") or next(iter(checked.splits.values()), None)
    config = follow(config, split.records if split else (), fixed_by(options.set))
    coverage = coverage_of([(name, r) for name, split in checked.splits.items() for r in split.records], config.model)
    console.print(", ".join(f"{checked.count(s)} {s}{'s' * (checked.count(s) != 1)}" for s in SEVERITIES))
    console.print(coverage.sentence(), markup=False)
    console.print(f"training with these settings: {in_words(config)}", markup=False)
    console.print("drawing the page")
    write_check_page(page, dataset, checked, lines, coverage, in_words(config))
    console.print(f"{page}: pictures, sizes and what the anchors reach", markup=False)
    return 1 if checked.count("error") else 0
