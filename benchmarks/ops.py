"""How fast is each operation, against the peers' and against what the machine allows? `python -m benchmarks.ops`.

Convolution and RoI Align, forward and with their gradients, scatter-add, non-maximum suppression of 500 to 5,000 boxes,
matching of anchors, CLAHE, letterbox and mask pasting (`cases.py`); ours jitted, in several forms where there are some,
in turns with peers'. The floor of an operation is what it must read and write, or multiply, over the machine's measured
peak: what computes the same is faster only where its data stays in caches, and most things are far slower. Torchvision
is optional (`pip install torch torchvision`).

Writes benchmarks/results/<hardware>-ops.json with every sample, after each operation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import tyro

from benchmarks import cases
from benchmarks.measuring import in_turns, median, readable, results_file, save, show, warn_if_busy
from benchmarks.peaks import copying, matmul
from crystal.console import console
from crystal.training.machine import describe_machine

KINDS: dict[str, Callable[[int], list[cases.Op]]] = {
    "convolution": lambda batch: [*cases.convolution_ops(128, 14), *cases.convolution_ops(1, cases.MAP)],
    "roi-align": lambda batch: cases.roi_align_ops(),
    "scatter-add": lambda batch: [cases.adding_op()],
    "nms": lambda batch: [*map(cases.nms_op, (500, 1000, 2000, 5000)), cases.nms_op(2000, batch)],
    "matching": lambda batch: [cases.matching_op()],
    "clahe": lambda batch: [cases.clahe_op(), cases.clahe_op(batch)],
    "letterbox": lambda batch: [cases.letterbox_op()],
    "pasting": lambda batch: [cases.pasting_op()],
}


def main(repeats: int = 15, batch: int = 8, only: tuple[str, ...] = tuple(KINDS), out: Path | None = None) -> None:
    """Time every operation, write.

    Args:
        repeats: samples of each.
        batch: images in the batched ones.
        only: kinds of operations; what was measured of others stays.
        out: a file or folder for the results.
    """
    unknown = set(only) - set(KINDS)
    if unknown:
        raise SystemExit(f"--only: no operations are called {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    warn_if_busy()
    if cases.torch:
        cases.torch.set_num_threads(describe_machine()["cores"])
    multiply, flops = matmul()
    move, bytes_moved = copying()
    yardsticks = in_turns({"matmul": multiply, "copying": move}, repeats=5)
    peak = {
        "flops_per_second": flops / min(yardsticks["matmul"]),
        "bytes_per_second": bytes_moved / min(yardsticks["copying"]),
    }
    rows = []
    for kind in only:
        console.print(f"{kind}: compiling")
        for op in KINDS[kind](batch):
            rows.append(measure(op, repeats, peak))
            save(
                "how fast is each operation, against the peers' and the machine's limits?",
                "ops",
                settings={"repeats": repeats, "batch": batch, "opencv": cv2.__version__} | cases.TORCH,
                out=out,
                rows=rows,
                key=("op",),
                peak=peak,
            )
    report(rows)
    console.print(str(results_file("ops", out)))


def measure(op: cases.Op, repeats: int, peak: dict[str, float]) -> dict[str, Any]:
    """One operation: samples of every way, the floor, and the ratio to the peer."""
    seconds = in_turns(op.ways, repeats=repeats, warmup=2)
    peer = next((name for name in seconds if not name.startswith("ours")), None)
    return {
        "op": op.name,
        "seconds": seconds,
        "peer": peer,
        "ratio": median(seconds["ours"]) / median(seconds[peer]) if peer else None,
        "floor_seconds": max(op.moved / peak["bytes_per_second"], op.flops / peak["flops_per_second"]),
    }


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    lines = []
    for row in rows:
        middle, peer = {name: readable(median(samples)) for name, samples in row["seconds"].items()}, row["peer"]
        lines.append(
            [
                row["op"],
                middle["ours"],
                f"{peer} {middle[peer]}" if peer else "not installed",
                f"{row['ratio']:.2f}" if peer else "",
                readable(row["floor_seconds"]),
                "; ".join(f"{name}: {time}" for name, time in middle.items() if name not in ("ours", peer)),
            ]
        )
    show("operations", ["operation", "ours", "peer", "ratio", "floor", "other forms"], lines)


if __name__ == "__main__":
    tyro.cli(main)
