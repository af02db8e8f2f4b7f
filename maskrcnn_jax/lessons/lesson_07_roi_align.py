"""Lesson 07: fixed-size features of a box, with and without rounding."""

import marimo

app = marimo.App(app_title="07 RoI Align against RoI Pool", width="medium")

with app.setup:
    from functools import partial

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from maskrcnn_jax.config import Sampling
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.show import (
        BLUE,
        GREY,
        VERMILLION,
        boxes_over,
        canvas,
        numbers,
        panels,
        source,
        while_you_read,
    )
    from maskrcnn_jax.roi.align import assign_levels, roi_align
    from maskrcnn_jax.roi.bilinear import Maps, bilinear_pool
    from maskrcnn_jax.roi.grid import bin_samples, sample_grid

    CELLS = 12  # side of the map


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 07 RoI Align against RoI Pool"),
            start(
                5,
                know="feature maps and the pyramid (lesson 04)",
                pages={"RoI Align": "components/roi_align"},
                papers={
                    "Crystals 2021": "section 2.4, figure 4",
                    "Mask R-CNN": "section 3, tables 2c and 2d",
                    "Fast R-CNN": "section 2.1",
                    "FPN": "equation 1",
                },
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** Proposals have all sizes, but the heads need features of a fixed size: a grid of 7x7 or
        14x14 *bins* per channel. So each proposal, or *region of interest* (RoI), is cut out of the feature map and
        resized. RoI Pool (Fast R-CNN, section 2.1) *rounds* the edges of the box to whole cells of the map, and then
        the edges of the bins. On a map of stride 16, rounding moves an edge by up to 8 pixels. This hardly matters for
        the class, but it does for the outline. **RoI Align** (Mask R-CNN, section 3) does not round: it interpolates
        between the cells of the map. This change alone raised the mask AP of Mask R-CNN by about 3 points at stride 16
        and by 7.3 points at stride 32 (its tables 2c and 2d).

        Each bin has $s \times s$ sampling points. The value at a point $(y, x)$ is interpolated bilinearly between the
        four nearest cells,

        $$f(y, x) = \sum_{i,j} f_{ij} \, w(y - i) \, w(x - j)$$

        with $w(d) = \max(0, 1 - |d|)$, and the value of a bin is the mean over its points,
        $\frac{1}{s^2} \sum_k f(y_k, x_k)$. Qin et al. (Crystals 2021, section 2.4 and figure 4) take the *maximum* of
        four points instead.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below:"),
            calls(pool, "sample_grid", "roi_align"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    x1 = mo.ui.slider(0, 7, step=0.1, value=1.3, label="x1 (left)", show_value=True)
    y1 = mo.ui.slider(0, 7, step=0.1, value=2.2, label="y1 (top)", show_value=True)
    x2 = mo.ui.slider(4, 12, step=0.1, value=8.7, label="x2 (right)", show_value=True)
    y2 = mo.ui.slider(4, 12, step=0.1, value=9.4, label="y2 (bottom)", show_value=True)
    bins = mo.ui.dropdown({"2 x 2": 2, "3 x 3": 3, "5 x 5 (figure 4)": 5}, value="3 x 3", label="bins")
    samples = mo.ui.slider(1, 4, value=2, label="samples per bin and side", show_value=True)
    reduce = mo.ui.dropdown(["mean", "max"], value="mean", label="value of a bin")
    mo.vstack(
        [
            mo.md("## Move the edges of the box\n\nThe unit of the four sliders is one cell of a 12x12 feature map."),
            mo.hstack([x1, x2, y1, y2], wrap=True, justify="start"),
            mo.hstack([bins, samples, reduce], wrap=True, justify="start"),
        ]
    )
    return bins, reduce, samples, x1, x2, y1, y2


@app.function(hide_code=True)
def feature_map():
    """A map with a bright ridge across it, [12, 12, 1], where a shift of the box makes a difference."""
    row, column = np.mgrid[:CELLS, :CELLS]
    ridge = np.exp(-(((row - 0.7 * column - 2) / 1.3) ** 2)) + 0.35 * np.exp(-((row - 2) ** 2 + (column - 9) ** 2) / 4)
    return jnp.asarray(ridge[..., None], jnp.float32)


@app.function(hide_code=True)
def roi_pool(features, box, bins, reduce="max"):
    """RoI Pool of one box: edges and bins rounded to whole cells; of each bin the "max", as in Fast R-CNN, or "mean".

    Not part of the package, which does not need it. Returns the pooled numbers [bins, bins] and the rounded edges.
    """
    left, top, right, bottom = (int(v) for v in np.round(np.asarray(box)))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    pooled = np.zeros((bins, bins))
    for i in range(bins):
        for j in range(bins):
            rows = slice(top + (bottom - top) * i // bins, top + -(-(bottom - top) * (i + 1) // bins))
            columns = slice(left + (right - left) * j // bins, left + -(-(right - left) * (j + 1) // bins))
            cells = features[rows, columns]
            pooled[i, j] = getattr(cells, reduce)() if cells.size else 0
    return pooled, np.array([left, top, right, bottom], float)


@app.function(hide_code=True)
def picture(x1, y1, x2, y2, bins, samples, reduce):
    """The box and its sampling points on the map, and the bins of RoI Align and of RoI Pool with the same reduction."""
    features = feature_map()
    box = jnp.array([[x1, y1, x2, y2]], jnp.float32)
    pooled, rows, columns = (np.asarray(a)[0] for a in pool(features, box, bins, samples, reduce))
    rounded, edges = roi_pool(np.asarray(features[..., 0]), box[0], bins, reduce)

    over, axes = canvas(4.2, 4.2, frame=False)
    axes.imshow(features[..., 0], extent=(0, CELLS, CELLS, 0), cmap="cividis")
    axes.set(xlim=(0, CELLS), ylim=(CELLS, 0))
    for line in range(CELLS):
        axes.axhline(line, color="white", lw=0.3, alpha=0.6)
        axes.axvline(line, color="white", lw=0.3, alpha=0.6)
    for cut in np.linspace(0, 1, bins + 1)[1:-1]:
        axes.plot([x1 + cut * (x2 - x1)] * 2, [y1, y2], color="white", lw=1)
        axes.plot([x1, x2], [y1 + cut * (y2 - y1)] * 2, color="white", lw=1)
    boxes_over(axes, np.asarray(box), "white", width=2)
    boxes_over(axes, edges[None], VERMILLION, width=2, dash=(0, (4, 2)))
    axes.plot(
        *(a.ravel() for a in np.meshgrid(columns.ravel() + 0.5, rows.ravel() + 0.5)),
        "o",
        ms=4,
        mfc="white",
        mec="black",
        mew=0.7,
    )

    tables = []
    for values in (pooled, rounded):
        figure, axes = canvas(4.2, 4.2, frame=False)
        numbers(axes, values, size=13 if bins < 5 else 10)
        tables.append(figure)
    return {
        "The feature map; white: the box, its bins and sampling points; dashed: the rounded box of RoI Pool": over,
        f"RoI Align: the {reduce} over {samples * samples} interpolated points per bin": tables[0],
        f"RoI Pool: the {reduce} over the whole cells of each rounded bin": tables[1],
    }


@app.function(hide_code=True)
@partial(jax.jit, static_argnums=(2, 3, 4))
def pool(features, boxes, bins, samples, reduce):
    """The package's `roi_align` of boxes [r, 4], and where it puts the samples of each: rows, columns [r, o, s], in
    cells whose centres are whole numbers. Compiled once for each shape of its answer.
    """
    rule = Sampling(sampling_ratio=samples)
    grid = sample_grid(boxes, Maps.same(CELLS, CELLS, boxes.shape[0]), bins=bins, sampling=rule)
    pooled = roi_align(features, boxes, output_size=bins, sampling_ratio=samples, reduce=reduce)
    return pooled[..., 0], *(axis.position for axis in grid)


@app.cell(hide_code=True)
def _():
    variants = [(n, s, how) for n in (3, 2, 5) for s in (2, 1, 3, 4) for how in ("mean", "max")]
    while_you_read(*(partial(picture, 1, 1, 9, 9, *variant) for variant in variants))
    return


@app.cell(hide_code=True)
def _(bins, reduce, samples, x1, x2, y1, y2):
    panels(picture(x1.value, y1.value, x2.value, y2.value, bins.value, samples.value, reduce.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                Move `x1` by 0.1: the numbers of RoI Align change. Those of RoI Pool stay the same until the edge passes
                the middle of a cell; then a whole column of cells is added or removed. RoI Pool gives the same features
                for boxes that differ by almost a cell, so the mask head cannot know where in the box the crystal lies.

                A convention to know: cell *i* of a map covers [i, i + 1), so its centre is at i + 0.5. With
                `aligned=True` half a cell is subtracted from the scaled box, so that a point at the centre of a cell
                has exactly the value of that cell. torchvision's published weights were trained without this. If
                **everything is shifted by half a stride** in your results, the weights and `aligned` do not match.
                """
            ),
            source(roi_align, bin_samples, bilinear_pool),
        ]
    )
    return


@app.function(hide_code=True)
def iou_with_rounded(side, stride):
    """Mean IoU of square boxes at random places with the same boxes rounded to whole cells of a map."""
    low = np.random.default_rng(0).uniform(0, 64, (400, 2))
    high = low + side
    low_rounded, high_rounded = np.round(low / stride) * stride, np.round(high / stride) * stride
    shared = np.maximum(np.minimum(high, high_rounded) - np.maximum(low, low_rounded), 0).prod(1)
    return (shared / (side**2 + (high_rounded - low_rounded).prod(1) - shared)).mean()


@app.function(hide_code=True)
def cells_spanned(side):
    """How many cells of its level the side of a square box of so many pixels spans."""
    level = int(np.asarray(assign_levels(jnp.array([[0.0, 0.0, side, side]]))).item())
    return side / 2**level


@app.function(hide_code=True)
def what_rounding_costs():
    """The mean in one bin of a moving box, by both methods; and the IoU of boxes with their rounded versions."""
    features = feature_map()
    shifts = np.linspace(0, 3, 61)
    boxes = np.array([1.3, 2.2, 8.7, 9.4]) + shifts[:, None] * np.array([1, 0, 1, 0])
    smooth = np.asarray(pool(features, jnp.asarray(boxes, jnp.float32), 3, 2, "mean")[0])[:, 2, 0]
    stairs = [roi_pool(np.asarray(features[..., 0]), box, 3, "mean")[0][2, 0] for box in boxes]
    slid, axes = canvas()
    axes.plot(shifts * 16, smooth, color=BLUE, label="RoI Align")
    axes.plot(shifts * 16, stairs, color=VERMILLION, ls=(0, (4, 1.5)), label="RoI Pool")
    axes.set(xlabel="box moved right, in pixels at stride 16", ylabel="mean of the lower left bin")
    axes.legend(frameon=False)

    kept, axes = canvas()
    sides = np.arange(8, 129, 4)
    for stride, colour, dash in ((4, BLUE, "-"), (16, VERMILLION, (0, (4, 1.5))), (32, GREY, ":")):
        overlap = [iou_with_rounded(side, stride) for side in sides]
        axes.plot(sides, overlap, color=colour, ls=dash, label=f"stride {stride}")
    axes.set(xlabel="side of the box in pixels", ylabel="IoU with the rounded box", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    return {
        "One bin of a moving box: RoI Align changes smoothly, RoI Pool in steps (both: the mean)": slid,
        "Mean IoU of square boxes at random places with the same boxes rounded to whole cells": kept,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                ## What goes wrong when boxes are rounded

                On a map of stride 16, a box of 24 pixels and its rounded version have a mean IoU of only
                {iou_with_rounded(24, 16):.2f}. No mask head can predict an exact outline from features of another box.
                """
            ),
            panels(what_rounding_costs()),
            mo.md(
                r"""
                Small boxes also need a fine map. With a feature pyramid, the features of a box of $w \times h$ pixels
                are taken from level (FPN, eq. 1)

                $$k = \left\lfloor k_0 + \log_2 \frac{\sqrt{w h}}{224} \right\rfloor, \qquad k_0 = 4,$$

                limited to P2 to P5: a box with a side of 224 pixels is pooled from P4, one of 56 from P2.
                """
            ),
            mo.md(
                f"""
                A square box with a side of 56 to 896 pixels then spans {cells_spanned(56):.0f} to
                {cells_spanned(895.99):.0f} cells. Smaller boxes span fewer, since there is no finer map than P2: a
                crystal of 24 pixels spans {cells_spanned(24):.0f}.
                """
            ),
            source(assign_levels),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        """
        ## Exercises

        **1.** `my_bilinear(grid, y, x)`: interpolate a map, a list of rows, bilinearly at the point (y, x). The centres
        of the cells have integer coordinates.
        """
    )
    return


@app.cell
def _():
    def my_bilinear(grid, y, x):
        """The value at (y, x), interpolated between the four nearest cells."""
        return None  # your turn

    return (my_bilinear,)


@app.function(hide_code=True)
def check_bilinear(attempt):
    """Exercise 1 against the package, through boxes so small that all of a bin's samples fall on one point."""
    values = np.array([[0.0, 1.0, 4.0], [2.0, 8.0, 3.0], [5.0, 1.0, 7.0]])

    def right(y, x):
        tiny = jnp.array([[x + 0.5, y + 0.5, x + 0.5, y + 0.5]], jnp.float32)
        return float(
            roi_align(jnp.asarray(values[..., None], jnp.float32), tiny, output_size=1, sampling_ratio=1).item()
        )

    points = [(0.0, 1.0), (0.5, 0.0), (1.0, 1.25), (0.75, 1.5), (2.0, 2.0)]
    hint = (
        "The weight of a cell is (1 - distance in y) * (1 - distance in x). The last row and column have no next one."
    )
    return grade(attempt, [((values.tolist(), y, x), right(y, x)) for y, x in points], hint=hint)


@app.function(hide_code=True)
def solve_bilinear(grid, y, x):
    """The value at (y, x), interpolated between the four nearest cells."""
    return sum(
        value * max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j))
        for i, row in enumerate(grid)
        for j, value in enumerate(row)
    )


@app.cell(hide_code=True)
def _(my_bilinear):
    mo.vstack(
        [
            show(check_bilinear(my_bilinear)),
            solution(
                solve_bilinear,
                "This is the equation as it stands: all cells but the four nearest have the weight 0. The "
                "weights add up to 1, and at the centre of a cell that cell alone has weight 1. The package "
                "computes the four terms only, which is faster.",
            ),
            mo.md(
                "**2.** `my_positions(low, high, bins, samples)`: the positions of the sampling points along one axis, "
                "`bins * samples` in all, in order, for a box from `low` to `high`."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_positions(low, high, bins, samples):
        """Positions of all sampling points of one axis, in order."""
        return None  # your turn

    return (my_positions,)


@app.function(hide_code=True)
def check_positions(attempt):
    """Exercise 2 against `bin_samples`."""

    def right(low, high, bins, samples):
        edges, rule = (jnp.array([low]), jnp.array([high]), jnp.array([100])), Sampling(sampling_ratio=samples)
        return np.asarray(bin_samples(*edges, bins=bins, sampling=rule).position).ravel() + 0.5

    cases = [(0.0, 4.0, 2, 1), (0.0, 4.0, 2, 2), (1.5, 9.0, 5, 2), (-0.5, 2.5, 3, 4)]
    hint = "Divide the box into bins * samples equal parts; each point lies in the middle of its part."
    return grade(attempt, [(case, right(*case)) for case in cases], hint=hint)


@app.function(hide_code=True)
def solve_positions(low, high, bins, samples):
    """Positions of all sampling points of one axis, in order."""
    part = (high - low) / (bins * samples)
    return [low + (k + 0.5) * part for k in range(bins * samples)]


@app.cell(hide_code=True)
def _(my_positions):
    mo.vstack(
        [
            show(check_positions(my_positions)),
            solution(
                solve_positions,
                "The points divide the box evenly: each lies in the *middle* of its part, so none lies on an "
                "edge of the box or of a bin. The edges are never rounded, so a small shift of the box shifts "
                "all points by as much.",
            ),
            mo.md("**3.** `my_level(width, height)`: the pyramid level of a box of `width` x `height` pixels."),
        ]
    )
    return


@app.cell
def _():
    def my_level(width, height):
        """2, 3, 4 or 5."""
        return None  # your turn

    return (my_level,)


@app.function(hide_code=True)
def check_level(attempt):
    """Exercise 3 against `assign_levels`."""
    sides = [(224, 224), (112, 112), (448, 448), (10, 10), (2000, 900), (300, 60), (223, 223)]
    boxes = jnp.array([[0, 0, w, h] for w, h in sides], jnp.float32)
    levels = np.asarray(assign_levels(boxes)).tolist()
    hint = "Add 4 to the logarithm before you round down, and limit the result to 2 to 5."
    return grade(attempt, list(zip(sides, levels, strict=True)), hint=hint)


@app.function(hide_code=True)
def solve_level(width, height):
    """2, 3, 4 or 5."""
    level = np.floor(4 + np.log2(np.sqrt(width * height) / 224))
    return int(min(max(level, 2), 5))


@app.cell(hide_code=True)
def _(my_level):
    mo.vstack(
        [
            show(check_level(my_level)),
            solution(
                solve_level,
                "A box of twice the side is one level higher, where cells are twice as wide: it spans as many "
                "cells as before. Round down first, then limit. 224 is the size of ImageNet's crops, on which "
                "backbones are trained before; the level of such a box is P4, as in Faster R-CNN without a "
                "pyramid (FPN, section 4.2).",
            ),
            mo.md("**Next:** lesson 08, the heads that read these features."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
