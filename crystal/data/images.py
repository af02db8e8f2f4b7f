"""Image files in, network images out: find, decode to RGB, CLAHE, letterbox.

Training, evaluation and prediction all use `prepare`, so that a network gets the same images in all of them. Runs in
input workers: no JAX.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
from jaxtyping import Shaped, UInt8

from crystal.console import printable
from crystal.data import tiff
from crystal.errors import CrystalError
from crystal.files import files_below
from maskrcnn_jax.image.letterbox import Letterbox, letterbox

Image = UInt8[np.ndarray, "h w 3"]  # RGB, 0..255

Page = Literal["first", "sharpest"] | int  # of a TIFF file of several: by its place, or counted from 1

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dib"),
    *(".webp", ".gif", ".jp2", ".j2k", ".jpx", ".pgm", ".ppm", ".pnm"),
)
# Photographs and micrographs of kinds that are not read. They are found like the others, so that each is named.
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".jxl", ".psd", ".xcf", ".exr", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf"),
    *(".rw2", ".raf", ".czi", ".nd2", ".lif", ".vsi", ".oib", ".oif", ".svs", ".ndpi", ".dcm", ".ims", ".lsm"),
)
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "JPEG2000", "PPM")  # Pillow's names
EVEN = (b"RIFF", b"\0\0\0\x0c", b"\xff\x4f\xff\x51")  # WebP, JPEG 2000: an even image takes hardly any bytes
MAX_PIXELS = 178_956_970  # Pillow refuses more before it decodes a pixel, and so does OpenCV (crystal/__init__.py)
MAX_SIDE = 65_500  # what a JPEG can have: overlays are JPEGs
MOST_PIXELS_A_BYTE = 8 * 1032  # pixels of one bit, deflated as far as deflate goes; JPEG stays far below
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # of EXIF's orientations
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}
CLIP_LIMIT, TILES = 2.0, 8  # of CLAHE, which the paper does not give: OpenCV's usual setting
TAIL = 0.001  # share of samples at either end that may be cut off when 16 bits become 8: hot and dead pixels

warnings.filterwarnings("ignore", module="PIL")  # about damaged and large files, which end in an ImageError or are read


class ImageError(CrystalError, ValueError):
    """An image that cannot be used; the message names the file and the remedy."""


class ImagePages(NamedTuple):
    """How many pages an image file has, and how many of them `read_image` chooses from."""

    pages: int
    stack: int


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


def _over_white(bgra: Shaped[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    most = np.iinfo(bgra.dtype).max if bgra.dtype.kind == "u" else 1.0
    alpha = bgra[..., 3:].astype(np.float32) / most
    return np.rint(_to_bytes(bgra[..., :3]) * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _turned(image: np.ndarray, data: bytes) -> np.ndarray:
    """The image of a PNG as its EXIF orientation says."""
    if not any(mark in data for mark in (b"eXIf", b"Raw profile type")):  # Pillow would decode all of it to find none
        return image
    with contextlib.suppress(Exception), PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        return TURNS[picture.getexif()[PIL.ExifTags.Base.Orientation]](image)
    return image


def _decode(data: bytes, upright: bool) -> np.ndarray | None:
    """[h, w] grey, [h, w, 3] BGR or [h, w, 4] BGRA of any sample type; None where OpenCV cannot read it."""
    buffer = np.frombuffer(data, np.uint8)
    as_stored = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        if not data.startswith(b"\xff\xd8"):  # JPEG has no transparency; the others are decoded with all channels
            image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
            if image is None:
                return None
            if image.ndim == 3 and image.shape[2] == 4:
                if data.startswith(b"BM") and not image[..., 3].any():  # the fourth byte is unused
                    return image[..., :3]
                return _turned(image, data) if upright else image
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
        None where the file is damaged or no image that is read.

    Raises:
        ImageError: more than MAX_PIXELS, or a side of more than MAX_SIDE.
    """
    try:
        pages = tiff.read_pages(data)  # Pillow knows neither every BigTIFF nor every type of samples
        if pages:
            size = pages[0].height, pages[0].width
        else:
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                picture.verify()  # of a PNG: each chunk ends before the file does and fits its checksum
                size = picture.height, picture.width
    except PIL.Image.DecompressionBombError:
        size = MAX_PIXELS, MAX_PIXELS
    except Exception:  # Pillow's parsers raise many kinds on damaged files
        return None
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{path}: states more than {MAX_PIXELS // 10**6} megapixels; crop it or scale it down")
    if max(size) > MAX_SIDE:
        raise ImageError(f"{path}: states a side of {max(size):,} pixels, more than {MAX_SIDE:,}; crop it")
    return size


def _decode_by_pillow(data: bytes, upright: bool) -> np.ndarray | None:
    """As `_decode`, for what OpenCV does not read in every version."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            image = PIL.ImageOps.exif_transpose(picture) if upright else picture
            if image.mode.startswith("I") or image.mode == "F":
                return np.array(image)
            pixels = np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
            return np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
    except Exception:  # as in `stated_size`
        return None


def _decode_tiff(data: bytes, path: str | Path, page: Page) -> np.ndarray | None:
    """One page of a TIFF file, in the form of `_decode`."""
    pages = tiff.read_pages(data)
    if not pages:
        return None
    if isinstance(page, int):
        if not 1 <= page <= len(pages):
            raise ImageError(f"{path}: has {len(pages)} page(s), so no page {page}; choose another --page")
        wanted = [page - 1]
    else:
        wanted = tiff.stack_of(pages) if page == "sharpest" else [0]
    best, most = None, -1.0
    for number in wanted:  # one in memory beside the best
        stated = pages[number]
        pixels = stated.height * stated.width
        if pixels > MAX_PIXELS or pixels * stated.samples * stated.bits > 64 * MAX_PIXELS:
            raise ImageError(f"{path}: page {number + 1} is too large; crop it or scale it down")
        if stated.planar and stated.bits > 8 and stated.samples > 1:  # OpenCV reads its channels as one
            raise ImageError(
                f"{path}: stores channels of {stated.bits} bits one after the other (planar); export it with "
                "interleaved channels, or as PNG"
            )
        if stated.samples == 2 and stated.bits > 8:  # OpenCV makes them eight bits, of the type's range
            raise ImageError(f"{path}: is grey of {stated.bits} bits with an alpha channel; export it without one")
        image = tiff.decode_page(data, number, stated)
        sharp = tiff.sharpness(image) if image is not None and len(wanted) > 1 else 0.0
        if image is not None and sharp > most:
            best, most = image, sharp
    return best


def decode_image(
    data: bytes, path: str | Path, *, upright: bool = True, page: Page = "sharpest"
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a file's content as `read_image` does.

    Args:
        data: the content of an image file.
        path: the file's name in messages.
        upright: whether to apply the EXIF orientation.
        page: of a TIFF file of several.

    Raises:
        ImageError: truncated, not an image, or stating more than MAX_PIXELS or than so few bytes can hold.
    """
    size = stated_size(data, path)
    height, width = size or (0, 0)
    # A decoder would reserve the memory before it notices.
    if height * width > MOST_PIXELS_A_BYTE * len(data) and not data.startswith(EVEN):
        raise ImageError(
            f"{path}: states {width} x {height} pixels, more than its {len(data)} bytes can hold; export it again"
        )
    if data.startswith(tiff.SIGNATURES):
        image = _decode_tiff(data, path, page)
    elif data.startswith((b"\xff\xd8", b"BM")) or (data.startswith(PNG_SIGNATURE) and size):
        # OpenCV reads BMP files that Pillow does not know, but reserves whatever a damaged PNG's chunks ask for.
        image = _decode(data, upright)
    else:
        image = _decode_by_pillow(data, upright) if size else None
    if image is None and data.startswith(tiff.SIGNATURES) and page in ("first", "sharpest", 1):  # five channels, say
        image = _decode_by_pillow(data, upright)
    if image is None or image.size == 0:
        what = "is empty" if not data else "cannot be decoded: it is damaged, cut short or no image"
        pages = tiff.read_pages(data)
        if pages and pages[0].samples > 4:
            what = f"has {pages[0].samples} channels, of which none is said to be red, green or blue"
        what = "is a HEIC or AVIF photograph, which is not read" if data[4:8] == b"ftyp" else what
        raise ImageError(f"{path}: {what}; copy or export it again as JPEG, PNG, TIFF or BMP")
    if image.ndim == 3 and image.shape[2] == 4:
        return cv2.cvtColor(_over_white(image), cv2.COLOR_BGR2RGB)
    image = _to_bytes(image)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.ndim == 3 and image.shape[2] == 3 else cv2.COLOR_GRAY2RGB)


def count_pages(path: Path) -> ImagePages:
    """The pages of an image file: 1 of anything but a TIFF, or where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(4)
            pages = tiff.read_pages(data + file.read()) if data in tiff.SIGNATURES else []
    except OSError:
        pages = []
    return ImagePages(len(pages), len(tiff.stack_of(pages))) if pages else ImagePages(1, 1)


def read_image(path: str | Path, page: Page = "sharpest") -> UInt8[np.ndarray, "h w 3"]:
    """Read a JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000 or PNM file as RGB, 0..255, upright.

    Grey becomes three equal channels; a palette its colours; transparency lies over white; more than eight bits are
    scaled linearly so that the image's own range, but for a thousandth at either end, becomes 0..255; EXIF orientation
    is applied. Of a TIFF file's fourth channel that is not said to be alpha nothing is seen. Of animations the first
    picture is read.

    Args:
        path: the file.
        page: which page of a TIFF file. By default the sharpest of those that have the size of the first: of a drop
            that was photographed at several depths, the one in focus.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, stating more than MAX_PIXELS, or without that page.
    """
    suffix = Path(path).suffix.lower()
    if suffix in UNREAD_SUFFIXES:  # some are TIFF inside, and would show their thumbnails
        raise ImageError(f"{path}: files of the kind {suffix} are not read; export it as JPEG, PNG or TIFF")
    try:
        data = Path(path).read_bytes()  # not cv2.imread: on Windows that cannot open names outside the code page
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    return decode_image(data, path, page=page)


def encode_png(image: UInt8[np.ndarray, "h w *c"]) -> bytes:
    """A PNG file of a grey or an RGB image, at the fastest level of compression."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _is_our_output(folder: Path) -> bool:
    """Whether a folder holds pictures that `crystal predict` or `crystal convert` drew of others."""
    beside, inside = ("predictions.json", "crystals.csv"), ("label_names.txt", "info.yaml")
    if folder.name == "overlays" and all((folder.parent / name).exists() for name in beside):
        return True
    return all((folder / name).exists() for name in inside)


def find_images(paths: Iterable[str | Path], note: Callable[[str], object] = lambda text: None) -> list[Path]:
    """The image files named, and those in the folders named, at any depth, in the order of their names.

    A file that is named is taken whatever its suffix; in folders only SUFFIXES count, hidden files do not. Each once.
    Files of UNREAD_SUFFIXES, links that lead nowhere and folders that cannot be listed are among them, so that reading
    them names them. Links to folders are followed. Overlays of an earlier prediction and pictures that LabelMe drew of
    annotations are left out.

    Args:
        paths: files and folders.
        note: called with a sentence where something is left out.

    Raises:
        ImageError: a path that does not exist, or a folder without an image.
    """
    found: dict[Path, Path] = {}
    ours: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = files_below(path, lambda folder: _is_our_output(folder) and (ours.append(folder) or True))
            named = sorted(p for p in below if p.suffix.lower() in (*SUFFIXES, *UNREAD_SUFFIXES) or p.is_dir())
            inside = [p for p in named if p.is_file() or p.is_symlink() or p.is_dir()]  # no pipe
            if not inside:
                raise ImageError(f"{path}: the folder holds no image; expected files ending in {', '.join(SUFFIXES)}")
        elif path.exists():
            inside = [path]
        else:
            raise ImageError(f"{path}: there is no such file or folder; check the path")
        for one in inside:  # by the folder that it lies in, however that was reached
            found.setdefault(one.parent.resolve() / one.name, one)
    if not found:
        raise ImageError("no image was named; give files or folders")
    if ours:
        more = f" and {len(ours) - 1} more" if len(ours) > 1 else ""
        note(f"{printable(str(ours[0]))}{more}: left out, since crystal drew its pictures; name the folder to take it")
    return list(found.values())


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


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at another (height, width)."""
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
    return letterbox(apply_clahe(image_rgb) if clahe else image_rgb, size, resize=resize)
