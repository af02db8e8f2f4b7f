"""Lesson 12: jit, fixed shapes, and where the time goes."""

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
    from maskrcnn_jax.lessons.exercise import grade, show
    from maskrcnn_jax.lessons.network import every_stage, not_yet_compiled, pyramid_of
    from maskrcnn_jax.lessons.show import BLUE, ORANGE, VERMILLION, canvas, panels, source, table
    from maskrcnn_jax.losses import masked_mean

    DROPS = 60


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        # 12 Speed: jit, fixed shapes, where the time goes

        **What it is for.** `jax.jit` looks at a function once for each *shape* of its arguments, and compiles a program
        for that shape. This costs seconds (**the first step is slow**), and saves them at every step after. A shape
        that changes is a new program: let the number of crystals in a batch decide a shape, and **it recompiles every
        step**.

        So every number is fixed here, and `valid` says which slots are filled (Mask R-CNN does so too: its section 3.1
        draws a fixed number of proposals an image). With $v_i \in \{0, 1\}$ for the slots, a loss is

        $$L = \frac{\sum_i v_i \, l_i}{\max(\sum_i v_i, 1)}$$

        and whatever stands in an empty slot counts for nothing: nothing to sum, and no gradient.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    slots = mo.ui.slider(1, 64, value=24, label="slots for crystals", show_value=True)
    batch = mo.ui.slider(1, 8, value=4, label="images a batch", show_value=True)
    mo.vstack([mo.md("## How many slots?"), mo.hstack([slots, batch], wrap=True, justify="start")])
    return batch, slots


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def crystals_a_drop():
    """How many crystals each of sixty rendered drops holds."""
    return np.array([len(draw_drop(seed, height=96, width=120).instances) for seed in range(DROPS)])


@app.function(hide_code=True)
def picture(slots, batch):
    """Which drops fit, what padding costs, and how many programs unpadded batches would compile."""
    counts = crystals_a_drop()
    fit, axes = canvas()
    bins = list(range(0, 66, 2))
    way = "stepfilled"  # one outline, drawn in a fraction of the time that its bars take
    axes.hist(counts[counts <= slots], bins, histtype=way, color=BLUE, label="fits")
    axes.hist(counts[counts > slots], bins, histtype=way, color=VERMILLION, hatch="//", label="largest only are kept")
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

    order = np.random.default_rng(0).integers(0, DROPS, (200, batch))
    largest = counts[order].max(1)
    programs = [len(set(largest[:step].tolist())) for step in range(1, 201)]
    compiles, axes = canvas()
    axes.plot(range(1, 201), programs, color=VERMILLION, ls=(0, (4, 1.5)), label="padded to the batch's largest")
    axes.plot([1, 200], [1, 1], color=BLUE, label="padded to the slots")
    axes.set(xlabel="step", ylabel="programs compiled so far", ylim=(0, None))
    axes.legend(frameon=False)
    return {
        f"{(counts <= slots).mean():.0%} of {DROPS} drops fit into {slots} slots": fit,
        f"With {slots} slots, {lost[slots - 1]:.0%} of the crystals are left out, {empty[slots - 1]:.0%} slots "
        f"empty": filled,
        f"{programs[-1]} programs in 200 steps without fixed slots, one with": compiles,
    }


@app.cell(hide_code=True)
def _(batch, slots):
    panels(picture(slots.value, batch.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                An empty slot is cheap: boxes are four numbers, and IoU with a few more of them is lost in the noise. A
                recompilation costs as much as a hundred steps. What is *not* cheap in slots are masks at full size: 64
                of 512x512 take 16 MB an image. The package keeps masks relative to their boxes, and **out of memory**
                is answered by fewer images a batch, fewer proposals, or fewer mask slots, in this order of harm.
                """
            ),
            source(masked_mean, nms),
        ]
    )
    return


@app.function(hide_code=True)
def seconds(call, times=5):
    """The shortest of some runs, with the device waited for: JAX returns before it has computed."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(call())
        took.append(time.perf_counter() - start)
    return min(took)


@app.function(hide_code=True)
def where_the_time_goes():
    """Milliseconds of each stage of one image, as differences of ever longer programs, and what the first call took."""
    image = jnp.asarray(scene(8, light=0.2).image[None])
    parts = {"ResNet and FPN": pyramid_of, "RPN, NMS, heads, masks": every_stage}
    before, rows = 0.0, {}
    for name, part in parts.items():
        fresh = not_yet_compiled(part)  # the program that lessons share may have had its first call
        first = seconds(lambda fresh=fresh: fresh(image), times=1)
        so_far = seconds(lambda fresh=fresh: fresh(image))
        rows[name] = max(so_far - before, 0.0) * 1000, first
        before = so_far
    chart, axes = canvas(4.6, 2.0)
    names = list(rows)[::-1]
    axes.barh(names, [rows[name][0] for name in names], color=BLUE)
    axes.set(xlabel="milliseconds, one image of 256x320")
    axes.figure.subplots_adjust(left=0.45)
    first = table(
        ["program up to", "first call, compiling: s"], [[name, f"{row[1]:.1f}"] for name, row in rows.items()]
    )
    return mo.vstack([panels({"Measured on this machine, just now: the stages of the small network": chart}), first])


@app.function(hide_code=True)
def jit_and_shapes():
    """NMS of a hundred boxes: operation by operation, compiled, and with a new number of boxes at each call."""
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
        ["operation by operation", plain],
        ["jit, the first call", first],
        ["jit, the same shape again", after],
        ["jit, another number of boxes each call", fresh],
    ]
    return table(["NMS of about a hundred boxes", "milliseconds"], [[name, f"{1000 * t:.2f}"] for name, t in rows])


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without it

                The same NMS four ways. The last row is what a list of boxes that is as long as there are boxes would
                cost, at every image.
                """
            ),
            jit_and_shapes(),
            mo.md(
                """
                And the network, in two parts. Always wait for the device before stopping a watch
                (`jax.block_until_ready`), and leave the first call out.
                """
            ),
            where_the_time_goes(),
            mo.md(
                "## Exercises\n\n**1.** `my_pad(boxes, slots)`: (padded boxes, valid), the first `slots` if there "
                "are more."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_pad(boxes, slots):
        """A list of `slots` rows of five; the fifth number says whether the row is a box."""
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
    return grade(attempt, cases, hint="Always `slots` rows of five numbers, whatever comes in.")


@app.cell(hide_code=True)
def _(my_pad):
    mo.vstack(
        [
            show(check_pad(my_pad)),
            mo.md(
                "**2.** `my_masked_mean(values, valid)`: nothing valid gives 0, and a NaN or infinity in an empty "
                "slot does "
                "no harm."
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
    hint = "NaN times 0 is NaN: choose with `where`, do not multiply; and the divisor is at least 1."
    return grade(attempt, cases, hint=hint)


@app.cell(hide_code=True)
def _(my_masked_mean):
    mo.vstack(
        [
            show(check_masked_mean(my_masked_mean)),
            mo.md(
                "**3.** `my_flops(height, width, kernel, inputs, outputs, stride)`: floating-point operations of a "
                "convolution, an addition and a multiplication each counted, for sides that the stride divides."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_flops(height, width, kernel, inputs, outputs, stride):
        """How much there is to compute; no bias."""
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
    return grade(attempt, cases, hint="Two for each product; there are (height / stride) x (width / stride) windows.")


@app.cell(hide_code=True)
def _(my_flops):
    mo.vstack([show(check_flops(my_flops)), mo.md("**Next:** your own drops: `crystal check`, then `crystal train`.")])
    return


if __name__ == "__main__":
    app.run()
