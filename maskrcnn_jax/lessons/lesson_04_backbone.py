"""Lesson 04: from pixels to feature maps: residual blocks and the feature pyramid."""

import marimo

app = marimo.App(app_title="04 ResNet and FPN", width="medium")

with app.setup:
    from functools import lru_cache, partial

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np
    import optax

    from maskrcnn_jax.backbone.fpn import FPN, upsample
    from maskrcnn_jax.backbone.resnet import BasicBlock, ResNet
    from maskrcnn_jax.boxes.coding import decode
    from maskrcnn_jax.boxes.geometry import iou
    from maskrcnn_jax.lessons.diagrams import bottleneck, fpn
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, diagram, start
    from maskrcnn_jax.lessons.network import compiled, pretrained
    from maskrcnn_jax.lessons.show import BLUE, GREY, VERMILLION, canvas, panels, source
    from maskrcnn_jax.structures import Pyramid


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 04 ResNet and FPN"),
            start(
                5,
                know="what a convolution and a stride are",
                pages={"ResNet": "components/resnet", "Feature pyramid": "components/fpn"},
                papers={"Crystals 2021": "section 2.3, figure 3", "ResNet": "table 1 and figure 4", "FPN": "section 3"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** A single pixel does not tell whether it belongs to a crystal. The *backbone* computes
        feature maps from the image, in which each cell describes a region. **ResNet** (He et al. 2015, table 1) has
        five stages with the outputs C1 to C5. Each stage halves the resolution (strides 2, 4, 8, 16 and 32) and
        enlarges the *receptive field*, the region of the image that a cell depends on. In ResNet-101 the number of
        channels doubles at each stage, from 256 at C2 to 2048 at C5. A stage consists of *residual blocks*, which add
        the output of a few convolutions $F$ to their input (eq. 1; the addition is called a *shortcut*):

        $$y = \mathrm{relu}(F(x) + x)$$

        Networks of such blocks can be trained with a hundred layers and more. Qin et al. use 101 (section 2.3).

        C5 has features with a large receptive field, but a cell of stride 32 is larger than many crystals. C2 has a
        high resolution, but simple features. The **feature pyramid network** (FPN; Lin et al. 2017, section 3; Crystals
        2021, figure 3) combines both. It goes from coarse to fine, and adds at each level

        $$M_l = \mathrm{lateral}(C_l) + \mathrm{up}_2(M_{l+1})$$

        where lateral is a 1x1 convolution and $\mathrm{up}_2$ doubles the resolution. $P_l$ is a 3x3 convolution of
        $M_l$. So the fine maps contain information from the coarse ones, too.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            diagram(bottleneck(), "The residual block of ResNet-50 and ResNet-101; c: channels of its output"),
            diagram(fpn(), "The feature pyramid: C2 to C5 from the backbone, each with its share of the image's side"),
            mo.md("This call makes the pictures below:"),
            calls(both_pyramids, "features"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    seed = mo.ui.slider(4, 11, value=8, label="drop", show_value=True)
    level = mo.ui.slider(2, 5, value=3, label="level", show_value=True)
    channel = mo.ui.slider(0, 31, value=0, label="channel", show_value=True)
    mo.vstack(
        [
            mo.md(
                "## Look at the feature maps\n\nThese are the maps of a small ResNet that was trained on drawn shapes, "
                "never on drops. From C2 to C5 it has only "
                f"{', '.join(map(str, pretrained().config.backbone.channels))} channels."
            ),
            mo.hstack([seed, level, channel], wrap=True, justify="start"),
        ]
    )
    return channel, level, seed


@app.function(hide_code=True)
def both_pyramids(model, images):
    """(C2..C5), P2..P5, and P2..P5 without the top-down path, from the lateral maps alone."""
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
    """The drop, and one channel of C, of P, and of P without the top-down path."""
    bottom_up, pyramid, alone = maps_of(seed)
    c, p, lonely = (maps[level - 2] for maps in (bottom_up, pyramid, alone))
    h, w, k = c.shape
    return {
        "The drop": scene(seed, light=0.2).image,
        f"C{level}, channel {channel}: {h}x{w} cells, {k} channels": tinted(c[..., channel]),
        f"P{level}, channel {channel}: as many cells, {p.shape[2]} channels on every level": tinted(p[..., channel]),
        f"P{level}, channel {channel}, without the top-down path": tinted(lonely[..., channel]),
    }


@app.cell(hide_code=True)
def _(channel, level, seed):
    panels(picture(seed.value, level.value, channel.value))
    return


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def views():
    """How strongly the middle cell of P5, of P2, and of P2 without the top-down path depends on each pixel."""
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
                **Which pixels does a cell depend on?** The pictures show the gradient of the middle cell with respect
                to each pixel; brighter pixels have more influence. (Its magnitude is shown to the power of 1/4, as
                otherwise only the centre would be visible.) The cell of P5 depends on the whole image. That of P2
                depends mostly on its neighbourhood, and weakly on the rest. The third picture shows that this weak
                dependence comes through the top-down path: without it, only a trace remains, from the group norm (its
                means are taken over the whole map).
                """
            ),
            panels(
                dict(
                    zip(
                        ("A cell of P5", "A cell of P2", "A cell of P2 without the top-down path"),
                        map(bright, views()),
                        strict=True,
                    )
                )
            ),
            source(BasicBlock, ResNet, FPN, upsample),
        ]
    )
    return


@app.function(hide_code=True)
def bright(view):
    """Magnitudes as an image; the root makes small ones visible."""
    return (255 * (view / view.max()) ** 0.25).astype(np.uint8)


@app.function(hide_code=True)
@partial(jax.jit, static_argnames="shortcut")
def training_losses(weights, points, labels, *, shortcut):
    """Cross entropy at each of 100 steps of SGD, of a network of blocks of two dense layers with batch norm.

    `weights`: of the first layer, of all blocks [n, 2, width, width], and of the last layer.
    """

    def block(x, pair):
        def normalised(y):
            return (y - y.mean(0)) / (y.std(0) + 1e-3)

        y = normalised(jax.nn.relu(normalised(x @ pair[0])) @ pair[1])
        return jax.nn.relu(x + y if shortcut else y), None

    def loss(weights):
        first, blocks, last = weights
        logits = jax.lax.scan(block, points @ first, blocks)[0] @ last
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, _):
        weights, state = carry
        value, gradient = jax.value_and_grad(loss)(weights)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, change), state), value

    optimizer = optax.sgd(optax.cosine_decay_schedule(0.05, 100), momentum=0.9)
    return jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=100)[1]


@app.function(hide_code=True)
@lru_cache(maxsize=4)
def learnt(blocks, shortcut, width=32, n=128):
    """`training_losses` for telling two spirals of points apart; initial weights with He's factor, sqrt(2 / width)."""
    rng = np.random.default_rng(0)
    angle, labels = np.sqrt(rng.random(n)) * 3 * np.pi, rng.integers(0, 2, n)
    points = angle[:, None] * np.stack([np.cos(angle + np.pi * labels), np.sin(angle + np.pi * labels)], 1) / 5
    rng = np.random.default_rng(1)
    shapes = ((2, width), (blocks, 2, width, width), (width, 2))
    weights = [jnp.asarray(rng.normal(size=shape) * np.sqrt(2 / shape[-2]), jnp.float32) for shape in shapes]
    return np.asarray(training_losses(weights, jnp.asarray(points, jnp.float32), labels, shortcut=shortcut))


@app.function(hide_code=True)
def deep_networks():
    """The training losses of a shallow and a deep plain network, and of the deep one with shortcuts."""
    chart, axes = canvas()
    looks = ((8, False, GREY, ":"), (32, False, VERMILLION, (0, (4, 1.5))), (32, True, BLUE, "-"))
    for blocks, shortcut, colour, dash in looks:
        name = f"{2 * blocks + 2} layers, {'with shortcuts' if shortcut else 'plain'}"
        axes.plot(learnt(blocks, shortcut), color=colour, ls=dash, label=name)
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, 1.3))
    axes.legend(frameon=False, fontsize=8)
    return chart


@app.function(hide_code=True)
def found_both_ways(model, images):
    """The hundred best proposals, the boxes that the box head predicts from them, and the probabilities of an object;
    with and without the top-down path.
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
    """The shares of the crystals of eight drops that proposals, and detections, find: with and without the path."""
    reached, there = np.zeros((2, 2)), 0
    for seed in range(4, 12):
        drop = scene(seed, light=0.2)
        there += len(drop.boxes)
        truth = jnp.asarray(drop.boxes, jnp.float32)
        both_ways = zip(*compiled(found_both_ways)(drop.image[None]), strict=True)
        for row, (proposals, moved, probability) in enumerate(both_ways):
            covered = np.asarray(iou(truth, proposals)) >= 0.5
            detected = (np.asarray(iou(truth, moved)) >= 0.5) & (np.asarray(probability) >= 0.5)
            reached[row] += covered.any(1).sum(), detected.any(1).sum()
    chart, axes = canvas()
    looks = ((-0.2, BLUE, "", "whole FPN"), (0.2, VERMILLION, "//", "without the top-down path"))
    for row, (shift, colour, hatch, name) in zip(reached / there, looks, strict=True):
        axes.bar(np.arange(2) + shift, row, width=0.38, color=colour, hatch=hatch, label=name)
        for place, value in enumerate(row):
            axes.text(place + shift, value, f"{value:.0%}", ha="center", va="bottom", fontsize=9)
    axes.set(
        xticks=[0, 1],
        xticklabels=["by a proposal", "by a detection"],
        ylabel="share of the crystals found",
        ylim=(0, 1.3),
    )
    axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=8)
    return chart


@app.cell(hide_code=True)
def _():
    mo.md(
        "## Exercises\n\n**1.** `my_sides(height, width)`: the numbers of rows and columns of C1 to C5, as "
        "five pairs, for an image whose height and width are multiples of 32."
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


@app.function(hide_code=True)
def solve_sides(height, width):
    """[(rows, columns) of C1, ..., of C5]."""
    return [(height // stride, width // stride) for stride in (2, 4, 8, 16, 32)]


@app.cell(hide_code=True)
def _(my_sides):
    mo.vstack(
        [
            show(check_sides(my_sides)),
            solution(
                solve_sides,
                "The stem's convolution has stride 2, so C1 has half the resolution. Each further stage "
                "halves it once more. Sides that are multiples of 32 can be halved five times without a "
                "remainder; P6 needs one more halving, so `crystal` asks for multiples of 64.",
            ),
            mo.md("**2.** `my_upsample(rows)`: double the rows and the columns by repeating each cell."),
        ]
    )
    return


@app.cell
def _():
    def my_upsample(rows):
        """A list of twice as many rows, each twice as long."""
        return None  # your turn

    return (my_upsample,)


@app.function(hide_code=True)
def check_upsample(attempt):
    """Exercise 2 against `upsample`."""
    cases = []
    for rows in ([[1.0]], [[1.0, 2.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]):
        cases.append(((rows,), np.asarray(upsample(jnp.array(rows)[None, :, :, None]))[0, :, :, 0]))
    return grade(attempt, cases, hint="Repeat each value in its row, then each row.")


@app.function(hide_code=True)
def solve_upsample(rows):
    """A list of twice as many rows, each twice as long."""
    return [[value for value in row for _ in range(2)] for row in rows for _ in range(2)]


@app.cell(hide_code=True)
def _(my_upsample):
    mo.vstack(
        [
            show(check_upsample(my_upsample)),
            solution(
                solve_upsample,
                "Each cell becomes a square of 2x2 equal cells (*nearest-neighbour* upsampling). Edges become "
                "blocky by this; the 3x3 convolution that follows the sum can smooth them (FPN, section 3).",
            ),
            mo.md(
                "**3.** `my_view(layers)`: the width in pixels of the receptive field of a cell, for a list of layers "
                "(kernel, stride), the first layer first. It is 3 for one 3x3 convolution, and 5 for two."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_view(layers):
        """The width of the receptive field."""
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


@app.function(hide_code=True)
def solve_view(layers):
    """The width of the receptive field."""
    width, stride = 1, 1
    for kernel, step in layers:
        width += (kernel - 1) * stride
        stride *= step
    return width


@app.cell(hide_code=True)
def _(my_view):
    mo.vstack(
        [
            show(check_view(my_view)),
            solution(
                solve_view,
                "Two neighbouring cells of a layer are as many pixels apart as the product of all strides "
                "before it. A kernel of $k$ cells spans $k - 1$ such distances more than a single cell does. "
                "That is why strides early in the network enlarge the receptive field most.",
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
                ## What goes wrong without shortcuts, and without the top-down path

                **Without shortcuts**, deeper networks are harder to train: He et al. found a *higher training error*
                with 34 layers than with 18 (figure 4). They note that vanishing gradients are an unlikely cause, since
                batch norm prevents these (section 4.1). The left chart shows the effect in small dense networks with
                batch norm and He's initialisation, trained to separate two spirals of points.

                **Without the top-down path** of the trained network, the RPN still finds many crystals, as it needs
                simple features only, but the box head recognises few of them. (This network was trained with the path;
                one trained without it would do better than this. For a fair comparison see tables 1 and 2 of the FPN
                paper.)
                """
            ),
            panels(
                {
                    "Training loss of plain networks, and of a deep one with shortcuts": deep_networks(),
                    "Crystals of eight drops found with an IoU of 0.5 or more by the 100 best proposals, and by "
                    "detections with a score of 0.5 or more": crystals_reached(),
                }
            ),
            mo.md("**Next:** lesson 05, the region proposal network."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
