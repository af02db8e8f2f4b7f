"""The pictures of the pages: boxes over an image, feature maps, sampling grids, masks.

No words are drawn into them; captions say what is shown. Values are coloured by viridis, which rises evenly in
brightness and so reads the same with any colour vision and in grey; boxes have a dark halo.
"""

from collections.abc import Sequence

import cv2
import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from crystal.prediction.overlays import GREEN, HALO, ORANGE, PURPLE, SKY, VERMILLION, Colour, beside

Image = UInt8[np.ndarray, "h w 3"]
Array = np.ndarray | jax.Array  # a model's own bundles are annotated as JAX's, also where they hold NumPy's

WIDTH = 640  # pixels: sharp where three pictures stand side by side, and where one fills a telephone's screen
FINE = 960  # of pictures with many lines
MANY = 30  # boxes; more are drawn with thinner lines
FINEST = 64  # pixels a cell of a close-up at most
LEVEL_COLOURS: dict[int, Colour] = {2: ORANGE, 3: SKY, 4: GREEN, 5: VERMILLION, 6: PURPLE}
PALE = 0.75  # of its distance to white that a picture under boxes keeps


def enlarged(image: np.ndarray, width: int = WIDTH, *, cells: bool = False) -> np.ndarray:
    """The image `width` pixels wide; as hard-edged cells if asked for."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    how = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_NEAREST if cells else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=how)


def coloured(values: Float[Array, "h w"], low: float, high: float) -> Image:
    """Numbers as viridis: `low` and less dark blue, `high` and more yellow."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]


def _spread(values: Array) -> tuple[float, float]:
    """The range but for a hundredth at either end, so that a single cell does not darken all others."""
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(high if high > low else np.max(values))


def strength(features: Float[Array, "h w c"]) -> Float[Array, "h w"]:
    """How strongly each cell responds: the mean of the channels' magnitudes."""
    return np.abs(features).mean(-1)


def feature_map(features: Float[Array, "h w c"], width: int = WIDTH) -> Image:
    """`strength` as a picture, a hard-edged square a cell."""
    values = strength(features)
    return enlarged(coloured(values, *_spread(values)), width, cells=True)


def busiest(features: Float[np.ndarray, "h w c"], count: int) -> np.ndarray:
    """The channels that vary most over the map, the most varying first."""
    return np.argsort(-features.std((0, 1)), kind="stable")[:count]


def channels(features: Float[Array, "h w c"], numbers: Sequence[int] | np.ndarray, width: int = WIDTH) -> Image:
    """Single channels in rows of three, each over its own range."""
    gap = 8
    tile = (width - 2 * gap) // 3
    tiles = [enlarged(coloured(features[..., n], *_spread(features[..., n])), tile, cells=True) for n in numbers]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % 3)
    rows = [beside(tiles[i : i + 3], gap=gap) for i in range(0, len(tiles), 3)]
    spacer = np.full((gap, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, spacer)][:-1])


def draw_boxes(image: Image, boxes: Float[Array, "n 4"], colours: Sequence[Colour], *, pale: float = PALE) -> Image:
    """Rectangles over a paled image, FINE pixels wide; the last lie on top.

    Args:
        image: uint8 RGB.
        boxes: in its continuous pixels; what reaches over the border is not seen.
        colours: RGB, one a box.
        pale: how much of its distance to white the image keeps.
    """
    scale = FINE / image.shape[1]
    picture = np.rint(255 - (255 - enlarged(image, FINE).astype(np.float32)) * pale).astype(np.uint8)
    # OpenCV counts pixels by their centres, which lie at i + 0.5.
    corners = np.rint(np.clip(np.asarray(boxes, float) * scale, -1e4, 1e4) - 0.5).astype(int)
    thick = 4 if len(corners) <= MANY else 2
    for (x1, y1, x2, y2), colour in zip(corners, colours, strict=True):
        cv2.rectangle(picture, (x1, y1), (x2, y2), HALO, thick + 2)
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, thick)
    return picture


def close_up(image: Image, about: Float[Array, " 4"], boxes: Float[Array, "n 4"], colours: Sequence[Colour]) -> Image:
    """Boxes over the part of an image around one of them."""
    left, top, right, bottom = surroundings(about, image.shape[0], image.shape[1], least=16.0)
    moved = np.asarray(boxes, float).reshape(-1, 4) - [left, top, left, top]
    return draw_boxes(image[top:bottom, left:right], moved, colours)


def surroundings(box: Array, height: int, width: int, *, least: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), whole: a box and about a third of its longer side around it, inside the frame."""
    x1, y1, x2, y2 = (float(v) for v in box)
    half = max(0.8 * max(x2 - x1, y2 - y1), least)
    cx, cy = np.clip((x1 + x2) / 2, 0, width), np.clip((y1 + y2) / 2, 0, height)
    left, top = int(max(cx - half, 0)), int(max(cy - half, 0))
    return left, top, int(min(np.ceil(cx + half), width)), int(min(np.ceil(cy + half), height))


def sampling(
    features: Float[Array, "h w c"],
    box: Float[Array, " 4"],
    rows: Float[Array, " n"],
    columns: Float[Array, " m"],
    *,
    bins: int | None,
) -> Image:
    """A RoI over the cells of its map, its bins, and the points where it is read.

    Args:
        features: the map.
        box: in cells, cell i covering [i, i + 1).
        rows: of the points, in cells whose centres lie at whole numbers, as the sampler counts.
        columns: the same.
        bins: a side; None where the samples are not parted into bins.
    """
    height, width = features.shape[:2]
    left, top, right, bottom = surroundings(box, height, width, least=2.0)
    values = strength(features)
    part = coloured(values, *_spread(values))[top:bottom, left:right]
    cell = max(min(WIDTH // part.shape[1], FINEST), 4)
    picture = np.ascontiguousarray(np.repeat(np.repeat(part, cell, 0), cell, 1))
    if cell >= 10:
        picture[::cell], picture[:, ::cell] = picture[::cell] // 2 + 64, picture[:, ::cell] // 2 + 64

    def at(x: float, y: float) -> tuple[int, int]:
        return round((x - left) * cell), round((y - top) * cell)

    x1, y1, x2, y2 = (float(v) for v in box)
    edges = list(zip(np.linspace(x1, x2, (bins or 1) + 1), np.linspace(y1, y2, (bins or 1) + 1), strict=True))
    for colour in (HALO, (255, 255, 255)):
        for x, y in edges:
            thick = 4 if colour == HALO else 1 if 0 < abs(x - x1) < x2 - x1 else 2
            cv2.line(picture, at(x, y1), at(x, y2), colour, thick)
            cv2.line(picture, at(x1, y), at(x2, y), colour, thick)
    radius = max(2, min(cell // 8, 5))
    for y in (float(row) + 0.5 for row in rows):
        for x in (float(column) + 0.5 for column in columns):
            cv2.circle(picture, at(x, y), radius + 1, HALO, -1, cv2.LINE_AA)
            cv2.circle(picture, at(x, y), radius, ORANGE, -1, cv2.LINE_AA)
    return picture


def mask_cells(mask: Float[Array, "m m"], box: Float[Array, " 4"]) -> Image:
    """Mask probabilities over a box of these proportions, but a needle's are widened; dark blue 0, yellow 1."""
    wide, tall = (max(float(v), 1e-6) for v in (box[2] - box[0], box[3] - box[1]))
    shape = np.clip(np.array([wide, tall]) / max(wide, tall), 0.25, 1) * 400
    return cv2.resize(coloured(mask, 0, 1), tuple(np.rint(shape).astype(int).tolist()), interpolation=cv2.INTER_NEAREST)


def on_white(picture: Image, side: int) -> Image:
    """A picture in the middle of a white square, so that pictures of many proportions stand in line."""
    scale = min(side / picture.shape[0], side / picture.shape[1], 1.0)
    if scale < 1:
        size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    frame = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - picture.shape[0]) // 2, (side - picture.shape[1]) // 2
    frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return frame


def pasted(image: Image, mask: Bool[np.ndarray, "h w"], box: Float[Array, " 4"]) -> Image:
    """The image around a box, with the box and the mask's outline."""
    x1, y1, x2, y2 = surroundings(box, image.shape[0], image.shape[1], least=16.0)
    picture = draw_boxes(image[y1:y2, x1:x2], (np.asarray(box, float) - [x1, y1, x1, y1])[None], [SKY])
    large = cv2.resize(mask[y1:y2, x1:x2].astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    outline = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    cv2.polylines(picture, outline, True, HALO, 10, cv2.LINE_AA)
    cv2.polylines(picture, outline, True, ORANGE, 7, cv2.LINE_AA)
    return picture
