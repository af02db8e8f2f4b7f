"""`crystal check` and its page: what is wrong, what the anchors reach, how large the objects are, how they look.

Of large datasets a sample is shown, and the page says of how many; one image at a time is in memory.
"""

import html
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crystal.console import Bars, console, printable
from crystal.data.anchor_coverage import HALF, WELL, Reach, by_side, reach_of
from crystal.data.check import Checked, Row, check, rows_of
from crystal.data.options import Check
from crystal.data.problems import SEVERITIES, Severity
from crystal.files import explained_writing
from crystal.pages.check_charts import best_overlaps, counted, logarithmic, reach_map
from crystal.pages.check_pictures import Titled, close_up, faulty, figures, sheets
from crystal.pages.page import table, write_page
from crystal.training.config import PRESETS, override

MISSED = 18  # pictures of objects out of reach
MOST_ROWS, MOST_MISSED = 1000, 200  # of the tables
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
STYLE = """
.scroll { margin-bottom: 1rem; }
.sheet { grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
.words td, .words th { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.words th { overflow-wrap: normal; }
.words th:first-child, .words td:first-child { min-width: 4.5em; }
.error { color: #a33c00; font-weight: 600; } .warning { color: #6b5500; font-weight: 600; } .note { color: #555; }
details { margin: .8rem 0; } summary { cursor: pointer; }
code { font-size: .92em; overflow-wrap: anywhere; }
"""


def _overview(checked: Checked) -> str:
    names = ("images", "objects", "crowds", "images without objects", *(f"{severity}s" for severity in SEVERITIES))
    columns = []
    for name, problems in checked.problems.items():
        records = checked.splits[name].records if name in checked.splits else ()
        objects = [i for record in records for i in record.instances]
        crowds = sum(i.crowd for i in objects)
        empty = sum(all(i.crowd for i in record.instances) for record in records)
        counts = [sum(p.effect.severity == severity for p in problems) for severity in SEVERITIES]
        columns.append((len(records), len(objects) - crowds, crowds, empty, *counts))
    rows = [(name, *(f"{n:,}" for n in numbers)) for name, *numbers in zip(names, *columns, strict=True)]
    return table(("", *map(printable, checked.problems)), rows)


def _words(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A table of text, whose first column is how bad it is."""
    plain = table(header, rows)
    for severity in SEVERITIES:
        plain = plain.replace(f"<td>{severity}</td>", f"<td><span class={severity}>{severity}</span></td>")
    return f"<div class=words>{plain}</div>"


def _problems(checked: Checked, rows: Sequence[Row]) -> str:
    if not rows:
        return "<h2>Problems</h2><p>None was found.</p>"
    kinds: dict[tuple[Severity, str, str], int] = {}
    for problem in itertools.chain.from_iterable(checked.problems.values()):
        key = (problem.effect.severity, problem.text, problem.effect.words)
        kinds[key] = kinds.get(key, 0) + 1
    ordered = sorted(kinds.items(), key=lambda item: (SEVERITIES.index(item[0][0]), -item[1]))[:50]
    brief = [(severity, f"{count:,}", text, words) for (severity, text, words), count in ordered]
    lines = [(r.severity, f"{r.split}: {r.file_name}", r.text, r.training) for r in rows[:MOST_ROWS]]
    more = f", the first {MOST_ROWS:,} of {len(rows):,} lines" if len(rows) > MOST_ROWS else ""
    return (
        "<h2>Problems</h2>"
        + _words(brief, ("", "how often", "problem", "what training does"))
        + f"<details><summary>By file{more}</summary>"
        + _words(lines, ("", "image", "problem", "what training does"))
        + "</details>"
    )


def _sentence(reach: Reach) -> str:
    text = reach.sentence()
    return html.escape(text[0].upper() + text[1:])


def _reach(reach: Reach) -> Iterator[str]:
    yield f"<h2>What the anchors reach</h2><p><strong>{_sentence(reach)}.</strong></p>"
    best, sides = reach.best, reach.measured.sides
    if not len(best):
        return
    yield (
        "<p>An anchor is a box of fixed size that the network starts from. It learns to move anchors onto objects that "
        f"they already overlap: from an IoU of {WELL:g} on each anchor is told so, an object without such an anchor is "
        f"learnt from its single best one, and where even that overlaps it by less than {HALF:g} it is rarely found: "
        "in a trial on rendered drops, 18 % of such objects against 69 % of the others. All sizes are pixels of the "
        "image as the network sees it.</p>"
    )
    half, well = by_side(sides, best >= HALF), by_side(sides, best >= WELL)
    rows = [
        (n, f"{c:,}", f"{100 * a:.0f} %", f"{100 * b:.0f} %") for (n, c, a), (_, _, b) in zip(half, well, strict=True)
    ]
    header = ("shorter side, pixels", "objects", f"reached at IoU {HALF:g}", f"at {WELL:g}")
    charts = (
        reach_map("objects by what the best anchor reaches", sides, best),
        best_overlaps("objects reached at each overlap", best),
    )
    yield table(header, rows) + "<div class=grid>" + "".join(f"<figure>{c}</figure>" for c in charts) + "</div>"
    if reach.changes:
        yield "<p>Of the objects out of reach, some anchor would reach:</p><ul>"
        for change in reach.changes:
            yield f"<li>{100 * change.share:.0f} % with <code>--set {html.escape(change.setting)}</code></li>"
        yield "</ul><p>Other ratios change the shape of the weights, so they need training from scratch.</p>"
    yield from _missed(reach)


def _missed(reach: Reach) -> Iterator[str]:
    if not len(reach.missed):
        return
    lines: list[tuple[str, ...]] = []
    pictures: list[Titled] = []
    for rank, index in enumerate(reach.missed[:MOST_MISSED]):
        (split, record), number = reach.records[reach.measured.places[index, 0]], int(reach.measured.places[index, 1])
        wide, tall = reach.measured.sides[index]
        name, size = printable(record.file_name), f"{wide:.1f} x {tall:.1f}"
        lines.append(
            (f"{split}: {name}", str(record.instances[number].annotation_id), size, f"{reach.best[index]:.2f}")
        )
        if rank < MISSED:
            pictures.append((close_up(record, number), f"{split}: {name}: {size} pixels, IoU {reach.best[index]:.2f}"))
    shown = f"The {min(MISSED, len(reach.missed))} worst of {len(reach.missed):,}"
    yield f"<h3>Objects out of reach</h3><p>{shown}, each in its surroundings.</p>{figures(pictures)}"
    more = f", the first {MOST_MISSED} of {len(reach.missed):,}" if len(reach.missed) > MOST_MISSED else ""
    yield f"<details><summary>All of them{more}</summary>"
    yield table(("image", "annotation", "width x height, pixels", "best IoU"), lines) + "</details>"


def _sizes(checked: Checked, reach: Reach) -> str:
    sides = np.maximum(reach.measured.sides, 0.25)
    if not len(sides):
        return ""
    anchors = reach.config.anchors
    counts = {
        name: np.array([sum(not i.crowd for i in r.instances) for r in split.records], int)
        for name, split in checked.splits.items()
        if split.records
    }
    charts = (
        logarithmic(
            "size",
            np.sqrt(sides.prod(1)),
            "square root of the box's area, pixels",
            marks=anchors.sizes,
            mark_name="anchors",
        ),
        logarithmic("shape", sides[:, 1] / sides[:, 0], "height / width", marks=anchors.ratios, mark_name="anchors"),
        counted("objects an image", counts, "objects"),
    )
    return f"<h2>Sizes, shapes, counts</h2><div class=grid>{''.join(f'<figure>{c}</figure>' for c in charts)}</div>"


def write_check_page(path: Path, dataset: Path, checked: Checked, rows: Sequence[Row], reach: Reach) -> None:
    """Write the page, replacing an earlier one when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    title = f"Dataset check: {printable(dataset.resolve().name)}"
    body = [
        f"<h1>{html.escape(title)}</h1>{_overview(checked)}",
        _problems(checked, rows),
        *_reach(reach),
        _sizes(checked, reach),
        faulty(checked),
        *sheets(checked),
    ]
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, title, "".join(body), style=STYLE)


def _print(rows: list[Row], most: int) -> None:
    table = Table(title_justify="left", pad_edge=False)
    for name, ratio in (("image", 3), ("", None), ("problem", 5), ("what training does", 4)):
        table.add_column(name, ratio=ratio, overflow="fold")
    before = None
    for row in rows[: most or None]:
        where = f"{row.split}: {row.file_name}"
        shown = "" if where == before else escape(where)  # once a file
        table.add_row(shown, f"[{STYLES[row.severity]}]{row.severity}[/]", escape(row.text), escape(row.training))
        before = where
    if rows:
        # Into a file the width is nobody's: wide enough for one line a problem in most cases.
        wide = console if console.is_terminal else Console(file=console.file, width=160)
        wide.print(table)
    if most and len(rows) > most:
        console.print(f"... and {len(rows) - most} more lines: --rows 0 shows all")


def check_command(options: Check) -> int:
    """`crystal check`: the table, the page. Returns the exit code: 1 where there is an error, else 0."""
    dataset, config = options.dataset, override(PRESETS[options.preset](), list(options.set))
    with Bars() as bars:
        checked = check(dataset, slots=config.slots, start=lambda name, total: bars.add(escape(name), total))
    lines = rows_of(checked)
    _print(lines, options.rows)
    reach = reach_of([(name, r) for name, split in checked.splits.items() for r in split.records], config.model)
    console.print(", ".join(f"{checked.count(s)} {s}{'s' * (checked.count(s) != 1)}" for s in SEVERITIES))
    console.print(reach.sentence(), markup=False)
    page = options.out or (dataset if dataset.is_dir() else dataset.parent) / "check.html"
    console.print("drawing the page")
    write_check_page(page, dataset, checked, lines, reach)
    console.print(f"{page}: pictures, sizes and what the anchors reach", markup=False)
    return 1 if checked.count("error") else 0
