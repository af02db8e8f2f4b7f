"""Lesson 01: boxes, intersection over union, and the four deltas that turn one box into another."""

import marimo

app = marimo.App(app_title="01 Boxes and IoU", width="medium")

with app.setup:
    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from maskrcnn_jax.boxes.coding import decode, encode
    from maskrcnn_jax.boxes.geometry import area, intersection, iou
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, SKY, VERMILLION, boxes_over, canvas, panels, photo, source


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 01 Boxes and IoU"),
            start(
                5,
                know="NumPy arrays",
                pages={"Boxes": "components/boxes"},
                papers={"Crystals 2021": "equation 5", "R-CNN": "appendix C", "Faster R-CNN": "equation 2"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** Mask R-CNN compares boxes at every stage. Does this anchor cover that crystal? Do these two
        detections show the same crystal? Was the crystal found? One number answers all three questions, *intersection
        over union* (IoU; Crystals 2021, eq. 5):

        $$\mathrm{IoU}(A, B) = \frac{|A \cap B|}{|A \cup B|} = \frac{|A \cap B|}{|A| + |B| - |A \cap B|}$$

        It is 1 for equal boxes and 0 for boxes that do not overlap. It does not depend on scale: enlarge an image, and
        the IoU of two boxes in it stays the same.

        **A box** is `[x1, y1, x2, y2]` in *continuous* pixels. Pixel *i* covers the interval [i, i + 1), so the pixels
        2, 3 and 4 reach from 2 to 5. The width of a box is simply `x2 - x1`, here 3.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below:"),
            calls(measure, "iou", "intersection", "encode"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    right = mo.ui.slider(-40, 40, step=1, value=8, label="moved right", show_value=True)
    down = mo.ui.slider(-40, 40, step=1, value=-5, label="moved down", show_value=True)
    wider = mo.ui.slider(0.4, 2.5, step=0.05, value=1.2, label="width times", show_value=True)
    taller = mo.ui.slider(0.4, 2.5, step=0.05, value=0.9, label="height times", show_value=True)
    mo.vstack(
        [
            mo.md("## Move a box off a crystal\n\nBlue: the crystal's bounding box. Orange: the box that you move."),
            mo.hstack([right, down, wider, taller], wrap=True, justify="start"),
        ]
    )
    return down, right, taller, wider


@app.function(hide_code=True)
@jax.jit
def measure(truth, moved):
    """IoU, shared area, and the deltas from `truth` to `moved`, of boxes [n, 4] each."""
    return iou(truth, moved), intersection(truth, moved), encode(moved, truth)


@app.function(hide_code=True)
def moved_box(box, right, down, wider, taller):
    """A box moved by pixels and stretched about its centre."""
    centre, size = (box[:2] + box[2:]) / 2 + [right, down], (box[2:] - box[:2]) * [wider, taller]
    return np.concatenate([centre - size / 2, centre + size / 2])


@app.function(hide_code=True)
def picture(right, down, wider, taller):
    """Both boxes and their intersection over the drop, IoU against the shift, and the four deltas."""
    drop = scene(4, crystals=5)
    truth = drop.boxes[np.argmax((drop.boxes[:, 2:] - drop.boxes[:, :2]).prod(1))]
    box = moved_box(truth, right, down, wider, taller)
    overlap, shared, deltas = measure(jnp.asarray(truth[None], jnp.float32), jnp.asarray(box[None], jnp.float32))

    over, axes = photo(drop.image)
    low, high = np.maximum(truth[:2], box[:2]), np.minimum(truth[2:], box[2:])
    if (high > low).all():
        axes.fill([low[0], high[0], high[0], low[0]], [low[1], low[1], high[1], high[1]], color=SKY, alpha=0.45)
    boxes_over(axes, truth[None], BLUE, width=2.2)
    boxes_over(axes, box[None], ORANGE, width=2.2, dash=(0, (5, 2)))

    distance, axes = canvas()
    shifts = np.arange(-60, 61)
    slid = np.stack([moved_box(truth, shift, down, wider, taller) for shift in shifts])
    curve = measure_row(jnp.asarray(truth[None], jnp.float32), jnp.asarray(slid, jnp.float32))
    axes.plot(shifts, curve[0], color=BLUE)
    axes.plot([right], [float(overlap.item())], "o", color=ORANGE, ms=8, mec="black")
    for threshold, text in (
        (0.7, "above: positive anchor"),
        (0.5, "above: true positive at AP50"),
        (0.3, "below: negative anchor"),
    ):
        axes.axhline(threshold, color=GREY, lw=0.8, ls=":")
        axes.text(-60, threshold + 0.01, text, fontsize=7, color=GREY)
    axes.set(xlabel="moved right, pixels", ylabel="IoU", ylim=(0, 1.02))

    bars, axes = canvas()
    axes.bar(["dx", "dy", "dw", "dh"], np.asarray(deltas)[0], color=[BLUE, BLUE, VERMILLION, VERMILLION], width=0.6)
    for place, delta in enumerate(np.asarray(deltas)[0]):
        axes.text(place, delta, f"{delta:+.2f}", ha="center", va="bottom" if delta >= 0 else "top", fontsize=9)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(ylim=(-1.4, 1.4))
    return {
        f"IoU {overlap.item():.3f}; intersection (shaded): {shared.item():.0f} square pixels": over,
        "IoU as the orange box moves sideways; dotted: thresholds of later lessons": distance,
        "The deltas that turn the blue box into the orange one: shifts in units of the box, logarithms of scale": bars,
    }


@app.function(hide_code=True)
@jax.jit
def measure_row(truth, slid):
    """IoU of one box with many."""
    return iou(truth, slid)


@app.cell(hide_code=True)
def _(down, right, taller, wider):
    panels(picture(right.value, down.value, wider.value, taller.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                r"""
                IoU is strict. Halve the width of a box about its centre, and its IoU with the old box is 0.5. Move a
                square by a third of its side, and the IoU is 0.5 again. For a crystal 12 pixels wide, that third is 4
                pixels: one cell of the finest feature map (lesson 04).

                **Deltas.** The network does not predict the coordinates of a box. It predicts how to move and resize a
                box that it is given (R-CNN, appendix C; Faster R-CNN, eq. 2). With centre $x_a, y_a$ and size
                $w_a, h_a$ of the given box,

                $$d_x = \frac{x - x_a}{w_a}, \quad d_w = \log \frac{w}{w_a},$$

                and the same for $y$ and $h$. The deltas of large and of small crystals have the same magnitude, so one
                set of weights can predict both. The logarithm keeps predicted sizes positive and treats doubling and
                halving alike.
                """
            ),
            source(area, intersection, iou, encode, decode),
        ]
    )
    return


@app.function(hide_code=True)
def inclusive_iou(box, other):
    """IoU where a box includes its last pixel, so that widths are x2 - x1 + 1 (PASCAL VOC's old convention)."""
    shared = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) + 1, 0).prod()
    return shared / ((box[2:] - box[:2] + 1).prod() + (other[2:] - other[:2] + 1).prod() - shared)


@app.function(hide_code=True)
def a_third_apart(side):
    """A square, and the same square moved by a third of its side: an IoU of 0.5."""
    return np.array([0.0, 0, side, side]), np.array([side / 3, 0, side + side / 3, side])


@app.function(hide_code=True)
def what_the_extra_pixel_costs():
    """IoU of the same boxes by both conventions; and the same shifts in pixels and in units of the box."""
    sides = np.arange(3, 65)
    apart, axes = canvas()
    axes.plot(
        sides,
        [inclusive_iou(*a_third_apart(s)) for s in sides],
        color=VERMILLION,
        ls=(0, (4, 1.5)),
        label="x2 - x1 + 1",
    )
    axes.plot(sides, [0.5] * len(sides), color=BLUE, label="x2 - x1")
    axes.set(xlabel="side of the box in pixels", ylabel="IoU", ylim=(0.45, 0.65))
    axes.legend(frameon=False)

    spread, axes = canvas()
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(np.log(12), np.log(200), 300))
    shift = rng.normal(0, 0.15, 300) * size
    axes.scatter(size, shift, s=8, color=VERMILLION, marker="x", label="in pixels")
    axes.scatter(size, 10 * shift / size, s=8, color=BLUE, label="dx, times 10")
    axes.set(xlabel="side of the box in pixels", ylabel="number to predict")
    axes.legend(frameon=False, loc="upper left")
    return {
        "IoU of a square with itself moved by a third of its side, by both conventions": apart,
        "The same random shifts in pixels, and as dx times 10 (the weight in Matterport's configuration)": spread,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                ## What goes wrong when conventions are mixed

                Codebases differ by one pixel: in some a box includes its last pixel, and its width is `x2 - x1 + 1`.
                Take two equal squares, a third of their side apart: their IoU is 0.5. With the extra pixel it is
                {inclusive_iou(*a_third_apart(200)):.3f} if they are 200 pixels wide, which nobody notices, but
                {inclusive_iou(*a_third_apart(8)):.2f} if they are 8 pixels wide, which can change the label of an
                anchor. Code that reads boxes of one convention as the other loses a little accuracy on every small
                crystal, and raises no error.

                Deltas in pixels would have another fault: errors on large crystals would dominate the loss.
                """
            ),
            panels(what_the_extra_pixel_costs()),
            mo.md("## Exercises\n\n**1.** `my_area(box)`: the area of a box, and 0 if a side is negative."),
        ]
    )
    return


@app.cell
def _():
    def my_area(box):
        """Width times height of [x1, y1, x2, y2]."""
        return None  # your turn

    return (my_area,)


@app.function(hide_code=True)
def check_area(attempt):
    """Exercise 1 against `area`."""
    boxes = [[0.0, 0.0, 4.0, 2.0], [1.5, 1.0, 2.0, 9.0], [3.0, 3.0, 3.0, 9.0], [5.0, 5.0, 2.0, 1.0]]
    right = np.asarray(area(jnp.array(boxes))).tolist()
    hint = "A box with x2 < x1 has no area, even if its height is negative too."
    return grade(attempt, [((box,), value) for box, value in zip(boxes, right, strict=True)], hint=hint)


@app.function(hide_code=True)
def solve_area(box):
    """Width times height of [x1, y1, x2, y2]."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


@app.cell(hide_code=True)
def _(my_area):
    mo.vstack(
        [
            show(check_area(my_area)),
            solution(
                solve_area,
                "Each side is limited to 0 *before* the product, since two negative sides would have a "
                "positive product. Such boxes are not rare: the corners of the intersection of two boxes that "
                "do not overlap are exchanged.",
            ),
            mo.md("**2.** `my_iou(box, other)`: the IoU of two boxes, each a list of four numbers."),
        ]
    )
    return


@app.cell
def _():
    def my_iou(box, other):
        """Intersection over union of two boxes."""
        return None  # your turn

    return (my_iou,)


@app.function(hide_code=True)
def check_iou(attempt):
    """Exercise 2 against `iou`."""
    box = [10.0, 10.0, 30.0, 20.0]
    others = [
        box,
        [20.0, 10.0, 40.0, 20.0],
        [12.0, 12.0, 20.0, 18.0],
        [31.0, 10.0, 40.0, 20.0],
        [40.0, 30.0, 50.0, 40.0],
    ]
    right = np.asarray(iou(jnp.array([box]), jnp.array(others)))[0].tolist()
    hint = "Width of the intersection: min of the x2 - max of the x1, at least 0. The union counts it once."
    return grade(attempt, [((box, other), value) for other, value in zip(others, right, strict=True)], hint=hint)


@app.function(hide_code=True)
def solve_iou(box, other):
    """Intersection over union of two boxes."""
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other)]
    return width * height / (sum(areas) - width * height)


@app.cell(hide_code=True)
def _(my_iou):
    mo.vstack(
        [
            show(check_iou(my_iou)),
            solution(
                solve_iou,
                "The intersection begins at the larger of the two left edges and ends at the smaller of the "
                "two right edges; it is empty if that end lies before the beginning. It is part of both "
                "areas, so their sum counts it twice: subtract it once.",
            ),
            mo.md("**3.** `my_decode(anchor, deltas)`: the box that four deltas turn an anchor into."),
        ]
    )
    return


@app.cell
def _():
    def my_decode(anchor, deltas):
        """[x1, y1, x2, y2] of the anchor after the deltas (dx, dy, dw, dh)."""
        return None  # your turn

    return (my_decode,)


@app.function(hide_code=True)
def check_decode(attempt):
    """Exercise 3 against `decode`."""
    anchor = [10.0, 20.0, 30.0, 60.0]
    moves = [[0.0, 0.0, 0.0, 0.0], [0.5, -0.25, 0.0, 0.0], [0.0, 0.0, 0.7, -0.3], [0.1, 0.2, 0.3, 0.4]]
    right = np.asarray(decode(jnp.array(moves), jnp.array([anchor]))).tolist()
    hint = "Move the centre by dx * width and dy * height, then multiply width and height by exp(dw) and exp(dh)."
    return grade(attempt, [((anchor, d), value) for d, value in zip(moves, right, strict=True)], hint=hint)


@app.function(hide_code=True)
def solve_decode(anchor, deltas):
    """[x1, y1, x2, y2] of the anchor after the deltas (dx, dy, dw, dh)."""
    x1, y1, x2, y2 = anchor
    dx, dy, dw, dh = deltas
    x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    width, height = (x2 - x1) * np.exp(dw), (y2 - y1) * np.exp(dh)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@app.cell(hide_code=True)
def _(my_decode):
    mo.vstack(
        [
            show(check_decode(my_decode)),
            solution(
                solve_decode,
                "Solve the equations of the deltas for the new box: $x = x_a + d_x w_a$ and $w = w_a "
                "e^{d_w}$. The centre moves in units of the *anchor's* size, and width and height change "
                "about the new centre. The package also limits $d_w$ and $d_h$ from above, so that the "
                "exponential of a bad prediction does not overflow.",
            ),
            mo.md("**Next:** lesson 02, anchors: the boxes that the network starts from."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
