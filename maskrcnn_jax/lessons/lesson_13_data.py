"""Lesson 13: what the network is trained on: augmented images, boxes, and masks relative to their boxes."""

import marimo

app = marimo.App(app_title="13 Inspect the data", width="medium")

with app.setup:
    from functools import lru_cache

    import marimo as mo
    import numpy as np

    from crystal.data.augment import Augmentation, View, augment, flip, relight
    from crystal.data.outlines import cut, encode_patch
    from crystal.data.segmentation import draw_cells
    from crystal.drops.drop import draw_drop
    from crystal.evaluation.metrics import mask_iou
    from maskrcnn_jax.config import MaskRCNNConfig
    from maskrcnn_jax.lessons.drops import box_of, scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.show import (
        BLUE,
        GREY,
        ORANGE,
        PINK,
        VERMILLION,
        boxes_over,
        canvas,
        panels,
        photo,
        source,
    )
    from maskrcnn_jax.roi.masks import paste

    SIZE = (256, 320)
    STORED = 176  # cells of a mask, as `crystal train` stores it


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 13 Inspect the data"),
            start(
                5,
                know="boxes (lesson 01), the letterbox (lesson 09)",
                pages={"Data": "data", "Detections and masks": "components/detections"},
                papers={"Crystals 2021": "section 2.2", "Mask R-CNN": "section 3.1"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** When a training fails, the data are to blame more often than the network. Do not look at the
        files only: look at what the network is given, after all that is done to an image on its way. It is fitted into
        the input size with black edges (Crystals 2021, section 2.2), and *augmented*: each time it is shown, it is
        varied at random, so that a few images teach as much as possible. A drop looks as natural in a mirror, and under
        a weaker lamp. Boxes and masks must follow the image: mirrored in an image of width $W$, a box has the edges

        $$x_1' = W - x_2, \qquad x_2' = W - x_1.$$

        **Masks are stored relative to their boxes**, as $m \times m$ cells. Cell $j$ of a row covers

        $$\left[ x_1 + \frac{j}{m} (x_2 - x_1), \; x_1 + \frac{j + 1}{m} (x_2 - x_1) \right).$$

        So all masks have the same shape whatever the size of the crystals, they are small, and mirroring an image only
        reverses the order of the cells. Matterport calls them *mini masks* and stores 56x56 cells. The price is
        resolution: details smaller than a cell are lost.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below: a variation, a mask's cells, and the mask put back:"),
            calls(variation, "augment"),
            calls(view_of, "draw_cells"),
            calls(faithfulness, "paste"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    seed = mo.ui.slider(0, 15, value=8, label="drop", show_value=True)
    number = mo.ui.slider(0, 30, value=3, label="variation", show_value=True)
    cells = mo.ui.dropdown([14, 28, 56, 112, 176], value=28, label="cells per side of a mask")
    strength = mo.ui.slider(0, 3, step=0.5, value=1, label="strength of the light's variation", show_value=True)
    mo.vstack(
        [
            mo.md(
                "## Look at what the network is given\n\nWhite: boxes. Pink: masks, put back into the image from their "
                "cells. Move the second slider: every variation is another mirroring, exposure, contrast, gradient of "
                "the light, blur and noise."
            ),
            mo.hstack([seed, number, cells, strength], wrap=True, justify="start"),
        ]
    )
    return cells, number, seed, strength


@app.function(hide_code=True)
@lru_cache(maxsize=64)
def view_of(seed, m):
    """A drop as training prepares it: image, boxes, masks of m x m cells relative to the boxes, window."""
    drop, masks = scene(seed, light=0.2), []
    for mask, box in zip(drop.masks, drop.boxes, strict=True):
        rle = encode_patch(*cut(mask), height=SIZE[0], width=SIZE[1])
        masks.append(draw_cells(rle, tuple(box), *SIZE, m))
    window = np.array([0.0, 0.0, SIZE[1], SIZE[0]])
    return View(drop.image, drop.boxes, np.array(masks, np.uint8).reshape(-1, m, m), window)


@app.function(hide_code=True)
def variation(seed, number, m, strength=1.0):
    """One random variation of a drop; its light varies by `strength` times the default."""
    default = Augmentation()
    how = Augmentation(
        gain=default.gain * strength,
        offset=default.offset * strength,
        contrast=min(default.contrast * strength, 0.9),
        gradient_depth=min(default.gradient_depth * strength, 0.9),
        noise_sigma=default.noise_sigma * strength,
    )
    return augment(view_of(seed, m), np.random.default_rng(number), how)


@app.function(hide_code=True)
def drawn(view, *, masks=None):
    """A view with its boxes and the outlines of its masks, or of other masks in their place."""
    figure, axes = photo(view.image)
    boxes_over(axes, view.boxes, "white", width=1.0)
    for cells, box in zip(view.masks if masks is None else masks, view.boxes, strict=True):
        pixels = paste(cells, box, height=SIZE[0], width=SIZE[1])
        if pixels.any() and not pixels.all():
            axes.contour(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5, pixels, [0.5], colors=[PINK])
    return figure


@app.function(hide_code=True)
def tiled(masks, columns=3):
    """Masks [n, m, m] side by side as a grey picture, at most nine."""
    masks = masks[:9]
    scale = max(1, 96 // masks.shape[1]) if len(masks) else 1
    rows = -(-max(len(masks), 1) // columns)
    side = scale * masks.shape[1]
    sheet = np.full((rows * (side + 6), columns * (side + 6)), 160, np.uint8)
    for place, mask in enumerate(masks):
        y, x = (side + 6) * (place // columns), (side + 6) * (place % columns)
        sheet[y + 3 : y + 3 + side, x + 3 : x + 3 + side] = 255 * np.repeat(np.repeat(mask, scale, 0), scale, 1)
    return sheet


@app.function(hide_code=True)
@lru_cache(maxsize=64)
def faithfulness(seed, m):
    """IoU of each crystal of a drop with its mask after the way into m x m cells and back."""
    drop, view = scene(seed, light=0.2), view_of(seed, m)
    back = [paste(cells, box, height=SIZE[0], width=SIZE[1]) for cells, box in zip(view.masks, view.boxes, strict=True)]
    return [mask_iou(a[None], b[None]).item() for a, b in zip(drop.masks, back, strict=True)]


@app.function(hide_code=True)
def picture(seed, number, cells, strength):
    """The drop, a variation of it, its masks as they are stored, and how faithful they are for each number of cells."""
    before, after = view_of(seed, cells), variation(seed, number, cells, strength)
    chart, axes = canvas()
    sides = (7, 14, 28, 56, 112, 176)
    kept = np.array([faithfulness(seed, m) for m in sides])
    for crystal in kept.T:
        axes.plot(sides, crystal, "o-", color=BLUE, lw=0.9, ms=3, alpha=0.7)
    axes.axvline(cells, color=ORANGE, ls="--")
    axes.set(xlabel="cells per side", ylabel="IoU with the crystal itself", xscale="log", ylim=(0, 1.03))
    axes.set_xticks(sides, map(str, sides))
    axes.minorticks_off()
    return {
        f"Drop {seed} as it is, {len(before.boxes)} crystals": drawn(before),
        f"Variation {number}: boxes and masks follow the image": drawn(after),
        f"The masks of the variation as they are stored, {cells}x{cells} cells each, whatever the size of the "
        f"crystal": tiled(after.masks),
        f"What is left of each crystal's mask (lines: crystals). With {cells} cells the lowest IoU is "
        f"{min(faithfulness(seed, cells)):.2f}": chart,
    }


@app.cell(hide_code=True)
def _(cells, number, seed, strength):
    panels(picture(seed.value, number.value, cells.value, strength.value))
    return


@app.function(hide_code=True)
def lowest_iou(m):
    """The lowest IoU of a mask of m x m cells with its crystal, over sixteen drops."""
    return min(min(faithfulness(seed, m), default=1.0) for seed in range(16))


@app.function(hide_code=True)
def mebibytes(m, slots=64):
    """Memory of the masks of one image in so many slots, a byte per cell, in MiB."""
    return slots * m * m / 2**20


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                Over sixteen drops, the worst mask of 28x28 cells has an IoU of {lowest_iou(28):.2f} with its crystal,
                and the worst of {STORED}x{STORED} cells, which `crystal train` stores, {lowest_iou(STORED):.2f}. The
                worst are needles: a needle that lies diagonally in its box is only a few cells wide. The mask *head*
                predicts 28x28 cells in the paper's configuration, so this is also a limit of what it can express.
                Memory is the reason not to store more: {STORED}x{STORED} cells take {mebibytes(STORED):.1f} MiB for 64
                slots, whole images of 512x512 pixels {mebibytes(512):.0f} MiB.

                The paper trains on whole images. `crystal train` shows random parts of them at random zooms, so that
                small crystals appear larger, and prediction looks at **tiles** of the same zooms; lesson 15 shows them.
                """
            ),
            source(augment, flip, relight, draw_cells),
        ]
    )
    return


@app.function(hide_code=True)
def forgotten(seed=8):
    """A mirrored image whose masks were not mirrored; IoU of its masks with the right ones."""
    view = view_of(seed, 56)
    mirrored = flip(view, horizontal=True)
    wrong = [mask_iou(a[None] > 0, b[None] > 0).item() for a, b in zip(mirrored.masks, view.masks, strict=True)]
    return drawn(mirrored, masks=view.masks), float(np.mean(wrong))


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def sides_of_many():
    """Sides of the boxes of all crystals of forty drops, in pixels of a 256x320 image, and their number per drop."""
    drops = [draw_drop(seed, height=SIZE[0], width=SIZE[1], light=0.3) for seed in range(40)]
    boxes = [box_of(instance.mask) for drop in drops for instance in drop.instances if not instance.ignored]
    areas = np.array([(box[2:] - box[:2]).prod() for box in boxes])
    return np.sqrt(areas), np.array([len(drop.instances) for drop in drops])


@app.function(hide_code=True)
def what_goes_wrong():
    """Masks that were not mirrored with their image; and the sizes of the crystals beside those of the anchors."""
    figure, overlap = forgotten()
    sides, counts = sides_of_many()
    chart, axes = canvas()
    axes.hist(sides, np.geomspace(4, 256, 25).tolist(), histtype="stepfilled", color=BLUE, alpha=0.8)
    for size in MaskRCNNConfig.tiny().anchors.sizes:
        axes.axvline(size, color=VERMILLION, ls="--", lw=0.9)
    axes.text(12.5, axes.get_ylim()[1], "anchors of `tiny`", color=VERMILLION, fontsize=8, va="top")
    axes.set(xscale="log", xlabel="square root of the box's area, pixels", ylabel="crystals")
    axes.set_xticks([4, 8, 16, 32, 64, 128, 256], map(str, [4, 8, 16, 32, 64, 128, 256]))
    axes.minorticks_off()
    numbers, axes = canvas()
    axes.hist(counts, range(0, 66, 2), histtype="stepfilled", color=GREY)
    axes.axvline(64, color=VERMILLION, ls="--", lw=0.9)
    axes.set(xlabel="crystals in a drop", ylabel="drops")
    return {
        f"Mirrored image and boxes, but masks as before: their mean IoU with the right masks is {overlap:.2f}": figure,
        f"Sizes of the {len(sides)} crystals of 40 drops; dashed: the anchors they must fit (lesson 02)": chart,
        "Crystals per drop; dashed: the slots of `tiny` (lesson 12)": numbers,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong when nobody looks

                A mask that is not mirrored with its image raises no error. The loss falls, since boxes and classes are
                right, and the masks that the network learns are blurred. A picture shows the fault at once. Count and
                measure, too: how large are the crystals, how many has a drop, do the anchors fit them, are there enough
                slots? `crystal check DATASET` writes a page with these pictures and counts for your own data, and a
                list of everything that is wrong with the files.
                """
            ),
            panels(what_goes_wrong()),
            mo.md(
                "## Exercises\n\n**1.** `my_mirror(box, width)`: a box `[x1, y1, x2, y2]` in an image of `width` "
                "pixels after the image is mirrored left to right."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_mirror(box, width):
        """[x1, y1, x2, y2] in the mirrored image."""
        return None  # your turn

    return (my_mirror,)


@app.function(hide_code=True)
def check_mirror(attempt):
    """Exercise 1 against `flip`."""
    cases = []
    for box, width in (([0.0, 1.0, 4.0, 3.0], 10), ([2.0, 0.0, 5.0, 5.0], 7), ([1.5, 2.0, 6.0, 4.0], 8)):
        view = View(
            np.zeros((6, width, 3), np.uint8),
            np.array([box]),
            np.zeros((1, 2, 2), np.uint8),
            np.array([0, 0, width, 6]),
        )
        cases.append(((box, width), flip(view, horizontal=True).boxes[0]))
    return grade(attempt, cases, hint="The left edge in the mirror comes from the right edge: x1 stays below x2.")


@app.function(hide_code=True)
def solve_mirror(box, width):
    """[x1, y1, x2, y2] in the mirrored image."""
    x1, y1, x2, y2 = box
    return [width - x2, y1, width - x1, y2]


@app.cell(hide_code=True)
def _(my_mirror):
    mo.vstack(
        [
            show(check_mirror(my_mirror)),
            solution(
                solve_mirror,
                "Each x becomes `width - x`, and the edges change places. With continuous pixels no 1 is subtracted: "
                "pixel 0, which covers [0, 1), becomes the pixel that covers [width - 1, width). Mirroring twice gives "
                "the box again: a good test.",
            ),
            mo.md("**2.** `my_box(mask)`: the box of a mask, a list of rows of 0 and 1, in continuous pixels."),
        ]
    )
    return


@app.cell
def _():
    def my_box(mask):
        """[x1, y1, x2, y2]; at least one pixel of the mask is 1."""
        return None  # your turn

    return (my_box,)


@app.function(hide_code=True)
def check_box(attempt):
    """Exercise 2 against `box_of`."""
    masks = ([[1]], [[0, 0, 0], [0, 1, 1]], [[0, 1, 0], [1, 1, 0], [0, 0, 0]], [[0, 0, 0, 1], [0, 1, 0, 0]])
    cases = [((mask,), box_of(np.array(mask, bool))) for mask in masks]
    return grade(attempt, cases, hint="Pixel i covers [i, i + 1): a mask of one pixel has a box of width 1, not 0.")


@app.function(hide_code=True)
def solve_box(mask):
    """[x1, y1, x2, y2]; at least one pixel of the mask is 1."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@app.cell(hide_code=True)
def _(my_box):
    mo.vstack(
        [
            show(check_box(my_box)),
            solution(
                solve_box,
                "The first row and column with a 1 are the near edges. The last pixel reaches to its index plus 1. "
                "Without that 1, every box is a pixel too small, and a crystal of one pixel has none (lesson 01).",
            ),
            mo.md(
                "**3.** `my_cell(x, x1, x2, m)`: in which of the `m` cells between the edges `x1` and `x2` of a box "
                "the position `x` lies. Positions outside the box belong to the first or the last cell."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_cell(x, x1, x2, m):
        """A whole number from 0 to m - 1."""
        return None  # your turn

    return (my_cell,)


@app.function(hide_code=True)
def check_cell(attempt):
    """Exercise 3 against the intervals of the second equation."""
    cases = []
    for x, x1, x2, m in ((5.0, 0.0, 10.0, 4), (0.0, 0.0, 10.0, 4), (12.4, 10.0, 14.0, 28), (9.0, 10.0, 14.0, 8)):
        edges = x1 + np.arange(m + 1) / m * (x2 - x1)
        cases.append(((x, x1, x2, m), int(np.clip(np.searchsorted(edges, x, side="right") - 1, 0, m - 1))))
    cases.append(((14.0, 10.0, 14.0, 8), 7))
    return grade(attempt, cases, hint="Which share of the box lies left of x? Times m, rounded down, then limited.")


@app.function(hide_code=True)
def solve_cell(x, x1, x2, m):
    """A whole number from 0 to m - 1."""
    return min(max(int(np.floor((x - x1) / (x2 - x1) * m)), 0), m - 1)


@app.cell(hide_code=True)
def _(my_cell):
    mo.vstack(
        [
            show(check_cell(my_cell)),
            solution(
                solve_cell,
                "`(x - x1) / (x2 - x1)` is the share of the box left of x. Times m it counts cells, and the cell "
                "is the whole number below it. The right edge itself would be cell m, which does not exist.",
            ),
            mo.md("**Next:** lesson 14, what the weights of a network look like."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
