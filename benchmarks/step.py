"""How fast is a training step, and where does its time go? `python -m benchmarks.step [--batches 1 2]`.

ResNet101-FPN at 512 (`workload.py`): images a second in training and inference for each batch size and type, the
model's FLOPs (three times the forward pass for a step) as a share of the matmul peak measured in the same turns, the
memory that the compiled program asks for, what tracing and compiling cost, cold and with the program on disk, and a
breakdown of the step by stage.

The breakdown times each stage as a program of its own, on the step's real intermediate results: XLA fuses across
stages, so the parts need not add up to the whole. "backward" is the gradient's program less the forward one's,
"optimizer" the step's less the gradient's.

Writes benchmarks/results/<hardware>-step.json with every sample.
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import workload
from benchmarks.measuring import device_memory, in_turns, matmul, median, model_flops, readable, save, show
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


def stages(model: MaskRCNN, training: workload.Training) -> dict[str, Callable[[], Any]]:
    """Each stage of the step as a jitted call on the results of those before it."""
    images, truth, windows, key = training.data
    size = (images.shape[1], images.shape[2])
    graph, weights = nnx.split(model)
    roi = model.config.roi

    def with_model(function: Callable) -> Callable:
        run = jax.jit(lambda weights, *arguments: function(nnx.merge(graph, weights), *arguments))
        return lambda *arguments: run(weights, *arguments)

    backbone = with_model(lambda m, images: m.backbone(normalise(images, windows, config=m.config.image)))
    fpn = with_model(lambda m, *maps: m.fpn(maps))
    rpn = with_model(lambda m, pyramid: m.rpn(pyramid))
    propose = with_model(lambda m, o, d: m.propose(o, d, windows, size=size, training=True))
    supervise = with_model(lambda m, p, o, d: m.supervise(p, o, d, truth, key, windows))
    pool_boxes = with_model(lambda m, p, boxes: m.pool(p, boxes, output_size=roi.box_head.size))
    pool_masks = with_model(lambda m, p, boxes: m.pool(p, boxes, output_size=roi.mask_head.size))
    box_head = with_model(lambda m, pooled: m.box_head(pooled.reshape(-1, *pooled.shape[2:])))
    mask_head = with_model(lambda m, pooled: m.mask_head(pooled.reshape(-1, *pooled.shape[2:])))
    forward = with_model(lambda m, images: m.losses(images, truth, key, windows))

    def loss(weights: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, weights).losses(images, truth, key, windows).total

    gradient = jax.jit(jax.grad(loss))

    maps = backbone(images)
    pyramid = fpn(*maps[1:])
    objectness, deltas = rpn(pyramid)
    rois = supervise(pyramid, objectness, deltas).rois.boxes
    positive = rois[:, : roi.targets.max_positive]
    for_boxes, for_masks = pool_boxes(pyramid, rois), pool_masks(pyramid, positive)
    return {
        "backbone": lambda: backbone(images),
        "FPN": lambda: fpn(*maps[1:]),
        "RPN": lambda: rpn(pyramid),
        "proposals": lambda: propose(objectness, deltas),
        "RoI Align, boxes": lambda: pool_boxes(pyramid, rois),
        "RoI Align, masks": lambda: pool_masks(pyramid, positive),
        "box head": lambda: box_head(for_boxes),
        "mask head": lambda: mask_head(for_masks),
        "targets, heads and losses": lambda: supervise(pyramid, objectness, deltas),
        "whole forward": lambda: forward(images),
        "gradient": lambda: gradient(weights, images),
        "step": training,
    }


def measure(b: int, size: int, dtype: Type, repeats: int, breakdown: bool) -> dict[str, Any]:
    """One batch size and type."""
    model = MaskRCNN(workload.config(size, dtype=dtype), rngs=nnx.Rngs(0))
    images, truth = workload.as_batch([workload.make_scene(seed, size=size) for seed in range(b)])
    training, detecting = workload.Training(model, images, truth), workload.Detecting(model, images)
    graph, weights = nnx.split(model)
    forward = model_flops(
        lambda weights: nnx.merge(graph, weights).losses(images, truth, jax.random.key(0)).total, weights
    )
    detection = model_flops(lambda weights: nnx.merge(graph, weights).detect(images), weights)
    compiling = compile_seconds(lambda: training.step.lower(training.state, *training.data))
    memory = {
        "training": device_memory(training.step.lower(training.state, *training.data).compile()),
        "inference": device_memory(detecting.detect.lower(weights, images).compile()),
    }
    multiply, flops = matmul(dtype=jnp.dtype(dtype))
    seconds = in_turns({"training": training, "inference": detecting, "matmul": multiply}, repeats=repeats)
    peak = flops / min(seconds["matmul"])
    found: dict[str, Any] = {"batch": b, "dtype": dtype, "seconds": seconds, "peak_flops_per_second": peak}
    found |= {"compile_seconds": compiling, "memory_bytes": memory}
    for work, model_work in (("training", 3 * forward), ("inference", detection)):
        middle = median(seconds[work])
        found[work] = {
            "images_per_second": b / middle,
            "model_flops_an_image": model_work / b,
            "share_of_peak": model_work / middle / peak,
        }
    if breakdown:
        parts = in_turns(stages(model, training), repeats=repeats)
        middle = {name: median(samples) for name, samples in parts.items()}
        found["stages"] = parts
        found["stage_seconds"] = middle | {
            "backward": middle["gradient"] - middle["whole forward"],
            "optimizer": middle["step"] - middle["gradient"],
        }
    return found


def main(
    batches: tuple[int, ...] = (1, 2),
    size: int = 512,
    dtypes: tuple[Type, ...] = ("float32",),
    repeats: int = 5,
    breakdown: bool = True,
) -> None:
    """Time, write.

    Args:
        batches: images a step; a GPU wants 1 to 64.
        size: side of the square images.
        dtypes: of convolutions and matrix products; CPUs without bfloat16 units are slower in it.
        repeats: samples of each.
        breakdown: time the stages as well, for the first batch size.
    """
    results = [measure(b, size, dtype, repeats, breakdown and b == batches[0]) for dtype in dtypes for b in batches]
    path = save(
        "how fast is a training step, and where does its time go?",
        "step",
        settings={"image_size": size, "repeats": repeats, "depth": 101, "rois": 512, "positive_rois": 128},
        results=results,
    )
    show(
        f"ResNet101-FPN at {size}",
        ["batch", "type", "work", "images/s", "GFLOP/image", "share of peak", "memory", "trace + compile, from disk"],
        [
            [
                str(r["batch"]),
                r["dtype"],
                work,
                f"{r[work]['images_per_second']:.3g}",
                f"{r[work]['model_flops_an_image'] / 1e9:.0f}",
                f"{r[work]['share_of_peak']:.0%}",
                f"{(r['memory_bytes'][work] or 0) / 2**30:.2f} GiB",
                "{trace:.1f} + {compile_cold:.1f} s, {compile_from_disk:.1f} s".format(**r["compile_seconds"])
                if work == "training"
                else "",
            ]
            for r in results
            for work in ("training", "inference")
        ],
    )
    for r in results:
        if "stage_seconds" in r:
            whole = r["stage_seconds"]["step"]
            show(
                f"stages of a step, batch {r['batch']}, {r['dtype']}",
                ["stage", "time", "share of the step"],
                [[name, readable(t), f"{t / whole:.0%}"] for name, t in r["stage_seconds"].items()],
            )
    console.print(str(path))


if __name__ == "__main__":
    tyro.cli(main)
