"""The pictures of this folder's README, from the results on disk. `python -m benchmarks.plots [--machine cpu-2-cores]`.

Three SVG files in docs/pictures: ratios to the peers, stages of the training step, growth of the cost.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from matplotlib.figure import Figure

from benchmarks.measuring import RESULTS, median, readable
from benchmarks.peer_torchvision import best
from crystal.console import console

matplotlib.rcParams |= {"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 9}
OURS, PEER = "#2a6f97", "#b5651d"


def read(machine: str, what: str) -> dict[str, Any]:
    """One file of results."""
    return json.loads((RESULTS / f"{machine}-{what}.json").read_text())


def save(figure: Figure, name: str) -> Path:
    """As SVG without a date, so that the same results give the same file."""
    path = Path(__file__).parents[1] / "docs" / "pictures" / f"benchmark_{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path


def ratios(machine: str) -> Path:
    """Our time over the peer's, logarithmic: left of 1 we are faster."""
    bars = []
    for r in best(read(machine, "peer-torchvision")["rows"]):
        if "pastes" not in r["work"]:
            dtype = "" if r["dtype"] == "float32" else f", {r['dtype']}"
            peer = r["peer"].replace("-", " ")
            bars.append((f"{r['work']}, batch {r['batch']}{dtype} (torchvision, {peer})", r["ratio"]))
    bars += [(f"{op['op']} ({op['peer']})", op["ratio"]) for op in read(machine, "ops")["rows"] if op["ratio"]]
    figure = Figure(figsize=(8, 0.3 * len(bars) + 0.9), layout="constrained")
    axes = figure.subplots()
    for row, (_, ratio) in enumerate(bars):
        axes.plot([1, ratio], [row, row], color=OURS if ratio <= 1 else PEER, linewidth=6, solid_capstyle="butt")
        axes.annotate(
            f"{ratio:.2f}", (ratio, row), (-4 if ratio <= 1 else 4, 0), textcoords="offset points", va="center",
            ha="right" if ratio <= 1 else "left",
        )  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", yticks=range(len(bars)), yticklabels=[name for name, _ in bars])
    axes.set(xlabel="our time over the peer's (logarithmic)", xlim=(0.015, 120))
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, "ratios")


def stages(machine: str) -> Path:
    """Where the time of a step goes."""
    found = next(r for r in read(machine, "step")["rows"] if "stage_seconds" in r)
    seconds = {k: v for k, v in found["stage_seconds"].items() if k not in ("gradient", "step")}
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(seconds), list(seconds.values()), color=OURS)
    axes.bar_label(bars, [readable(v) for v in seconds.values()], padding=3)
    axes.set(xlabel=f"seconds, of a step of {found['stage_seconds']['step']:.2f}; each stage timed alone")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, "stages")


def growth(machine: str) -> Path:
    """Time against each amount, from zero, with the slope that was fitted to the logarithms."""
    rows = read(machine, "scaling")["rows"]
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(rows)), rows, strict=True):
        amounts, samples = [float(amount) for amount in row["seconds"]], row["seconds"].values()
        axes.plot(amounts, [median(s) for s in samples], "o-", color=OURS, markersize=4, clip_on=False)
        axes.set(xlim=0, ylim=0)
        axes.set_title(f"{row['against']}\nslope {row['slope']:.2f}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("seconds")
    return save(figure, "growth")


def main(machine: str = "cpu-2-cores") -> None:
    """Draw those whose results are there.

    Args:
        machine: how the files of results begin.
    """
    for draw in (ratios, stages, growth):
        try:
            console.print(str(draw(machine)))
        except FileNotFoundError as missing:
            console.print(f"not drawn: {missing.filename} is not there; run its benchmark first")


if __name__ == "__main__":
    tyro.cli(main)
