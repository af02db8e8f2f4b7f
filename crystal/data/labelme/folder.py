"""The folder that LabelMe 3.16.2's `labelme_json_to_dataset` wrote for an image, and a mask file an instance.

    img.png            the image
    label.png          a value a pixel, 8-bit palette in VOC's colours: 0 background, then the names in sorted order
    label_viz.png      the image in grey under the colours, with a legend
    label_names.txt    a name a line, in the order of the values
    info.yaml          the same as a YAML list
    masks/             <value>_<name>.png, 1 bit: the pixels of the instance's COCO annotation

As there, later shapes lie over earlier ones in label.png and one name is one value; here every instance has a name of
its own (`crystal-1`, `crystal-2`), which is how 3.16.2's users told them apart. PIL draws the shapes as it did there.
The masks do not hide each other, and hold the pixels that are counted in `area` (see pixels.py on the difference).
The legend is drawn by OpenCV, not by matplotlib, which would take longer than everything else. Where there are more
than 254 names, which LabelMe refuses, label.npy takes the place of label.png.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml
from jaxtyping import Int, UInt8
from PIL import Image

from crystal.data.images import encode_png
from crystal.data.labelme.coco import Converted
from crystal.data.labelme.objects import LabelledObject
from crystal.data.labelme.pixels import draw_shape
from crystal.data.outlines import cut
from crystal.files import distinct_stem


def voc_colours(count: int) -> UInt8[np.ndarray, "count 3"]:
    """The first colours of PASCAL VOC's palette, which LabelMe uses too: black, then one an instance.

    >>> voc_colours(4).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    """
    index, bit = np.arange(count)[:, None, None], np.arange(8)
    # Bits 0, 3, 6 of the index become the highest bits of red, bits 1, 4, 7 of green, bits 2, 5 of blue.
    source = 3 * bit + np.arange(3)[:, None]
    return (((index >> source) & 1) << (7 - bit)).sum(-1).astype(np.uint8)


BACKGROUND = "_background_"
FONT = cv2.FONT_HERSHEY_SIMPLEX
MOST_VALUES = 255  # of label.png with the background; LabelMe keeps 255 for pixels without a label
PALETTE = voc_colours(MOST_VALUES)
MOST_LINES = 30  # of the legend; more would hide the picture


def name_values(objects: Sequence[LabelledObject]) -> list[str]:
    """The names in the order of their values: background, then sorted."""
    return [BACKGROUND, *sorted(one.name for one in objects)]


def draw_label(objects: Sequence[LabelledObject], height: int, width: int) -> Int[np.ndarray, "h w"]:
    """Every pixel's value: shapes drawn in the file's order, so that later ones cover earlier ones."""
    value = {name: number for number, name in enumerate(name_values(objects))}
    canvas = Image.new("L" if len(value) <= MOST_VALUES else "I", (width, height))
    shapes = [(shape, value[one.name]) for one in objects for shape in one.shapes]
    for shape, number in sorted(shapes, key=lambda pair: pair[0].number):
        draw_shape(canvas, shape, number)
    return np.array(canvas)


def _legend(picture: UInt8[np.ndarray, "h w 3"], lines: Sequence[str], colours: UInt8[np.ndarray, "k 3"]) -> None:
    """Draw a legend on a pale plate in the lower right corner, where there is room."""
    height, width = picture.shape[:2]
    scale = min(max(min(height, width) / 1600, 0.3), 1.2)
    (_, tall), below = cv2.getTextSize("Ag_", FONT, scale, 1)
    step, margin = tall + below + 4, 6
    lines = lines[: max((height - 3 * margin) // step, 0)]
    wide = max((cv2.getTextSize(line, FONT, scale, 1)[0][0] for line in lines), default=0) + 3 * step
    if not lines or wide + 2 * margin > width:
        return
    top, left = height - margin - len(lines) * step - margin, width - margin - wide
    plate = picture[top : height - margin, left : width - margin]
    plate[...] = plate // 2 + 127
    for row, (line, colour) in enumerate(zip(lines, colours, strict=False)):
        y = top + margin // 2 + row * step
        cv2.rectangle(picture, (left + 4, y + 2), (left + 2 * step - 4, y + step - 3), colour.tolist(), -1)
        cv2.putText(picture, line, (left + 2 * step, y + tall), FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)


def draw_viz(
    image: UInt8[np.ndarray, "h w 3"], label: Int[np.ndarray, "h w"], names: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image in grey, half of it the colour of each pixel's value, and a legend of the values that occur."""
    colours = voc_colours(len(names))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if label.dtype == np.uint8:  # ten times faster than indexing
        table = np.zeros((1, 256, 3), np.uint8)
        table[0, : len(colours)] = colours
        coloured = cv2.LUT(cv2.cvtColor(label, cv2.COLOR_GRAY2RGB), table)
        seen = np.flatnonzero(cv2.calcHist([label], [0], None, [256], [0, 256]))
    else:
        coloured, seen = colours[label], np.unique(label)
    picture = cv2.addWeighted(grey, 0.5, coloured, 0.5, -0.25)  # the last cuts halves off, as LabelMe does
    # OpenCV's font has no letters beyond ASCII.
    texts = [str(names[value])[:40].encode("ascii", "replace").decode() for value in seen[:MOST_LINES]]
    lines = [f"{value}: {text}" for value, text in zip(seen, texts, strict=False)]
    _legend(picture, lines, colours[seen])
    return picture


def write_folder(folder: Path, converted: Converted) -> None:
    """Write a converted image's files into a folder that does not exist yet. Raises OSError."""
    height, width = converted.pixels.shape[:2]
    names = name_values(converted.objects)
    label = draw_label(converted.objects, height, width)
    (folder / "masks").mkdir(parents=True)
    png = converted.encoded if converted.suffix == ".png" else None
    (folder / "img.png").write_bytes(png or encode_png(converted.pixels))
    if len(names) <= MOST_VALUES:
        palette = Image.fromarray(label.astype(np.uint8))
        palette.putpalette(PALETTE.tobytes())
        palette.save(folder / "label.png", bits=8, compress_level=1)
    else:
        np.save(folder / "label.npy", label.astype(np.int32))
    (folder / "label_viz.png").write_bytes(encode_png(draw_viz(converted.pixels, label, names)))
    (folder / "label_names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    with open(folder / "info.yaml", "w", encoding="utf-8") as info:
        yaml.safe_dump({"label_names": names}, info, default_flow_style=False)
    digits = max(len(str(len(names) - 1)), 3)
    for one, rle in zip(converted.objects, converted.rles, strict=True):
        name = f"{names.index(one.name):0{digits}d}_{distinct_stem(Path(one.name + '.png'), set())}"
        patch, top, left = cut(rle)
        mask = np.zeros((height, width), bool)
        mask[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png", compress_level=1)
