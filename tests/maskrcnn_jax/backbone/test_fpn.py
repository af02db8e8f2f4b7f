import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.backbone.fpn import FPN, upsample
from tests import oracles, recorded
from tests.traced import assert_finite_gradients, assert_jit_changes_nothing


def maps(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return tuple(
        jax.random.normal(key, (1, side, 2 * side, channels))
        for key, side, channels in zip(keys, (16, 8, 4, 2), (2, 3, 4, 5), strict=True)
    )


@pytest.fixture(scope="module")
def fpn():
    return FPN((2, 3, 4, 5), 3, rngs=nnx.Rngs(0))


run = nnx.jit(lambda fpn, maps: fpn(maps))


def test_upsample_of_keras():
    g = recorded.load("matterport_layers")
    np.testing.assert_array_equal(upsample(jnp.asarray(g["kp_x"])), g["kp_upsample2_out"])


def test_equals_the_oracle(fpn):
    """Laterals, doubled coarser map added, 3x3 each; P6 is every second cell of P5."""
    pyramid = run(fpn, maps())
    merged = None
    for i in (3, 2, 1, 0):
        lateral, output = fpn.laterals[i], fpn.outputs[i]
        level = np.asarray(maps()[i][0]) @ np.asarray(lateral.kernel[...])[0, 0] + np.asarray(lateral.bias[...])
        merged = level if merged is None else level + merged.repeat(2, 0).repeat(2, 1)
        expected = oracles.conv2d(
            merged, np.asarray(output.kernel[...]), 1, ((1, 1), (1, 1)), np.asarray(output.bias[...])
        )
        np.testing.assert_allclose(pyramid[i][0], expected, atol=1e-4)
    np.testing.assert_array_equal(pyramid.p6, pyramid.p5[:, ::2, ::2])


def test_jit_one_trace_and_finite_gradients(fpn):
    assert_jit_changes_nothing(lambda maps: fpn(maps), (maps(),), (maps(1),), atol=1e-5)
    assert_finite_gradients(lambda maps: fpn(maps), jax.tree.map(jnp.zeros_like, maps()))


def test_information_flows_down_only(fpn):
    changed = [*maps()]
    changed[2] = changed[2] + 1
    a, b = run(fpn, maps()), run(fpn, tuple(changed))
    assert [bool((x != y).any()) for x, y in zip(a, b, strict=True)] == [True, True, True, False, False]
