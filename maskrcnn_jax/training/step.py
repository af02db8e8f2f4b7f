"""One training step, compiled once: losses, gradients of the trained part, clipped update.

`jax.jit` over an nnx module would lose its state updates silently; here the model is split into a static graph and
arrays, which go through plain `jax.jit`, and the old state's memory is donated to the new one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num, PRNGKeyArray

from maskrcnn_jax.structures import GroundTruth, Losses
from maskrcnn_jax.training.mesh import DATA
from maskrcnn_jax.training.state import TrainState, to_model

Metrics = dict[str, Num[Array, ""]]
Step = Callable[
    [TrainState, Num[Array, "b h w 3"], GroundTruth, Float[Array, "b 4"], PRNGKeyArray], tuple[TrainState, Metrics]
]


def make_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, mesh: Mesh | None = None) -> Step:
    """A jitted `step(state, images, truth, windows, key) -> (state, metrics)`.

    `key` is the run's; the step number is folded in, so that a resumed run draws the same anchors and RoIs. A step
    whose loss or gradients are not finite changes nothing but the step number (`metrics["skipped"]` is 1).
    Metrics: the six losses by name, `grad_norm` before clipping, `skipped`, and how many positives were drawn for the
    whole batch (`positive_anchors`, `positive_rois`): a loss that falls for want of them teaches nothing.

    On a `mesh` of several devices the batch is spread over them and the state is on each (see `mesh.py`, which places
    both). Every device differentiates its own images' share of the losses, and one sum over all of them follows; what
    the devices do otherwise they do alike. The result is that of one device, but for the order of sums. The step is
    made for the platform of the mesh, or without one for JAX's default.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    several = mesh is not None and mesh.size > 1
    axis = DATA if several else None

    def gradients_of(params, frozen, images, truth, windows, key):
        def loss_of(params) -> tuple[Array, tuple[Losses, dict[str, Array]]]:
            found = to_model(graph, params, frozen).compare(images, truth, key, windows, axis=axis)
            drawn = {"positive_anchors": found.anchors.positive.sum(), "positive_rois": found.rois.positive.sum()}
            return found.losses.total, (found.losses, drawn)

        gradients, found = jax.grad(loss_of, has_aux=True)(params)
        return jax.lax.psum((gradients, found), axis) if several else (gradients, found)

    if several:
        # Written out rather than left to XLA's partitioner, which gathers the feature maps of all devices wherever an
        # index into a batch is computed, as in RoI Align. Unchecked: the checks want loops' carries marked as varying.
        gradients_of = jax.shard_map(
            gradients_of,
            mesh=mesh,
            in_specs=(P(), P(), P(DATA), P(DATA), P(DATA), P()),
            out_specs=P(),
            check_vma=False,
        )

    def update(gradients, state, loss):
        norm = optax.tree.norm(gradients)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        params, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, optimizer_state), (state.params, state.optimizer)
        )
        return params, optimizer_state, norm, finite

    def update_apart(*arguments):
        # XLA would fuse the end of each gradient into its parameter's update, and compile one for every parameter
        # rather than for every shape. The attribute is one that its CPU compiler alone is known to take.
        with set_xla_metadata(inlineable="false"):
            return jax.jit(update)(*arguments)

    def step(state, images, truth, windows, key):
        key = jax.random.fold_in(key, state.step)
        gradients, (losses, drawn) = gradients_of(state.params, state.frozen, images, truth, windows, key)
        # Not `platform_dependent`, which traces both: a second of ResNet101's start.
        chosen = update_apart if platform == "cpu" else update
        params, optimizer_state, norm, finite = chosen(gradients, state, losses.total)
        metrics = {**losses._asdict(), "grad_norm": norm, "skipped": 1.0 - finite.astype(jnp.float32)} | drawn
        return TrainState(params, state.frozen, optimizer_state, state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)
