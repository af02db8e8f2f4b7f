"""Where a polygon's border crosses itself: a slip of the annotator's hand, and a hole where it is filled.

Only true crossings count. Outlines traced around pixels touch themselves at corners and run back along one-pixel
spikes, and corners in a row lie on a line but for rounding; none of these is anyone's mistake.
"""

import numpy as np
from jaxtyping import Float

CLEAR = 0.01  # pixels by which both edges must pass beyond each other
CHUNK = 256  # edges compared with all others at once


def _sides(
    a: Float[np.ndarray, "*n 2"], b: Float[np.ndarray, "*n 2"], p: Float[np.ndarray, "*m 2"]
) -> Float[np.ndarray, "*k"]:
    """How far `p` lies beside the line from `a` to `b`, in pixels: positive on one side, negative on the other."""
    along = b - a
    length = np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-12)
    return (along[..., 0] * (p[..., 1] - a[..., 1]) - along[..., 1] * (p[..., 0] - a[..., 0])) / length


def crosses_itself(points: Float[np.ndarray, "n 2"]) -> bool:
    """Whether two edges of the closed polygon cross by more than CLEAR.

    Edges are sorted by their left ends, and each is compared only with those that begin before it ends, so outlines of
    many short edges cost little more than their number.

    >>> crosses_itself(np.array([[0.0, 0], [4, 4], [4, 0], [0, 4]]))
    True
    >>> crosses_itself(np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]]))
    False
    """
    ends = np.roll(points, -1, 0)
    order = np.argsort(np.minimum(points[:, 0], ends[:, 0]), kind="stable")
    a, b = points[order], ends[order]
    left, right = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    for start in range(0, len(a), CHUNK):
        mine = slice(start, start + CHUNK)
        last = int(np.searchsorted(left, right[mine].max(), side="right"))
        others = slice(start, last)
        a1, b1, a2, b2 = a[mine, None], b[mine, None], a[None, others], b[None, others]
        parted = _sides(a1, b1, a2), _sides(a1, b1, b2), _sides(a2, b2, a1), _sides(a2, b2, b1)
        clear = np.min(np.abs(parted), 0) > CLEAR
        if (clear & (parted[0] * parted[1] < 0) & (parted[2] * parted[3] < 0)).any():
            return True
    return False
