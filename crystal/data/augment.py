"""Random augmentation of a training image: mirrored, shrunk, and under other light.

Works on letterboxed images with masks relative to their boxes, so that a mirrored mask is the mirrored array and
nothing is resampled. Light changes stay inside the window: padding is black in prediction, so it is black in training.
A drop has no up or down, hence both mirrorings; quarter turns would need square letterboxes. No JAX.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Augmentation:
    """Probabilities, 0 to 1, and ranges, drawn from uniformly."""

    mirror: float = 0.5  # each axis
    shrink: float = 0.0  # probability that the image is shown smaller, somewhere in the letterbox; off by default
    shrink_to: float = 0.6  # smallest share of its size
    tone: float = 0.8  # gain, offset, contrast and gamma together
    gain: float = 0.15  # +-, a share of the brightness
    offset: float = 12.0  # +-, grey levels
    contrast: float = 0.2  # +-, a share, about the mean
    gamma: float = 0.25  # +-, in the exponent's logarithm
    gradient: float = 0.3
    gradient_depth: float = 0.25  # the brightness at the border: up to this share more on one side, less on the other
    blur: float = 0.15
    blur_sigma: float = 0.8  # pixels, at most
    noise: float = 0.2
    noise_sigma: float = 5.0  # grey levels, at most


class View(NamedTuple):
    """A letterboxed image and its objects: image uint8[h, w, 3], boxes [n, 4] and window [4] in its pixels, masks
    [n, m, m] relative to their boxes.
    """

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    masks: UInt8[np.ndarray, "n m m"]
    window: Float[np.ndarray, " 4"]


def _mirrored(boxes: Float[np.ndarray, "*n 4"], side: int, axis: int) -> Float[np.ndarray, "*n 4"]:
    """Boxes seen in a mirror: x' = side - x along `axis` (0 for x, 1 for y), so the near edge becomes the far one."""
    turned = boxes.copy()
    turned[..., axis], turned[..., axis + 2] = side - boxes[..., axis + 2], side - boxes[..., axis]
    return turned


def flip(view: View, *, horizontal: bool = False, vertical: bool = False) -> View:
    """Mirror left to right and top to bottom; exact, and its own inverse."""
    image, boxes, masks, window = view
    height, width = image.shape[:2]
    if horizontal:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
        boxes, window = _mirrored(boxes, width, 0), _mirrored(window, width, 0)
    if vertical:
        image, masks = image[::-1], masks[:, ::-1]
        boxes, window = _mirrored(boxes, height, 1), _mirrored(window, height, 1)
    return View(np.ascontiguousarray(image), boxes, np.ascontiguousarray(masks), window)


def shrink(view: View, scale: float, corner: tuple[float, float]) -> View:
    """Show the window's content at `scale` <= 1, moved by the shares `corner` of the free space in x and y.

    The size is rounded to whole pixels, and the boxes follow the resulting ratio. Masks are relative to boxes and stay.
    """
    height, width = view.image.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in view.window)
    wide, tall = max(round((x2 - x1) * scale), 1), max(round((y2 - y1) * scale), 1)
    left, top = int(corner[0] * (width - wide + 0.999)), int(corner[1] * (height - tall + 0.999))
    image = np.zeros_like(view.image)
    image[top : top + tall, left : left + wide] = cv2.resize(
        view.image[y1:y2, x1:x2], (wide, tall), interpolation=cv2.INTER_AREA
    )
    ratio = np.array([wide / (x2 - x1), tall / (y2 - y1)] * 2)
    boxes = (view.boxes - [x1, y1, x1, y1]) * ratio + [left, top, left, top]
    return View(image, boxes, view.masks, np.array([left, top, left + wide, top + tall], view.window.dtype))


def _tone_curve(rng: np.random.Generator, mean: float, how: Augmentation) -> UInt8[np.ndarray, "256"]:
    """Gain, contrast, offset and gamma in one table."""
    gain, contrast, offset, gamma = rng.uniform(-1, 1, 4) * (how.gain, how.contrast, how.offset, how.gamma)
    level = np.arange(256) * (1 + gain)
    level = mean + (level - mean) * (1 + contrast) + offset
    level = 255 * (np.clip(level, 0, 255) / 255) ** np.exp(gamma)
    return np.rint(level).astype(np.uint8)


def _gradient(rng: np.random.Generator, height: int, width: int, depth: float) -> Float[np.ndarray, "h w"]:
    """Factors around 1 that change smoothly across the picture, as light from one side."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, depth)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    across = (np.cos(angle) * x + np.sin(angle) * y[:, None]) / (abs(np.cos(angle)) + abs(np.sin(angle)))
    return (1 + strength * across).astype(np.float32)


def relight(
    picture: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, how: Augmentation
) -> UInt8[np.ndarray, "h w 3"]:
    """Random exposure, lamp, focus and sensor noise, each with its probability; the size stays."""
    if rng.random() < how.tone:
        picture = cv2.LUT(picture, _tone_curve(rng, float(picture.mean()), how))
    if rng.random() < how.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.2, max(how.blur_sigma, 0.21)))
    gradient, noise = rng.random() < how.gradient, rng.random() < how.noise
    if gradient or noise:
        light = picture.astype(np.float32)
        if gradient:
            light *= _gradient(rng, picture.shape[0], picture.shape[1], how.gradient_depth)[..., None]
        if noise:
            light += rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(0, how.noise_sigma))
        picture = np.rint(np.clip(light, 0, 255)).astype(np.uint8)
    return picture


def augment(view: View, rng: np.random.Generator, how: Augmentation | None = None) -> View:
    """A random variation of a view, which itself is not changed; equal generators give equal variations.

    Args:
        view: a letterboxed image with its objects.
        rng: its state is advanced.
        how: probabilities and ranges; by default light ones.

    Returns:
        A new view of the same shapes and dtypes, with every object still in it.
    """
    how = how or Augmentation()
    mirror = rng.random(2) < how.mirror
    varied = flip(view, horizontal=bool(mirror[0]), vertical=bool(mirror[1]))
    if rng.random() < how.shrink:
        varied = shrink(varied, rng.uniform(how.shrink_to, 1), (rng.random(), rng.random()))
    x1, y1, x2, y2 = (int(v) for v in varied.window)
    image = varied.image.copy()
    image[y1:y2, x1:x2] = relight(np.ascontiguousarray(image[y1:y2, x1:x2]), rng, how)
    return varied._replace(image=image, boxes=varied.boxes.astype(view.boxes.dtype))
