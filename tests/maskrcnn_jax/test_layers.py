import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.layers import Affine, Compute, Conv, GroupNorm, make_norm, random_weights
from tests import oracles, recorded
from tests.traced import assert_finite_gradients, assert_jit_changes_nothing

FEATURES = jax.random.normal(jax.random.key(0), (2, 6, 8, 4))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_convolution_equals_the_oracle(size, stride):
    conv = Conv(4, 5, size, stride=stride, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(5.0)
    ours = nnx.jit(lambda conv, features: conv(features))(conv, FEATURES)
    pad = ((size // 2, size // 2),) * 2
    for b in range(2):
        expected = oracles.conv2d(FEATURES[b], np.asarray(conv.kernel[...]), stride, pad, np.arange(5))
        np.testing.assert_allclose(ours[b], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "stride"), [("conv7s2_zeropad3", 7, 2), ("conv1x1s2", 1, 2), ("conv3same", 3, 1)]
)
def test_keras(name, size, stride):
    g = recorded.load("matterport_layers")
    conv = Conv(3, 4, size, stride=stride, rngs=nnx.Rngs(0))
    conv.kernel[...], conv.bias[...] = jnp.asarray(g[f"kp_{name}_kernel"]), jnp.asarray(g[f"kp_{name}_bias"])
    np.testing.assert_allclose(conv(jnp.asarray(g["kp_x"])), g[f"kp_{name}_out"], atol=1e-5)


def test_affine_is_a_folded_batch_norm():
    g = recorded.load("matterport_layers")
    scale = g["kp_bn_eval_gamma"] / np.sqrt(g["kp_bn_eval_moving_variance"] + 1e-3)
    norm = Affine(3)
    norm.scale[...] = jnp.asarray(scale)
    norm.shift[...] = jnp.asarray(g["kp_bn_eval_beta"] - g["kp_bn_eval_moving_mean"] * scale)
    np.testing.assert_allclose(norm(jnp.asarray(g["kp_x"])), g["kp_bn_eval_out"], rtol=1e-5, atol=1e-4)


def test_group_norm_equals_the_oracle():
    norm = GroupNorm(4, group_size=2)
    norm.scale[...], norm.shift[...] = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([0.0, 1.0, 0.0, -1.0])
    ours = norm(FEATURES * 3 + 5)
    for b in range(2):
        expected = oracles.group_norm(
            np.asarray(FEATURES[b]) * 3 + 5, 2, np.array([1, 2, 3, 4]), np.array([0, 1, 0, -1]), 1e-5
        )
        np.testing.assert_allclose(ours[b], expected, atol=1e-4)
    assert np.isfinite(norm(jnp.full((1, 2, 2, 4), 300.0))).all()
    gradient = jax.grad(lambda features: norm(features).sum())(jnp.zeros((1, 2, 2, 4)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["conv", "affine", "group"])
def test_jit_one_trace_finite_gradients_and_images_alone(kind):
    layer = Conv(4, 4, 3, rngs=nnx.Rngs(0)) if kind == "conv" else make_norm(kind, 4, group_size=2)
    assert_jit_changes_nothing(lambda features: layer(features), (FEATURES,), (FEATURES * 9 - 5,), atol=2e-5)
    assert_finite_gradients(lambda features: layer(features), 0 * FEATURES)
    spoilt = FEATURES.at[1].set(jnp.nan)  # an image that is only padding
    np.testing.assert_allclose(layer(spoilt)[0], layer(FEATURES)[0], atol=1e-6)


def test_choice_of_norm():
    assert isinstance(make_norm("affine", 4, group_size=3), Affine)
    assert isinstance(make_norm("group", 4, group_size=2), GroupNorm)


def test_random_weights_by_both_kernels():
    """The same numbers: a seed is a network, however it is computed."""
    key = jax.random.key(3)
    plain, fast = (random_weights(key, (3, 3, 5, 7), 0.3, kernels) for kernels in ("xla", "cpu"))
    np.testing.assert_allclose(plain, fast, rtol=1e-6)


def test_dtypes_and_initial_spread():
    conv = Conv(64, 32, 3, compute=Compute("bfloat16"), rngs=nnx.Rngs(0))
    assert conv.kernel[...].dtype == jnp.float32
    assert conv(jnp.ones((1, 4, 4, 64))).dtype == jnp.bfloat16
    assert float(conv.kernel[...].std()) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)
    assert GroupNorm(4, group_size=2)(FEATURES.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert Conv(2, 2, 1, bias=False, rngs=nnx.Rngs(0)).bias is None
