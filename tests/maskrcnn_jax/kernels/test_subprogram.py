"""A subprogram stays one, and computes what the function computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.kernels.subprogram import not_inlined


def around(inner):
    return jax.jit(lambda x, y: inner(x + 1, (y, x))[0] * 2)


def inner(x, pair):
    return jnp.sin(x) * pair[0] + pair[1], x


def test_the_same_numbers_and_a_call_in_the_compiled_program():
    x, y = jnp.arange(5.0), jnp.arange(5.0, 10.0)
    plain, apart = (around(f).lower(x, y).compile() for f in (inner, not_inlined(inner)))
    np.testing.assert_allclose(apart(x, y), plain(x, y), rtol=1e-6)
    assert " call(" not in plain.as_text()
    if jax.default_backend() != "cpu":
        pytest.skip("only the CPU's compiler respects the attribute")
    assert apart.as_text().count(" call(") == 1
