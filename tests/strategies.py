"""What hypothesis draws: boxes, scores, overlap tables. Sizes are fixed, so that one compiled function serves all."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def _values(low: float, high: float) -> st.SearchStrategy[float]:
    """Multiples of 1/8, which float32 adds and subtracts without rounding."""
    return st.integers(int(low * 8), int(high * 8)).map(lambda eighths: eighths / 8)


@st.composite
def boxes(draw, n: int, *, limit: float = 100, least_side: float = 0.0, most_side: float | None = None):
    """[n, 4] float32, corners within +-limit, sides from `least_side` (0: boxes of no area come up as well)."""
    sides = _values(least_side, limit if most_side is None else most_side)
    corner = draw(hnp.arrays(np.float32, (n, 2), elements=_values(-limit, limit)))
    return np.concatenate([corner, corner + draw(hnp.arrays(np.float32, (n, 2), elements=sides))], 1)


def scores(n: int) -> st.SearchStrategy[np.ndarray]:
    """[n] in [0, 1], out of 21 values, so that ties abound."""
    return hnp.arrays(np.float32, n, elements=st.integers(0, 20).map(lambda v: v / 20))


def flags(n: int) -> st.SearchStrategy[np.ndarray]:
    """[n] booleans: which slots are filled."""
    return hnp.arrays(np.bool_, n)


def iou_tables(g: int, n: int) -> st.SearchStrategy[np.ndarray]:
    """[g, n] in [0, 1], out of 21 values: ties within and between ground truths, and hits of a threshold."""
    return hnp.arrays(np.float32, (g, n), elements=st.integers(0, 20).map(lambda v: v / 20))


def permutations(n: int) -> st.SearchStrategy[np.ndarray]:
    """An order of n things."""
    return st.permutations(range(n)).map(np.array)
