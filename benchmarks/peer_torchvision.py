"""Is our network faster than torchvision's? `python -m benchmarks.peer_torchvision`.

The same weights (torchvision's, read by our converter), images and objects, on the same machine, in turns in one
process: a training step of ResNet101-FPN at 512 with everything trained and 128 positive RoIs an image, and inference.
Torchvision runs eager, eager with channels last and, where asked, compiled by `torch.compile`; the best of them counts.
Before the clock starts, the losses and the detections of both are compared: it has to be the same work.

Needs torch and torchvision, which nothing else here does: `pip install torch torchvision`. Without them this prints the
figures recorded on another machine of two cores, for orientation only.

Writes benchmarks/results/<hardware>-peer-torchvision-<dtype>.json with every sample.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from flax import nnx

from benchmarks import workload
from benchmarks.measuring import in_turns, median, readable, save, show
from crystal.console import console
from crystal.training.machine import describe_machine
from maskrcnn_jax.convert import load
from maskrcnn_jax.model import MaskRCNN

RECORDED = "torchvision 0.29, 2 cores, float32, batch 1: training step 6.7 s (128 positives), inference 2.16 s"


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
    repeats: int = 5,
    compiled: bool = False,
    threads: int | None = None,
) -> None:
    """Check that it is the same work, time in turns, write.

    Args:
        batches: images a step.
        size: side of the square images.
        dtype: bfloat16 is our compute_dtype, and AMP there.
        repeats: samples of each call.
        compiled: try torch.compile as well, which compiles for minutes.
        threads: torch's; as many as cores unless told.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        console.print(f"Nothing measured: pip install torch torchvision. Recorded elsewhere: {RECORDED}")
        sys.exit(1)
    import torch
    import torchvision

    from benchmarks.torchvision_peer import Peer

    gpu = jax.default_backend() == "gpu"
    device = "cuda" if gpu else "cpu"
    if gpu:
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(threads or describe_machine()["cores"])
    results = []
    for b in batches:
        scenes = [workload.make_scene(seed, size=size) for seed in range(b)]
        variants = {"eager": {}, "channels last": {"channels_last": True}}
        if compiled:
            variants["compiled"] = {"channels_last": True, "compiled": True}
        peers = {
            name: Peer(scenes, device=device, amp=dtype == "bfloat16", **options) for name, options in variants.items()
        }
        images, truth = workload.as_batch(scenes)
        model = ours(next(iter(peers.values())).weights, size, dtype)
        detecting, training = workload.Detecting(model, images), workload.Training(model, images, truth)
        same = compare(detecting(), training(), next(iter(peers.values())))
        for work, own, others in (
            ("training step", training, {name: peer.train for name, peer in peers.items()}),
            ("inference", detecting, {name: peer.detect_unpasted for name, peer in peers.items()}),
            ("inference, torchvision pastes masks", detecting, {name: peer.detect for name, peer in peers.items()}),
        ):
            seconds = in_turns({"ours": own, **others}, repeats=repeats)
            best = min(others, key=lambda name: median(seconds[name]))
            ratio = median(seconds["ours"]) / median(seconds[best])
            results.append(
                {"work": work, "batch": b, "seconds": seconds, "best_peer": best, "ratio": ratio, "same_work": same}
            )
    path = save(
        "is our network faster than torchvision's?",
        f"peer-torchvision-{dtype}",
        settings={"image_size": size, "dtype": dtype, "repeats": repeats},
        peer={"torch": torch.__version__, "torchvision": torchvision.__version__, "threads": torch.get_num_threads()},
        results=results,
    )
    rows = [
        [
            r["work"],
            str(r["batch"]),
            readable(median(r["seconds"]["ours"])),
            *(readable(median(r["seconds"][name])) if name in r["seconds"] else "" for name in variants),
            f"{r['ratio']:.2f}",
        ]
        for r in results
    ]
    show(f"ResNet101-FPN at {size}, {dtype}", ["work", "batch", "ours", *variants, "ratio to the best"], rows)
    console.print(str(path))


def compare(detections, metrics, peer) -> dict:
    """What both say about the same images: how many detections, how far apart, and the losses."""
    found = peer.detect_unpasted()
    theirs = peer.train()
    kept = [int(v) for v in np.asarray(detections.valid).sum(1)]
    apart = [
        float(np.abs(np.asarray(detections.scores[i])[:n] - one["scores"].float().cpu().numpy()[:n]).max(initial=0.0))
        for i, (one, n) in enumerate(zip(found, kept, strict=True))
    ]
    names = {"loss_objectness": "rpn_class", "loss_rpn_box_reg": "rpn_box", "loss_classifier": "roi_class"}
    names |= {"loss_box_reg": "roi_box", "loss_mask": "roi_mask"}
    return {
        "detections": {"ours": kept, "torchvision": [len(one["scores"]) for one in found]},
        "largest_difference_of_scores": apart,
        "losses": {ours: [float(metrics[ours]), float(theirs[name])] for name, ours in names.items()},
    }


if __name__ == "__main__":
    tyro.cli(main)
