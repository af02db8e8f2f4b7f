"""Lesson 12: jit, fixed shapes, and the time that each part takes."""

import marimo

app = marimo.App(app_title="12 Speed: jit, fixed shapes, where the time goes", width="medium")

with app.setup:
    import time
    from functools import lru_cache

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from crystal.drops.drop import draw_drop
    from maskrcnn_jax.boxes.nms import nms
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.network import every_stage, not_yet_compiled, pyramid_of
    from maskrcnn_jax.lessons.show import BLUE, ORANGE, VERMILLION, canvas, panels, source, table
    from maskrcnn_jax.losses import masked_mean

    DROPS = 60


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 12 Speed: jit, fixed shapes, where the time goes"),
            start(
                5,
                know="the network (lesson 09), what a compiler does",
                pages={"Training: memory and speed": "training", "Symptoms": "faq"},
                papers={"Mask R-CNN": "section 3.1"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** `jax.jit` compiles a program for each combination of *shapes* of a function's arguments.
        This takes seconds, so **the first step is slow**, and makes all later steps with the same shapes fast. New
        shapes need a new program. If the number of crystals in a batch determines a shape, training **recompiles again
        and again**.

        In this package all shapes are therefore fixed. Arrays of boxes and masks have a fixed number of *slots*, and a
        mask `valid` says which slots are filled. (Mask R-CNN, section 3.1, likewise samples a fixed number of proposals
        per image.) With $v_i = 1$ for filled slots and $v_i = 0$ for empty ones, a mean loss is

        $$L = \frac{\sum_i v_i \, l_i}{\max(\sum_i v_i, 1)}$$

        so that empty slots contribute neither to the loss nor to its gradient.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below:"),
            calls(jit_and_shapes, "jit"),
            calls(seconds, "block_until_ready"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    slots = mo.ui.slider(1, 64, value=24, label="slots for crystals per image", show_value=True)
    batch = mo.ui.slider(1, 8, value=4, label="images per batch", show_value=True)
    mo.vstack([mo.md("## How many slots?"), mo.hstack([slots, batch], wrap=True, justify="start")])
    return batch, slots


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def crystals_a_drop():
    """The number of crystals of each of sixty drawn drops."""
    return np.array([len(draw_drop(seed, height=96, width=120).instances) for seed in range(DROPS)])


@app.function(hide_code=True)
def picture(slots, batch):
    """Drops that fit, the cost of padding, and the number of programs compiled without fixed slots."""
    counts = crystals_a_drop()
    fit, axes = canvas()
    bins = list(range(0, 66, 2))
    way = "stepfilled"  # one outline, drawn in a fraction of the time that its bars take
    axes.hist(counts[counts <= slots], bins, histtype=way, color=BLUE, label="all crystals fit")
    axes.hist(
        counts[counts > slots], bins, histtype=way, color=VERMILLION, hatch="//", label="some crystals are left out"
    )
    axes.axvline(slots, color=ORANGE, ls="--")
    axes.set(xlabel="crystals in a drop", ylabel="drops")
    axes.legend(frameon=False)

    filled, axes = canvas()
    number = np.arange(1, 65)
    lost = [np.maximum(counts - n, 0).sum() / counts.sum() for n in number]
    empty = [np.maximum(n - counts, 0).sum() / (n * len(counts)) for n in number]
    axes.plot(number, lost, color=VERMILLION, ls=(0, (4, 1.5)), label="crystals left out")
    axes.plot(number, empty, color=BLUE, label="slots that stay empty")
    axes.axvline(slots, color=ORANGE, ls="--")
    axes.set(xlabel="slots", ylabel="share", ylim=(0, 1))
    axes.legend(frameon=False)

    programs = programs_compiled(batch)
    compiles, axes = canvas()
    axes.plot(
        range(1, 201), programs, color=VERMILLION, ls=(0, (4, 1.5)), label="padded to the largest number in the batch"
    )
    axes.plot([1, 200], [1, 1], color=BLUE, label="padded to a fixed number")
    axes.set(xlabel="step", ylabel="programs compiled so far", ylim=(0, None))
    axes.legend(frameon=False, loc="center right", fontsize=8)
    return {
        f"{(counts <= slots).mean():.0%} of {DROPS} drops have at most {slots} crystals": fit,
        f"With {slots} slots, {lost[slots - 1]:.0%} of the crystals are left out and {empty[slots - 1]:.0%} of the "
        f"slots are empty": filled,
        f"Programs compiled in 200 steps: {programs[-1]} without a fixed number of slots, 1 with it": compiles,
    }


@app.function(hide_code=True)
def programs_compiled(batch):
    """How many programs are compiled up to each of 200 steps, if each batch is padded to its largest drop."""
    order = np.random.default_rng(0).integers(0, DROPS, (200, batch))
    largest = crystals_a_drop()[order].max(1)
    return [len(set(largest[:step].tolist())) for step in range(1, 201)]


@app.cell(hide_code=True)
def _(batch, slots):
    panels(picture(slots.value, batch.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                With batches of four drops, each padded to its largest number of crystals, 200 steps compile
                {programs_compiled(4)[-1]} programs, {programs_compiled(4)[19]} of them in the first 20 steps. For the
                whole network each compilation takes many seconds (see the end of this page).

                Empty slots for boxes are cheap, as a box is only four numbers. Masks at full resolution are not: 64
                masks of 512x512 bytes take {64 * 512 * 512 / 2**20:.0f} MiB per image. The package therefore stores
                masks relative to their boxes, at a small fixed size. If you run **out of memory**, first reduce the
                images per batch, then the number of proposals, then the number of mask slots.
                """
            ),
            source(masked_mean, nms),
        ]
    )
    return


@app.function(hide_code=True)
def seconds(call, times=5):
    """The shortest time of several runs, each until its result is there: JAX returns before it has computed."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(call())
        took.append(time.perf_counter() - start)
    return min(took)


@app.function(hide_code=True)
def where_the_time_goes():
    """Time of the first part of the network and of the rest, for one image, and the time of the first calls."""
    image = jnp.asarray(scene(8, light=0.2).image[None])
    parts = {"ResNet and FPN": pyramid_of, "all other parts": every_stage}
    before, rows = 0.0, {}
    for name, part in parts.items():
        fresh = not_yet_compiled(part)  # the program that the lessons share may be compiled already
        first = seconds(lambda fresh=fresh: fresh(image), times=1)
        so_far = seconds(lambda fresh=fresh: fresh(image))
        rows[name] = max(so_far - before, 0.0) * 1000, first
        before = so_far
    chart, axes = canvas(4.6, 2.0)
    names = list(rows)[::-1]
    axes.barh(names, [rows[name][0] for name in names], color=BLUE)
    axes.set(xlabel="milliseconds for one image of 256x320")
    axes.figure.subplots_adjust(left=0.45)
    first = table(
        ["program", "first call with compilation, seconds"],
        [
            [name, f"{row[1][1]:.1f}"]
            for name, row in zip(("ResNet and FPN", "whole network"), rows.items(), strict=True)
        ],
    )
    return mo.vstack(
        [
            panels({"Time of the two parts of the small network, measured on this machine when the lesson ran": chart}),
            first,
        ]
    )


@app.function(hide_code=True)
def jit_and_shapes():
    """Times of NMS of a hundred boxes: without jit, with it, and with another number of boxes at each call."""
    rng = np.random.default_rng(0)

    def boxes(n):
        corner = rng.uniform(0, 200, (n, 2))
        return jnp.asarray(np.concatenate([corner, corner + 30], 1), jnp.float32), jnp.asarray(
            rng.random(n), jnp.float32
        )

    fast = jax.jit(lambda b, s: nms(b, s, iou_threshold=0.5, max_outputs=50))
    b, s = boxes(100)
    with jax.disable_jit():
        plain = seconds(lambda: nms(b, s, iou_threshold=0.5, max_outputs=50))
    first = seconds(lambda: fast(b, s), times=1)
    after = seconds(lambda: fast(b, s))
    fresh = np.mean([seconds(lambda n=n: fast(*boxes(n)), times=1) for n in (101, 102)])
    rows = [
        ["without jit, operation by operation", plain],
        ["with jit, first call", first],
        ["with jit, same shape again", after],
        ["with jit, another number of boxes at each call", fresh],
    ]
    return table(["NMS of about a hundred boxes", "milliseconds"], [[name, f"{1000 * t:.2f}"] for name, t in rows])


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without fixed shapes

                Here NMS is run in four ways. The last row is the time per image if the arrays were as long as the
                number of boxes, a different one for every image.
                """
            ),
            jit_and_shapes(),
            mo.md(
                "## Exercises\n\n**1.** `my_pad(boxes, slots)`: the boxes padded with zeros to `slots` rows, or the "
                "first `slots` of them if there are more; and in a fifth column 1 for filled slots, 0 for empty ones."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_pad(boxes, slots):
        """A list of `slots` rows [x1, y1, x2, y2, valid]."""
        return None  # your turn

    return (my_pad,)


@app.function(hide_code=True)
def check_pad(attempt):
    """Exercise 1, by hand."""
    one, two = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]
    nothing = [0.0] * 5
    cases = [
        (([one], 2), [[*one, 1], nothing]),
        (([], 2), [nothing, nothing]),
        (([one, two], 1), [[*one, 1]]),
        (([one, two], 3), [[*one, 1], [*two, 1], nothing]),
    ]
    return grade(attempt, cases, hint="The result always has `slots` rows of five numbers.")


@app.function(hide_code=True)
def solve_pad(boxes, slots):
    """A list of `slots` rows [x1, y1, x2, y2, valid]."""
    rows = [[*box, 1] for box in boxes[:slots]]
    return rows + [[0.0] * 5 for _ in range(slots - len(rows))]


@app.cell(hide_code=True)
def _(my_pad):
    mo.vstack(
        [
            show(check_pad(my_pad)),
            solution(
                solve_pad,
                "The shape depends on `slots` only, whatever the number of boxes, so one compiled program "
                "serves all images. The fifth column is the `valid` mask: without it, four zeros would look "
                "like a box.",
            ),
            mo.md(
                "**2.** `my_masked_mean(values, valid)`: the mean of the valid values, and 0 if there are none. A NaN "
                "or an infinity in an empty slot must not change the result."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_masked_mean(values, valid):
        """The mean of the valid values."""
        return None  # your turn

    return (my_masked_mean,)


@app.function(hide_code=True)
def check_masked_mean(attempt):
    """Exercise 2 against `masked_mean`."""
    cases = []
    for values, valid in (
        ([1.0, 3.0], [True, True]),
        ([1.0, 5.0, float("inf")], [True, True, False]),
        ([2.0, float("nan")], [True, False]),
        ([1.0, 2.0], [False, False]),
    ):
        cases.append(((values, valid), float(masked_mean(jnp.array(values), jnp.array(valid)))))
    hint = "NaN times 0 is NaN: select the valid values, do not multiply by 0. Divide by at least 1."
    return grade(attempt, cases, hint=hint)


@app.function(hide_code=True)
def solve_masked_mean(values, valid):
    """The mean of the valid values."""
    kept = [value for value, ok in zip(values, valid, strict=True) if ok]
    return sum(kept) / max(1, len(kept))


@app.cell(hide_code=True)
def _(my_masked_mean):
    mo.vstack(
        [
            show(check_masked_mean(my_masked_mean)),
            solution(
                solve_masked_mean,
                "The values are *selected*: the product of NaN or infinity with 0 is NaN. In JAX that is "
                "`jnp.where(valid, values, 0)`, whose shape does not depend on the data. The divisor is at "
                "least 1, so an image without crystals has a loss of 0, not NaN.",
            ),
            mo.md(
                "**3.** `my_flops(height, width, kernel, inputs, outputs, stride)`: the number of multiplications and "
                "additions of a convolution with `inputs` and `outputs` channels and a bias, for an image whose "
                "height and width are multiples of the stride."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_flops(height, width, kernel, inputs, outputs, stride):
        """The number of floating-point operations."""
        return None  # your turn

    return (my_flops,)


@app.function(hide_code=True)
def check_flops(attempt):
    """Exercise 3, by counting each product that a convolution of VALID windows needs for so many outputs."""
    cases = []
    for height, width, kernel, inputs, outputs, stride in (
        (4, 6, 1, 2, 3, 1),
        (8, 8, 3, 2, 5, 2),
        (512, 512, 7, 3, 64, 2),
    ):
        window = 2 * kernel * kernel * inputs
        cases.append(
            (
                (height, width, kernel, inputs, outputs, stride),
                window * outputs * (height // stride) * (width // stride),
            )
        )
    return grade(
        attempt, cases, hint="Each weight costs two per window; there are (height / stride) x (width / stride) windows."
    )


@app.function(hide_code=True)
def solve_flops(height, width, kernel, inputs, outputs, stride):
    """The number of floating-point operations."""
    windows = (height // stride) * (width // stride)
    return 2 * kernel * kernel * inputs * outputs * windows


@app.cell(hide_code=True)
def _(my_flops):
    mo.vstack(
        [
            show(check_flops(my_flops)),
            solution(
                solve_flops,
                "Each output value is a sum of `kernel * kernel * inputs` products and the bias: as many additions "
                "as multiplications. There are `outputs` values per window. So a convolution at half the "
                "resolution and twice as many channels costs as much as before.",
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## Where the time goes

                The time of the network, in two parts. When you measure times yourself, wait for the result with
                `jax.block_until_ready` before you stop the clock, and do not count the first call, which compiles.
                """
            ),
            where_the_time_goes(),
            mo.md("**Next:** lesson 13, what the network is trained on."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
