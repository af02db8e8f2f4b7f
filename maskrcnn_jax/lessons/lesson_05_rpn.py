"""Lesson 05: the RPN head, the anchors it is trained on, and its loss."""

import marimo

app = marimo.App(app_title="05 RPN: targets and loss", width="medium")

with app.setup:
    from functools import partial

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np
    import optax

    from maskrcnn_jax.boxes.geometry import iou
    from maskrcnn_jax.boxes.matching import Label, match
    from maskrcnn_jax.boxes.sampling import sample_balanced
    from maskrcnn_jax.lessons.diagrams import rpn
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, diagram, start
    from maskrcnn_jax.lessons.network import compiled, pretrained, rpn_outputs
    from maskrcnn_jax.lessons.show import (
        BLUE,
        GREY,
        ORANGE,
        VERMILLION,
        boxes_over,
        canvas,
        panels,
        photo,
        source,
        table,
    )
    from maskrcnn_jax.losses import smooth_l1
    from maskrcnn_jax.rpn.anchors import pyramid_anchors
    from maskrcnn_jax.rpn.head import RPNHead
    from maskrcnn_jax.rpn.loss import rpn_losses
    from maskrcnn_jax.rpn.targets import label_anchors, rpn_targets

    SLOTS = 24
    ANCHORS = pyramid_anchors((256, 320), strides=(4, 8, 16, 32), sizes=(16, 32, 64, 128), ratios=(2.0, 1.0, 0.5))


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 05 RPN: targets and loss"),
            start(
                6,
                know="IoU and deltas (lesson 01), anchors (lesson 02), the pyramid (lesson 04)",
                pages={"Region proposal network": "components/rpn", "Matching and sampling": "components/matching"},
                papers={"Crystals 2021": "section 2.3 and equation 2", "Faster R-CNN": "section 3.1"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** Only a few of the twenty thousand anchors of an image lie on crystals. The *region proposal
        network* (RPN) predicts for each anchor $i$ the probability $p_i$ that it shows a crystal, its *objectness*, and
        four deltas $t_i$ (lesson 01) that turn it into the crystal's box. For training, every anchor gets a label
        (Faster R-CNN, section 3.1.2; Crystals 2021, section 2.3):

        - *positive*, $p_i^* = 1$, if its IoU with some crystal is 0.7 or more, **or** if no other anchor has a higher
          IoU with some crystal;
        - *negative*, $p_i^* = 0$, if its IoU with every crystal is below 0.3;
        - *ignored* otherwise: it takes no part in the loss.

        Of the positive and negative anchors, 256 are sampled at random, at most half of them positive. The loss over
        the sampled anchors is (Crystals 2021, eq. 2; Faster R-CNN, eq. 1)

        $$L = \frac{1}{N_{\mathrm{cls}}} \sum_i L_{\mathrm{cls}}(p_i, p_i^*) +
        \frac{\lambda}{N_{\mathrm{reg}}} \sum_i p_i^* L_{\mathrm{reg}}(t_i, t_i^*)$$

        $L_{\mathrm{cls}}$ is the binary cross entropy. $L_{\mathrm{reg}}$ is smooth L1, summed over the four
        deltas: of the difference $d$ between a predicted and a target delta it is
        $d^2 / (2 \beta)$ for $|d| < \beta$, else $|d| - \beta / 2$.
        $N_{\mathrm{cls}}$ is the number of sampled anchors. $N_{\mathrm{reg}}$ and the weight $\lambda$ set the
        balance of the two terms: Faster R-CNN takes the number of positions in the map, about 2400, and
        $\lambda = 10$. With $\lambda = 1$, Matterport divides by four times the number of positives,
        torchvision and Detectron2 by the number of sampled
        anchors.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls label the anchors and sample from them:"),
            calls(label_and_sample, "match", "sample_balanced"),
        ]
    )
    return


@app.function(hide_code=True)
def head_shapes():
    """The layers of the RPN head of the `tiny` preset, with their outputs on P2."""
    config = pretrained().config
    (height, width), ratios = config.image.size, len(config.anchors.ratios)
    cells, stride = (
        f"{height // config.anchors.strides[0]}x{width // config.anchors.strides[0]}",
        config.anchors.strides[0],
    )
    return table(
        ["layer", f"output on P2 (stride {stride})", "meaning"],
        [
            ["input: P2", f"{cells}x{config.fpn_channels}", "feature map (lesson 04)"],
            ["3x3 convolution, ReLU", f"{cells}x{config.rpn.channels}", "shared by the two outputs"],
            ["1x1 convolution of it", f"{cells}x{ratios}", "objectness: one logit per anchor"],
            ["1x1 convolution of it", f"{cells}x{4 * ratios}", "four deltas per anchor"],
        ],
    )


@app.function(hide_code=True)
def objectness_maps():
    """The drop, and the highest objectness of each cell of P2 and P3."""
    drop, config = scene(9, crystals=10), pretrained().config
    logits, *_ = jax.device_get(compiled(rpn_outputs)(drop.image[None]))
    (height, width), ratios, start = config.image.size, len(config.anchors.ratios), 0
    pictures = {"The drop and the boxes of its crystals": photo(drop.image)}
    boxes_over(pictures["The drop and the boxes of its crystals"][1], drop.boxes, "white", width=1.2)
    for level, stride, size in zip((2, 3), config.anchors.strides, config.anchors.sizes, strict=False):
        rows, columns = height // stride, width // stride
        of_level = logits[0, start : start + rows * columns * ratios].reshape(rows, columns, ratios)
        start += rows * columns * ratios
        best = jax.nn.sigmoid(of_level.max(-1))
        name = f"P{level}: highest objectness of each cell, dark 0, bright 1; anchors of size {size:g}"
        pictures[name] = photo(np.asarray(best), cmap="cividis", vmin=0, vmax=1)
    return {name: figure for name, (figure, _) in pictures.items()}


@app.function(hide_code=True)
def median_objectness():
    """Of the drop above: the median objectness of positive and of negative anchors of the trained network."""
    drop, model = scene(9, crystals=10), pretrained()
    logits = np.asarray(compiled(rpn_outputs)(drop.image[None])[0])[0]
    overlap = iou(jnp.asarray(drop.boxes, jnp.float32), jnp.asarray(model.anchors(*model.config.image.size)))
    label = np.asarray(match(overlap, positive_iou=0.7, negative_iou=0.3, allow_low_quality=True).label)
    chance = 1 / (1 + np.exp(-logits))
    return float(np.median(chance[label == Label.POSITIVE])), float(np.median(chance[label == Label.NEGATIVE]))


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## The head

                The same three convolutions run over every level, P2 to P6. Each cell has an anchor for each ratio
                (lesson 02), so a map with three ratios gets three logits and twelve deltas per cell.
                """
            ),
            diagram(rpn(), "The RPN head on one level of h x w cells; a: the number of ratios"),
            mo.md("Of the network of this lesson, which is smaller:"),
            head_shapes(),
            mo.md("These calls give objectness and boxes (`rank` selects the best and moves them by their deltas):"),
            calls(rpn_outputs, "rpn", "rank"),
            panels(objectness_maps()),
            mo.md(
                f""" This network was trained on drawn shapes and has never seen a drop. Still, objectness tells
                crystals from background: its median is {median_objectness()[0]:.2f} for the positive anchors of this
                drop (defined above) and {median_objectness()[1]:.2f} for the negative ones. Specks and the rim raise it
                too; training on drops corrects that (lesson 10).
                """
            ),
            source(RPNHead),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    positive = mo.ui.slider(0.3, 0.9, step=0.05, value=0.7, label="positive: IoU of at least", show_value=True)
    negative = mo.ui.slider(0.05, 0.5, step=0.05, value=0.3, label="negative: IoU below", show_value=True)
    low_quality = mo.ui.checkbox(value=True, label="the best anchor of each crystal is positive too")
    seed = mo.ui.slider(0, 15, value=9, label="drop", show_value=True)
    mo.vstack(
        [
            mo.md("## Which anchors are trained on which crystal?"),
            mo.hstack([positive, negative, low_quality, seed], wrap=True, justify="start"),
        ]
    )
    return low_quality, negative, positive, seed


@app.function(hide_code=True)
@partial(jax.jit, static_argnames="allow_low_quality")
def label_and_sample(boxes, valid, positive_iou, negative_iou, key, *, allow_low_quality):
    """Labels of all anchors, the crystal each is matched to, and a sample of 256."""
    overlap = iou(boxes, jnp.asarray(ANCHORS))
    found = match(
        overlap,
        positive_iou=positive_iou,
        negative_iou=negative_iou,
        allow_low_quality=allow_low_quality,
        gt_valid=valid,
    )
    return found, sample_balanced(key, found.label, total=256, max_positive=128)


@app.function(hide_code=True)
def picture(positive, negative, low_quality, seed):
    """The positive anchors and their crystals, the sample, and the number of positive anchors per crystal."""
    drop = scene(seed, crystals=10)
    n = len(drop.boxes)
    boxes, valid = np.zeros((SLOTS, 4), np.float32), np.arange(SLOTS) < n
    boxes[:n] = drop.boxes
    negative = min(negative, positive)
    found, drawn = jax.device_get(
        label_and_sample(boxes, valid, positive, negative, jax.random.key(0), allow_low_quality=bool(low_quality))
    )
    is_positive = found.label == Label.POSITIVE
    mine = np.array([(is_positive & (found.gt_index == i)).sum() for i in range(n)])

    over, axes = photo(drop.image)
    boxes_over(axes, ANCHORS[is_positive], BLUE, width=0.9, halo=False)
    boxes_over(axes, drop.boxes[mine > 0], "white", width=1.8)
    boxes_over(axes, drop.boxes[mine == 0], VERMILLION, width=2.2, dash=(0, (2, 1)))

    spread, axes = photo(drop.image // 2 + 90)
    negatives = ANCHORS[drawn.indices[drawn.valid & ~drawn.positive]]
    boxes_over(axes, negatives, ORANGE, width=0.6, halo=False)
    boxes_over(axes, ANCHORS[drawn.indices[drawn.positive]], BLUE, width=1.2, halo=False)

    counts, axes = canvas()
    order = np.argsort(mine)
    axes.bar(range(n), mine[order], color=[VERMILLION if m == 0 else BLUE for m in mine[order]], width=0.75)
    axes.plot(range(n), mine[order] - 0.02, "x", color=VERMILLION, ms=7, visible=bool((mine == 0).any()))
    axes.set(xlabel="crystals", ylabel="positive anchors", xticks=[], ylim=(-0.6, max(8, mine.max() * 1.1)))
    numbers = [int((found.label == label).sum()) for label in (Label.POSITIVE, Label.NEGATIVE, Label.IGNORE)]
    return {
        f"{numbers[0]} positive anchors (blue). Crystals without one (dashed): {int((mine == 0).sum())}": over,
        f"The {int(drawn.valid.sum())} sampled anchors: {int(drawn.positive.sum())} positive (blue), the others "
        f"negative (orange)": spread,
        f"Positive anchors per crystal. In all: {numbers[0]} positive, {numbers[1]} negative, "
        f"{numbers[2]} ignored": counts,
    }


@app.function(hide_code=True)
def matches_of(seed, *, low_quality=True):
    """Labels of all anchors and their crystals, at 0.7 and 0.3; and the number of crystals of the drop."""
    real = scene(seed, crystals=10).boxes
    boxes = np.zeros((SLOTS, 4), np.float32)
    boxes[: len(real)] = real
    valid, key = np.arange(SLOTS) < len(real), jax.random.key(0)
    return label_and_sample(boxes, valid, 0.7, 0.3, key, allow_low_quality=low_quality)[0], len(real)


@app.function(hide_code=True)
def without_rule(seed):
    """How many crystals have no positive anchor when only an IoU of 0.7 makes one positive."""
    found, n = matches_of(seed, low_quality=False)
    return n - len(set(np.asarray(found.gt_index)[np.asarray(found.label) == Label.POSITIVE].tolist()))


@app.function(hide_code=True)
def labelled(seed):
    """How many anchors are positive, and how many negative."""
    label = np.asarray(matches_of(seed)[0].label)
    return int((label == Label.POSITIVE).sum()), int((label == Label.NEGATIVE).sum())


@app.cell(hide_code=True)
def _(low_quality, negative, positive, seed):
    panels(picture(positive.value, negative.value, low_quality.value, seed.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                Untick the box: {without_rule(9)} of {len(scene(9, crystals=10).boxes)} crystals turn dashed. None of
                their anchors reaches an IoU of 0.7, so no anchor is trained to find them. Their better anchors, from
                0.3 to 0.7, are ignored; those below 0.3 are trained as background.

                Why sample? On this drop {labelled(9)[0]} anchors are positive and {labelled(9)[1]:,} are negative. A
                network that always answers "background" is right for {labelled(9)[1] / sum(labelled(9)):.1%} of them,
                and the mean loss over all would hardly reward it for finding crystals. Anchors on a *crowd*, a region
                with crystals that were not outlined one by one, are ignored too, unless they are positive.

                For an image of your own, `crystal inspect IMAGE --weights RUN --truth FILE --out PAGE.html` shows which
                anchors are matched to which crystal, and crystals that no anchor reaches.
                """
            ),
            source(match, label_anchors, sample_balanced, rpn_targets, rpn_losses),
        ]
    )
    return


@app.function(hide_code=True)
def loss_shapes():
    """Smooth L1 for three betas, and the share of positives among all anchors and in the sample."""
    shape, axes = canvas()
    d = jnp.linspace(-2, 2, 201)
    looks = (("1", 1.0, BLUE, "-"), ("1/9", 1 / 9, VERMILLION, (0, (4, 1.5))), ("0", 0.0, GREY, ":"))
    for name, beta, colour, dash in looks:
        axes.plot(d, smooth_l1(d, beta), color=colour, ls=dash, label=f"beta = {name}")
    axes.set(xlabel="difference of predicted and target delta", ylabel="loss")
    axes.legend(frameon=False)

    share, axes = canvas()
    positives = np.array([1, 2, 5, 10, 20, 50, 128])
    all_anchors = positives / len(ANCHORS)
    drawn = positives / 256
    axes.loglog(positives, drawn, "o-", color=BLUE, label="of the 256 sampled anchors")
    axes.loglog(positives, all_anchors, "x", color=VERMILLION, ls=(0, (4, 1.5)), label="of all anchors")
    axes.set(xlabel="positive anchors in the image", ylabel="share of positives", ylim=(3e-5, 1))
    axes.legend(frameon=False)
    return {
        "Smooth L1: beta is 1 in Matterport's code, 1/9 in torchvision's, 0 (L1) in Detectron2's": shape,
        "Share of positive anchors. If every anchor gets the same objectness, this value has the lowest loss": share,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without these rules

                Without the rule of the best anchor, the network is not trained on small crystals and needles, see
                above. Without a balanced sample, an objectness close to zero everywhere already has a low loss. The RPN
                can get stuck there; you notice it by **proposals that all look alike**.

                Smooth L1 is quadratic near zero, so that small errors have small gradients, and linear further out, so
                that one large error cannot dominate the gradient, as it would with a squared error.
                """
            ),
            panels(loss_shapes()),
            mo.md(
                "## Exercises\n\n**1.** `my_labels(table)`: `table[g][a]` is the IoU of crystal g with anchor a. "
                "Return the label of each anchor: 1 (positive), 0 (negative) or -1 (ignored), by the rules above."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_labels(table):
        """A list with 1, 0 or -1 for each column of the table."""
        return None  # your turn

    return (my_labels,)


@app.function(hide_code=True)
def check_labels(attempt):
    """Exercise 1 against `match`."""
    rule = partial(match, positive_iou=0.7, negative_iou=0.3, allow_low_quality=True)
    tables = [[[0.8, 0.5, 0.1]], [[0.8, 0.3, 0.0], [0.0, 0.4, 0.1]], [[0.2, 0.2, 0.1]], [[0.0, 0.0], [0.9, 0.2]]]
    cases = [((table,), np.asarray(rule(jnp.array(table)).label)) for table in tables]
    hint = "All anchors with a crystal's best IoU are positive, unless that IoU is 0."
    return grade(attempt, cases, hint=hint)


@app.function(hide_code=True)
def solve_labels(table):
    """A list with 1, 0 or -1 for each column of the table."""
    best = [max(row) for row in table]  # of each crystal
    labels = []
    for column in zip(*table, strict=True):  # the IoUs of one anchor
        claimed = any(value == most > 0 for value, most in zip(column, best, strict=True))
        labels.append(1 if claimed or max(column) >= 0.7 else 0 if max(column) < 0.3 else -1)
    return labels


@app.cell(hide_code=True)
def _(my_labels):
    mo.vstack(
        [
            show(check_labels(my_labels)),
            solution(
                solve_labels,
                "For the thresholds only an anchor's *highest* IoU counts. The rule of the best anchor looks "
                "at the rows of the table, and comes first: such an anchor is positive even if its IoU is "
                "below 0.3. A crystal whose best IoU is 0 claims no anchor; otherwise it would claim all of "
                "them.",
            ),
            mo.md("**2.** `my_smooth_l1(d, beta)`: smooth L1 of one number, for beta > 0."),
        ]
    )
    return


@app.cell
def _():
    def my_smooth_l1(d, beta):
        """The loss of one difference d."""
        return None  # your turn

    return (my_smooth_l1,)


@app.function(hide_code=True)
def check_smooth_l1(attempt):
    """Exercise 2 against `smooth_l1`."""
    cases = [(d, beta) for beta in (1.0, 1 / 9) for d in (0.0, 0.05, -0.5, 2.0, -3.0)]
    right = [float(smooth_l1(jnp.array(d), beta)) for d, beta in cases]
    return grade(attempt, list(zip(cases, right, strict=True)), hint="The two parts have the same value at |d| = beta.")


@app.function(hide_code=True)
def solve_smooth_l1(d, beta):
    """The loss of one difference d."""
    return d * d / (2 * beta) if abs(d) < beta else abs(d) - beta / 2


@app.cell(hide_code=True)
def _(my_smooth_l1):
    mo.vstack(
        [
            show(check_smooth_l1(my_smooth_l1)),
            solution(
                solve_smooth_l1,
                r"At $|d| = \beta$ both parts have the value $\beta / 2$ and the slope 1: that is what the "
                r"constants are for. The gradient of the linear part does not depend on the size of the error.",
            ),
            mo.md(
                "**3.** `my_entropy(logit, positive)`: the binary cross entropy of one anchor. It must not overflow "
                "for a logit of -1000: such an overflow is a common cause of a loss that is **NaN at step 1**."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_entropy(logit, positive):
        """Minus the logarithm of the probability of the true label; the sigmoid of the logit is that of 1."""
        return None  # your turn

    return (my_entropy,)


@app.function(hide_code=True)
def check_entropy(attempt):
    """Exercise 3 against optax, which `rpn_losses` calls."""
    cases = [(0.0, True), (2.0, True), (2.0, False), (-3.0, True), (-1000.0, True), (1000.0, False), (1000.0, True)]
    right = [float(optax.sigmoid_binary_cross_entropy(jnp.array(z), jnp.array(float(p)))) for z, p in cases]
    hint = "It is log(1 + exp(z)), with z = -logit for positives: write max(z, 0) + log1p(exp(-|z|))."
    return grade(attempt, list(zip(cases, right, strict=True)), hint=hint)


@app.function(hide_code=True)
def solve_entropy(logit, positive):
    """Minus the logarithm of the probability of the true label; the sigmoid of the logit is that of 1."""
    z = -logit if positive else logit
    return max(z, 0.0) + np.log1p(np.exp(-abs(z)))


@app.cell(hide_code=True)
def _(my_entropy):
    mo.vstack(
        [
            show(check_entropy(my_entropy)),
            solution(
                solve_entropy,
                r"Minus the logarithm of the sigmoid of $x$ is $\log(1 + e^{-x})$; for a negative anchor, "
                r"exchange the sign of $x$. With $z$ as in the hint, $\log(1 + e^z) = z + \log(1 + e^{-z})$. "
                r"Choose the form whose exponent is negative: then nothing overflows, and `log1p` is exact for "
                r"small exponentials.",
            ),
            mo.md("**Next:** lesson 06, from anchors to proposals."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
