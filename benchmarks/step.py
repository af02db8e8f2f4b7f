"""How fast is a training step, and where does its time go? `python -m benchmarks.step [--batches 1 2]`.

ResNet101-FPN at 512 (`workload.py`): images a second in training and inference for each batch size and type; FLOPs of
the model (three times the forward pass for a step) as a share of the matmul peak measured in the same turns, and of the
datasheet's (MFU); the memory that the compiled program asks for, and what the device had in use at most; what tracing
and compiling cost, cold and with the program on disk; and a breakdown of the step by stage.

The breakdown times each stage as a program of its own, on the step's real intermediate results: XLA fuses across
stages, so the parts need not add up to the whole. "backward" is the gradient's program less the forward one's,
"optimizer" the step's less the gradient's. `--profile DIR` shows the step itself (docs/how_to/profile.md).

Writes benchmarks/results/<hardware>-step.json with every sample, after each batch size.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import profiling, workload
from benchmarks.measuring import (
    Repeated,
    device_memory,
    in_loop,
    in_program,
    in_turns,
    median,
    model_flops,
    readable,
    results_file,
    save,
    show,
    warn_if_busy,
)
from benchmarks.peaks import datasheet_flops, matmul, peak_memory
from crystal.console import console
from maskrcnn_jax.image.normalise import normalise
from maskrcnn_jax.model import MaskRCNN

Type = Literal["float32", "bfloat16"]


def compile_seconds(lower: Callable[[], jax.stages.Lowered]) -> dict[str, float]:
    """Of tracing, of compiling with nothing on disk, and of loading the same program from disk."""
    found = {}
    before = jax.config.values["jax_compilation_cache_dir"]
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()  # it would keep to the folder that it used before
        for name in ("compile_cold", "compile_from_disk"):
            jax.clear_caches()
            begun = time.perf_counter()
            lowered = lower()
            traced = time.perf_counter()
            lowered.compile()
            found |= {"trace": traced - begun, name: time.perf_counter() - traced}
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()
    return found


def stages(model: MaskRCNN, training: workload.Training) -> dict[str, Repeated]:
    """Each stage of the step as a call on the results of those before it, which are its arguments."""
    images, truth, windows, key = training.data
    size = (images.shape[1], images.shape[2])
    graph, weights = nnx.split(model)
    roi = model.config.roi
    calls = {}

    def stage(name: str, function: Callable, *arguments: Any) -> Any:
        """Note a stage; its results."""
        calls[name] = in_program(lambda w, *a: function(nnx.merge(graph, w), *a), weights, *arguments)
        return calls[name]()

    def gradient(m: MaskRCNN, *data: Any) -> Any:
        own, values = nnx.split(m)
        return jax.grad(lambda values: nnx.merge(own, values).losses(*data).total)(values)

    maps = stage("backbone", lambda m, i, w: m.backbone(normalise(i, w, config=m.config.image)), images, windows)
    pyramid = stage("FPN", lambda m, maps: m.fpn(maps), maps[1:])
    found = stage("RPN", lambda m, pyramid: m.rpn(pyramid), pyramid)
    stage("proposals", lambda m, o, d, w: m.propose(o, d, w, size=size, training=True), *found, windows)
    supervised = "targets, heads and losses"
    rois = stage(supervised, lambda m, *a: m.supervise(*a), pyramid, *found, truth, key, windows).rois.boxes
    for_boxes = stage("RoI Align, boxes", lambda m, p, b: m.pool(p, b, output_size=roi.box_head.size), pyramid, rois)
    positive = rois[:, : roi.targets.max_positive]
    for_masks = stage(
        "RoI Align, masks", lambda m, p, b: m.pool(p, b, output_size=roi.mask_head.size), pyramid, positive
    )
    stage("box head", lambda m, pooled: m.box_head(pooled.reshape(-1, *pooled.shape[2:])), for_boxes)
    stage("mask head", lambda m, pooled: m.mask_head(pooled.reshape(-1, *pooled.shape[2:])), for_masks)
    calls[supervised] = calls.pop(supervised)  # after its parts
    stage("whole forward", lambda m, *data: m.losses(*data), images, truth, key, windows)
    stage("gradient", gradient, images, truth, key, windows)
    return calls | {"step": in_loop(training)}


def breakdown_of(model: MaskRCNN, training: workload.Training, repeats: int) -> dict[str, Any]:
    """Samples of each stage, and the middle ones, with what is the difference of two."""
    parts = in_turns(stages(model, training), repeats=repeats)
    middle = {name: median(samples) for name, samples in parts.items()}
    differences = {
        "backward": middle["gradient"] - middle["whole forward"],
        "optimizer": middle["step"] - middle["gradient"],
    }
    return {"stages": parts, "stage_seconds": middle | differences}


def measure(
    b: int, size: int, dtype: Type, repeats: int, *, compiling: bool, breakdown: bool, profile: Path | None
) -> dict[str, Any]:
    """One batch size and type."""
    console.print(f"batch {b}, {dtype}: compiling")
    model = MaskRCNN(workload.config(size, dtype=dtype), rngs=nnx.Rngs(0))
    images, truth = workload.as_batch([workload.make_scene(seed, size=size) for seed in range(b)])
    training, detecting = workload.Training(model, images, truth), workload.Detecting(model, images)
    graph, weights = nnx.split(model)
    key = jax.random.key(0)
    flops = {
        "training": 3 * model_flops(lambda w, *data: nnx.merge(graph, w).losses(*data), weights, images, truth, key),
        "inference": model_flops(lambda w, images: nnx.merge(graph, w).detect(images), weights, images),
    }
    found: dict[str, Any] = {"image_size": size, "batch": b, "dtype": dtype}
    if compiling:
        found["compile_seconds"] = compile_seconds(lambda: training.step.lower(training.state, *training.data))
    program = training.compile()
    found["memory_bytes"] = {"training": device_memory(program), "inference": device_memory(detecting.compile())}
    multiply, products = matmul(dtype=jnp.dtype(dtype))
    calls = {"training": in_loop(training), "inference": in_loop(detecting), "matmul": multiply}
    seconds = in_turns(calls, repeats=repeats)
    peak, datasheet = products / min(seconds["matmul"]), datasheet_flops(dtype)
    found |= {"seconds": seconds, "peak_flops_per_second": peak, "datasheet_flops_per_second": datasheet}
    found["peak_memory_bytes"] = peak_memory()  # of the process: that of the largest batch so far
    for work, model_work in flops.items():
        rate = model_work / median(seconds[work])
        found[work] = {
            "images_per_second": b / median(seconds[work]),
            "model_flops_an_image": model_work / b,
            "share_of_peak": rate / peak,
            "mfu": rate / datasheet if datasheet else None,
        }
    if profile:
        profiling.record(training, profile / f"training-batch-{b}-{dtype}", program)
    return found | (breakdown_of(model, training, repeats) if breakdown else {})


def main(
    batches: tuple[int, ...] = (1, 2),
    size: int = 512,
    dtypes: tuple[Type, ...] = ("float32",),
    repeats: int = 5,
    breakdown: bool = True,
    compiling: bool = True,
    profile: Path | None = None,
    out: Path | None = None,
) -> None:
    """Time, write.

    Args:
        batches: images a step, in ascending order; a GPU wants 16 and 64.
        size: side of the square images.
        dtypes: of convolutions and matrix products; CPUs without bfloat16 units are slower in it.
        repeats: samples of each.
        breakdown: time the stages as well, for the first batch size.
        compiling: time that as well, which compiles a second time.
        profile: a folder for a profile of a few steps of each.
        out: a file or folder for the results.
    """
    warn_if_busy()
    rows = []
    for dtype in dtypes:
        for b in batches:
            first = breakdown and b == batches[0]
            rows.append(measure(b, size, dtype, repeats, compiling=compiling, breakdown=first, profile=profile))
            save(
                "how fast is a training step, and where does its time go?",
                "step",
                settings={"repeats": repeats, "depth": 101, "rois": 512, "positive_rois": 128},
                out=out,
                rows=rows,
                key=("image_size", "batch", "dtype"),
            )
    report(rows)
    console.print(str(results_file("step", out)))


def report(rows: list[dict[str, Any]]) -> None:
    """Print the tables."""
    show(
        f"ResNet101-FPN at {rows[0]['image_size']}",
        [
            *("batch", "type", "work", "images/s", "GFLOP/image", "of the matmul peak", "MFU"),
            *("memory of the program", "of the device", "trace + compile, from disk"),
        ],
        [
            [
                str(r["batch"]),
                r["dtype"],
                work,
                f"{r[work]['images_per_second']:.3g}",
                f"{r[work]['model_flops_an_image'] / 1e9:.0f}",
                f"{r[work]['share_of_peak']:.0%}",
                f"{r[work]['mfu']:.1%}" if r[work]["mfu"] else "",
                gibibytes(r["memory_bytes"][work]),
                gibibytes(r["peak_memory_bytes"]) if work == "training" else "",
                "{trace:.1f} + {compile_cold:.1f} s, {compile_from_disk:.1f} s".format(**r["compile_seconds"])
                if work == "training" and "compile_seconds" in r
                else "",
            ]
            for r in rows
            for work in ("training", "inference")
        ],
    )
    for r in rows:
        if "stage_seconds" in r:
            whole = r["stage_seconds"]["step"]
            show(
                f"stages of a step, batch {r['batch']}, {r['dtype']}",
                ["stage", "time", "share of the step"],
                [[name, readable(t), f"{t / whole:.0%}"] for name, t in r["stage_seconds"].items()],
            )


def gibibytes(n: int | None) -> str:
    """Bytes as a table shows them.

    >>> gibibytes(3 << 29), gibibytes(None)
    ('1.50 GiB', '')
    """
    return "" if n is None else f"{n / 2**30:.2f} GiB"


if __name__ == "__main__":
    tyro.cli(main)
