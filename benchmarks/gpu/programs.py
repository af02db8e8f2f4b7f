"""Compiles training and inference for a GPU that is not there: XLA needs only a description of it.

The description is that of a file in `targets/`. Everything else is as in a real run: the network in bfloat16, the whole
training step, uint8 images, and ground truth of eight objects an image as arguments.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import workload
from benchmarks.gpu.target import Target
from benchmarks.measuring import device_memory, model_flops
from crystal.prediction.trained_model import for_this_machine
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step

OBJECTS = 8  # slots of the ground truth
# No trials of algorithms, which need the device; sorts and convolutions are then chosen by rules.
OPTIONS = {"xla_gpu_autotune_level": 0}

jax.config.update("jax_platforms", "cpu")  # what runs here; JAX's CUDA plugin fails where it looks for a driver


class Work(NamedTuple):
    """What is compiled: `training` or inference, of a batch, of a config, on images of `size`."""

    training: bool
    batch: int
    config: MaskRCNNConfig
    size: int


class Compiled(NamedTuple):
    """A compiled program's text, what it needs in memory, in bytes, and the model's FLOPs, counted before compiling."""

    text: str
    temporary: int
    memory: int
    model_flops: float


def works(size: int = 512) -> dict[str, Work]:
    """The programs that are planned, by name: torchvision's work and the paper's, both of ResNet101."""
    torchvision = workload.config(size, depth=101, dtype="bfloat16", platform="gpu")
    paper = for_this_machine(dataclasses.replace(MaskRCNNConfig.paper(), compute_dtype="bfloat16"), platform="gpu")
    return {
        "train-16": Work(True, 16, torchvision, size),
        "train-64": Work(True, 64, torchvision, size),
        "infer-16": Work(False, 16, torchvision, size),
        "infer-64": Work(False, 64, torchvision, size),
        "paper-16": Work(True, 16, paper, size),
        "paper-64": Work(True, 64, paper, size),
    }


def compile_for(target: Target, work: Work) -> Compiled:
    """The optimized program of one step or one pass, compiled for a target without a device.

    Raises:
        RuntimeError: JAX has no GPU plugin, or it cannot compile without a device.
    """
    topology = topologies.get_topology_desc(platform="cuda", target_config=target.xla, topology="1x1x1")
    mesh = Mesh(np.array(topology.devices), ("data",))
    function, arguments = _step(work, mesh) if work.training else _pass(work)
    sharded = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, P())), arguments
    )
    compiled = function.trace(*sharded).lower(lowering_platforms=("cuda",)).compile(compiler_options=OPTIONS)
    used = compiled.memory_analysis()
    return Compiled(compiled.as_text(), used.temp_size_in_bytes, device_memory(compiled) or 0, _flops(work))


def _batch(work: Work) -> tuple[Any, GroundTruth, Any]:
    """(images, truth, windows) without content."""
    b, g, cells = work.batch, OBJECTS, workload.MASK_CELLS
    shapes = {
        "boxes": ((b, g, 4), jnp.float32),
        "classes": ((b, g), jnp.int32),
        "masks": ((b, g, cells, cells), jnp.uint8),
    }
    shapes |= {"valid": ((b, g), bool), "crowd": ((b, g), bool)}
    arrays: dict[str, Any] = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    truth = GroundTruth(**arrays)
    images = jax.ShapeDtypeStruct((b, work.size, work.size, 3), jnp.uint8)
    return images, truth, jax.ShapeDtypeStruct((b, 4), jnp.float32)


def _step(work: Work, mesh: Mesh) -> tuple[Any, tuple]:
    """The jitted step, and its arguments without content."""
    optimizer, graphs = make_optimizer(optax.constant_schedule(workload.LEARNING_RATE)), []

    def begin() -> Any:
        graph, state = create_state(MaskRCNN(work.config, rngs=nnx.Rngs(0)), optimizer, norms=False)
        graphs.append(graph)
        return state

    state = jax.eval_shape(begin)
    return make_step(graphs[0], optimizer, mesh), (state, *_batch(work), jax.eval_shape(lambda: jax.random.key(0)))


def _pass(work: Work) -> tuple[Any, tuple]:
    """The jitted pass to detections, and its arguments without content."""
    graph, weights = nnx.split(nnx.eval_shape(lambda: MaskRCNN(work.config, rngs=nnx.Rngs(0))))
    return jax.jit(lambda weights, images: nnx.merge(graph, weights).detect(images)), (weights, _batch(work)[0])


def _flops(work: Work) -> float:
    """FLOPs of the model, as `measuring.model_flops` counts them: three times the forward pass for a step."""
    graph, weights = nnx.split(nnx.eval_shape(lambda: MaskRCNN(work.config, rngs=nnx.Rngs(0))))
    images, truth, windows = _batch(work)
    if not work.training:
        return model_flops(lambda weights, images: nnx.merge(graph, weights).detect(images), weights, images)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def loss(weights: Any, images: Any, truth: GroundTruth, key: Any, windows: Any) -> Any:
        return nnx.merge(graph, weights).losses(images, truth, key, windows).total

    return 3 * model_flops(loss, weights, images, truth, key, windows)
