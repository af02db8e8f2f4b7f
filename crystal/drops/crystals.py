"""Crystals as convex solids seen in transmitted light.

Every habit (plate, block, prism, bipyramid, needle) is one polygon drawn at several heights and scales, turned in space
and seen from above. Its outline is the convex hull of the projected corners. Its shades follow from refraction: where
the thickness has the gradient g, a wedge bends the backlight by about (index - 1) * g, and what is bent out of the
condenser's cone is lost. A plate's parallel faces therefore stay as bright as the drop while its bevels turn black, as
under the microscope. A cluster is several solids grown from one point, and counts as one crystal.

Coordinates are pixels: x to the right, y down, z towards the viewer.
"""

from typing import NamedTuple

import cv2
import numpy as np

KINDS = ("plate", "block", "prism", "bipyramid", "needle", "cluster")
SUPERSAMPLING = 2  # facets are filled without anti-aliasing at this scale and averaged down
SUBPIXEL_BITS = 4  # OpenCV's fixed-point corners
STEEPEST = 4.0  # slope at which a facet is as dark as it gets; keeps facets seen edge-on finite


class Solid(NamedTuple):
    """A convex solid: `corners` float[n, 3] in pixels around its middle, `faces` a tuple of corner indices in order."""

    corners: np.ndarray
    faces: tuple[np.ndarray, ...]


class Look(NamedTuple):
    """How a crystal looks in transmitted light; without units unless stated.

    Attributes:
        bending: loss of light per unit of wedge slope, 0.3 (index matched) to 1.2.
        bias: float[2], the slope that looks brightest.
        floor: transmission of the darkest facet, 0 to 1.
        gain: transmission of the brightest facet, about 1.
        ink: darkness of the edges, 0 to 1.
        line: width of the edges, in pixels.
        defocus: sigma of the blur, in pixels.
        contrast: exponent on the transmission; 1 leaves it, less makes the crystal fainter.
    """

    bending: float
    bias: np.ndarray
    floor: float
    gain: float
    ink: float
    line: float
    defocus: float
    contrast: float


def draw_look(rng: np.random.Generator, scale: float, light: float) -> Look:
    """The look of one drop's crystals, drawn by chance; only `contrast` depends on `light`, 0 (even) to 1 (dim)."""
    heading, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5)
    return Look(
        bending=rng.uniform(0.4, 1.0),
        bias=np.array([np.cos(heading), np.sin(heading)]) * lean,
        floor=rng.uniform(0.08, 0.4),
        gain=rng.uniform(1.0, 1.22),
        ink=rng.uniform(0.35, 0.85),
        line=rng.uniform(0.7, 1.6) * scale,
        defocus=0.7 * scale,
        contrast=1.15 - 0.45 * light - 0.3 * light**2,
    )


def stack(outline: np.ndarray, levels: list[tuple[float, float]], shifts: np.ndarray | None = None) -> Solid:
    """The solid between copies of `outline` float[n, 2]: `levels` lists (height, scale) from the bottom up.

    `shifts` float[levels, 2] moves each copy sideways, so that bevels differ in width; faces stay plane.
    """
    n = len(outline)
    shifts = np.zeros((len(levels), 2)) if shifts is None else shifts
    corners = np.concatenate([np.c_[outline * k + d, np.full(n, z)] for (z, k), d in zip(levels, shifts, strict=True)])
    faces = [np.arange(n), np.arange(n) + n * (len(levels) - 1)]
    for low in range(0, n * (len(levels) - 1), n):
        faces += [np.array([low + i, low + (i + 1) % n, low + n + (i + 1) % n, low + n + i]) for i in range(n)]
    return Solid(corners, tuple(faces))


def outline(rng: np.random.Generator, sides: int, jitter: float, aspect: float) -> np.ndarray:
    """A convex polygon float[sides, 2] on an ellipse of half axes 1 and 1 / aspect; jitter 0 (regular) to 1."""
    angles = (np.arange(sides) + jitter * rng.uniform(-0.4, 0.4, sides)) * 2 * np.pi / sides
    return np.c_[np.cos(angles), np.sin(angles) / aspect]


def turn(axis: int, angle: float) -> np.ndarray:
    """Rotation float[3, 3] about coordinate axis 0, 1 or 2 by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    rotation[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return rotation


def grow(rng: np.random.Generator, kind: str, size: float, heading: float | None = None) -> Solid:
    """One solid of any `kind` but cluster, `size` pixels across its outline, its long axis at `heading` radians."""
    heading = rng.uniform(0, 2 * np.pi) if heading is None else heading
    lying = np.pi / 2 + rng.normal(0, 0.22)  # the axis of a rod lies on the floor of the drop
    if kind == "plate":
        sides = int(rng.choice([4, 4, 5, 6, 6, 8]))
        shape = outline(rng, sides, 0.55, rng.uniform(1, 1.9))
        thick = rng.uniform(0.05, 0.16)
        low, high = rng.uniform(0.86, 0.98), rng.uniform(0.72, 0.95)
        shifts = np.array([[0, 0], [0, 0], rng.uniform(-0.8, 0.8, 2) * (1 - high) * [1, shape[:, 1].max()]])
        solid = stack(shape, [(-thick, low), (-thick * 0.4, 1.0), (thick, high)], shifts)
        tilt = rng.normal(0, 0.3)
    elif kind == "block":
        shape = outline(rng, int(rng.choice([4, 4, 6])), 0.25, rng.uniform(1, 1.4))
        tall, high = rng.uniform(0.3, 0.8), rng.uniform(0.55, 0.9)
        levels = [(-tall, rng.uniform(0.8, 1)), (-0.8 * tall, 1.0), (0.6 * tall, 1.0), (tall, high)]
        shifts = np.zeros((4, 2))
        shifts[3] = rng.uniform(-0.7, 0.7, 2) * (1 - high) * [1, shape[:, 1].max()]
        solid, tilt = stack(shape, levels, shifts), rng.normal(0, 0.4)
    elif kind == "prism":
        long, tip = rng.uniform(1.7, 3.4), rng.uniform(0.05, 0.8)
        cap = (1 - tip) * rng.uniform(0.5, 1.2)
        levels = [(-long - cap, tip), (-long, 1.0), (long, 1.0), (long + cap * rng.uniform(0.3, 1), tip)]
        solid, tilt = stack(outline(rng, int(rng.choice([4, 6, 6])), 0.3, rng.uniform(1, 1.6)), levels), lying
    elif kind == "bipyramid":
        tall, tip = rng.uniform(1.2, 2.2), rng.choice([0.02, 0.02, 0.2])
        levels = [(-tall, tip), (0.0, 1.0), (tall * rng.uniform(0.7, 1), tip)]
        solid, tilt = stack(outline(rng, int(rng.choice([4, 4, 6])), 0.15, rng.uniform(1, 1.25)), levels), lying
        if rng.random() < 0.15:
            tilt = rng.normal(0, 0.3)  # standing on its tip: a square with a cross
    elif kind == "needle":
        long = rng.uniform(9, 20)
        solid, tilt = (
            stack(outline(rng, 4, 0.2, 1.3), [(-long, 0.5), (1 - long, 1.0), (long - 1, 1.0), (long, 0.5)]),
            lying,
        )
    else:
        raise ValueError(f"unknown kind of crystal {kind!r}; choose one of {', '.join(KINDS[:-1])}")
    shear = np.eye(3) + rng.normal(0, 0.07, (3, 3))  # monoclinic and triclinic cells; planes stay planes
    corners = solid.corners @ (turn(2, heading) @ turn(0, tilt) @ turn(2, rng.uniform(0, 2 * np.pi)) @ shear).T
    hull = corners[:, :2]
    corners = corners * size / np.linalg.norm(hull[:, None] - hull[None], axis=-1).max()
    return Solid(corners - (corners.max(0) + corners.min(0)) / 2, solid.faces)


def cluster(rng: np.random.Generator, size: float) -> list[Solid]:
    """Three to seven solids of one kind grown outwards from one point, together about `size` pixels across."""
    kind = str(rng.choice(["plate", "prism", "prism", "block", "bipyramid"]))
    arms = int(rng.integers(3, 8))
    headings = np.arange(arms) * 2 * np.pi / arms + rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.25, arms)
    members = []
    for heading in headings:
        part = grow(rng, kind, size * rng.uniform(0.42, 0.62), heading + np.pi / 2)
        reach = size * rng.uniform(0.14, 0.25)
        offset = reach * np.array([np.cos(heading), np.sin(heading), 0])
        members.append(Solid(part.corners + offset, part.faces))
    return members


def _polygon(points: np.ndarray) -> np.ndarray:
    """Points float[n, 2], pixel i covering [i, i + 1), as OpenCV's fixed-point corners, counted from pixel centres."""
    return np.round((points - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)


def silhouette(parts: list[Solid], centre: np.ndarray, origin: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Outline of the parts as bool[shape]; `centre` of the crystal and `origin` of the patch: (x, y) in the image."""
    fine = np.zeros((shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING), np.uint8)
    for part in parts:
        points = (part.corners[:, :2] + centre - origin) * SUPERSAMPLING
        cv2.fillConvexPoly(fine, _polygon(cv2.convexHull(points.astype(np.float32))[:, 0]), 255, shift=SUBPIXEL_BITS)
    return cv2.resize(fine, shape[::-1], interpolation=cv2.INTER_AREA) > 128


def _slopes(part: Solid) -> tuple[np.ndarray, np.ndarray]:
    """Each face's share in the thickness gradient, float[faces, 2], and whether it faces the viewer, bool[faces]."""
    a, b, c = (part.corners[[face[k] for face in part.faces]] for k in range(3))
    normals = np.cross(b - a, c - b)
    normals *= np.sign((normals * (a - part.corners.mean(0))).sum(1, keepdims=True))
    slopes = -normals[:, :2] / np.maximum(np.abs(normals[:, 2:]), 1e-6)
    return slopes * np.minimum(1, STEEPEST / np.maximum(np.hypot(*slopes.T), 1e-6))[:, None], normals[:, 2] > 0


def _shade(part: Solid, points: np.ndarray, shape: tuple[int, int], look: Look, grain: np.ndarray) -> np.ndarray:
    """Transmission float32[shape] of one solid on the fine grid, 1 outside; `grain` float[faces, 2] adds to slopes."""
    front, back = np.zeros((*shape, 2), np.float32), np.zeros((*shape, 2), np.float32)
    ink = np.zeros(shape, np.uint8)
    width = max(1, round(look.line * SUPERSAMPLING))
    slopes, faces_up = _slopes(part)
    for face, slope, up in zip(part.faces, slopes + grain, faces_up, strict=True):
        corners = _polygon(points[face])
        cv2.fillConvexPoly(front if up else back, corners, tuple(slope), shift=SUBPIXEL_BITS)
        cv2.polylines(ink, [corners], True, 130 if up else 45, width if up else 1, cv2.LINE_AA, SUBPIXEL_BITS)
    hull = _polygon(cv2.convexHull(points.astype(np.float32))[:, 0])
    # The outline is darkest where it turns away from the light.
    edges = np.roll(hull, -1, 0) - hull
    facing = np.abs(edges @ look.bias) / (np.hypot(*edges.T) * np.hypot(*look.bias) + 1e-6)
    for start, end, along in zip(hull, np.roll(hull, -1, 0), facing, strict=True):
        cv2.line(ink, start.tolist(), end.tolist(), 255 - 130 * along, width, cv2.LINE_AA, SUBPIXEL_BITS)
    inside = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(inside, hull, 1, shift=SUBPIXEL_BITS)
    bent = front + back - look.bias.astype(np.float32)
    lit = np.exp(-np.float32(look.bending**2) * (bent[..., 0] ** 2 + bent[..., 1] ** 2))
    lit = look.floor + (look.gain - look.floor) * lit / np.exp(-((look.bending * np.hypot(*look.bias)) ** 2))
    return np.where(inside, lit, 1) * (1 - look.ink / 255 * ink)


def transmit(
    rng: np.random.Generator,
    parts: list[Solid],
    centre: np.ndarray,
    origin: tuple[int, int],
    shape: tuple[int, int],
    look: Look,
) -> np.ndarray:
    """Transmission float32[shape] of a crystal in its patch: 1 outside, less where light is lost, at most 1.5."""
    fine = (shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING)
    total = np.ones(fine, np.float32)
    for part in parts:
        points = (part.corners[:, :2] + centre - origin) * SUPERSAMPLING
        shade = _shade(part, points, fine, look, rng.normal(0, 0.12, (len(part.faces), 2)))
        total = np.where(shade != 1, total * 0.35 + 0.65, total) * shade if len(parts) > 1 else shade
    flat = cv2.resize(total.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    # A sharp edge throws a bright line beside its dark one (Becke's line): what unsharp masking does.
    flat += 0.45 * (flat - cv2.GaussianBlur(flat, (0, 0), 1.5 + look.line))
    flat = cv2.GaussianBlur(flat, (0, 0), look.defocus)
    return np.clip(flat, 0.03, 1.5) ** np.float32(look.contrast)


class Patch(NamedTuple):
    """A crystal in its place: its parts, its centre (x, y), the rows and columns of its patch, and its mask there."""

    parts: list[Solid]
    centre: np.ndarray
    rows: slice
    columns: slice
    mask: np.ndarray


def settle(rng: np.random.Generator, parts: list[Solid], centre: np.ndarray, shape: tuple[int, int]) -> Patch | None:
    """The patch that holds the crystal and the blur around it; None if it lies wholly outside the image."""
    edge = 6 + round(9 * max(shape) / 1000)  # three sigmas of the deepest defocus
    corners = np.concatenate([part.corners[:, :2] for part in parts]) + centre
    low, high = np.floor(corners.min(0)).astype(int) - edge, np.ceil(corners.max(0)).astype(int) + edge
    low, high = np.maximum(low, 0), np.minimum(high, [shape[1], shape[0]])
    if (high <= low).any():
        return None
    rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
    mask = silhouette(parts, centre, (low[0], low[1]), (high[1] - low[1], high[0] - low[0]))
    return Patch(parts, centre, rows, columns, mask) if mask.any() else None


def hides_too_much(patch: Patch, owner: np.ndarray, areas: list[int], visible: list[int], share: float) -> bool:
    """Whether a crystal laid on top would leave less than `share` of another one's outline visible.

    Args:
        patch: the crystal.
        owner: int32[h, w], the number of each pixel's crystal, counted from 1; 0: none.
        areas: pixels of each crystal's whole outline.
        visible: pixels of each that are still visible.
        share: 0 to 1.
    """
    covered = np.bincount(owner[patch.rows, patch.columns][patch.mask], minlength=len(areas) + 1)[1:]
    touched = covered > 0
    left = np.array(visible, int) - covered
    return bool((left[touched] < share * np.array(areas)[touched]).any())
