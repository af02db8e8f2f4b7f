"""A part of a compiled program that XLA compiles separately from the rest.

Around the optimizer's update this saves time on a CPU: XLA would otherwise fuse the last operation of each gradient
into the update of its parameter, and compile one update for each parameter instead of one for each shape. XLA's
`CallInliner` leaves calls alone that carry the attribute `inlineable="false"`.
"""

from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def not_inlined(function: Callable) -> Callable:
    """The same function, compiled as a subprogram that XLA does not merge with its surroundings.

    Only XLA's CPU compiler is known to respect the attribute.

    >>> program = jax.jit(lambda x: not_inlined(jax.numpy.sin)(x) + 1).lower(0.0)
    >>> 'inlineable = "false"' in program.as_text()
    True
    """

    def called(*arguments):
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*arguments)

    return called
