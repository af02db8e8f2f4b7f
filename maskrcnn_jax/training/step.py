"""One training step, compiled once: losses, gradients of the trained parameters, update.

`jax.jit` of a function of an nnx module silently loses its state updates. Here the model is split into a static graph
definition and arrays, and the memory of the old state is donated to the new one.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num, PRNGKeyArray

from maskrcnn_jax.kernels.subprogram import not_inlined
from maskrcnn_jax.structures import GroundTruth, Losses
from maskrcnn_jax.training.mesh import DATA
from maskrcnn_jax.training.state import TrainState, to_model

Metrics = dict[str, Num[Array, ""]]
Step = Callable[
    [TrainState, Num[Array, "b h w 3"], GroundTruth, Float[Array, "b 4"], PRNGKeyArray], tuple[TrainState, Metrics]
]


def make_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, mesh: Mesh | None = None) -> Step:
    """A jitted `step(state, images, truth, windows, key) -> (state, metrics)`.

    Each call must have arrays of the same shapes: other ones compile another program. The arrays of the state that is
    passed in are deleted. A step with a NaN or infinite loss or gradient only increments the step number.

    Args:
        graph: the model without its arrays, from `create_state`.
        optimizer: the one that `create_state` was given.
        mesh: devices to compute on. On several the batch is sharded and the state replicated (by the functions of
            `mesh.py`); each device computes the gradients of its images' terms of the losses, which are summed over all
            devices. The result equals that of one device up to the order of summation. Default: JAX's default device.

    Returns:
        A function whose `key` is that of the run: the step number is folded in, so that a resumed run samples the same
        anchors and RoIs. Its metrics are scalars: the six losses by name; `grad_norm`, before clipping; `skipped`, 1
        where the step changed nothing; and the number of positives sampled in the whole batch (`positive_anchors`,
        `positive_rois`), without which a low loss means nothing.

    The shapes of a step of the tiny network, on one image with up to five objects (`eval_shape` computes nothing):

    >>> from maskrcnn_jax import MaskRCNN, MaskRCNNConfig
    >>> from maskrcnn_jax.training.state import create_state
    >>> def first_step():
    ...     rule, key = optax.sgd(0.1), jax.random.key(0)
    ...     graph, state = create_state(MaskRCNN(MaskRCNNConfig.tiny(), rngs=nnx.Rngs(0)), rule)
    ...     images, window = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.array([[0.0, 0.0, 64.0, 64.0]])
    ...     boxes, classes, masks = jnp.zeros((1, 5, 4)), jnp.zeros((1, 5), jnp.int32), jnp.zeros((1, 5, 28, 28))
    ...     truth = GroundTruth(boxes, classes, masks, valid=classes > 0, crowd=classes > 0)
    ...     return make_step(graph, rule)(state, images, truth, window, key)
    >>> state, metrics = jax.eval_shape(first_step)
    >>> metrics["total"].shape, state.params["box_head"]["classes"]["kernel"].shape
    ((), (128, 2))
    """
    gradients_of = _sharded(graph, mesh) if mesh and mesh.size > 1 else partial(_gradients, graph, None)

    def step(state, images, truth, windows, key):
        key = jax.random.fold_in(key, state.step)
        gradients, (losses, counts) = gradients_of(state.params, state.frozen, images, truth, windows, key)
        update = partial(_update, optimizer)
        if to_model(graph, state.params, state.frozen).config.kernels == "cpu":
            update = not_inlined(update)
        params, optimizer_state, norm, finite = update(gradients, state, losses.total)
        metrics = {**losses._asdict(), "grad_norm": norm, "skipped": 1.0 - finite.astype(jnp.float32)} | counts
        return TrainState(params, state.frozen, optimizer_state, state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)


def _gradients(graph, axis, params, frozen, images, truth, windows, key):
    """(gradients of the total loss by `params`, (losses, counts)); on several devices those of one device's images."""

    def loss_of(params) -> tuple[Array, tuple[Losses, dict[str, Array]]]:
        result = to_model(graph, params, frozen).compare(images, truth, key, windows, axis=axis)
        counts = {"positive_anchors": result.anchors.positive.sum(), "positive_rois": result.rois.positive.sum()}
        return result.losses.total, (result.losses, counts)

    return jax.grad(loss_of, has_aux=True)(params)


def _sharded(graph, mesh):
    """`_gradients` of a batch that is spread over the devices of a mesh, summed over them."""

    def summed(*arguments):
        return jax.lax.psum(_gradients(graph, DATA, *arguments), DATA)

    # Explicit, because XLA's partitioner gathers the feature maps of all devices where an index into a batch is
    # computed, as in RoI Align. Without checks, which require that carries of loops are marked as varying.
    batch, whole = P(DATA), P()
    specs = (whole, whole, batch, batch, batch, whole)
    return jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)


def _update(optimizer, gradients, state, loss):
    """(params, optimizer's state, norm of the gradients, whether all is finite); unchanged where it is not."""
    # Of one vector, as in the optimizer's clipping: a norm for each parameter is two kernels on a GPU.
    norm = optax.tree.norm(ravel_pytree(gradients)[0])
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    new, old = (params, optimizer_state), (state.params, state.optimizer)
    params, optimizer_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    return params, optimizer_state, norm, finite
