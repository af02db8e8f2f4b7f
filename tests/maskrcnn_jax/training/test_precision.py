"""bfloat16 by config: what computes in it and what stays float32, read off the traced step; and float64, where nothing
narrows. That bfloat16 learns as float32 does: `test_step.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maskrcnn_jax.layers import Affine
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step
from tests.small import SMALL, small_batch, small_model
from tests.traced import equations

WINDOWS = jnp.tile(jnp.array([0.0, 0.0, 64.0, 64.0]), (2, 1))
KEY = jax.random.key(0)
HALF = jnp.bfloat16
# Sums over many, and what loses digits: only in float32.
EXACT = {
    "reduce_sum",
    "scatter-add",
    "cumsum",
    "cumlogsumexp",
    "exp",
    "log",
    "log1p",
    "logistic",
    "rsqrt",
    "sqrt",
    "sort",
}
EXACT |= {"top_k", "argmax", "reduce_prod", "integer_pow"}
# The gradient of the FPN's doubling, a sum of 2x2.
OF_FOUR = "upsample"


def config_of(dtype, norm="group"):
    return dataclasses.replace(SMALL, compute_dtype=dtype, backbone=dataclasses.replace(SMALL.backbone, norm=norm))


def types(equation):
    return {v.aval.dtype for v in (*equation.invars, *equation.outvars) if hasattr(v.aval, "dtype")}


@pytest.mark.parametrize("norm", ["group", "affine"])
def test_what_computes_in_bfloat16(norm):
    optimizer = make_optimizer(optax.constant_schedule(3e-3), kind="adamw")
    graph, state = create_state(small_model(config=config_of("bfloat16", norm)), optimizer)
    step, batch = make_step(graph, optimizer), (*small_batch(1), WINDOWS, KEY)
    traced, (after, metrics) = jax.make_jaxpr(step, return_shape=True)(state, *batch)
    for leaf in jax.tree.leaves((after.params, after.optimizer, metrics)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    products = 0
    for equation, _ in equations(traced.jaxpr):
        name, where = equation.primitive.name, str(equation.source_info.traceback)
        if name in ("conv_general_dilated", "dot_general"):
            products += 1
            assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(HALF)}, f"{name} in float32\n{where}"
        elif name in EXACT and OF_FOUR not in where:
            assert HALF not in types(equation), f"{name} in bfloat16\n{where}"
        for part in ("layers.py", "geometry.py", "coding.py", "nms.py", "loss.py", "losses.py"):
            if f"{part}:" in where.partition("\n")[0] and name in ("mul", "sub", "div", "add"):
                assert HALF not in types(equation), f"{name} in bfloat16\n{where}"
    assert products > 50


def test_biases_and_norms_sum_in_float32():
    """The gradient of a shift is the number of cells; a sum of ones in bfloat16 stops at 256."""
    model = small_model(config=config_of("bfloat16", "affine"))
    ones = jnp.ones((4, 64, 64, 8), HALF)

    def total(layer):
        out = layer(ones)
        return out.astype(jnp.float32).sum(), out

    for layer, name in (
        (model.mask_head.double, "bias"),
        (model.mask_head.convs[0], "bias"),
        (model.backbone.stem_norm, "shift"),
    ):
        gradient, out = nnx.jit(nnx.grad(total, has_aux=True))(layer)
        gradient = gradient[name][...]
        cells = out.size // gradient.size
        np.testing.assert_array_equal(gradient, cells)


def test_nothing_narrows_in_float64():
    """Losses and gradients of the whole network, and the norm that it does not have."""
    with jax.enable_x64(True):
        images, truth = small_batch(1)
        truth = truth._replace(boxes=truth.boxes.astype(jnp.float64))
        graph, weights = nnx.split(small_model(config=config_of("float64")))
        weights = jax.tree.map(lambda p: p.astype(jnp.float64), weights)
        frozen = Affine(3)

        def total(weights, images):
            images = images + frozen(images)
            return nnx.merge(graph, weights).losses(images, truth, KEY, WINDOWS.astype(jnp.float64)).total

        run = jax.make_jaxpr(jax.value_and_grad(total), return_shape=True)
        traced, results = run(weights, images.astype(jnp.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(jnp.float64)}
    for equation, _ in equations(traced.jaxpr):
        if equation.primitive.name == "convert_element_type" and equation.outvars[0].aval.shape:
            before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
            assert before != jnp.float64 or after not in (jnp.float32, HALF), str(equation.source_info.traceback)
