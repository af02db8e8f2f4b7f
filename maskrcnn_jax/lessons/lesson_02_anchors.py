"""Lesson 02: anchors, and how well they fit the crystals."""

import marimo

app = marimo.App(app_title="02 Anchors", width="medium")

with app.setup:
    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from maskrcnn_jax.boxes.geometry import iou
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.show import (
        BLUE,
        GREEN,
        GREY,
        ORANGE,
        VERMILLION,
        boxes_over,
        canvas,
        panels,
        photo,
        source,
    )
    from maskrcnn_jax.rpn.anchors import base_anchors, pyramid_anchors

    STRIDES = (4, 8, 16, 32, 64)
    RATIO_SETS = {"1 (squares)": (1.0,), "2, 1, 1/2": (2.0, 1.0, 0.5), "5, 2, 1, 1/2, 1/5": (5.0, 2.0, 1.0, 0.5, 0.2)}


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 02 Anchors"),
            start(
                5,
                know="IoU (lesson 01)",
                pages={"Anchors": "components/anchors"},
                papers={"Crystals 2021": "section 2.3", "Faster R-CNN": "section 3.1.1", "FPN": "section 4.1"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** A network has a fixed number of outputs, but an image holds any number of crystals. So a
        fixed set of boxes, the *anchors*, is laid over every image. For each anchor the region proposal network (RPN)
        predicts whether a crystal is there, and the deltas that turn the anchor into the crystal's box (Faster R-CNN,
        section 3.1.1; Crystals 2021, section 2.3).

        Each cell of a pyramid level has a few anchors, of one size $s$ and several ratios $r = h / w$ (FPN, section
        4.1):

        $$w = \frac{s}{\sqrt{r}}, \qquad h = s \sqrt{r}, \qquad w h = s^2.$$

        The sizes are 32, 64, 128, 256 and 512 on P2 to P6, and the ratios 1/2, 1 and 2, in the paper as in Matterport's
        configuration, which it starts from. These were chosen for the people and cars of COCO's photographs. Crystals
        are often smaller, and needles are longer and thinner. So compare the anchors with your crystals before you
        train: `crystal check` does this for your data.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below:"),
            calls(picture, "pyramid_anchors"),
            calls(best_anchor, "iou"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    smallest = mo.ui.slider(6, 64, step=2, value=32, label="size on P2; doubles at each level", show_value=True)
    ratios = mo.ui.dropdown(list(RATIO_SETS), value="2, 1, 1/2", label="ratios (height / width)")
    seed = mo.ui.slider(0, 20, value=3, label="drop", show_value=True)
    mo.vstack(
        [
            mo.md(
                "## Fit the anchors to the crystals\n\nColours: the IoU of a crystal's best anchor. Green: 0.7 or "
                "more; orange: 0.5 to 0.7; vermillion: below 0.5."
            ),
            mo.hstack([smallest, ratios, seed], wrap=True, justify="start"),
        ]
    )
    return ratios, seed, smallest


@app.function(hide_code=True)
@jax.jit
def best_anchor(boxes, anchors):
    """For each box: the best IoU that any anchor has with it, and which anchor that is."""
    overlap = iou(boxes, anchors)
    return overlap.max(1), overlap.argmax(1)


@app.function(hide_code=True)
def reach(boxes, anchors, slots=40):
    """As `best_anchor`, with boxes padded to a fixed number of slots, so that another drop compiles nothing new."""
    padded = np.zeros((slots, 4), np.float32)
    padded[: len(boxes)] = boxes
    overlap, which = best_anchor(jnp.asarray(padded), jnp.asarray(anchors))
    return np.asarray(overlap)[: len(boxes)], np.asarray(which)[: len(boxes)]


@app.function(hide_code=True)
def picture(smallest, ratios, seed):
    """A drop with its crystals coloured by their best anchor, the anchors of one cell, and the best IoU of each."""
    drop = scene(seed, crystals=16)
    sizes = tuple(smallest * 2.0**level for level in range(5))
    anchors = pyramid_anchors((256, 320), strides=STRIDES, sizes=sizes, ratios=RATIO_SETS[ratios])
    overlap, which = reach(drop.boxes, anchors)
    colours = np.where(overlap >= 0.7, GREEN, np.where(overlap >= 0.5, ORANGE, VERMILLION))
    dashes = {GREEN: "-", ORANGE: (0, (4, 1.5)), VERMILLION: (0, (1, 1))}

    over, axes = photo(drop.image)
    for colour, dash in dashes.items():
        boxes_over(axes, drop.boxes[colours == colour], colour, width=1.4, dash=dash)

    shapes, axes = photo(drop.image // 2 + 90)
    for level, size in enumerate(sizes):
        middle = np.array([160.0, 128.0, 160.0, 128.0])
        boxes_over(
            axes, base_anchors(size, RATIO_SETS[ratios]) + middle, [BLUE, ORANGE, GREEN, GREY, VERMILLION][level]
        )
    boxes_over(axes, anchors[which], "white", width=0.8)

    bars, axes = canvas()
    order = np.argsort(overlap)
    axes.bar(range(len(order)), overlap[order], color=colours[order], width=0.8)
    for threshold in (0.5, 0.7):
        axes.axhline(threshold, color=GREY, lw=0.9, ls=":")
    axes.set(xlabel="crystals, lowest IoU first", ylabel="IoU with the best anchor", ylim=(0, 1), xticks=[])
    good = int((overlap >= 0.7).sum())
    return {
        f"{good} of {len(overlap)} crystals have an anchor with an IoU of 0.7 or more; "
        f"{int((overlap < 0.5).sum())} have none above 0.5": over,
        "The anchors of one cell, one colour per level; white: the best anchor of each crystal": shapes,
        f"The best IoU of each crystal with any of the {len(anchors):,} anchors": bars,
    }


@app.function(hide_code=True)
def fitted(smallest):
    """For a size of the anchors on P2: the number of crystals of the first drop, and how many have an anchor with an
    IoU of 0.5 or more, and of 0.7 or more.
    """
    boxes = scene(3, crystals=16).boxes
    sizes = tuple(smallest * 2.0**level for level in range(5))
    overlap, _ = reach(boxes, pyramid_anchors((256, 320), strides=STRIDES, sizes=sizes, ratios=(2.0, 1.0, 0.5)))
    return len(boxes), int((overlap >= 0.5).sum()), int((overlap >= 0.7).sum())


@app.cell(hide_code=True)
def _(ratios, seed, smallest):
    panels(picture(smallest.value, ratios.value, seed.value))
    return


@app.cell(hide_code=True)
def _():
    _of_32, _of_12 = fitted(32), fitted(12)
    mo.vstack(
        [
            mo.md(
                f"""
                With size 32 on P2, {_of_32[1]} of the {_of_32[0]} crystals of the first drop (256x320 pixels) have an
                anchor with an IoU of 0.5 or more: even the smallest anchors are larger than the crystals. With size 12,
                as in the `tiny` preset, {_of_12[1]} have one, and {_of_12[2]} have one with 0.7 or more. The others
                fall short because sizes double from level to level and centres lie at least 4 pixels apart. Try other
                sizes: none suits all crystals.

                Two conventions to know. Anchor centres lie at `cell * stride`, not in the middle of the cell; all three
                sources of pretrained weights do so, and their weights depend on it. And Matterport writes ratios as
                width / height, torchvision and Detectron2 as height / width: a set of ratios that is not symmetric,
                read by the other convention, gives anchors turned by 90 degrees.
                """
            ),
            source(base_anchors, pyramid_anchors),
        ]
    )
    return


@app.function(hide_code=True)
def needles():
    """Best IoU of boxes of growing length for each set of ratios, and of squares of growing side for two strides."""
    by_ratio, axes = canvas()
    lengths, longest = np.linspace(1, 10, 37), {}
    for (name, ratios), colour, dash in zip(
        RATIO_SETS.items(), (VERMILLION, BLUE, GREEN), (":", "-", (0, (4, 1.5))), strict=True
    ):
        anchors = pyramid_anchors((256, 320), strides=STRIDES, sizes=(12, 24, 48, 96, 192), ratios=ratios)
        boxes = np.array(
            [[160, 128, 160, 128] + 14 * np.array([-1, -1, 1, 1]) * np.sqrt([k, 1 / k] * 2) for k in lengths]
        )
        overlap = reach(boxes, anchors)[0]
        longest[name] = lengths[(overlap < 0.7).argmax() - 1]
        axes.plot(lengths, overlap, color=colour, ls=dash, label=name)
    axes.axhline(0.7, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="length / width of the crystal's box", ylabel="IoU with the best anchor", ylim=(0, 1))
    axes.legend(frameon=False, title="ratios", fontsize=8)

    by_stride, axes = canvas()
    sides = np.arange(8, 65, 2)
    rng = np.random.default_rng(0)
    for stride, colour, dash in ((4, BLUE, "-"), (16, VERMILLION, (0, (4, 1.5)))):
        means = []
        for side in sides:
            anchors = pyramid_anchors((128, 128), strides=(stride,), sizes=(float(side),), ratios=(1.0,))
            centres = rng.uniform(48, 80, (40, 2))
            boxes = np.concatenate([centres - side / 2, centres + side / 2], 1)
            means.append(reach(boxes, anchors)[0].mean())
        axes.plot(sides, means, color=colour, ls=dash, label=f"stride {stride}")
    axes.axhline(0.7, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="side of crystal and anchor, pixels", ylabel="mean IoU with the best anchor", ylim=(0, 1))
    axes.legend(frameon=False)
    return {
        f"An IoU of 0.7 is reached up to a length of {longest['1 (squares)']:.2g} times the width by squares, and of "
        f"{longest['2, 1, 1/2']:.2g} by anchors with ratios of 1/2 to 2": by_ratio,
        "Square crystals and anchors of exactly their size: with a stride of 16, centres are too far apart for small "
        "crystals": by_stride,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without anchors that fit

                A crystal without a well-fitting anchor is still assigned its best one (lesson 05). But the deltas are
                then large, and a single anchor is trained on it instead of several. Needles suffer most, and no error
                message tells you: the loss falls all the same, because the other crystals dominate it.
                """
            ),
            panels(needles()),
            mo.md(
                "## Exercises\n\n**1.** `my_anchor(size, ratio)`: the anchor `[x1, y1, x2, y2]` centred at the origin."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_anchor(size, ratio):
        """A box of area size ** 2 whose height is ratio times its width."""
        return None  # your turn

    return (my_anchor,)


@app.function(hide_code=True)
def check_anchor(attempt):
    """Exercise 1 against `base_anchors`."""
    cases = [(8.0, 1.0), (8.0, 4.0), (32.0, 0.5), (12.0, 2.0)]
    hint = "Width = size / sqrt(ratio), height = size * sqrt(ratio); half of each lies on either side of 0."
    return grade(attempt, [(case, base_anchors(case[0], (case[1],))[0]) for case in cases], hint=hint)


@app.function(hide_code=True)
def solve_anchor(size, ratio):
    """A box of area size ** 2 whose height is ratio times its width."""
    width, height = size / np.sqrt(ratio), size * np.sqrt(ratio)
    return [-width / 2, -height / 2, width / 2, height / 2]


@app.cell(hide_code=True)
def _(my_anchor):
    mo.vstack(
        [
            show(check_anchor(my_anchor)),
            solution(
                solve_anchor,
                r"The two conditions are $h = r w$ and $w h = s^2$. Put the first into the second: $r w^2 = "
                r"s^2$, so $w = s / \sqrt{r}$. The anchors of a cell are these boxes, moved to the cell's "
                r"place in the image.",
            ),
            mo.md(
                "**2.** `my_count(height, width, strides, ratios)`: the number of anchors of an image on all levels."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_count(height, width, strides, ratios):
        """Number of anchors; the last row and column of cells may extend beyond the image."""
        return None  # your turn

    return (my_count,)


@app.function(hide_code=True)
def check_count(attempt):
    """Exercise 2 against `pyramid_anchors`."""
    cases = [(64, 64, (4,), (1.0,)), (512, 512, STRIDES, (0.5, 1.0, 2.0)), (70, 100, (32, 64), (1.0, 2.0))]
    right = [
        len(pyramid_anchors((h, w), strides=strides, sizes=(8.0,) * len(strides), ratios=ratios))
        for h, w, strides, ratios in cases
    ]
    hint = "Each level has ceil(height / stride) x ceil(width / stride) cells."
    return grade(attempt, list(zip(cases, right, strict=True)), hint=hint)


@app.function(hide_code=True)
def solve_count(height, width, strides, ratios):
    """Number of anchors; the last row and column of cells may extend beyond the image."""
    return sum(-(-height // stride) * -(-width // stride) * len(ratios) for stride in strides)


@app.cell(hide_code=True)
def _(my_count):
    mo.vstack(
        [
            show(check_count(my_count)),
            solution(
                solve_count,
                "A side is divided by the stride and rounded *up* (in Python `-(-a // b)`), since a part of a "
                "cell at the edge is a cell too. Each level has about a quarter of the cells of the level "
                "below it, so about three quarters of all anchors are those of P2.",
            ),
            mo.md(
                "**3.** `my_index(row, column, ratio, columns, ratios)`: the index of an anchor in the list of its "
                "level. The list goes row by row, in a row column by column, and in a cell ratio by ratio; `ratio` "
                "counts from 0 to `ratios - 1`."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_index(row, column, ratio, columns, ratios):
        """Index of one anchor among those of its level."""
        return None  # your turn

    return (my_index,)


@app.function(hide_code=True)
def check_index(attempt):
    """Exercise 3: the expected index is found by coordinates in `pyramid_anchors`."""
    shapes = (2.0, 1.0, 0.5)
    anchors = pyramid_anchors((32, 48), strides=(8,), sizes=(8.0,), ratios=shapes)
    cases = []
    for row, column, ratio in ((0, 0, 0), (0, 0, 2), (0, 5, 1), (3, 2, 1)):
        wanted = base_anchors(8.0, shapes)[ratio] + 8.0 * np.array([column, row, column, row])
        cases.append(((row, column, ratio, 6, 3), int(np.abs(anchors - wanted).sum(1).argmin())))
    return grade(attempt, cases, hint="The ratio changes fastest, then the column, then the row.")


@app.function(hide_code=True)
def solve_index(row, column, ratio, columns, ratios):
    """Index of one anchor among those of its level."""
    return (row * columns + column) * ratios + ratio


@app.cell(hide_code=True)
def _(my_index):
    mo.vstack(
        [
            show(check_index(my_index)),
            solution(
                solve_index,
                "`row * columns` cells lie in the rows above, `column` cells before this one in its row, and "
                "each cell has `ratios` anchors. The RPN's outputs [rows, columns, ratios] have the same "
                "order when they are flattened. With another order, every prediction would be applied to the "
                "wrong anchor.",
            ),
            mo.md("**Next:** lesson 03, contrast enhancement, the first step of the chain."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
