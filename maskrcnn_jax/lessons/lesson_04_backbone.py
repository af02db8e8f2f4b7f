"""Lesson 04: ResNet bottom-up, the feature pyramid top-down."""

import marimo

app = marimo.App(app_title="04 ResNet and FPN", width="medium")

with app.setup:
    from functools import lru_cache

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from maskrcnn_jax.backbone.fpn import FPN, upsample
    from maskrcnn_jax.backbone.resnet import BasicBlock, ResNet
    from maskrcnn_jax.boxes.coding import decode
    from maskrcnn_jax.boxes.geometry import iou
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show
    from maskrcnn_jax.lessons.network import compiled, pretrained
    from maskrcnn_jax.lessons.show import BLUE, VERMILLION, canvas, panels, source
    from maskrcnn_jax.structures import Pyramid


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        # 04 ResNet and FPN

        **What it is for.** Pixels say little on their own. The *backbone* turns them into maps in which a cell knows
        its surroundings. **ResNet** (He et al. 2015, table 1) goes bottom-up: five stages C1 to C5, each with half the
        resolution of the one before, twice the channels, and a wider view. Each block only adds to what it was given,

        $$y = \mathrm{relu}(F(x) + x)$$

        (eq. 1), so that a hundred of them still pass a gradient down. Qin et al. use 101 layers (section 2.3).

        C5 knows most and sees worst: a cell of stride 32 is larger than most crystals. C2 sees well and knows little.
        The **feature pyramid** (Lin et al. 2017, section 3; Crystals 2021, figure 3) goes back down and adds the two,

        $$M_l = \mathrm{lateral}(C_l) + \mathrm{up}_2(M_{l+1})$$

        and $P_l$ is a 3x3 convolution of $M_l$: fine maps that know what the coarse ones know.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    seed = mo.ui.slider(4, 11, value=8, label="drop", show_value=True)
    level = mo.ui.slider(2, 5, value=3, label="level", show_value=True)
    channel = mo.ui.slider(0, 31, value=0, label="channel", show_value=True)
    mo.vstack(
        [
            mo.md("## Look at the maps\n\nA small ResNet that has seen shapes, never a drop, looks at a drop."),
            mo.hstack([seed, level, channel], wrap=True, justify="start"),
        ]
    )
    return channel, level, seed


@app.function(hide_code=True)
def both_pyramids(model, images):
    """(C2..C5), P2..P5, and P2..P5 without the top-down path: each lateral map alone."""
    maps, pyramid = model.features(images)
    alone = [
        output(lateral(c)) for output, lateral, c in zip(model.fpn.outputs, model.fpn.laterals, maps[1:], strict=True)
    ]
    return maps[1:], tuple(pyramid)[:4], tuple(alone)


@app.function(hide_code=True)
@lru_cache(maxsize=8)
def maps_of(seed):
    """`both_pyramids` of a drop, as NumPy arrays [h, w, c]."""
    found = compiled(both_pyramids)(scene(seed, light=0.2).image[None])
    return jax.tree.map(lambda values: np.asarray(values)[0], found)


@app.function(hide_code=True)
def tinted(values):
    """A map [h, w] as an image 256x320: blue below 0, white at 0, vermillion above."""
    share = np.clip(values / (np.abs(values).max() + 1e-6), -1, 1)[..., None]
    blue, red = np.array([0, 114, 178]), np.array([213, 94, 0])
    colour = 255 + np.where(share < 0, -share * (blue - 255), share * (red - 255))
    factor = 256 // values.shape[0]
    return np.repeat(np.repeat(colour.astype(np.uint8), factor, 0), factor, 1)


@app.function(hide_code=True)
def picture(seed, level, channel):
    """The drop, and one channel of C, P, and P without its top-down part."""
    bottom_up, pyramid, alone = maps_of(seed)
    c, p, lonely = (maps[level - 2] for maps in (bottom_up, pyramid, alone))
    h, w, k = c.shape
    return {
        "The drop": scene(seed, light=0.2).image,
        f"C{level}, channel {channel}: {h}x{w} cells, {k} channels": tinted(c[..., channel]),
        f"P{level}, channel {channel}: the same cells, {p.shape[2]} channels on every level": tinted(p[..., channel]),
        f"P{level} without what comes from above": tinted(lonely[..., channel]),
    }


@app.cell(hide_code=True)
def _(channel, level, seed):
    panels(picture(seed.value, level.value, channel.value))
    return


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def views():
    """How strongly each pixel of a drop moves the middle cell of P5, of P2, and of P2 without its top-down part."""
    image = scene(8, light=0.2).image[None].astype(np.float32)

    def seen(model, pixels):
        def middles(pixels):
            _, pyramid, alone = both_pyramids(model, pixels)
            levels = pyramid[3], pyramid[0], alone[0]
            return jnp.stack([level[0, level.shape[1] // 2, level.shape[2] // 2].sum() for level in levels])

        return jnp.abs(jax.jacrev(middles)(pixels)[:, 0]).sum(-1)

    return np.asarray(compiled(seen)(image))


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                **How far does a cell see?** Below, the gradient of one cell, in the middle, with respect to every
                pixel: bright pixels move it (strengths to the power of a quarter, or only the centre would show). P5
                looks at the whole picture. P2 looks at what is near, and faintly at all the rest: that comes from
                above, as the third picture shows, where the path from above is cut.
                """
            ),
            panels(dict(zip(("P5", "P2", "P2 without its top-down part"), map(bright, views()), strict=True))),
            source(BasicBlock, ResNet, FPN, upsample),
        ]
    )
    return


@app.function(hide_code=True)
def bright(view):
    """A map of strengths as a picture; the root brings out what is faint."""
    return (255 * (view / view.max()) ** 0.25).astype(np.uint8)


@app.function(hide_code=True)
def gradients_through_depth():
    """How much of a gradient is left after n random layers, with and without the shortcut."""
    rng, width, depth = np.random.default_rng(0), 64, 100
    left = {"with the shortcut": [], "without": []}
    for name, lengths in left.items():
        gradient, values = np.ones(width) / 8, rng.normal(size=width)
        for _ in range(depth):
            weights = rng.normal(size=(width, width)) / np.sqrt(width)
            passes = (weights @ values) > 0
            branch = weights.T @ (passes * gradient)
            shortcut = name == "with the shortcut"
            gradient = gradient + 0.1 * branch if shortcut else branch
            values = values + 0.1 * np.maximum(weights @ values, 0) if shortcut else np.maximum(weights @ values, 0)
            lengths.append(np.linalg.norm(gradient))
    chart, axes = canvas()
    for (name, lengths), colour, dash in zip(left.items(), (BLUE, VERMILLION), ("-", (0, (4, 1.5))), strict=True):
        axes.semilogy(range(1, depth + 1), np.maximum(lengths, 1e-20), color=colour, ls=dash, label=name)
    axes.set(xlabel="layers", ylabel="length of the gradient")
    axes.legend(frameon=False)
    return chart


@app.function(hide_code=True)
def found_both_ways(model, images):
    """The hundred best proposals, where the box head moves them, and their probabilities: with the top-down path, and
    with it cut.
    """
    _, *both = both_pyramids(model, images)
    p2, p3, p4, p5 = (jnp.concatenate(maps) for maps in zip(*both, strict=True))
    levels, window = Pyramid(p2, p3, p4, p5, p5[:, ::2, ::2]), jnp.array([[0.0, 0.0, 320.0, 256.0]] * 2)
    proposals = model.propose(*model.rpn(levels), window, size=(256, 320)).boxes[:, :100]
    logits, deltas = model.classify(levels, proposals)
    moved = decode(deltas[:, :, 1], proposals, model.config.roi.coding.weights)
    return proposals, moved, jax.nn.softmax(logits)[..., 1]


@app.function(hide_code=True)
def crystals_reached():
    """Of the crystals of eight drops: the share covered by half by a proposal, and by a detection at 0.5 or more."""
    reached, there = np.zeros((2, 2)), 0
    for seed in range(4, 12):
        drop = scene(seed, light=0.2)
        there += len(drop.boxes)
        truth = jnp.asarray(drop.boxes, jnp.float32)
        both_ways = zip(*compiled(found_both_ways)(drop.image[None]), strict=True)
        for row, (proposals, moved, probability) in enumerate(both_ways):
            covered = np.asarray(iou(truth, proposals)) >= 0.5
            told = (np.asarray(iou(truth, moved)) >= 0.5) & (np.asarray(probability) >= 0.5)
            reached[row] += covered.any(1).sum(), told.any(1).sum()
    chart, axes = canvas()
    looks = ((-0.2, BLUE, "", "whole"), (0.2, VERMILLION, "//", "top-down path cut"))
    for row, (shift, colour, hatch, name) in zip(reached / there, looks, strict=True):
        axes.bar(np.arange(2) + shift, row, width=0.38, color=colour, hatch=hatch, label=name)
        for place, value in enumerate(row):
            axes.text(place + shift, value, f"{value:.0%}", ha="center", va="bottom", fontsize=9)
    axes.set(xticks=[0, 1], xticklabels=["proposed", "recognised"], ylabel="share of the crystals", ylim=(0, 1.3))
    axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=8)
    return chart


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without it

                Without shortcuts a gradient is multiplied by every layer on its way down, and of a hundred layers
                nothing arrives. And cut the top-down path of the trained network: the RPN still points at most
                crystals, since an edge is an edge, but the box head no longer knows what it is looking at. (The network
                was not trained so; one that learnt without the path would do better than this. FPN's table 1 compares
                such.)
                """
            ),
            panels(
                {
                    "The gradient after n random layers": gradients_through_depth(),
                    "Crystals that a proposal covers, and those that a detection at 0.5 finds": crystals_reached(),
                }
            ),
            mo.md(
                "## Exercises\n\n**1.** `my_sides(height, width)`: the sides of C1 to C5 for an image divisible by "
                "32, as "
                "five pairs (rows, columns)."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_sides(height, width):
        """[(rows, columns) of C1, ..., of C5]."""
        return None  # your turn

    return (my_sides,)


@app.function(hide_code=True)
def check_sides(attempt):
    """Exercise 1 against the shapes of the network itself."""
    cases = []
    for height, width in ((64, 96), (256, 320)):
        shape = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        maps = jax.eval_shape(pretrained().backbone, shape)
        cases.append(((height, width), [c.shape[1:3] for c in maps]))
    return grade(attempt, cases, hint="The strides are 2, 4, 8, 16 and 32.")


@app.cell(hide_code=True)
def _(my_sides):
    mo.vstack(
        [
            show(check_sides(my_sides)),
            mo.md("**2.** `my_upsample(rows)`: twice as many rows and columns, each cell repeated (nearest)."),
        ]
    )
    return


@app.cell
def _():
    def my_upsample(rows):
        """A list of rows, twice as high and wide."""
        return None  # your turn

    return (my_upsample,)


@app.function(hide_code=True)
def check_upsample(attempt):
    """Exercise 2 against `upsample`."""
    cases = []
    for rows in ([[1.0]], [[1.0, 2.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]):
        cases.append(((rows,), np.asarray(upsample(jnp.array(rows)[None, :, :, None]))[0, :, :, 0]))
    return grade(attempt, cases, hint="Repeat each value in its row, then each row.")


@app.cell(hide_code=True)
def _(my_upsample):
    mo.vstack(
        [
            show(check_upsample(my_upsample)),
            mo.md(
                "**3.** `my_view(layers)`: how many input pixels a cell sees at most along one side, for layers "
                "given as "
                "(kernel, stride) from the first to the last. A 3x3 convolution sees 3, two of them 5."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_view(layers):
        """The receptive field along one side."""
        return None  # your turn

    return (my_view,)


@app.function(hide_code=True)
def check_view(attempt):
    """Exercise 3 against a walk back through the layers: the first and last input that the output at 0 reads."""
    cases = []
    for layers in ([(3, 1)], [(3, 1), (3, 1)], [(7, 2), (3, 2)], [(7, 2), (3, 2), (1, 1), (3, 2), (3, 1)]):
        low, high = 0, 0
        for kernel, stride in reversed(layers):
            low, high = low * stride, high * stride + kernel - 1
        cases.append(((layers,), high - low + 1))
    return grade(attempt, cases, hint="Each layer adds (kernel - 1) times the product of the strides before it.")


@app.cell(hide_code=True)
def _(my_view):
    mo.vstack([show(check_view(my_view)), mo.md("**Next:** lesson 05, what the RPN learns from these maps.")])
    return


if __name__ == "__main__":
    app.run()
