"""One training step, compiled once: losses, gradients of the trained parameters, update.

`jax.jit` of a function of an nnx module silently loses its state updates. Here the model is split into a static graph
definition and arrays, and the memory of the old state is donated to the new one.
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

    `key` is the key of the run; the step number is folded in, so that a resumed run samples the same anchors and RoIs.
    A step with a NaN or infinite loss or gradient only increments the step number (`metrics["skipped"]` is 1).
    Metrics: the six losses by name, `grad_norm` before clipping, `skipped`, and the number of positives sampled in the
    whole batch (`positive_anchors`, `positive_rois`), without which a low loss means nothing.

    On a `mesh` of several devices the batch is sharded and the state replicated (by the functions of `mesh.py`). Each
    device computes the gradients of its images' terms of the losses, which are then summed over all devices. The result
    equals that of one device up to the order of summation. The step is compiled for the platform of the mesh, or for
    JAX's default without one.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    several = mesh is not None and mesh.size > 1
    axis = DATA if several else None

    def gradients_of(params, frozen, images, truth, windows, key):
        def loss_of(params) -> tuple[Array, tuple[Losses, dict[str, Array]]]:
            result = to_model(graph, params, frozen).compare(images, truth, key, windows, axis=axis)
            counts = {"positive_anchors": result.anchors.positive.sum(), "positive_rois": result.rois.positive.sum()}
            return result.losses.total, (result.losses, counts)

        gradients, measured = jax.grad(loss_of, has_aux=True)(params)
        return jax.lax.psum((gradients, measured), axis) if several else (gradients, measured)

    if several:
        # Explicit, because XLA's partitioner gathers the feature maps of all devices where an index into a batch is
        # computed, as in RoI Align. Without checks, which require that carries of loops are marked as varying.
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

    def separate_update(*arguments):
        # Otherwise XLA fuses the end of each gradient into its parameter's update, and compiles one update per
        # parameter instead of one per shape. Only its CPU compiler is known to support the attribute.
        with set_xla_metadata(inlineable="false"):
            return jax.jit(update)(*arguments)

    def step(state, images, truth, windows, key):
        key = jax.random.fold_in(key, state.step)
        gradients, (losses, counts) = gradients_of(state.params, state.frozen, images, truth, windows, key)
        # Not `platform_dependent`, which would trace both.
        chosen = separate_update if platform == "cpu" else update
        params, optimizer_state, norm, finite = chosen(gradients, state, losses.total)
        metrics = {**losses._asdict(), "grad_norm": norm, "skipped": 1.0 - finite.astype(jnp.float32)} | counts
        return TrainState(params, state.frozen, optimizer_state, state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)
