"""The tables of all pictures: predictions.json, crystals.csv and drops.csv, and what the page is made of."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from crystal.prediction.calibration import Calibration
from crystal.prediction.results import Result
from crystal.prediction.tables import (
    CRYSTAL_COLUMNS,
    DROP_COLUMNS,
    DropSummary,
    crystal_rows,
    drop_rows,
    drop_summary,
    ranked,
)
from crystal.prediction.wells import Well

INFO = "Instances predicted by crystal, all scores"


class Results(Protocol):
    """Where results come from, and the settings that the tables need; see `OutputFolder`."""

    classes: tuple[tuple[int, str], ...]
    score_threshold: float
    calibration: Calibration
    outside: bool

    def results(self) -> Iterator[Result]:
        """One after the other, in the order of the tables."""
        ...

    def result(self, stem: str) -> Result:
        """That of one picture."""
        ...


class Page(NamedTuple):
    """What plate.html is made of.

    Attributes:
        results: where the pictures' results come from.
        ranked: a summary of each, the most promising first, with its well.
    """

    results: Results
    ranked: list[tuple[DropSummary, Well | None]]


def _csv(file: TextIO, columns: Sequence[str]) -> "csv.DictWriter[str]":
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    return writer


def _write_results(json_file: TextIO, csv_file: TextIO, results: Results) -> list[DropSummary]:
    """predictions.json and crystals.csv; returns a summary of each picture."""
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in results.classes[1:]]
    head = json.dumps({"description": INFO}), json.dumps(categories)
    json_file.write(f'{{"info": {head[0]},\n"categories": {head[1]},\n"annotations": [')
    table = _csv(csv_file, CRYSTAL_COLUMNS)
    images: list[dict[str, Any]] = []
    summaries = []
    total = 0
    for result in results.results():
        um = results.calibration.of(result.height, result.width)
        table.writerows(crystal_rows(result, results.score_threshold, um))
        summaries.append(drop_summary(result, results.score_threshold, um, outside=results.outside))
        size = {"height": result.height, "width": result.width}
        images.append({"id": len(images) + 1, "file_name": result.file_name, **size})
        for annotation in result.annotations:
            total += 1
            numbered = annotation | {"id": total, "image_id": len(images)}
            json_file.write(("," if total > 1 else "") + "\n" + json.dumps(numbered))
    json_file.write(f'],\n"images": {json.dumps(images)}}}\n')
    return summaries


def write_tables(folder: Path, results: Results) -> Page:
    """Write the three tables into a folder; results are read one by one.

    Returns:
        What the page is made of.

    Raises:
        OSError: a file cannot be written.
    """
    text: Any = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with open(folder / "predictions.json", "w", **text) as one, open(folder / "crystals.csv", "w", **text) as other:
        order = ranked(_write_results(one, other, results))
    with open(folder / "drops.csv", "w", **text) as file:
        _csv(file, DROP_COLUMNS).writerows(drop_rows(order))
    return Page(results, order)
