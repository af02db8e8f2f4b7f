"""The cameras: sizes, light, colour, sharpness and noise as imagers differ in them, and what is burnt into pictures.

Nothing here moves anything, so masks do not depend on it.
"""

import cv2
import numpy as np

from crystal.drops.stage import COARSE, Stage, grid, noise

SIZES = ((960, 1280), (768, 1024), (1024, 1280), (800, 1000), (600, 800), (512, 640), (480, 640))  # (height, width)
SIZE_SHARES = (0.34, 0.16, 0.12, 0.12, 0.1, 0.1, 0.06)
CASTS = (
    (1.0, 1.0, 1.0),
    (0.97, 1.0, 0.9),
    (1.0, 0.97, 0.84),
    (1.0, 0.97, 0.76),
    (0.92, 1.0, 0.97),
    (1.0, 0.93, 0.98),
    (0.9, 0.94, 1.0),
)


def begin(
    seed: int | tuple[int, ...], height: int | None, width: int | None, light: float
) -> tuple[np.random.Generator, np.random.Generator, tuple[int, int]]:
    """The chances of what lies before the camera, those of the camera, and the (height, width) of the picture.

    Raises:
        ValueError: light is not within 0 and 1, or only one of height and width is given.
    """
    if not 0 <= light <= 1:
        raise ValueError(f"light is {light}; it goes from 0 (even, contrasty) to 1 (dim, uneven, faint)")
    if (height is None) != (width is None):
        raise ValueError(f"height is {height} and width is {width}; give both or neither")
    rng, optics = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    chosen = SIZES[int(rng.choice(len(SIZES), p=SIZE_SHARES))]
    return rng, optics, chosen if height is None or width is None else (height, width)


def draw_tint(rng: np.random.Generator, shape: tuple[int, int], style: str) -> np.ndarray:
    """The colour of the light, float32[h/4, w/4, 3] RGB: "grey", "tinted", or "polarised", pink to green over it."""
    coarse = (-(-shape[0] // COARSE), -(-shape[1] // COARSE))
    tint = np.ones((*coarse, 3), np.float32)
    if style == "grey":
        return tint
    tint *= np.array(CASTS[rng.integers(len(CASTS))], np.float32) * (1 + rng.normal(0, 0.025, 3)).astype(np.float32)
    if style == "polarised":
        slow = np.tanh(1.5 * noise(rng, coarse, rng.uniform(0.3, 0.9) * coarse[1]))[..., None]
        tint *= 1 + rng.uniform(0.03, 0.14) * slow * np.array([0.8, -1.0, 0.5], np.float32)
        blue = np.tanh(noise(rng, coarse, 0.5 * coarse[1]))[..., None] * rng.uniform(0, 0.06)
        tint *= 1 + blue * np.array([-1.0, 0.2, 0.8], np.float32)
    return tint


def burn_in(rng: np.random.Generator, image: np.ndarray) -> None:
    """A scale bar, text, or both, written into uint8[h, w, 3] near its edge, in place."""
    height, width = image.shape[:2]
    tone = [(255, 255, 255), (0, 0, 0), (255, 220, 0), (255, 0, 0), (0, 0, 255)][rng.integers(5)]
    size, thick = rng.uniform(0.4, 1.0) * width / 1280, max(1, round(width / 900))
    corner_x, corner_y = rng.choice([0.03, 0.7]), rng.choice([0.06, 0.94])
    x, y = int(corner_x * width), int(corner_y * height)
    if rng.random() < 0.7:
        long = int(rng.uniform(0.06, 0.22) * width)
        cv2.line(image, (x, y), (x + long, y), tone, thick * int(rng.integers(1, 4)))
        if rng.random() < 0.5:
            for end in (x, x + long):
                cv2.line(image, (end, y - 5 * thick), (end, y + 5 * thick), tone, thick)
        text = f"{rng.choice([20, 50, 100, 200, 250, 500])} um"
    else:
        text = f"{'ABCDEFGH'[rng.integers(8)]}{rng.integers(1, 13):02d}-{rng.integers(1, 4)} {rng.integers(1, 99)}d"
    if rng.random() < 0.85:
        cv2.putText(image, text, (x, y - 8 * thick), cv2.FONT_HERSHEY_SIMPLEX, size, tone, thick, cv2.LINE_AA)


def compress(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image uint8[h, w, 3] with the traces of a strong JPEG compression: pictures are often stored twice."""
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 85))])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))


def _lamp(rng: np.random.Generator, shape: tuple[int, int], badness: float) -> np.ndarray:
    """The light that falls on the field, float32[h/4, w/4], its mean the exposure."""
    x, y = grid(shape, COARSE)
    x, y = x / shape[1] - 0.5, y / shape[0] - 0.5
    heading = rng.uniform(0, 2 * np.pi)
    lamp = rng.normal(0, 0.2, 2)
    tilt = (x * np.cos(heading) + y * np.sin(heading)) * rng.uniform(0, 1)
    corners = ((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) * rng.uniform(0.6, 2.2)
    lit = np.exp(-(0.1 + 0.9 * badness) * (corners + tilt)).astype(np.float32)
    lit *= np.float32(rng.uniform(0.62, 1.0) * (1 - 0.5 * badness)) / lit.mean()
    # Highlights roll off instead of clipping, as a camera's tone curve does.
    return np.where(lit > 0.75, 1 - 0.25 * np.exp(-np.maximum(lit - 0.75, 0) / 0.25), lit)


def photograph(rng: np.random.Generator, stage: Stage, light: float) -> np.ndarray:
    """The stage photographed.

    Args:
        rng: where the chances come from.
        stage: what lies before the camera.
        light: how bad the light is on the whole, 0 to 1; each picture varies around it.

    Returns:
        uint8[h, w, 3], RGB.
    """
    shape = stage.transmission.shape
    scale = min(shape[0] / 960, shape[1] / 1280)
    badness = float(np.clip(light * rng.uniform(0.1, 1.6), 0, 1))
    through = stage.transmission
    blur = rng.choice([0.0, 0.8, 1.6], p=[0.4, 0.45, 0.15]) * rng.uniform(0.6, 1.2) * max(scale, 0.6)
    if blur > 0.3:
        through = cv2.GaussianBlur(through, (0, 0), blur)
    elif rng.random() < 0.5:  # sharpened by the camera
        through = through + rng.uniform(0.2, 0.7) * (through - cv2.GaussianBlur(through, (0, 0), 1.5))
    haze = rng.uniform(0.0, 0.05) + 0.16 * badness * rng.uniform(0, 1)
    field = _lamp(rng, shape, badness)[..., None] * stage.tint
    field = cv2.resize(field.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    veiled = through * np.float32(255 * (1 - haze)) + np.float32(255 * haze)
    if stage.tint.std() > 0 and rng.random() < 0.35:  # a lens that does not bring all colours to one place
        shift = rng.uniform(-1.2, 1.2, 2) * max(scale, 0.5)
        for channel, sign in ((0, 1), (2, -1)):
            move = np.array([[1, 0, sign * shift[0]], [0, 1, sign * shift[1]]], np.float32)
            moved = cv2.warpAffine(veiled, move, shape[::-1], borderMode=cv2.BORDER_REPLICATE)
            field[..., channel] *= moved
        field[..., 1] *= veiled
    else:
        field *= veiled[..., None]
    # Most sensor noise is shared by the colours, since a Bayer pattern is filled in from its neighbours.
    grain = rng.standard_normal((*shape, 1), np.float32) * np.float32(rng.uniform(0.6, 2.5) + 3.5 * badness**2)
    if rng.random() < 0.5:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7)[..., None] * np.float32(1.6)
    field += grain
    return np.clip(field, 0, 255, out=field).astype(np.uint8)
