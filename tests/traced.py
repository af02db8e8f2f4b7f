"""What a compiled component owes its caller: plain results, and one program for all contents of one shape."""

import jax
import jax.numpy as jnp
import numpy as np


def assert_jit_changes_nothing(function, *cases, **tolerance):
    """Plain and compiled agree on every case, and one trace serves them all.

    A case is a tuple of arguments; all have equal shapes and types and different content. `tolerance`: `rtol`, `atol`.
    """
    traces = []

    @jax.jit
    def compiled(*arguments):
        traces.append(1)
        return function(*arguments)

    for case in cases:
        case = jax.tree.map(jnp.asarray, case)
        plain, ours = jax.tree.leaves(function(*case)), jax.tree.leaves(compiled(*case))
        for expected, value in zip(plain, ours, strict=True):
            np.testing.assert_allclose(value, expected, **{"rtol": 0, "atol": 0, **tolerance})
    assert len(cases) > 1
    assert len(traces) == 1


def assert_finite_gradients(function, *arguments):
    """The gradient of the sum of all outputs, by every floating argument, is finite."""

    def total(*arguments):
        leaves = jax.tree.leaves(function(*arguments))
        return sum(leaf.sum() for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))

    arguments = jax.tree.map(jnp.asarray, arguments)
    floating = [i for i, a in enumerate(arguments) if jnp.issubdtype(jax.tree.leaves(a)[0].dtype, jnp.floating)]
    gradients = jax.jit(jax.grad(total, floating))(*arguments)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
