"""Every kind of image file a microscope or a colleague hands over, and the files that only look like one."""

import contextlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from crystal.data import images
from crystal.data.images import (
    MAX_PIXELS,
    ImageError,
    apply_clahe,
    decode_image,
    encode_png,
    find_images,
    prepare,
    read_image,
    stated_size,
)
from crystal.data.labelme.coco import to_coco
from maskrcnn_jax.image.clahe import clahe, clahe_rgb


def picture(height=24, width=40, channels=3, seed=0) -> np.ndarray:
    """Smooth, every channel another, each reaching 0 and 255 in more than a few pixels."""
    rng = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(rng.random((height, width, channels)), (0, 0), 3).reshape(height, width, channels)
    low, high = np.quantile(soft, [0.02, 0.98], axis=(0, 1))
    return np.rint(np.clip((soft - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    """RGB(A) or grey, of any depth, by OpenCV."""
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header: tuple, rows: bytes, *extra: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", *header)),
            *extra,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF segment that says only how it is to be turned."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".JPG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_formats(tmp_path, suffix, channels):
    image = picture(channels=channels)
    got = read_image(write(tmp_path / f"a{suffix}", image))
    assert got.dtype == np.uint8
    assert got.shape == (24, 40, 3)
    assert np.abs(got.astype(int) - image).max() <= (24 if suffix.lower().startswith(".j") else 0)


def by_pillow(path: Path, image: np.ndarray, **settings) -> Path:
    Image.fromarray(image).save(path, **settings)
    return path


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".jfif", ".dib"])
def test_other_formats_that_pillow_reads(tmp_path, suffix):
    image = picture(channels=1)[..., 0] if suffix in (".gif", ".pgm") else picture()
    path = by_pillow(tmp_path / f"a{suffix}", image, **({"lossless": True} if suffix == ".webp" else {}))
    got = read_image(path)
    wanted = image if image.ndim == 3 else np.dstack([image] * 3)
    assert np.abs(got.astype(int) - wanted).max() <= (30 if suffix == ".jfif" else 0)
    assert find_images([tmp_path]) == [path]
    if suffix in (".webp", ".gif"):
        clear = np.dstack([picture(), np.zeros((24, 40), np.uint8)])
        assert read_image(by_pillow(tmp_path / f"clear{suffix}", clear)).min() == 255
        frames = [Image.fromarray(frame) for frame in (picture(seed=1), picture(seed=2))]
        frames[0].save(tmp_path / f"two{suffix}", save_all=True, append_images=frames[1:])
        assert np.abs(read_image(tmp_path / f"two{suffix}").astype(int) - picture(seed=1)).mean() < 10  # the first


def test_an_even_image_of_a_modern_format_is_no_bomb_and_a_bomb_is(tmp_path, monkeypatch):
    for suffix in (".webp", ".jp2"):
        even = by_pillow(tmp_path / f"even{suffix}", np.full((3000, 3000, 3), 200, np.uint8))
        assert read_image(even).shape == (3000, 3000, 3)
        with monkeypatch.context() as patch:
            patch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 2_000_000)  # it refuses at twice as many
            patch.setattr(images, "_decode_by_pillow", lambda *arguments: pytest.fail("decoded"))
            with pytest.raises(ImageError, match="states more than"):
                read_image(even)


def test_what_is_not_read_is_named(tmp_path):
    """Also where it lies in a folder, and where it is a TIFF with a thumbnail inside."""
    paths = [by_pillow(tmp_path / name, picture(), format="TIFF") for name in ("a.heic", "b.NEF", "c.czi")]
    assert find_images([tmp_path]) == paths
    for path in paths:
        with pytest.raises(
            ImageError, match=rf"{path.name}: files of the kind {path.suffix.lower()} are not read; exp"
        ):
            read_image(path)
    (tmp_path / "d.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    with pytest.raises(ImageError, match=r"d\.jpg: is a HEIC or AVIF photograph, which is not read"):
        read_image(tmp_path / "d.jpg")


def test_alpha_of_sixteen_bits_does_not_darken_the_colours(tmp_path):
    image = picture(64, 80)
    stored = np.dstack([image.astype(np.uint16) * 16, np.full((64, 80), 65535, np.uint16)])
    assert np.abs(read_image(write(tmp_path / "a.png", stored)).astype(int) - image).max() <= 2


@pytest.mark.parametrize("name", ["tröpfchen 滴.png", "#1 50%.png"])
def test_any_file_name(tmp_path, name):
    path = tmp_path / "π" / name
    path.parent.mkdir()
    assert np.array_equal(read_image(str(write(path, picture()))), picture())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [12, 16])
def test_sixteen_bits_use_their_own_range(tmp_path, suffix, bits):
    image = picture(64, 80, channels=1)[..., 0]
    stored = image.astype(np.uint16) * (2 ** (bits - 8)) + 7
    got = read_image(write(tmp_path / f"a{suffix}", stored))
    assert np.array_equal(got[..., 0], got[..., 2])
    assert np.abs(got[..., 0].astype(int) - image).max() <= 2  # a thousandth at either end is cut off
    assert (got.min(), got.max()) == (0, 255)


def test_sixteen_bit_colour_keeps_its_hue_and_a_hot_pixel_does_no_harm(tmp_path):
    image = picture(64, 80)
    stored = image.astype(np.uint16) * 16
    stored[3, 3] = 65535
    got = read_image(write(tmp_path / "a.png", stored)).astype(int)
    assert np.abs(got - image)[8:].max() <= 2


def test_few_bright_samples_are_the_picture_not_noise(tmp_path):
    stored = np.zeros((100, 100), np.uint16)
    stored[:2, :2] = 900
    assert read_image(write(tmp_path / "a.png", stored)).max() == 255
    assert read_image(write(tmp_path / "b.png", np.full((5, 5), 900, np.uint16))).max() == 0


def test_float_tiff(tmp_path):
    stored = picture(64, 80, channels=1)[..., 0] / np.float32(1000)
    stored[0, 0] = np.nan
    got = read_image(write(tmp_path / "a.tif", stored))[..., 0]
    assert np.abs(got[1:].astype(int) - np.rint(stored[1:] * 1000)).max() <= 2


def test_transparency_lies_over_white(tmp_path):
    image = np.zeros((2, 3, 4), np.uint8)
    image[:, 1] = [200, 100, 0, 255]
    image[:, 2] = [200, 100, 0, 128]
    got = read_image(write(tmp_path / "a.png", image))
    assert got[0].tolist() == [[255, 255, 255], [200, 100, 0], [227, 177, 127]]


def test_palette_and_grey_with_alpha(tmp_path):
    colours = bytes([10, 20, 30, 200, 100, 0])
    rows = b"\0\0\1\1" + b"\0\1\0\0"
    plain, clear = tmp_path / "a.png", tmp_path / "b.png"
    plain.write_bytes(png((3, 2, 8, 3, 0, 0, 0), rows, chunk(b"PLTE", colours)))
    assert read_image(plain)[0].tolist() == [[10, 20, 30], [200, 100, 0], [200, 100, 0]]
    clear.write_bytes(png((3, 2, 8, 3, 0, 0, 0), rows, chunk(b"PLTE", colours), chunk(b"tRNS", b"\0\xff")))
    assert read_image(clear)[0].tolist() == [[255, 255, 255], [200, 100, 0], [200, 100, 0]]
    grey = tmp_path / "c.png"
    grey.write_bytes(png((2, 1, 8, 4, 0, 0, 0), bytes([0, 90, 255, 90, 0])))
    assert read_image(grey)[0].tolist() == [[90, 90, 90], [255, 255, 255]]


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation(tmp_path, orientation, undo):
    jpeg = cv2.imencode(".jpg", picture())[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg)
    upright = read_image(path)
    path.write_bytes(with_orientation(jpeg, orientation))
    assert np.array_equal(read_image(path), undo(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(upright).convert("RGBA").save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), undo(upright))
    deep = np.dstack([upright[..., ::-1], np.full(upright.shape[:2], 255, np.uint8)]).astype(np.uint16) * 257
    png = cv2.imencode(".png", deep)[1].tobytes()
    (tmp_path / "b.png").write_bytes(png[:33] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + png[33:])
    assert np.array_equal(read_image(tmp_path / "b.png"), undo(decode_image(png, "b")))
    assert np.abs(decode_image(png, "b").astype(int) - upright).max() <= 8, "all of its range"


def test_the_unused_bytes_of_a_bitmap_are_no_alpha(tmp_path):
    """32 bits a pixel with masks for red, green and blue alone; rows from the bottom up."""
    image = picture()
    height, width = image.shape[:2]
    pixels = np.dstack([image[::-1, :, ::-1], np.zeros((height, width), np.uint8)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    path = tmp_path / "a.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 66 + len(pixels), 0, 0, 66) + header + pixels)
    assert np.array_equal(read_image(path), image)


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
@pytest.mark.parametrize("kept", [0, 10, 40, 300, -20])
def test_cut_short(tmp_path, suffix, kept):
    path = write(tmp_path / f"cut{suffix}", picture(64, 64))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ImageError, match=f"cut{suffix}: .*again as JPEG, PNG, TIFF or BMP") as raised:
        read_image(path)
    assert "\n" not in str(raised.value)


def test_missing_and_folder_and_text(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png: cannot be read .*check the path"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(tmp_path / "a.jpg")


def states(suffix: str, side: int) -> bytes:
    """A small file of each kind that states side x side pixels."""
    small = bytearray(cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    if suffix == ".png":
        return png((side, side, 8, 2, 0, 0, 0), b"")
    if suffix == ".bmp":
        small[18:26] = struct.pack("<ii", side, side)
    elif suffix == ".jpg":
        at = small.index(b"\xff\xc0") + 5
        small[at : at + 4] = struct.pack(">HH", side, side)
    else:
        (at,) = struct.unpack_from("<I", small, 4)
        for entry in range(at + 2, at + 2 + 24, 12):
            if struct.unpack_from("<H", small, entry)[0] in (256, 257):
                small[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(small)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg"])
def test_decompression_bombs_are_refused_before_decoding(suffix, monkeypatch):
    assert os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] == str(MAX_PIXELS)  # for what Pillow does not open
    monkeypatch.setattr(images, "_decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"^drop: states more than 178 megapixels; crop it or scale it down$"):
        decode_image(states(suffix, 60_000), "drop")
    assert stated_size(states(suffix, 13_000), "drop") == (13_000, 13_000)
    with pytest.raises(ImageError, match=r"13000 x 13000 pixels, more than its \d+ bytes can hold"):
        decode_image(states(suffix, 13_000), "drop")


def test_a_side_longer_than_an_overlay_can_have_is_refused():
    strip = cv2.imencode(".png", np.arange(66_000 * 2).astype(np.uint8).reshape(-1, 2))[1].tobytes()
    with pytest.raises(ImageError, match=r"^drop: states a side of 66,000 pixels, more than 65,500; crop it"):
        decode_image(strip, "drop")


def test_an_even_image_is_not_mistaken_for_one_that_cannot_be():
    even = np.full((2000, 2000), 255, np.uint8)
    packed = cv2.imencode(".png", even, [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    for data in (packed, cv2.imencode(".jpg", even, [cv2.IMWRITE_JPEG_QUALITY, 1])[1].tobytes()):
        assert decode_image(data, "even").shape == (2000, 2000, 3)


def test_a_chunk_that_leads_beyond_the_end_is_not_followed(monkeypatch):
    """A decoder would reserve the length it asks for first, up to 2 GB."""
    sound = png((2, 2, 8, 0, 0, 0, 0), b"\0ab\0cd")
    assert decode_image(sound, "drop.png").shape == (2, 2, 3)
    at = sound.index(b"IDAT") - 4
    damaged = sound[:at] + (2**31 - 1).to_bytes(4, "big") + sound[at + 4 :]
    monkeypatch.setattr(images, "_decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="damaged"):
        decode_image(damaged, "drop.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_mutated_files_end_in_an_image_or_an_image_error(suffix):
    data = cv2.imencode(suffix, np.zeros((19, 33, 3), np.uint8))[1].tobytes()
    assert stated_size(data, "drop") == (19, 33)
    rng = np.random.default_rng(0)
    for _ in range(200):
        mutated = np.frombuffer(data, np.uint8)[: rng.integers(1, len(data))].copy()
        mutated[rng.integers(0, len(mutated), 4)] = rng.integers(0, 256, 4)
        with contextlib.suppress(ImageError):
            decode_image(mutated.tobytes(), "drop")


# --- writing ----------------------------------------------------------------------------------------------------------


def test_written_png_files_are_read_back():
    for image in (picture(), picture()[:, ::-1], picture(channels=1)[..., 0]):
        read = decode_image(encode_png(image), "a.png")
        assert np.array_equal(read, image if image.ndim == 3 else np.dstack([image] * 3))


# --- finding ----------------------------------------------------------------------------------------------------------


def test_find_images(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a.tiff", "notes.txt", ".hidden.png", "b/.cache/3.png", "b/4.jpg.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    inside = [tmp_path / "a.tiff", tmp_path / "b/1.jpg", tmp_path / "b/2.PNG"]
    assert find_images([tmp_path]) == inside
    assert find_images([tmp_path / "b/2.PNG", str(tmp_path)]) == [inside[2], inside[0], inside[1]]
    assert find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]  # the user named it


def test_our_own_pictures_are_left_out_of_the_search(tmp_path):
    """Overlays of an earlier prediction, also where they lie among their images, and the pictures of LabelMe."""
    names = [
        *("a.png", "overlays/b.png", "monday/overlays/a.png", "monday/predictions.json", "monday/crystals.csv"),
        *("set/train/images/c.png", "set/train/labelme/c_json/img.png", "set/train/labelme/c_json/masks/1.png"),
        *("set/train/labelme/c_json/info.yaml", "set/train/labelme/c_json/label_names.txt"),
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    notes = []
    pictures = [tmp_path / name for name in ("a.png", "overlays/b.png", "set/train/images/c.png")]
    assert find_images([tmp_path], notes.append) == pictures
    (note,) = notes
    assert "monday/overlays and 1 more: left out" in note
    for name in ("predictions.json", "crystals.csv"):  # predicted with --out here
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [pictures[0], pictures[2]]
    assert find_images([tmp_path / "monday" / "overlays"]) == [tmp_path / "monday/overlays/a.png"]  # it was named
    with pytest.raises(ImageError, match="holds no image"):
        find_images([tmp_path / "monday"])


def test_links_to_folders_are_followed_once(tmp_path):
    plates, elsewhere = tmp_path / "plates", tmp_path / "disk"
    for path in (plates / "p1" / "a.png", elsewhere / "p2" / "b.png"):
        path.parent.mkdir(parents=True)
        path.touch()
    (plates / "p2").symlink_to(elsewhere / "p2")
    (plates / "p2 again").symlink_to(elsewhere / "p2")
    (elsewhere / "p2" / "up").symlink_to(plates)  # a circle
    (plates / "broken").symlink_to(tmp_path / "gone")
    (plates / "broken.png").symlink_to(tmp_path / "gone.png")
    found = [path.relative_to(plates).as_posix() for path in find_images([plates])]
    assert found == ["broken.png", "p1/a.png", "p2/b.png"], "a picture that is gone is named when it is read"
    (tmp_path / "link").symlink_to(plates)
    assert len(find_images([tmp_path / "link"])) == 3
    assert len(find_images([plates, plates / "p1", elsewhere])) == 3


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    """In a search for pictures and in one for LabelMe files."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (tmp_path / "a.png").touch()
    listed = os.scandir

    def scandir(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_images([tmp_path]) == [tmp_path / "a.png", closed]
    with pytest.raises(ImageError, match="closed: cannot be read"):
        read_image(closed)
    (document, problems) = to_coco(tmp_path)
    assert not document["images"]
    assert [problem.path for problem in problems] == [closed]
    assert "cannot be listed" in str(problems[0])


def test_find_images_finds_none(tmp_path):
    with pytest.raises(ImageError, match=r"holds no image; expected files ending in \.jpg"):
        find_images([tmp_path])
    with pytest.raises(ImageError, match="no such file"):
        find_images([tmp_path / "gone"])
    with pytest.raises(ImageError, match="no image was named"):
        find_images([])


# --- what the network sees --------------------------------------------------------------------------------------------


def test_clahe_equals_ours():
    image = picture(90, 131)
    grey = np.repeat(image[..., :1], 3, axis=2)
    assert np.array_equal(apply_clahe(image), np.asarray(clahe_rgb(image)))
    assert np.array_equal(apply_clahe(grey)[..., 1], np.asarray(clahe(grey[..., 0])))
    tinted_in_one_corner = grey.copy()
    tinted_in_one_corner[1, 1, 0] ^= 64  # not among the pixels that are looked at first
    assert np.array_equal(apply_clahe(tinted_in_one_corner), np.asarray(clahe_rgb(tinted_in_one_corner)))


@pytest.mark.parametrize("shape", [(60, 100), (400, 150), (64, 64)])
def test_prepare(shape):
    image = picture(*shape)
    seen, box = prepare(image, size=(64, 96), clahe=False)
    x1, y1, x2, y2 = box.window.astype(int)
    assert seen.shape == (64, 96, 3)
    assert box.original == shape
    inside = np.zeros((64, 96), bool)
    inside[y1:y2, x1:x2] = True
    assert not seen[~inside].any()
    assert abs(seen[inside].mean() - image.mean()) < 3


def test_prepare_equalises_at_the_original_resolution():
    image = picture(200, 320) // 4
    assert np.array_equal(prepare(image, size=64, clahe=True)[0], prepare(apply_clahe(image), size=64, clahe=False)[0])


def test_input_needs_no_jax_and_opencv_writes_no_log_lines(tmp_path):
    for suffix in (".jpg", ".png", ".tif", ".bmp"):
        path = write(tmp_path / f"cut{suffix}", picture(64, 64))
        path.write_bytes(path.read_bytes()[:300])
    code = (
        "import contextlib, sys, crystal.data.dataset, crystal.data.augment, crystal.data.preparation\n"
        "from crystal.data.images import ImageError, find_images, read_image\n"
        f"for path in find_images([{str(tmp_path)!r}]):\n"
        "    with contextlib.suppress(ImageError):\n"
        "        read_image(path)\n"
        "assert 'jax' not in sys.modules and 'maskrcnn_jax.structures' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "OpenCV" not in done.stderr
    assert "ERROR" not in done.stderr
