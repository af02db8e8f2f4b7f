"""What all errors whose message was written for the user have in common, and a check that numbers are in range."""

import math


class CrystalError(Exception):
    """The message is one sentence that says which file or setting, what is wrong and what to do; the command line
    prints it without a stack trace.
    """


class RunError(CrystalError, RuntimeError):
    """A training run that cannot start, go on or be used; the message says why and what to do."""


class RangeError(CrystalError, ValueError):
    """A number out of the range that is allowed."""


MAX_SEED = 2**32 - 1  # of the random numbers that order the images


def require_range(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raise RangeError, which states what is allowed, unless `value` is finite and low <= value <= high; with `above`,
    unless low < value <= high.

    >>> require_range("--score", 7, 0, 1)
    Traceback (most recent call last):
    crystal.errors.RangeError: --score 7: must be from 0 to 1
    """
    if (value > low if above else value >= low) and value <= high and value < math.inf:
        return
    if above:
        allowed = f"above {low:g}" + ("" if high == math.inf else f" and at most {high}")
    else:
        allowed = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    raise RangeError(f"{name} {value}: must be {allowed}")
