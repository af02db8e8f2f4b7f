"""LabelMe files for tests: as the versions wrote them, tiny, with an image beside or inside."""

import base64
import io
import json
import zlib

import numpy as np
from PIL import Image, ImageDraw


def picture(height=60, width=80, seed=0):
    """RGB noise: no two seeds alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels, kind="PNG", **settings):
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def stating(side, png):
    """A PNG file's bytes with a header of side x side pixels, and its checksum."""
    header = b"IHDR" + side.to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def exif(orientation):
    """EXIF that says how to turn the image."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def shape(label="crystal", points=((10, 10), (40, 10), (40, 30), (10, 30)), kind="polygon", **more):
    """A shape as LabelMe 5 writes it."""
    fields = {"label": label, "points": [list(p) for p in points], "group_id": None, "description": ""}
    return fields | {"shape_type": kind, "flags": {}, "mask": None} | more


def mask_shape(mask, left, top, label="crystal", **more):
    """A shape of type mask: its PNG lies in the box of its points."""
    height, width = mask.shape
    points = [(left, top), (left + width - 1, top + height - 1)]
    data = base64.b64encode(encoded(mask.astype(np.uint8) * 255)).decode()
    return shape(label, points, "mask", mask=data, **more)


def document(shapes, image_path="drop.png", data=None, **more):
    """A LabelMe 5 document."""
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": data}
    return content | more


def write(folder, name, shapes, *, seed=0, height=60, width=80, **more):
    """A LabelMe file with its image beside it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(encoded(picture(height, width, seed)))
    path = folder / f"{name}.json"
    size = {"imageHeight": height, "imageWidth": width}
    path.write_text(json.dumps(document(shapes, f"{name}.png", **(size | more))))
    return path


def drawn(height, width, points):
    """The pixels that PIL gives a polygon with its outline, as LabelMe draws it."""
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in points], fill=1, outline=1)
    return np.array(canvas)
