"""TIFF files: their pages, and what OpenCV does not heed: WhiteIsZero, channels that are no alpha, stacks of pages.

tifffile reads the tags, OpenCV decodes.
"""

import io
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from jaxtyping import Shaped

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damage is said by the errors of images.py

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 10_000
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
    """The pages of a TIFF file's content, as far as they can be read; none where it is no TIFF."""
    pages: dict[int, Page] = {}  # by offset: in a damaged file the last may lead to the first
    if data[:4] not in SIGNATURES:
        return []
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            for number in range(MOST_PAGES):
                page: Any = file.pages[number]
                if page.offset in pages:
                    break
                pages[page.offset] = Page(
                    height=int(page.imagelength),
                    width=int(page.imagewidth),
                    samples=int(page.samplesperpixel),
                    bits=int(np.max(page.bitspersample)),
                    negative=page.photometric == 0,
                    extra=int(page.extrasamples[0]) if page.extrasamples else 0,
                    planar=page.planarconfig == 2,
                    reduced=bool(page.subfiletype & REDUCED),
                )
    except Exception:  # of the page after the last: IndexError; of damaged files many kinds
        pass
    return list(pages.values())


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
