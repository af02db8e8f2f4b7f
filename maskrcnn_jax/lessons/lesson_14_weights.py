"""Lesson 14: what training made of the weights: their distribution by layer, and filters that never respond."""

import marimo

app = marimo.App(app_title="14 Inspect the weights", width="medium")

with app.setup:
    from functools import lru_cache

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np
    from flax import nnx

    from maskrcnn_jax.convert.verify import compare
    from maskrcnn_jax.layers import Conv, random_weights
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.network import backbone_maps, pretrained, program
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, VERMILLION, canvas, panels, source

    PARTS = {"backbone": "backbone", "FPN": "fpn", "RPN head": "rpn", "box head": "box_head", "mask head": "mask_head"}
    DROPS = range(4, 8)


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 14 Inspect the weights"),
            start(
                5,
                know="ResNet (lesson 04), training (lesson 10)",
                pages={"ResNet": "components/resnet", "Converters": "components/converters"},
                papers={"He et al. 2015": "section 2.2, equation 10", "Crystals 2021": "section 2.2"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** Weights come from a file, from a converter, or from a training that may have failed. A look
        at them costs a second and answers: were they trained at all? Is a layer far larger or smaller than the others?
        Are there *dead filters*, which give 0 whatever the image is? Qin et al. start from weights trained on COCO
        (Crystals 2021, section 2.2), so look at those before you train on.

        **Distribution.** A convolution with a kernel of $k \times k$ cells and $c$ input channels starts with random
        weights of standard deviation

        $$\sigma = \sqrt{\frac{2}{k^2 c}}$$

        (He et al. 2015, eq. 10), which keeps the magnitude of the features about the same from layer to layer. In units
        of $\sigma$ all layers can be compared: an untrained one has a standard deviation of 1, and trained ones differ.

        **Dead filters.** After a ReLU, the response of filter $k$ at a cell is $\max(0, a_k)$. Where $a_k < 0$, the
        gradient is 0. A filter with

        $$\max_{\text{images}, \, y, \, x} \; \max(0, a_k(y, x)) = 0$$

        therefore never responds, and never learns again either.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls give the weights and the responses in the pictures below:"),
            calls(kernels, "state", "to_flat_state"),
            calls(backbone_maps, "features"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    part = mo.ui.dropdown(list(PARTS), value="backbone", label="part of the network")
    weak = mo.ui.slider(
        0.1, 0.9, step=0.1, value=0.5, label="weak: norm below this share of the median", show_value=True
    )
    shift = mo.ui.slider(-6, 0, step=1, value=0, label="added to the shifts of the stem's norm", show_value=True)
    mo.vstack(
        [
            mo.md(
                "## Look at the weights\n\nThe network of the lessons, trained on drawn shapes. The last slider makes "
                "its first filters die: it lowers what their norm adds before the ReLU."
            ),
            mo.hstack([part, weak, shift], wrap=True, justify="start"),
        ]
    )
    return part, shift, weak


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def kernels():
    """The kernels of all layers by name, as NumPy arrays [..., inputs, outputs]."""
    flat = nnx.to_flat_state(nnx.state(pretrained(), nnx.Param))
    named = {".".join(map(str, path)): np.asarray(values[...]) for path, values in flat}
    return {name.removesuffix(".kernel"): values for name, values in named.items() if name.endswith(".kernel")}


@app.function(hide_code=True)
def he_deviation(kernel):
    """The standard deviation that a kernel of this shape starts with."""
    return float(np.sqrt(2 / np.prod(kernel.shape[:-1])))


@app.function(hide_code=True)
def filter_norms(kernel):
    """The length of each filter, a vector of all its weights: [outputs]."""
    return np.sqrt((kernel**2).sum(tuple(range(kernel.ndim - 1))))


@app.function(hide_code=True)
def dead(strongest):
    """Which channels never exceed 0, of the strongest response of each channel to each image [images, channels]."""
    return np.flatnonzero(np.asarray(strongest).max(0) <= 0)


@app.function(hide_code=True)
def with_changed(name, change):
    """The state of the network with one of its parameters changed."""
    flat = dict(nnx.to_flat_state(nnx.split(pretrained())[1]))
    path = tuple(name.split("."))
    flat[path] = flat[path].replace(change(flat[path][...]))
    return nnx.from_flat_state(flat)


@app.function(hide_code=True)
@lru_cache(maxsize=16)
def responses(shift=0.0):
    """Of C1 to C5 the strongest response of each channel to each of a few drops [drops, channels], with `shift` added
    to the shifts of the stem's norm; and C1 of the last drop.
    """
    changed = with_changed("backbone.stem_norm.shift", lambda values: values + shift)
    strongest, first = [], np.zeros((1, 1, 1))
    for seed in DROPS:
        maps = jax.device_get(program(backbone_maps)(changed, scene(seed, light=0.2).image[None]))
        strongest.append([c[0].max((0, 1)) for c in maps])
        first = maps[0][0]
    return [np.array(level) for level in zip(*strongest, strict=True)], first


@app.function(hide_code=True)
def by_layer(part):
    """Chart of the middle 50 and 90 per cent of the weights of each layer, in units of He's standard deviation."""
    layers = {name: k for name, k in kernels().items() if name.split(".")[0] == PARTS[part]}
    height = max(3.3, 0.9 + 0.19 * len(layers))
    chart, axes = canvas(4.2, height)
    for place, kernel in enumerate(layers.values()):
        p5, p25, p50, p75, p95 = np.percentile(kernel / he_deviation(kernel), [5, 25, 50, 75, 95])
        axes.plot([p5, p95], [place, place], color=BLUE, lw=1.2)
        axes.plot([p25, p75], [place, place], color=BLUE, lw=5, solid_capstyle="butt")
        axes.plot([p50], [place], "|", color="white", ms=6)
    for edge in (-1.645, 1.645):
        axes.axvline(edge, color=GREY, ls=":", lw=1)
    names = [
        name.partition(".")[2].replace("stages.", "s").replace("blocks.", "b").replace("shortcut", "cut")
        for name in layers
    ]
    axes.set_yticks(range(len(layers)), [name or part for name in names], fontsize=7)
    axes.set(xlabel="weight / He's standard deviation", ylim=(len(layers) - 0.5, -0.5))
    chart.subplots_adjust(left=0.27, bottom=0.5 / height)
    return chart


@app.function(hide_code=True)
def picture(part, weak, shift):
    """Weights by layer; the norms of filters; dead channels of C1 to C5; the strongest and the weakest map of C1."""
    shares = [
        filter_norms(k) / np.median(filter_norms(k)) for n, k in kernels().items() if n.split(".")[0] == PARTS[part]
    ]
    shares = np.concatenate(shares)
    norms, axes = canvas()
    axes.hist(shares, np.linspace(0, 3, 31).tolist(), histtype="stepfilled", color=BLUE)
    axes.axvline(weak, color=ORANGE, ls="--")
    axes.set(xlabel="length of a filter / median of its layer", ylabel="filters")

    levels, first = responses(float(shift))
    share, axes = canvas()
    never = [len(dead(level)) / level.shape[1] for level in levels]
    axes.bar([f"C{n}" for n in range(1, 6)], never, color=VERMILLION, width=0.6)
    for place, (value, level) in enumerate(zip(never, levels, strict=True)):
        axes.text(place, value, f"{len(dead(level))} of {level.shape[1]}", ha="center", va="bottom", fontsize=8)
    axes.set(ylabel="share of dead channels", ylim=(0, 1.1))
    order = np.argsort(first.mean((0, 1)))
    pair = np.concatenate([first[..., order[-1]], first[..., order[0]]], 1)
    both = (255 * pair / max(pair.max(), 1e-6)).astype(np.uint8)
    return {
        f"{part}: weights by layer; thick: the middle half, thin: 90 %; dotted: 90 % of untrained weights": by_layer(
            part
        ),
        f"{(shares < weak).sum()} of {len(shares)} filters of this part are weak": norms,
        f"Channels of C1 to C5 that respond nowhere in {len(DROPS)} drops": share,
        "C1 of a drop, left the strongest channel, right the weakest": both,
    }


@app.cell(hide_code=True)
def _(part, shift, weak):
    panels(picture(part.value, weak.value, shift.value))
    return


@app.function(hide_code=True)
def dead_channels(shift):
    """How many channels of C1 never respond, and how many there are."""
    level = responses(float(shift))[0][0]
    return len(dead(level)), level.shape[1]


@app.function(hide_code=True)
def deviation_of(name):
    """The standard deviation of a layer's weights, in units of He's."""
    kernel = kernels()[name]
    return float(kernel.std()) / he_deviation(kernel)


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                Most layers have kept about the spread they started with: for the second convolution of the mask head it
                is {deviation_of("mask_head.convs.1"):.2f} times He's. The output layers are narrow
                (`box_head.classes`: {deviation_of("box_head.classes"):.2f}; `rpn.deltas`:
                {deviation_of("rpn.deltas"):.2f}), because they start with small weights (lesson 08). A layer with the
                spread of its start in *every* respect was probably not trained: frozen, or forgotten by a converter.

                Of C1, {dead_channels(0)[0]} of {dead_channels(0)[1]} channels never respond. Move the last slider to
                -3: {dead_channels(-3)[0]} of {dead_channels(-3)[1]} are dead. That is what a learning rate that is far
                too high does: one large step makes a shift so negative that the ReLU gives 0 everywhere, and no
                gradient brings it back. If all channels of a layer are dead, the layers after it still respond, as they
                add shifts of their own, but they respond no longer to the image.

                Of C5, {len(dead(responses()[0][4]))} of {responses()[0][4].shape[1]} channels respond in none of these
                drops. They may be dead, or wait for shapes that these drops do not have: look at more images before you
                decide.
                """
            ),
            source(Conv, random_weights),
        ]
    )
    return


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def shuffled():
    """C3 of a drop as it is, and after the filters of the stem have changed places; and their correlation."""
    image = scene(6, light=0.2).image[None]
    states = (
        with_changed("backbone.stem.kernel", lambda values, by=by: jnp.roll(values, by, axis=-1)) for by in (0, 1)
    )
    before, after = (np.asarray(program(backbone_maps)(state, image)[2])[0] for state in states)
    return before, after, float(np.corrcoef(before.ravel(), after.ravel())[0, 1])


@app.function(hide_code=True)
def misplaced():
    """Distributions of the stem's weights before and after its filters have changed places, and C3 of both."""
    before, after, _ = shuffled()
    kernel = kernels()["backbone.stem"]
    chart, axes = canvas()
    bins = np.linspace(-0.6, 0.6, 41).tolist()
    axes.hist(kernel.ravel(), bins, histtype="stepfilled", color=BLUE, alpha=0.5, label="as trained")
    axes.hist(
        np.roll(kernel, 1, -1).ravel(), bins, histtype="step", color=VERMILLION, ls="--", label="filters exchanged"
    )
    axes.set(xlabel="weights of the stem", ylabel="number")
    axes.legend(frameon=False, fontsize=8)
    brightest = max(before.mean(-1).max(), after.mean(-1).max())
    maps = [np.repeat(np.repeat((255 * m.mean(-1) / brightest).astype(np.uint8), 8, 0), 8, 1) for m in (before, after)]
    return {
        "The distributions are the same": chart,
        "C3, mean of its channels, with the weights as trained": maps[0],
        "C3 with the filters of the stem exchanged": maps[1],
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                ## What goes wrong when only distributions are compared

                Give each filter of the first layer the place of its neighbour, as a converter with a wrong order of
                axes does. Every histogram stays as it was, but all later layers receive other channels than those they
                were trained on: the correlation of C3 with the right C3 is only {shuffled()[2]:.2f}. So a distribution
                can show that weights are wrong, never that they are right. To know, compare the *outputs* with those of
                the original program, stage by stage; `maskrcnn_jax.convert.verify` does that, and `crystal inspect
                IMAGE --weights RUN --out PAGE.html` shows the feature maps for an image of your own.
                """
            ),
            panels(misplaced()),
            source(compare),
            mo.md(
                "## Exercises\n\n**1.** `my_deviation(kernel, inputs)`: He's standard deviation for a convolution of "
                "`kernel` x `kernel` cells and `inputs` input channels."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_deviation(kernel, inputs):
        """The standard deviation of the initial weights."""
        return None  # your turn

    return (my_deviation,)


@app.function(hide_code=True)
def check_deviation(attempt):
    """Exercise 1 against `he_deviation`, by which the first chart is scaled."""
    cases = [((k, i), he_deviation(np.zeros((k, k, i, 8)))) for k, i in ((3, 64), (1, 256), (7, 3), (1, 2))]
    return grade(attempt, cases, hint="The number of outputs does not matter, only what one output is a sum over.")


@app.function(hide_code=True)
def solve_deviation(kernel, inputs):
    """The standard deviation of the initial weights."""
    return np.sqrt(2 / (kernel * kernel * inputs))


@app.cell(hide_code=True)
def _(my_deviation):
    mo.vstack(
        [
            show(check_deviation(my_deviation)),
            solution(
                solve_deviation,
                "An output is a sum of `kernel * kernel * inputs` products, and the variance of a sum of independent "
                "terms is the sum of their variances. Divided by that number, it stays the same from layer to layer. "
                "The 2 makes up for the ReLU, which sets half of the responses to 0.",
            ),
            mo.md(
                "**2.** `my_norms(kernel)`: the length of each filter of an array `kernel[row, column, input, output]`."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_norms(kernel):
        """The length (Euclidean norm) of the weights of each output channel."""
        return None  # your turn

    return (my_norms,)


@app.function(hide_code=True)
def check_norms(attempt):
    """Exercise 2 against `filter_norms`."""
    rng = np.random.default_rng(0)
    cases = [np.array([3.0, 4.0]).reshape(1, 1, 2, 1), rng.normal(size=(2, 2, 1, 2)).round(1), np.ones((3, 3, 2, 2))]
    return grade(
        attempt, [((kernel,), filter_norms(kernel)) for kernel in cases], hint="Sum over all axes but the last."
    )


@app.function(hide_code=True)
def solve_norms(kernel):
    """The length (Euclidean norm) of the weights of each output channel."""
    return np.sqrt((np.asarray(kernel) ** 2).sum((0, 1, 2)))


@app.cell(hide_code=True)
def _(my_norms):
    mo.vstack(
        [
            show(check_norms(my_norms)),
            solution(
                solve_norms,
                "The last axis is the output channel, so each filter is `kernel[..., k]`. In PyTorch's files the "
                "outputs "
                "come first, and in Keras' last: the axis is one of the things a converter must get right.",
            ),
            mo.md(
                "**3.** `my_dead(responses)`: the indices of the dead channels; `responses[n][k]` is the strongest "
                "response, after the ReLU, of channel k to image n."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_dead(responses):
        """A list of indices, in order."""
        return None  # your turn

    return (my_dead,)


@app.function(hide_code=True)
def check_dead(attempt):
    """Exercise 3 against `dead`."""
    cases = [[[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]], [[0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0], [0.1, 0.0]]]
    return grade(
        attempt, [((rows,), dead(rows)) for rows in cases], hint="One response to one image is a sign of life."
    )


@app.function(hide_code=True)
def solve_dead(responses):
    """A list of indices, in order."""
    return [k for k, column in enumerate(zip(*responses, strict=True)) if max(column) <= 0]


@app.cell(hide_code=True)
def _(my_dead):
    mo.vstack(
        [
            show(check_dead(my_dead)),
            solution(
                solve_dead,
                "A channel counts as dead only if it responds to *no* image. Look at many and at different images "
                "before "
                "you say so: a filter for needles gives 0 for every drop without needles.",
            ),
            mo.md("**Next:** lesson 15, crystals that are too small to be seen."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
