"""Lesson 07: RoI Align against RoI Pool, a box dragged over a feature map."""

import marimo

app = marimo.App(app_title="07 RoI Align against RoI Pool", width="medium")

with app.setup:
    from functools import partial

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from maskrcnn_jax.config import Sampling
    from maskrcnn_jax.lessons.exercise import grade, show
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
    mo.md(
        r"""
        # 07 RoI Align against RoI Pool

        **What it is for.** The RPN hands over boxes of every size. The heads want a fixed grid, 7x7 or 14x14 numbers a
        channel. Something has to cut the box out of the feature map and resize it. RoI Pool (Fast R-CNN, section 2.1)
        did so by *rounding* the box to whole cells of the map, twice: the box, then its bins. On a map of stride 16
        that moves an edge by up to 8 pixels, which a class does not mind and an outline does. **RoI Align** (Mask
        R-CNN, section 3) rounds nothing: it reads the map *between* its cells. That one change gained the paper about
        3 points of mask AP at stride 16 and 7.3 at stride 32 (its tables 2c and 2d).

        Each bin holds $s \times s$ sampling points. A point at $(y, x)$ between cells takes the bilinear mean of the
        four cells around it,

        $$f(y, x) = \sum_{i,j} f_{ij} \, w(y - i) \, w(x - j)$$

        with $w(d) = \max(0, 1 - |d|)$, and the bin takes the mean of its points, $\frac{1}{s^2} \sum f(y_k, x_k)$. Qin
        et al. (Crystals 2021, section 2.4 and figure 4) take the *maximum* of four points instead.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    x1 = mo.ui.slider(0, 7, step=0.1, value=1.3, label="x1 (left)", show_value=True)
    y1 = mo.ui.slider(0, 7, step=0.1, value=2.2, label="y1 (top)", show_value=True)
    x2 = mo.ui.slider(4, 12, step=0.1, value=8.7, label="x2 (right)", show_value=True)
    y2 = mo.ui.slider(4, 12, step=0.1, value=9.4, label="y2 (bottom)", show_value=True)
    bins = mo.ui.dropdown({"2 x 2": 2, "3 x 3": 3, "5 x 5 (figure 4)": 5}, value="3 x 3", label="bins")
    samples = mo.ui.slider(1, 4, value=2, label="samples a bin and side", show_value=True)
    reduce = mo.ui.dropdown(["mean", "max"], value="mean", label="a bin takes the")
    mo.vstack(
        [
            mo.md("## Drag the box\n\nFour sliders move its edges, in cells of a 12x12 map."),
            mo.hstack([x1, x2, y1, y2], wrap=True, justify="start"),
            mo.hstack([bins, samples, reduce], wrap=True, justify="start"),
        ]
    )
    return bins, reduce, samples, x1, x2, y1, y2


@app.function(hide_code=True)
def feature_map():
    """A map with a bright ridge across it, [12, 12, 1]: something whose place matters."""
    row, column = np.mgrid[:CELLS, :CELLS]
    ridge = np.exp(-(((row - 0.7 * column - 2) / 1.3) ** 2)) + 0.35 * np.exp(-((row - 2) ** 2 + (column - 9) ** 2) / 4)
    return jnp.asarray(ridge[..., None], jnp.float32)


@app.function(hide_code=True)
def roi_pool(features, box, bins):
    """RoI Pool of one box, as Fast R-CNN had it: edges and bins rounded to whole cells, the maximum of each bin.

    Not part of the package, which has no use for it. Returns the pooled numbers [bins, bins] and the rounded edges.
    """
    left, top, right, bottom = (int(v) for v in np.round(np.asarray(box)))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    pooled = np.zeros((bins, bins))
    for i in range(bins):
        for j in range(bins):
            rows = slice(top + (bottom - top) * i // bins, top + -(-(bottom - top) * (i + 1) // bins))
            columns = slice(left + (right - left) * j // bins, left + -(-(right - left) * (j + 1) // bins))
            pooled[i, j] = features[rows, columns].max(initial=0)
    return pooled, np.array([left, top, right, bottom], float)


@app.function(hide_code=True)
def picture(x1, y1, x2, y2, bins, samples, reduce):
    """The box with its sampling points over the map, and what both ways of pooling make of it."""
    features = feature_map()
    box = jnp.array([[x1, y1, x2, y2]], jnp.float32)
    pooled, rows, columns = (np.asarray(a)[0] for a in pool(features, box, bins, samples, reduce))
    rounded, edges = roi_pool(np.asarray(features[..., 0]), box[0], bins)

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
        "The map, the box (white), its bins and sampling points; dashed: the box that RoI Pool rounds it to": over,
        f"RoI Align: the {reduce} of the {samples * samples} interpolated points of each bin": tables[0],
        "RoI Pool: the largest of the whole cells of each rounded bin": tables[1],
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
                Move `x1` by 0.1: every number of RoI Align answers. RoI Pool's stay, until an edge passes the middle of
                a cell; then a whole row or column of cells jumps in or out. Two boxes that differ by half a cell look
                the same to it, and no gradient can tell the network which of the two was right.

                A single number hides a convention: cell *i* of a map covers [i, i + 1), so its centre lies at i + 0.5.
                With `aligned=True` half a cell is taken off the scaled box, so that a point on a centre reads exactly
                that cell. torchvision's published weights were trained without it. Mix the two up, and **everything is
                shifted by half a stride**: that is what such a shift in your own results points to.
                """
            ),
            source(roi_align, bin_samples, bilinear_pool),
        ]
    )
    return


@app.function(hide_code=True)
def what_rounding_costs():
    """A box slid by one stride, read both ways; and how much of a box its rounded self still covers."""
    features = feature_map()
    shifts = np.linspace(0, 3, 61)
    boxes = np.array([1.3, 2.2, 8.7, 9.4]) + shifts[:, None] * np.array([1, 0, 1, 0])
    smooth = np.asarray(pool(features, jnp.asarray(boxes, jnp.float32), 3, 2, "mean")[0])[:, 2, 0]
    stairs = [roi_pool(np.asarray(features[..., 0]), box, 3)[0][2, 0] for box in boxes]
    slid, axes = canvas()
    axes.plot(shifts * 16, smooth, color=BLUE, label="RoI Align")
    axes.plot(shifts * 16, stairs, color=VERMILLION, ls=(0, (4, 1.5)), label="RoI Pool")
    axes.set(xlabel="box moved right, in pixels at stride 16", ylabel="lower left bin")
    axes.legend(frameon=False)

    kept, axes = canvas()
    rng, sides = np.random.default_rng(0), np.arange(8, 129, 4)
    for stride, colour, dash in ((4, BLUE, "-"), (16, VERMILLION, (0, (4, 1.5))), (32, GREY, ":")):
        overlap = []
        for side in sides:
            low = rng.uniform(0, 64, (400, 2))
            high = low + side
            low_rounded, high_rounded = np.round(low / stride) * stride, np.round(high / stride) * stride
            shared = np.maximum(np.minimum(high, high_rounded) - np.maximum(low, low_rounded), 0).prod(1)
            union = side**2 + (high_rounded - low_rounded).prod(1) - shared
            overlap.append((shared / union).mean())
        axes.plot(sides, overlap, color=colour, ls=dash, label=f"stride {stride}")
    axes.set(xlabel="side of the box in pixels", ylabel="IoU with its rounded self", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    return {
        "One bin's value as the box slides: RoI Align follows, RoI Pool takes stairs": slid,
        "Mean IoU of a random square box and the box that rounding makes of it": kept,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without it

                A crystal of 24 pixels pooled from a map of stride 16 shares, on average, half its area with the box
                that rounding makes of it. An outline drawn from that cannot be right, however good the mask head.
                """
            ),
            panels(what_rounding_costs()),
            mo.md(
                r"""
                The other half of the cure is to pool small boxes from a fine map. With a pyramid, FPN's equation 1
                gives a box of $w \times h$ pixels the level

                $$k = \left\lfloor k_0 + \log_2 \frac{\sqrt{w h}}{224} \right\rfloor, \qquad k_0 = 4,$$

                kept within P2 to P5: a box of 224 pixels is read from P4, one of 56 from P2. Whatever its size, a box
                then spans 7 to 14 cells.
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

        **1.** Read a map between its cells: `my_bilinear(grid, y, x)` for a point inside a list of rows, cell centres
        at whole numbers.
        """
    )
    return


@app.cell
def _():
    def my_bilinear(grid, y, x):
        """The bilinear mean of the four cells around (y, x)."""
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
    hint = "Weight each neighbour by (1 - distance) along y times the same along x; mind the last row and column."
    return grade(attempt, [((values.tolist(), y, x), right(y, x)) for y, x in points], hint=hint)


@app.cell(hide_code=True)
def _(my_bilinear):
    mo.vstack(
        [
            show(check_bilinear(my_bilinear)),
            mo.md(
                "**2.** Where do the samples lie along one axis? For a box from `low` to `high` (in cells, half a cell "
                "taken off already), list the `bins * samples` positions in order."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_positions(low, high, bins, samples):
        """Positions of all samples of one axis, in order."""
        return None  # your turn

    return (my_positions,)


@app.function(hide_code=True)
def check_positions(attempt):
    """Exercise 2 against `bin_samples`."""

    def right(low, high, bins, samples):
        edges, rule = (jnp.array([low]), jnp.array([high]), jnp.array([100])), Sampling(sampling_ratio=samples)
        return np.asarray(bin_samples(*edges, bins=bins, sampling=rule).position).ravel() + 0.5

    cases = [(0.0, 4.0, 2, 1), (0.0, 4.0, 2, 2), (1.5, 9.0, 5, 2), (-0.5, 2.5, 3, 4)]
    hint = "Cut the box into bins * samples equal parts; a sample lies in the middle of its part."
    return grade(attempt, [(case, right(*case)) for case in cases], hint=hint)


@app.cell(hide_code=True)
def _(my_positions):
    mo.vstack(
        [
            show(check_positions(my_positions)),
            mo.md("**3.** Which level of the pyramid is a box of `width` x `height` pixels pooled from?"),
        ]
    )
    return


@app.cell
def _():
    def my_level(width, height):
        """2, 3, 4 or 5 by FPN's equation 1."""
        return None  # your turn

    return (my_level,)


@app.function(hide_code=True)
def check_level(attempt):
    """Exercise 3 against `assign_levels`."""
    sides = [(224, 224), (112, 112), (448, 448), (10, 10), (2000, 900), (300, 60), (223, 223)]
    boxes = jnp.array([[0, 0, w, h] for w, h in sides], jnp.float32)
    levels = np.asarray(assign_levels(boxes)).tolist()
    hint = "Take the square root of the area, floor after adding 4, and keep the result within 2 and 5."
    return grade(attempt, list(zip(sides, levels, strict=True)), hint=hint)


@app.cell(hide_code=True)
def _(my_level):
    mo.vstack(
        [show(check_level(my_level)), mo.md("**Next:** lesson 08, the heads that read these grids, and their losses.")]
    )
    return


if __name__ == "__main__":
    app.run()
