"""The max-pool of shifted slices against XLA's, forward and backward."""

import jax
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.kernels.pooling import max_pool
from tests.traced import assert_jit_changes_nothing

# Above 0, as after a ReLU, and no two values equal, as their gradient would be shared here.
FEATURES = np.random.default_rng(0).permutation(2 * 8 * 12 * 3).reshape(2, 8, 12, 3).astype(np.float32) + 1


@pytest.mark.parametrize("padding", [(1, 1), (0, 1)])
def test_equals_the_window_of_xla_with_its_gradient(padding):
    pull = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)

    def both(pool):
        out, back = jax.vjp(pool, FEATURES)
        return out, *back(pull)

    ours = both(lambda features: max_pool(features, padding))
    theirs = both(lambda features: nnx.max_pool(features, (3, 3), (2, 2), (padding, padding)))
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-6)


def test_jit_changes_nothing_and_no_images():
    assert_jit_changes_nothing(lambda features: max_pool(features, (1, 1)), (FEATURES,), (FEATURES[::-1] + 3,))
    assert max_pool(jax.numpy.asarray(FEATURES[:0]), (1, 1)).shape == (0, 4, 6, 3)
