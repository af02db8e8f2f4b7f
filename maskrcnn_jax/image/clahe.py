"""Contrast-limited adaptive histogram equalisation (CLAHE), bit-identical to OpenCV's.

Divide the image into tiles; equalise each tile's histogram, clipped beforehand so that noise in a flat tile is not
amplified; and blend the grey-level curves of the four nearest tiles at each pixel, so that tile borders are invisible.
The paper applies it before the network (figure 2): uneven illumination reduces the contrast of crystals.

Source: Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994; rounding as in OpenCV's
`clahe.cpp`, to a byte when a curve is stored and again after blending. For equality the blending weights are computed
in NumPy float32, and a `maximum` with 0 around each product (never negative) keeps XLA from contracting `a * b + c`
into a fused multiply-add, which rounds once where OpenCV rounds twice.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt8, UInt32

from maskrcnn_jax import checks
from maskrcnn_jax.image.lab import lab_to_rgb, rgb_to_lab

LEVELS = 256


def _check_image(place: str, image_u8: Array | np.ndarray, wanted: str) -> None:
    checks.kind(place, image_u8, np.uint8, wanted)
    if image_u8.size == 0:
        raise ValueError(f"{place} has shape {list(image_u8.shape)}; give an image with pixels")


def _reflected(side: int, padded: int) -> np.ndarray:
    """Indices that extend `side` pixels to `padded` by mirroring at the last pixel's centre (OpenCV: reflect-101)."""
    period = max(2 * (side - 1), 1)
    index = np.arange(padded) % period
    return np.minimum(index, period - index) if side > 1 else np.zeros(padded, np.int64)


def _padded_sides(height: int, width: int, tiles: tuple[int, int]) -> tuple[int, int]:
    """Sides padded to multiples of the tile counts; as in OpenCV, if one side needs padding, both grow."""
    if height % tiles[0] == 0 and width % tiles[1] == 0:
        return height, width
    return height + tiles[0] - height % tiles[0], width + tiles[1] - width % tiles[1]


def _between_centres(side: int, tile_side: int, tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel along one side: the gap between tile centres that it lies in (0..tiles) and its position there, in
    [0, 1).

    Gap g lies between tiles g - 1 and g; the outermost gaps have the same tile on both sides.
    """
    position = np.arange(side, dtype=np.float32) * (np.float32(1) / np.float32(tile_side)) - np.float32(0.5)
    before = np.floor(position)
    return np.clip(before.astype(np.int32) + 1, 0, tiles), position - before


def _histogram(levels_u8: UInt8[Array, " n"]) -> Int32[Array, "256"]:
    # One scatter per tile: its 1 kB stays in the first-level cache.
    return jnp.zeros(LEVELS, jnp.int32).at[levels_u8].add(1, mode="promise_in_bounds")


def _clipped(histogram: Int32[Array, "256"], clip_count: Int32[Array, ""]) -> Int32[Array, "256"]:
    """Clip the histogram at `clip_count` and spread the excess evenly, the remainder to levels at equal steps."""
    excess = jnp.sum(jnp.maximum(histogram - clip_count, 0))
    residue = excess % LEVELS
    step = LEVELS // jnp.maximum(residue, 1)  # at least 1, because residue < LEVELS
    level = jnp.arange(LEVELS)
    gets_one = (level % step == 0) & (level // step < residue)
    return jnp.minimum(histogram, clip_count) + excess // LEVELS + gets_one


def _curve(tile_u8: UInt8[Array, " n"], clip_count: Int32[Array, ""]) -> UInt8[Array, "256"]:
    """One tile's grey-level curve: the cumulative clipped histogram, scaled to 0..255."""
    scale = np.float32(LEVELS - 1) / np.float32(tile_u8.size)
    cumulative = jnp.cumsum(_clipped(_histogram(tile_u8), clip_count)).astype(jnp.float32)
    return jnp.clip(jnp.round(cumulative * scale), 0, LEVELS - 1).astype(jnp.uint8)


def _curves(
    image_u8: UInt8[Array, "h w"], clip_count: Int32[Array, ""], tiles: tuple[int, int]
) -> UInt8[Array, "rows columns 256"]:
    rows, columns = tiles
    cells = image_u8.reshape(rows, image_u8.shape[0] // rows, columns, -1).swapaxes(1, 2).reshape(rows * columns, -1)
    return jax.lax.map(lambda cell: _curve(cell, clip_count), cells).reshape(rows, columns, LEVELS)


def _packed_gaps(curves_u8: UInt8[Array, "rows columns 256"]) -> UInt32[Array, "gap_rows gap_columns 256"]:
    """For each gap between tile centres the curves of its four corners, a byte each: one look-up per pixel."""
    around = jnp.pad(curves_u8, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(jnp.uint32)
    # A loop over rows: otherwise XLA fuses the packing into the look-up and repeats it at each pixel.
    return jax.lax.map(
        lambda rows: rows[0][:-1] | rows[0][1:] << 8 | rows[1][:-1] << 16 | rows[1][1:] << 24, (around[:-1], around[1:])
    )


def _product(a: Float32[Array, "h w"], b: np.ndarray) -> Float32[Array, "h w"]:
    """`a * b` for non-negative factors, rounded separately: see the module docstring."""
    return jnp.maximum(a * b, 0)


@partial(jax.jit, static_argnames="tiles")
def _clahe(image_u8: UInt8[Array, "h w"], clip_count: Int32[Array, ""], tiles: tuple[int, int]) -> UInt8[Array, "h w"]:
    height, width = image_u8.shape
    tall, wide = _padded_sides(height, width, tiles)
    padded = image_u8
    if (tall, wide) != (height, width):
        padded = image_u8[_reflected(height, tall)][:, _reflected(width, wide)]
    gaps = _packed_gaps(_curves(padded, clip_count, tiles))

    row, down = _between_centres(height, tall // tiles[0], tiles[0])
    column, right = _between_centres(width, wide // tiles[1], tiles[1])
    # The parts of row and column are added on the device, to avoid a constant as large as the image in the program.
    index = jnp.asarray(row * gaps.shape[1] * LEVELS)[:, None] + jnp.asarray(column * LEVELS) + image_u8
    corners = gaps.reshape(-1).at[index].get(mode="promise_in_bounds")
    # Through int32: XLA vectorises the conversion of signed integers to float, but not of unsigned ones.
    top_left, top_right, low_left, low_right = (
        (corners >> shift & 255).astype(jnp.int32).astype(jnp.float32) for shift in (0, 8, 16, 24)
    )
    down, one = down[:, None], np.float32(1)
    top = _product(top_left, one - right) + _product(top_right, right)
    low = _product(low_left, one - right) + _product(low_right, right)
    blended = _product(top, one - down) + _product(low, down)
    return jnp.clip(jnp.round(blended), 0, LEVELS - 1).astype(jnp.uint8)


def clahe(
    image_u8: UInt8[Array | np.ndarray, "h w"], *, clip_limit: float = 2.0, tiles: tuple[int, int] = (8, 8)
) -> UInt8[Array, "h w"]:
    """Equalise a grey image tile by tile, with each histogram clipped (the paper's figure 2).

    The histogram of a tile of `area` pixels is clipped at `max(floor(clip_limit * area / 256), 1)` per grey level and
    the excess is spread over all levels; then level v maps to `255 / area * (pixels up to v)`, rounded to a byte, and
    each pixel is interpolated bilinearly between the curves of the four nearest tiles. Equals
    `cv2.createCLAHE(clip_limit, tiles[::-1]).apply`.

    Works under jit and vmap; gradients are zero. Compiles once per image size and `tiles`.

    Args:
        image_u8: grey levels 0..255, at the original resolution: black padding would enter the histograms.
        clip_limit: static; in multiples of a flat histogram's height, larger is stronger. 0 or less: no clipping.
        tiles: static; number of tiles (rows, columns), each at least 1. OpenCV's order is (columns, rows).

    Returns:
        Grey levels 0..255 of the same shape.

    Raises:
        ValueError: not [h, w], an empty image, `tiles` below 1, or a `clip_limit` of NaN.
        TypeError: an image that is not uint8, or `tiles` that are not two integers.

    One tile, no clipping: two of four pixels are at most 10, so 10 maps to 255 * 2/4 = 127.5, rounded to 128.

    >>> clahe(np.array([[10, 10], [20, 30]], np.uint8), clip_limit=0, tiles=(1, 1)).tolist()
    [[128, 128], [191, 255]]
    """
    _check_image("clahe: image_u8", image_u8, "h w")
    checks.pair("clahe: tiles", tiles, order="(rows, columns)")
    checks.in_range("clahe: clip_limit", clip_limit, -np.inf, remedy="give a number, 0 for no clipping")
    rows, columns = tiles
    tall, wide = _padded_sides(image_u8.shape[0], image_u8.shape[1], (rows, columns))
    area = (tall // rows) * (wide // columns)
    # In float64, as in OpenCV; traced below, so that another clip limit does not recompile.
    clip_count = max(int(min(clip_limit * area / LEVELS, area)), 1) if clip_limit > 0 else area
    return _clahe(jnp.asarray(image_u8), jnp.int32(clip_count), (int(rows), int(columns)))


def clahe_rgb(
    image_u8: UInt8[Array | np.ndarray, "h w 3"], *, clip_limit: float = 2.0, tiles: tuple[int, int] = (8, 8)
) -> UInt8[Array, "h w 3"]:
    """Apply `clahe` to the lightness of a colour image, L of LAB, so that hues stay (the paper's figure 2).

    Bit-identical to OpenCV's RGB -> LAB -> CLAHE on L -> RGB in eight bits (see `lab.py`).

    Args:
        image_u8: RGB 0..255, at the original resolution.
        clip_limit: as in `clahe`.
        tiles: as in `clahe`.

    Returns:
        RGB 0..255 of the same shape.

    Raises:
        ValueError: as in `clahe`, for [h, w, 3].
        TypeError: as in `clahe`.

    >>> clahe_rgb(np.full((2, 2, 3), 200, np.uint8), clip_limit=0, tiles=(1, 1)).tolist()[0]
    [[255, 255, 255], [255, 255, 255]]
    """
    _check_image("clahe_rgb: image_u8", image_u8, "h w 3")
    lab = rgb_to_lab(jnp.asarray(image_u8))
    return lab_to_rgb(lab.at[..., 0].set(clahe(lab[..., 0], clip_limit=clip_limit, tiles=tiles)))


@jax.jit
def equalize(image_u8: UInt8[Array | np.ndarray, "h w"]) -> UInt8[Array, "h w"]:
    """Equalise the histogram of a whole grey image; equals `cv2.equalizeHist`.

    The darkest level present maps to 0, level v to `255 * (pixels above the darkest level, up to v) / (pixels above the
    darkest level)`, rounded half to even. An image of one level is returned unchanged.

    Args:
        image_u8: grey levels 0..255.

    Returns:
        Grey levels 0..255 of the same shape.

    Raises:
        ValueError: not [h, w], or an empty image.
        TypeError: an image that is not uint8.

    >>> equalize(np.array([[10, 10], [20, 30]], np.uint8)).tolist()
    [[0, 0], [128, 255]]
    """
    _check_image("equalize: image_u8", image_u8, "h w")
    image_u8 = jnp.asarray(image_u8)
    histogram = _histogram(image_u8.reshape(-1))
    darkest = histogram[jnp.argmax(histogram > 0)]
    above = image_u8.size - darkest
    scale = jnp.float32(LEVELS - 1) / jnp.maximum(above, 1).astype(jnp.float32)
    curve = jnp.round((jnp.cumsum(histogram) - darkest).astype(jnp.float32) * scale)
    equalized = jnp.clip(curve, 0, LEVELS - 1).astype(jnp.uint8)[image_u8]
    return jnp.where(above > 0, equalized, image_u8)
