"""Image files in, network images out: find, decode to RGB, CLAHE, letterbox.

Training, evaluation and prediction all use `prepare`, so that a network gets the same images in all of them. Runs in
input workers: no JAX.
"""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Shaped, UInt8

from crystal.errors import CrystalError
from maskrcnn_jax.image.letterbox import Letterbox, letterbox

Image = UInt8[np.ndarray, "h w 3"]  # RGB, 0..255

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
FORMATS = ("JPEG", "PNG", "TIFF", "BMP")  # Pillow's names
MAX_PIXELS = 178_956_970  # Pillow refuses more before it decodes a pixel, and so does OpenCV (crystal/__init__.py)
MOST_PIXELS_A_BYTE = 8 * 1032  # pixels of one bit, deflated as far as deflate goes; JPEG stays far below
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CLIP_LIMIT, TILES = 2.0, 8  # of CLAHE: the paper's section 2.2 leaves OpenCV's usual setting
TAIL = 0.001  # share of samples at either end that may be cut off when 16 bits become 8: hot and dead pixels

warnings.filterwarnings("ignore", module="PIL")  # about damaged and large files, which end in an ImageError or are read


class ImageError(CrystalError, ValueError):
    """An image that cannot be used; the message names the file and the remedy."""


def _to_bytes(samples: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """Scale samples of any type to 0..255, linearly over the range that the image uses, all channels alike.

    Cameras put 10, 12 or 14 bits into 16, so the type's own range would turn most of them black.
    """
    if samples.dtype == np.uint8:
        return samples
    values = np.nan_to_num(samples.astype(np.float32), posinf=0, neginf=0)
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    if low >= high:  # nearly all samples are equal: what differs is the picture, not a hot pixel
        low, high = values.min(), values.max()
    scaled = (values - low) * (255 / max(float(high - low), 1e-12))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _over_white(bgra: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    alpha = bgra[..., 3:].astype(np.float32) / 255
    return np.rint(bgra[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _decode(data: bytes, upright: bool) -> np.ndarray | None:
    """[h, w] grey, [h, w, 3] BGR or [h, w, 4] BGRA of any sample type; None where OpenCV cannot read it."""
    buffer = np.frombuffer(data, np.uint8)
    as_stored = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        if not data.startswith(b"\xff\xd8"):  # JPEG has no transparency; the others are decoded with all channels
            image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
            if image is None or (image.ndim == 3 and image.shape[2] == 4):
                return image
        # These flags apply the EXIF orientation, which IMREAD_UNCHANGED does not.
        return cv2.imdecode(buffer, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | as_stored)
    except cv2.error:
        return None


def stated_size(data: bytes, path: str | Path) -> tuple[int, int] | None:
    """(height, width) in pixels that an image file's header states, before any EXIF rotation; no pixel is decoded.

    Args:
        data: the file's content.
        path: the file's name in the message.

    Returns:
        None where Pillow cannot tell: the file is damaged, no image, or a TIFF of a rare kind.

    Raises:
        ImageError: more than MAX_PIXELS.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            picture.verify()  # of a PNG: each chunk ends before the file does and fits its checksum
            return picture.height, picture.width
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: states more than {MAX_PIXELS // 10**6} megapixels; crop it or scale it down"
        ) from error
    except Exception:  # Pillow's parsers raise many kinds on damaged files
        return None


def decode_image(data: bytes, path: str | Path, *, upright: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a file's content as `read_image` does.

    Args:
        data: the content of a JPEG, PNG, TIFF or BMP file.
        path: the file's name in messages.
        upright: whether to apply the EXIF orientation.

    Raises:
        ImageError: truncated, not an image, or stating more than MAX_PIXELS or than so few bytes can hold.
    """
    size = stated_size(data, path)
    height, width = size or (0, 0)
    if height * width > MOST_PIXELS_A_BYTE * len(data):  # a decoder would reserve the memory before it notices
        raise ImageError(
            f"{path}: states {width} x {height} pixels, more than its {len(data)} bytes can hold; export it again"
        )
    # OpenCV reads TIFF and BMP files that Pillow does not know, but reserves whatever a damaged PNG's chunks ask for.
    image = None if size is None and data.startswith(PNG_SIGNATURE) else _decode(data, upright)
    if image is None or image.size == 0:
        what = "is empty" if not data else "cannot be decoded: it is damaged, cut short or no image"
        raise ImageError(f"{path}: {what}; copy or export it again as JPEG, PNG, TIFF or BMP")
    image = _to_bytes(image)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(_over_white(image) if image.shape[2] == 4 else image, cv2.COLOR_BGR2RGB)


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a JPEG, PNG, TIFF or BMP file as RGB, 0..255, upright.

    Grey becomes three equal channels; a palette its colours; transparency lies over white; more than eight bits are
    scaled linearly so that the image's own range, but for a thousandth at either end, becomes 0..255; EXIF orientation
    is applied, except to images with an alpha channel. Of a TIFF with several pages the first is read.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, or stating more than MAX_PIXELS.
    """
    try:
        data = Path(path).read_bytes()  # not cv2.imread: on Windows that cannot open names outside the code page
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    return decode_image(data, path)


def encode_png(image: UInt8[np.ndarray, "h w *c"]) -> bytes:
    """A PNG file of a grey or an RGB image, at the fastest level of compression."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The image files named, and those in the folders named, at any depth, in the order of their names.

    A file that is named is taken whatever its suffix; in folders only SUFFIXES count, hidden files do not. Each once.

    Raises:
        ImageError: a path that does not exist, or a folder without an image.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = [
                p
                for p in sorted(path.rglob("*"))
                if p.suffix.lower() in SUFFIXES
                and p.is_file()
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            ]
            if not inside:
                raise ImageError(f"{path}: the folder holds no image; expected files ending in {', '.join(SUFFIXES)}")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise ImageError(f"{path}: there is no such file or folder; check the path")
    if not found:
        raise ImageError("no image was named; give files or folders")
    return list(found)


def _is_grey(image_rgb: UInt8[np.ndarray, "h w 3"]) -> bool:
    first = image_rgb[..., 0]
    return np.array_equal(first, image_rgb[..., 1]) and np.array_equal(first, image_rgb[..., 2])


def apply_clahe(image_rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Equalise the contrast tile by tile: the grey image where the channels are equal, else L of LAB.

    OpenCV's, which `maskrcnn_jax.image.clahe` equals to the last bit. For original resolution, before the letterbox:
    black padding would enter the histograms.
    """
    equaliser = cv2.createCLAHE(CLIP_LIMIT, (TILES, TILES))  # one a call: it is not safe to share between threads
    if _is_grey(image_rgb[::8, ::8]) and _is_grey(image_rgb):  # most colour images are found by a few pixels
        return cv2.cvtColor(equaliser.apply(np.ascontiguousarray(image_rgb[..., 0])), cv2.COLOR_GRAY2RGB)
    lab = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2LAB)
    lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    # By area when shrinking, so that thin needles fade instead of vanishing between samples.
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def prepare(
    image_rgb: UInt8[np.ndarray, "h w 3"], *, size: int | tuple[int, int], clahe: bool
) -> tuple[UInt8[np.ndarray, "tall wide 3"], Letterbox]:
    """What the network sees of an image: CLAHE if asked for, then fitted into `size` on black.

    Args:
        image_rgb: 0..255, at its original resolution.
        size: side of the square letterbox, or its (height, width).
        clahe: whether to equalise; the same in training and in use.

    Returns:
        The letterboxed image, 0..255, and where the original lies in it.
    """
    return letterbox(apply_clahe(image_rgb) if clahe else image_rgb, size, resize=_resize)
