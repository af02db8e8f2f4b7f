"""RGB to CIE L*a*b* and back in eight bits, with OpenCV's integer arithmetic.

L is lightness, a runs from green to red, b from blue to yellow; equalising L alone brightens a micrograph without
changing its hues. The bytes are L * 255 / 100, a + 128 and b + 128 (CIE 1976, D65 white, sRGB gamma).

Only table look-ups, integer matrices and shifts are used, so the result is the same on every machine and equals
`cv2.cvtColor` for all 2^24 colours in both directions. The tables have the sizes and fixed-point shifts of OpenCV's
`color_lab.cpp`; their formulas are the CIE's.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8

from maskrcnn_jax import checks

WHITE = np.array([0.950456, 1.0, 1.088754])  # D65
RGB_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
XYZ_TO_RGB = np.array(
    [[3.240479, -1.537150, -0.498535], [-0.969256, 1.875991, 0.041556], [0.055648, -0.204043, 1.057311]]
)

MATRIX_BITS = 12  # fixed point of the two matrices
LINEAR_TOP = 255 * 8  # linear light 1.0 on the way to LAB
CUBE_ROOT_BITS = 15  # fixed point of f(X), f(Y), f(Z) on the way to LAB
XYZ_BITS = 14  # fixed point of X, Y, Z and of f(.) on the way back
LINEAR_BITS = 12  # linear light 1.0 on the way back
LOWEST_F = -8145  # the smallest f(X) or f(Z) of any bytes L, a, b, at XYZ_BITS


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.int32)


def _descale(values: Int32[Array, "..."], bits: int) -> Int32[Array, "..."]:
    """Divide by 2^bits, rounding half up."""
    return (values + (1 << (bits - 1))) >> bits


def _look_up(table: np.ndarray, index: Int32[Array, "..."]) -> Int32[Array, "..."]:
    # Every index is in range by construction, so the gather needs no clamping.
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds")


def _mix(matrix: np.ndarray, channels: list[Int32[Array, "..."]]) -> list[Int32[Array, "..."]]:
    """Multiply three channels by a 3x3 integer matrix. Unrolled: XLA's integer matrix product is slow on CPUs."""
    return [sum((int(row[i]) * channels[i] for i in range(1, 3)), int(row[0]) * channels[0]) for row in matrix]


@cache
def _forward_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return byte -> linear light, linear light -> f(.), and the integer matrix RGB -> XYZ / white."""
    byte = np.arange(256) / 255
    linear = np.where(byte <= 0.04045, byte / 12.92, ((byte + 0.055) / 1.055) ** 2.4)
    light = np.arange(3 * LINEAR_TOP * 256 // 510) / LINEAR_TOP
    root = np.where(light < 216 / 24389, light * 841 / 108 + 16 / 116, np.cbrt(light))
    root = _rounded(root * (1 << CUBE_ROOT_BITS))
    # OpenCV computes this table with software floats, which round two entries differently.
    root[49] -= 1
    root[628] += 1
    return _rounded(linear * LINEAR_TOP), root, _rounded((1 << MATRIX_BITS) * RGB_TO_XYZ / WHITE[:, None])


@cache
def _backward_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return L -> Y, L -> f(Y), f(.) -> X or Z, the integer matrix XYZ -> RGB, and linear light -> byte."""
    one = 1 << XYZ_BITS
    lightness = np.arange(256)
    dark = lightness <= 20  # L* below 8, where the CIE's curve is linear
    f_y = np.where(dark, 16 / 116 + lightness * 5 / (3 * 17 * 29), (lightness * 100 / 255 + 16) / 116)
    y = np.where(dark, lightness * 180 / (17 * 29**3), f_y**3)
    f = np.arange(one * 9 // 4, dtype=np.int64) + LOWEST_F
    straight = np.trunc(f * 108 / 841).astype(np.int64) - one * 16 // 116 * 108 // 841  # division towards zero, as in C
    f_inverse = np.where(f <= one * 6 / 29, straight, f * f // one * f // one).astype(np.int32)
    light = np.arange(1 << LINEAR_BITS) / (1 << LINEAR_BITS)
    byte = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    matrix = _rounded((1 << MATRIX_BITS) * XYZ_TO_RGB * WHITE)
    return _rounded(y * one), _rounded(f_y * one), f_inverse, matrix, _rounded(byte * 255)


def _bytes(channels: list[Int32[Array, "..."]]) -> UInt8[Array, "... 3"]:
    return jnp.stack([jnp.clip(channel, 0, 255).astype(jnp.uint8) for channel in channels], axis=-1)


@jax.jit
def rgb_to_lab(image_u8: UInt8[Array | np.ndarray, "*b 3"]) -> UInt8[Array, "*b 3"]:
    """Convert sRGB bytes to LAB bytes: L * 255 / 100, a + 128, b + 128; equals `cv2.COLOR_RGB2LAB`.

    `f(t) = cbrt(t)`, or `841/108 t + 16/116` below `t = 216/24389`; then `L = 116 f(Y) - 16`, `a = 500 (f(X) - f(Y))`,
    `b = 200 (f(Y) - f(Z))`, with X, Y, Z relative to the white point (CIE 1976).

    Args:
        image_u8: RGB in 0..255, any leading shape.

    Returns:
        The same shape: L, a, b as bytes.

    Raises:
        ValueError: the last axis is not 3.
        TypeError: an image that is not uint8.

    >>> rgb_to_lab(np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.uint8)).tolist()
    [[0, 128, 128], [255, 128, 128], [136, 208, 195]]
    """
    checks.kind("rgb_to_lab: image_u8", image_u8, np.uint8, "*b 3")
    to_linear, to_root, matrix = _forward_tables()
    linear = [_look_up(to_linear, jnp.asarray(image_u8)[..., i].astype(jnp.int32)) for i in range(3)]
    f_x, f_y, f_z = (_look_up(to_root, _descale(xyz, MATRIX_BITS)) for xyz in _mix(matrix, linear))
    one = 1 << CUBE_ROOT_BITS
    scale, offset = (116 * 255 + 50) // 100, (16 * 255 * one + 50) // 100  # 116 and 16 times 255 / 100, rounded
    scaled = [scale * f_y - offset, 500 * (f_x - f_y) + 128 * one, 200 * (f_y - f_z) + 128 * one]
    return _bytes([_descale(channel, CUBE_ROOT_BITS) for channel in scaled])


@jax.jit
def lab_to_rgb(lab_u8: UInt8[Array | np.ndarray, "*b 3"]) -> UInt8[Array, "*b 3"]:
    """Convert LAB bytes, as `rgb_to_lab` makes them, to sRGB bytes; equals `cv2.COLOR_LAB2RGB`.

    Colours outside the sRGB gamut are clamped channel by channel. A round trip changes a channel by about one level, by
    up to 21 in dark, saturated blues, where a byte of L, a or b is a coarser step than a byte of R, G or B.

    Args:
        lab_u8: L, a, b as bytes, any leading shape.

    Returns:
        The same shape: RGB in 0..255.

    Raises:
        ValueError: the last axis is not 3.
        TypeError: an image that is not uint8.

    >>> lab_to_rgb(np.array([[0, 128, 128], [255, 128, 128], [136, 208, 195]], np.uint8)).tolist()
    [[0, 0, 0], [255, 255, 255], [255, 2, 1]]
    """
    checks.kind("lab_to_rgb: lab_u8", lab_u8, np.uint8, "*b 3")
    to_y, to_f_y, f_inverse, matrix, to_byte = _backward_tables()
    lightness, a, b = (jnp.asarray(lab_u8)[..., i].astype(jnp.int32) for i in range(3))
    f_y = _look_up(to_f_y, lightness)
    # a / 500 and b / 200 at XYZ_BITS, by OpenCV's multiply-and-shift reciprocals (its -128 / 200 is one unit high).
    a_part = ((5 * a * 53687 + (1 << 7)) >> 13) - (128 << XYZ_BITS) // 500
    b_part = ((b * 41943 + (1 << 4)) >> 9) - (128 << XYZ_BITS) // 200 + 1
    x = _look_up(f_inverse, f_y + a_part - LOWEST_F)
    z = _look_up(f_inverse, f_y - b_part - LOWEST_F)
    shift = MATRIX_BITS + XYZ_BITS - LINEAR_BITS
    linear = [_descale(channel, shift) for channel in _mix(matrix, [x, _look_up(to_y, lightness), z])]
    return _bytes([_look_up(to_byte, jnp.clip(channel, 0, (1 << LINEAR_BITS) - 1)) for channel in linear])
