"""Equal layers as one loop, the way deep networks are compiled in JAX (`jax.lax.scan`).

XLA compiles a layer that is written down twenty times twenty times over. Under a scan it compiles one, whose parameters
are slices of arrays in which those of all layers are stacked. Blocks of one stage of a ResNet are such layers (He et
al. 2015, table 1).
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Layer = TypeVar("Layer", bound=nnx.Module)


def scan_layers(
    layers: Sequence[Layer],
    features: Float[Array, "b h w c"],
    run: Callable[[Layer, Float[Array, "b h w c"]], Float[Array, "b h w c"]],
) -> Float[Array, "b h w c"]:
    """The features after all layers, one after the other, compiled as one loop.

    Args:
        layers: of equal structure, with parameters of their own; there may be none.
        features: input of the first layer.
        run: computes a layer; its output has the shape of its input.

    Raises:
        ValueError: a layer differs in structure from the first, or has variables besides parameters (statistics of a
            BatchNorm, random keys of a Dropout), whose changes the loop would lose.

    >>> layers = [nnx.Linear(2, 2, rngs=nnx.Rngs(seed)) for seed in range(3)]
    >>> scan_layers(layers, jnp.ones((1, 4, 4, 2)), lambda layer, features: layer(features)).shape
    (1, 4, 4, 2)
    """
    if not layers:
        return features
    remedy = "run them one by one: scan_blocks=False"
    graphs, parameters, others = zip(*(nnx.split(layer, nnx.Param, ...) for layer in layers), strict=True)
    for number, (graph, other) in enumerate(zip(graphs, others, strict=True), 1):
        if other:
            kinds = ", ".join(sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(other)}))
            raise ValueError(f"scan: layer {number} has variables besides parameters ({kinds}); {remedy}")
        if graph != graphs[0]:
            raise ValueError(f"scan: layer {number} differs in structure from layer 1; {remedy}")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parameters)
    return jax.lax.scan(lambda maps, own: (run(nnx.merge(graphs[0], own), maps), None), features, stacked)[0]
