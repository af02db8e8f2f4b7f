"""What a compiled component owes its caller: plain results, and one program for all contents of one shape."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from tests.compiler import DEFAULT


def default_jit(function, **options):
    """`jax.jit` with XLA's default options, as users have them, whatever those of this run are (conftest.py)."""
    return jax.jit(function, compiler_options=DEFAULT, **options)


def assert_jit_changes_nothing(function, *cases, **tolerance):
    """Plain and compiled with XLA's default options agree on every case, and one trace serves them all.

    A case is a tuple of arguments; all have equal shapes and types and different content. `tolerance`: `rtol`, `atol`.
    """
    traces = []

    @default_jit
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


def equations(jaxpr, times=1):
    """(equation, how often it runs) of a program and those inside it; a loop of unknown length counts once."""
    for equation in jaxpr.eqns:
        inner = [
            getattr(part, "jaxpr", part)
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else [value])
            if hasattr(part, "eqns") or hasattr(part, "jaxpr")
        ]
        if not inner:
            yield equation, times
        for part in inner[:1] if equation.primitive.name == "cond" else inner:  # branches do the same in another way
            yield from equations(part, times * equation.params.get("length", 1))


def needed_program(function, *arguments):
    """The traced program without what none of its results needs, as a compiler leaves it out."""
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    return partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))[0]


def multiplications(jaxpr):
    """Multiplications in convolutions and matrix products."""
    total = 0
    for equation, times in equations(jaxpr):
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += times * int(np.prod(out)) * int(np.prod([left[axis] for axis in contracted]))
        elif equation.primitive.name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += times * int(np.prod(out)) * int(np.prod(kernel)) // outputs
    return total
