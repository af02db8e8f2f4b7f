"""`crystal table1` and its results: in the terminal, as Markdown, and as a page with plots."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from rich.box import SIMPLE_HEAD
from rich.table import Table

from crystal.console import console, warn
from crystal.data.classes import with_classes_of
from crystal.data.dataset import left_out, load_split, raise_if_nothing_to_learn
from crystal.data.fingerprint import fingerprint
from crystal.evaluation.assessment import require_sizes
from crystal.evaluation.table1 import COMPARISONS, MEASURES, measures
from crystal.files import write_atomically
from crystal.pages.charts import LINES, chart, curve, line_chart, smooth
from crystal.pages.page import number, write_page
from crystal.training.comparison import (
    ARMS,
    Table1Error,
    claim_experiment,
    command,
    run_experiment,
    training_options,
)
from crystal.training.log import read_metrics
from crystal.training.machine import describe_machine
from crystal.training.options import Table1, start_of
from crystal.training.train import resolve

TITLE = "Table 1: what CLAHE changes"
NOTHING = number(None)
OVER_ALL = ("map_050_all", "map_065_all")  # what the verdict is about
NOTE = (
    "mAP as the paper defines it, by mask IoU; ± is the standard deviation over seeds. The 10 and 100 images are drawn "
    "by the seed. Intervals are 95 % percentile bootstraps of the paired difference: each resample draws the same "
    "images for both arms and all seeds, and takes the mean over the seeds; 'images and seeds' draws the seeds too, "
    "and is still too narrow with two or three of them. The paper's figures are for MARCO photographs: they are not "
    "comparable one to one."
)


def _spread(spread: Mapping[str, Any] | None, form: str = ".3f") -> str:
    if spread is None:
        return NOTHING
    mean, deviation = number(spread["mean"], form), number(spread["deviation"], ".3f")
    return mean if deviation == NOTHING else f"{mean} ± {deviation}"


def _interval(ends: Sequence[float] | None) -> str:
    return NOTHING if ends is None or math.isnan(ends[0]) else f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def rows(results: Mapping[str, Any], comparison: str = "clahe") -> tuple[list[str], list[list[str]]]:
    """Header and cells of one comparison: measure, number of images, both arms, difference, its intervals, the paper's
    two figures; without the columns that would be empty.
    """
    _, first, second = COMPARISONS[comparison]
    header = ["measure", "images", results["arms"][first], results["arms"][second], "difference", "95 %, images"]
    header += ["95 %, images and seeds", "paper, without", "paper, with"]
    cells = []
    for measure in results["measures"].values():
        arms, difference = measure["arms"], measure["differences"].get(comparison, {})
        over_seeds = difference.get("interval_images_and_seeds") if results["seeds"] > 1 else None
        paper = measure["paper"] if comparison == "clahe" else None
        cells.append(
            [
                measure["title"],
                str(measure["images"]),
                _spread(arms.get(first)),
                _spread(arms.get(second)),
                _spread(difference or None, "+.3f"),
                _interval(difference.get("interval_images")),
                _interval(over_seeds),
                *(number(value, ".3f") for value in paper or (None, None)),
            ]
        )
    filled = [any(cell != NOTHING for cell in column) for column in zip(*cells, strict=True)]
    return list(compress(header, filled)), [list(compress(row, filled)) for row in cells]


def verdict(results: Mapping[str, Any], comparison: str = "clahe") -> str:
    """What the interval of the mAP over all images says, in a sentence or two."""
    sentences = []
    for key in OVER_ALL:
        difference = results["measures"][key]["differences"][comparison]
        low, high = difference["interval_images_and_seeds" if results["seeds"] > 1 else "interval_images"]
        if math.isnan(low):
            continue
        effect = "no effect is shown" if low <= 0 <= high else "it helps" if low > 0 else "it harms"
        sentences.append(f"{MEASURES[key].title}: {difference['mean']:+.3f} (95 % {low:+.3f} to {high:+.3f}), {effect}")
    one_seed = " With one seed the interval covers the choice of images, not how much trainings vary."
    return "; ".join(sentences) + "." + (one_seed if results["seeds"] == 1 else "")


def compared(results: Mapping[str, Any]) -> list[str]:
    """Names of the comparisons whose two arms were trained."""
    return [name for name, (_, *arms) in COMPARISONS.items() if all(arm in results["arms"] for arm in arms)]


def _about(results: Mapping[str, Any]) -> str:
    settings, machine = results["settings"], results["machine"]
    train, val = settings["images"]
    start = "random weights" if settings["init"] in (None, "none") else settings["init"]
    changed = f" with {', '.join(settings['set'])}" if settings["set"] else ""
    seeds = f"{results['seeds']} seed{'s' if results['seeds'] > 1 else ''}"
    return (
        f"{seeds}, {settings['steps']} steps of the preset {settings['preset']}{changed} from {start}, {train} images "
        f"to train on and {val} to measure on; {machine['processor']}, {machine['device']}, commit "
        f"{machine['commit'] or 'unknown'}."
    )


def print_table(results: Mapping[str, Any]) -> None:
    """To the terminal, where 80 columns are all there is: means, one interval, the paper's pair in one column."""
    for comparison in compared(results):
        header, cells = rows(results, comparison)
        left_out = {"images", "95 %, images"} if results["seeds"] > 1 else {"images"}
        kept = [k for k, name in enumerate(header) if name not in left_out and not name.startswith("paper")]
        papers = [k for k, name in enumerate(header) if name.startswith("paper")]
        title = COMPARISONS[comparison][0]
        shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
        for index in kept:
            interval, name = header[index].startswith("95 %"), header[index].replace(" CLAHE", "\nCLAHE")
            name = name.replace(", ", ",\n").replace(" and", "\nand")
            shown.add_column(name, justify="right" if index else "left", no_wrap=interval or not index)
        if papers:
            shown.add_column("the paper", justify="right", no_wrap=True)
        for row in cells:
            arms = [row[k].partition(" ±")[0] if header[k] in results["arms"].values() else row[k] for k in kept]
            pair = [", ".join(row[k] for k in papers).replace(f"{NOTHING}, {NOTHING}", NOTHING)] if papers else []
            shown.add_row(*(cell.replace(" to ", ", ").replace(" ±", "\n±") for cell in arms), *pair)
        console.print(shown)
        if papers:
            console.print("The paper's figures are for MARCO photographs: not comparable one to one.")
        console.print(verdict(results, comparison))


def write_markdown(path: Path, results: Mapping[str, Any]) -> None:
    """The tables, their verdicts and where the figures come from."""
    parts = [f"# {TITLE}", _about(results), f"`{results['command']}`"]
    for comparison in compared(results):
        header, cells = rows(results, comparison)
        lines = [header, ["---"] * len(header), *cells]
        parts += [f"## {COMPARISONS[comparison][0]}", "\n".join(f"| {' | '.join(row)} |" for row in lines)]
        parts.append(verdict(results, comparison))
    write_atomically(path, "\n\n".join([*parts, NOTE]) + "\n")


def _slopes(measure: Mapping[str, Any], arms: Sequence[str], axes: Axes) -> None:
    """Each seed's figure in the arms, joined by a line; the paper's dashed."""
    for by_seed in zip(*(measure["arms"][arm]["by_seed"] for arm in arms), strict=True):
        axes.plot(range(len(arms)), by_seed, color=LINES[0][0], marker="o", markersize=4, linewidth=1.2)
    if measure["paper"]:
        axes.plot((0, 1), measure["paper"], color="#666", marker="x", markersize=5, linewidth=1, ls=(0, (4, 2)))
        axes.annotate("the paper", (1, measure["paper"][1]), color="#666", fontsize=8, ha="right", va="bottom")
    axes.set_xticks(range(len(arms)), ["without CLAHE", "with CLAHE"])
    axes.set_xlim(-0.3, len(arms) - 0.7)
    axes.set_ylim(0, 1)


def _forest(results: Mapping[str, Any], comparison: str, axes: Axes) -> None:
    """Mean difference and interval of each mAP."""
    kind = "interval_images_and_seeds" if results["seeds"] > 1 else "interval_images"
    shown = [
        (m["title"].removeprefix("mAP, "), difference["mean"], *difference[kind])
        for m in results["measures"].values()
        if kind in (difference := m["differences"][comparison]) and not math.isnan(difference[kind][0])
    ]
    for row, (_, mean, low, high) in enumerate(shown):
        axes.plot((low, high), (row, row), color=LINES[0][0], linewidth=2)
        axes.plot(mean, row, "o", color=LINES[0][0], markersize=5)
    axes.axvline(0, color="#666", linewidth=1)
    axes.set_yticks(range(len(shown)), [name for name, *_ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("difference in mAP, 95 % interval")


def _sorted_images(results: Mapping[str, Any], iou: str, axes: Axes) -> None:
    """Every image's difference, mean over seeds, from the worst to the best."""
    means = [
        np.array([[np.nan if v is None else v for v in one[iou]] for one in results["ap"][arm]], float).mean(0)
        for arm in COMPARISONS["clahe"][1:]
    ]
    differences = np.sort((means[1] - means[0])[~np.isnan(means[0])])
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    axes.fill_between(np.arange(len(differences)), differences, step="mid", color=LINES[0][0], linewidth=0)
    axes.axhline(0, color="#666", linewidth=1)
    axes.set_ylim(-1, 1)
    axes.set_xlabel(f"images, sorted: {worse} worse, {better} better with CLAHE")


def _mean_losses(results: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """Total loss of the two arms, mean over seeds; only where the seeds logged the same steps."""
    curves = {}
    for arm in COMPARISONS["clahe"][1:]:
        own = [smooth(*curve(read_metrics(runs / f"{seed}-{arm}"), "loss")) for seed in range(results["seeds"])]
        if own and all(len(steps) and np.array_equal(steps, own[0][0]) for steps, _ in own):
            curves[results["arms"][arm]] = own[0][0], np.mean([values for _, values in own], axis=0)
    return curves


def _charts(results: Mapping[str, Any], runs: Path) -> Iterator[Markup]:
    for name in compared(results):
        yield chart(COMPARISONS[name][0].partition(":")[0], partial(_forest, results, name))
    for key, measure in MEASURES.items():
        if measure.iou is not None:
            yield chart(measure.title, partial(_slopes, results["measures"][key], COMPARISONS["clahe"][1:]))
    for iou in ("0.50", "0.65"):
        yield chart(f"AP with CLAHE minus without, IoU {iou}", partial(_sorted_images, results, iou))
    if curves := _mean_losses(results, runs):
        yield line_chart("total loss, mean over seeds", curves)


def write_table_page(path: Path, results: Mapping[str, Any], *, runs: Path) -> Path:
    """The tables with plots: each seed's figures, the intervals, the images one by one, the losses.

    Args:
        path: of the page.
        results: what table1.json holds, nan where it has null.
        runs: the folder of the runs.

    Raises:
        OutputError: it cannot be written.
    """
    write_page(
        path,
        "table1.html",
        title=TITLE,
        about=_about(results),
        note=NOTE,
        command=results["command"],
        tables=[(COMPARISONS[name][0], *rows(results, name), verdict(results, name)) for name in compared(results)],
        charts=list(_charts(results, runs)),
    )
    return path


def table1_command(options: Table1) -> int:
    """`crystal table1`: train, measure, compare; what is finished already is not done again."""
    data, out = options.data, options.out
    if options.scratch and start_of(options) == "none":
        raise Table1Error("--scratch compares the weights of --init with random ones; give --init as well")
    train, val = (load_split(data, s, crowds_as_objects=options.crowds_as_objects) for s in ("train", "val"))
    raise_if_nothing_to_learn(train)
    val, notes = with_classes_of(val, train.categories)
    if not any(not instance.crowd for record in val.records for instance in record.instances):
        raise Table1Error(f"{val.source}: no image has an object, so there is nothing to measure; add some")
    for note in notes:
        console.print(f"note: {note}", markup=False)
    require_sizes(val.records)
    resolved = resolve(train, training_options(ARMS["clahe"], options, seed=0, out=out))
    settings = {
        "data": str(data),
        "content": {"train": fingerprint(train), "val": fingerprint(val)},
        "preset": options.preset,
        "init": start_of(options),
        "steps": options.steps,
        "set": list(options.set),
    }
    claim_experiment(out, settings)
    arms = [name for name in ARMS if name != "scratch" or options.scratch]
    evaluations = run_experiment(options, val, arms=arms, steps=resolved.steps)
    results = {
        "command": command(options),
        "machine": describe_machine(),
        "settings": {**settings, "steps": resolved.steps, "images": [len(train.records), len(val.records)]},
        "seeds": options.seeds,
        "arms": {name: ARMS[name].title for name in arms},
        "measures": measures(evaluations),
        "seconds": {arm: [one["seconds"] for one in own] for arm, own in evaluations.items()},
        "ap": {arm: [one["ap"] for one in own] for arm, own in evaluations.items()},
    }
    write_atomically(out / "table1.json", json.dumps(_rounded(results), allow_nan=False) + "\n")
    print_table(results)
    write_markdown(out / "table1.md", results)
    page = write_table_page(out / "table1.html", results, runs=out / "runs")
    console.print(f"{page} shows the plots; the table is in table1.md, every figure in table1.json")
    warn(left_out(train))
    warn(left_out(val, measured=True))
    return 0


def _rounded(value: Any) -> Any:
    """For JSON: four decimals are more than a hundred images can tell; nan becomes null."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 4)
    return value
