"""Is our network faster than torchvision's? `python -m benchmarks.peer_torchvision`.

The same weights (torchvision's, read by our converter), images and objects, on the same machine, in turns in one
process: a training step of ResNet101-FPN at 512 with everything trained and 128 positive RoIs an image, and inference.
Torchvision runs eager, eager with channels last and, where asked, compiled by `torch.compile`; the best of them counts.
Before the clock starts, the losses and the detections of both are compared: it has to be the same work.

Needs torch and torchvision, which nothing else here does: `pip install torch torchvision`. On a GPU set
`XLA_PYTHON_CLIENT_PREALLOCATE=false`, or JAX takes three quarters of its memory before torch asks for any.

Writes benchmarks/results/<hardware>-peer-torchvision.json with every sample, after each peer.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx

from benchmarks import workload
from benchmarks.measuring import in_loop, in_turns, median, readable, results_file, save, show, warn_if_busy
from crystal.console import console
from crystal.training.machine import describe_machine
from maskrcnn_jax.convert import load
from maskrcnn_jax.model import MaskRCNN

if TYPE_CHECKING:
    from benchmarks.torchvision_peer import Peer

PEERS = {"eager": {}, "channels-last": {"channels_last": True}, "compiled": {"channels_last": True, "compiled": True}}
LOSSES = {
    "loss_objectness": "rpn_class",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "roi_class",
    "loss_box_reg": "roi_box",
    "loss_mask": "roi_mask",
}


def ours(weights: dict, size: int, dtype: str) -> MaskRCNN:
    """Our network with torchvision's weights."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "torchvision.pth"
        torch.save(weights, path)
        read = load(path)
    model = MaskRCNN(workload.config(size, dtype=dtype), rngs=nnx.Rngs(0))
    nnx.update(model, nnx.state(read))
    return model


def main(
    batches: tuple[int, ...] = (1,),
    size: int = 512,
    dtype: Literal["float32", "bfloat16"] = "float32",
    peers: tuple[Literal["eager", "channels-last", "compiled"], ...] = ("eager", "channels-last"),
    repeats: int = 5,
    threads: int | None = None,
    out: Path | None = None,
) -> None:
    """Check that it is the same work, time in turns, write.

    Args:
        batches: images a step.
        size: side of the square images.
        dtype: bfloat16 is our compute_dtype, and AMP there.
        peers: ways to run torchvision's; "compiled" compiles for minutes.
        repeats: samples of each call.
        threads: torch's on a CPU; as many as cores unless told.
        out: a file or folder for the results.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        sys.exit("Nothing measured: pip install torch torchvision.")
    import torch
    import torchvision

    warn_if_busy()
    if jax.default_backend() == "gpu":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as XLA computes products of float32
    else:
        torch.set_num_threads(threads or describe_machine()["cores"])
    rows = []
    for b in batches:
        for row in compared(b, size, dtype, peers, repeats):
            rows.append(row)
            save(
                "is our network faster than torchvision's?",
                "peer-torchvision",
                settings={
                    "repeats": repeats,
                    "torch": torch.__version__,
                    "torchvision": torchvision.__version__,
                    "threads": torch.get_num_threads(),
                },
                out=out,
                rows=rows,
                key=("image_size", "dtype", "batch", "work", "peer"),
            )
    report(rows, f"ResNet101-FPN at {size}, {dtype}")
    console.print(str(results_file("peer-torchvision", out)))


def compared(b: int, size: int, dtype: str, peers: tuple[str, ...], repeats: int) -> Iterator[dict[str, Any]]:
    """Ours in turns with each peer, one of which is in memory at a time: for each, a row a work."""
    from benchmarks.torchvision_peer import Peer

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    scenes = [workload.make_scene(seed, size=size) for seed in range(b)]
    images, truth = workload.as_batch(scenes)
    detecting = training = None
    for name in peers:
        console.print(f"batch {b}, {dtype}, torchvision {name}: compiling")
        peer = Peer(scenes, device=device, amp=dtype == "bfloat16", **PEERS[name])
        if not (training and detecting):
            model = ours(peer.weights, size, dtype)
            detecting, training = workload.Detecting(model, images), workload.Training(model, images, truth)
        same = agreement(detecting(), training(), peer)
        for work, own, theirs in (
            ("training step", training, peer.train),
            ("inference", detecting, peer.detect_unpasted),
            ("inference, torchvision pastes masks", detecting, peer.detect),
        ):
            calls = {"ours": in_loop(own), name: in_loop(theirs, wait=peer.wait)}
            seconds = in_turns(calls, repeats=repeats)
            middle = {who: median(samples) for who, samples in seconds.items()}
            console.print(f"{work}: {', '.join(f'{who} {readable(one)}' for who, one in middle.items())}")
            yield {
                "image_size": size,
                "dtype": dtype,
                "batch": b,
                "work": work,
                "peer": name,
                "seconds": seconds,
                "ratio": middle["ours"] / middle[name],
                "same_work": same,
            }


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each case the row of the fastest peer: the one that ours is slowest beside."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        case = tuple(row[name] for name in ("image_size", "dtype", "batch", "work"))
        found[case] = max(found.get(case, row), row, key=lambda one: one["ratio"])
    return list(found.values())


def report(rows: list[dict[str, Any]], title: str) -> None:
    """Print the table: our time beside that of the fastest peer, and the others'."""
    lines = []
    for first in best(rows):
        alike = [row for row in rows if (row["work"], row["batch"]) == (first["work"], first["batch"])]
        times = {row["peer"]: readable(median(row["seconds"][row["peer"]])) for row in alike}
        lines.append(
            [
                first["work"],
                str(first["batch"]),
                f"{first['batch'] / median(first['seconds']['ours']):.4g}",
                readable(median(first["seconds"]["ours"])),
                *(times.get(name, "") for name in PEERS),
                f"{first['ratio']:.2f}",
            ]
        )
    show(title, ["work", "batch", "our images/s", "ours", *PEERS, "ratio to the best"], lines)


def agreement(detections: Any, metrics: dict[str, Any], peer: "Peer") -> dict[str, Any]:
    """What both say about the same images: how many detections, how far apart, and the losses."""
    found, losses = peer.detect_unpasted(), peer.train()
    kept = [int(v) for v in np.asarray(detections.valid).sum(1)]
    scores = [
        (np.asarray(own)[:n], theirs["scores"].float().cpu().numpy())
        for own, n, theirs in zip(detections.scores, kept, found, strict=True)
    ]
    return {
        "detections": {"ours": kept, "torchvision": [len(theirs) for _, theirs in scores]},
        "largest_difference_of_scores": [
            float(np.abs(own[: len(theirs)] - theirs[: len(own)]).max(initial=0.0)) for own, theirs in scores
        ],
        "losses": {name: [float(metrics[name]), float(losses[theirs])] for theirs, name in LOSSES.items()},
    }


if __name__ == "__main__":
    tyro.cli(main)
