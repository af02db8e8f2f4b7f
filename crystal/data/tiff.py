"""TIFF files: their pages, and what OpenCV does not heed: WhiteIsZero, channels that are no alpha, stacks of pages.

Only the tags that say how to read the pixels are parsed, for classic TIFF and BigTIFF of either byte order; OpenCV
decodes. Nothing here reserves memory by what a file states.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 10_000
FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of a tag's values: BYTE, SHORT, LONG, LONG8
SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA = 254, 256, 257, 258, 262, 277, 284, 338
REDUCED = 1  # of SUBFILE: a thumbnail or a level of a pyramid
ASSOCIATED, UNASSOCIATED = 1, 2  # of EXTRA: alpha that the colours are multiplied by, or not; 0: anything else


class Page(NamedTuple):
    """What a page states; nothing of it is checked.

    Attributes:
        height: in pixels, before any rotation.
        width: in pixels.
        samples: channels.
        bits: of a sample.
        negative: whether 0 is white.
        extra: what the channel after the colours is, or 0.
        planar: whether channels are stored one after the other.
        reduced: whether it is a smaller copy of another page.
    """

    height: int
    width: int
    samples: int
    bits: int
    negative: bool
    extra: int
    planar: bool
    reduced: bool


def read_pages(data: bytes) -> list[Page]:
    """The pages of a TIFF file's content, as far as they can be found; none where it is no TIFF."""
    if data[:4] not in SIGNATURES:
        return []
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    pointer, count, entry, room = (f"{order}Q", f"{order}Q", f"{order}HHQ", 8) if big else ("I", "H", "HHI", 4)
    if not big:
        pointer, count, entry = order + pointer, order + count, order + entry
    pages: list[Page] = []
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(pointer, data, room)
        while at and at not in seen and len(pages) < MOST_PAGES:
            seen.add(at)
            (entries,) = struct.unpack_from(count, data, at)
            at += struct.calcsize(count)
            tags: dict[int, Sequence[int]] = {}
            for _ in range(min(entries, 1000)):
                tag, kind, number = struct.unpack_from(entry, data, at)
                values, form = at + struct.calcsize(entry), FORMATS.get(kind)
                if form and 0 < number <= 16:
                    if struct.calcsize(form) * number > room:
                        (values,) = struct.unpack_from(pointer, data, values)
                    tags[tag] = struct.unpack_from(f"{order}{number}{form}", data, values)
                at += struct.calcsize(entry) + room
            pages.append(_page(tags))
            (at,) = struct.unpack_from(pointer, data, at)
    except struct.error:  # cut short
        pass
    return pages


def _page(tags: dict[int, Sequence[int]]) -> Page:
    def first(tag: int, otherwise: int) -> int:
        return tags.get(tag, (otherwise,))[0]

    return Page(
        height=first(HEIGHT, 0),
        width=first(WIDTH, 0),
        samples=first(SAMPLES, 1),
        bits=first(BITS, 1),
        negative=first(PHOTOMETRIC, 1) == 0,
        extra=first(EXTRA, 0),
        planar=first(PLANAR, 1) == 2,
        reduced=bool(first(SUBFILE, 0) & REDUCED),
    )


def stack_of(pages: Sequence[Page]) -> list[int]:
    """Indices of the pages that show the same as the first, say at another focus: those of its size."""
    same = [k for k, page in enumerate(pages) if page[:3] == pages[0][:3] and not page.reduced]
    return same or [0]


def decode_page(data: bytes, number: int, page: Page) -> Shaped[np.ndarray, "h w *c"] | None:
    """The `number`th page (from 0), upright, white the highest: [h, w] grey, [h, w, 3] BGR, or [h, w, 4] BGR and
    straight alpha, of any sample type; None where OpenCV cannot read it.
    """
    try:
        _, decoded = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(number, number + 1))
    except cv2.error:
        return None
    if not decoded or not decoded[0].size:
        return None
    image = decoded[0]
    if page.negative and image.dtype != np.uint8:  # OpenCV has turned those of eight bits and fewer
        image = -image if image.dtype.kind == "f" else np.invert(image)
    if image.ndim == 3 and image.shape[2] == 4 and page.samples == 4 and image.dtype in (np.uint8, np.uint16):
        colours, alpha = image[..., :3], image[..., 3:]
        if page.extra not in (ASSOCIATED, UNASSOCIATED):
            return np.ascontiguousarray(colours)
        if page.extra == ASSOCIATED or image.dtype == np.uint8:  # OpenCV multiplies the colours of eight bits
            most = 255 if image.dtype == np.uint8 else 65535
            straight = np.minimum(colours.astype(np.float64) * most / np.maximum(alpha, 1), most)
            image = np.concatenate([np.rint(straight).astype(image.dtype), alpha], 2)
    return image


def sharpness(image: Shaped[np.ndarray, "h w *c"]) -> float:
    """Variance of the Laplacian of the slightly smoothed grey image: higher the more edges are in focus.

    Of the samples as they are: scaled to its own range, an image out of focus would show its noise.
    """
    grey = image.astype(np.float32)
    grey = cv2.GaussianBlur(grey[..., :3].mean(2) if grey.ndim == 3 else grey, (0, 0), 1.0)
    return float(np.nan_to_num(cv2.Laplacian(grey, cv2.CV_32F), posinf=0, neginf=0).var())
