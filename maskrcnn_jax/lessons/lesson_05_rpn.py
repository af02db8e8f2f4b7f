"""Lesson 05: which anchors the RPN learns from, and its loss."""

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
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, VERMILLION, boxes_over, canvas, panels, photo, source
    from maskrcnn_jax.losses import smooth_l1
    from maskrcnn_jax.rpn.anchors import pyramid_anchors
    from maskrcnn_jax.rpn.loss import rpn_losses
    from maskrcnn_jax.rpn.targets import label_anchors, rpn_targets

    SLOTS = 24
    ANCHORS = pyramid_anchors((256, 320), strides=(4, 8, 16, 32), sizes=(16, 32, 64, 128), ratios=(2.0, 1.0, 0.5))


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        # 05 RPN: targets and loss

        **What it is for.** Of twenty thousand anchors a handful lie on crystals. The *region proposal network* must say
        which, and how to move each onto its crystal. To train it, every anchor needs an answer (Faster R-CNN, section
        3.1.2; Crystals 2021, section 2.3):

        - *positive* if its IoU with some crystal is 0.7 or more, **or** if it is the best anchor that a crystal has;
        - *negative* if its IoU with every crystal is under 0.3;
        - *ignored* between: neither answer would be fair.

        Then 256 are drawn, at most half of them positive, and the loss (Crystals 2021, eq. 2; Faster R-CNN, eq. 1) is

        $$L = \frac{1}{N_c} \sum_i L_c(p_i, p_i^*) + \frac{\lambda}{N_r} \sum_i p_i^* L_r(t_i, t_i^*)$$

        with $p$ the objectness, $p^*$ 1 for positives, $t$ the deltas of lesson 01. $L_c$ is the binary cross entropy,
        and $L_r$ smooth L1: $0.5 d^2 / \beta$ for $|d| < \beta$, else $|d| - \beta / 2$.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    positive = mo.ui.slider(0.3, 0.9, step=0.05, value=0.7, label="positive from an IoU of", show_value=True)
    negative = mo.ui.slider(0.05, 0.5, step=0.05, value=0.3, label="negative below", show_value=True)
    low_quality = mo.ui.checkbox(value=True, label="each crystal's best anchor counts, however poor")
    seed = mo.ui.slider(0, 15, value=9, label="drop", show_value=True)
    mo.vstack(
        [
            mo.md("## Who answers for which crystal?"),
            mo.hstack([positive, negative, low_quality, seed], wrap=True, justify="start"),
        ]
    )
    return low_quality, negative, positive, seed


@app.function(hide_code=True)
@partial(jax.jit, static_argnames="allow_low_quality")
def answers(boxes, valid, positive_iou, negative_iou, key, *, allow_low_quality):
    """Labels of all anchors, the crystal each answers for, and a draw of 256."""
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
    """The positives over their crystals, the draw, and how many anchors each crystal has."""
    drop = scene(seed, crystals=10)
    n = len(drop.boxes)
    boxes, valid = np.zeros((SLOTS, 4), np.float32), np.arange(SLOTS) < n
    boxes[:n] = drop.boxes
    negative = min(negative, positive)
    found, drawn = jax.device_get(
        answers(boxes, valid, positive, negative, jax.random.key(0), allow_low_quality=bool(low_quality))
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
        f"{numbers[0]} positive anchors (blue); dashed: {int((mine == 0).sum())} crystals that no anchor answers "
        f"for": over,
        f"The 256 drawn: {int(drawn.positive.sum())} positive (blue), the rest negative (orange)": spread,
        f"Positives of each crystal. In all {numbers[0]} positive, {numbers[1]} negative, {numbers[2]} ignored": counts,
    }


@app.cell(hide_code=True)
def _(low_quality, negative, positive, seed):
    panels(picture(positive.value, negative.value, low_quality.value, seed.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                Untick the box: crystals turn dashed. No anchor reaches 0.7 with them, so all their anchors are negative
                or ignored, and the network is taught, with 256 examples a step, that they are *background*.

                Why draw at all? With twenty thousand negatives and twenty positives, "never" is right 99.9 % of the
                time. The draw makes the question worth asking. Anchors that overlap a *crowd*, a region that nobody
                outlined one by one, are ignored too.
                """
            ),
            source(match, label_anchors, sample_balanced, rpn_targets, rpn_losses),
        ]
    )
    return


@app.function(hide_code=True)
def loss_shapes():
    """Smooth L1 for three betas, and how sure of "background" an undecided network gets without the balanced draw."""
    shape, axes = canvas()
    d = jnp.linspace(-2, 2, 201)
    for beta, colour, dash in ((1.0, BLUE, "-"), (1 / 9, VERMILLION, (0, (4, 1.5))), (0.0, GREY, ":")):
        axes.plot(d, smooth_l1(d, beta), color=colour, ls=dash, label=f"beta = {beta:.2g}")
    axes.set(xlabel="error of a delta", ylabel="loss")
    axes.legend(frameon=False)

    share, axes = canvas()
    positives = np.array([1, 2, 5, 10, 20, 50, 128])
    all_anchors = positives / len(ANCHORS)
    drawn = positives / 256
    axes.loglog(positives, drawn, "o-", color=BLUE, label="among the 256 drawn")
    axes.loglog(positives, all_anchors, "x", color=VERMILLION, ls=(0, (4, 1.5)), label="among all anchors")
    axes.set(xlabel="positive anchors in the image", ylabel="best constant answer", ylim=(3e-5, 1))
    axes.legend(frameon=False)
    return {
        "Smooth L1: beta 1 is Matterport's, 1/9 torchvision's, 0 (plain L1) Detectron2's": shape,
        "The objectness that a network which looks at nothing should give": share,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without it

                Without the low-quality rule small crystals and needles go untrained, see above. Without the draw, the
                cheapest answer is a constant close to zero; **proposals that are all alike** are what a collapsed RPN
                looks like. The square near zero in smooth L1 gives small errors small gradients; the straight part
                keeps one wild anchor from ruling the step, which a plain square would allow.
                """
            ),
            panels(loss_shapes()),
            mo.md(
                "## Exercises\n\n**1.** `my_labels(table)`: `table[g][a]` is the IoU of crystal g with anchor a. "
                "Answer 1, 0 "
                "or -1 (ignore) for each anchor, at 0.7 and 0.3, with the low-quality rule."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_labels(table):
        """One of 1, 0, -1 for each column of the table."""
        return None  # your turn

    return (my_labels,)


@app.function(hide_code=True)
def check_labels(attempt):
    """Exercise 1 against `match`."""
    rule = partial(match, positive_iou=0.7, negative_iou=0.3, allow_low_quality=True)
    tables = [[[0.8, 0.5, 0.1]], [[0.8, 0.3, 0.0], [0.0, 0.4, 0.1]], [[0.2, 0.2, 0.1]], [[0.0, 0.0], [0.9, 0.2]]]
    cases = [((table,), np.asarray(rule(jnp.array(table)).label)) for table in tables]
    hint = "Ties at a crystal's best IoU are all positive; a crystal whose best IoU is 0 claims none."
    return grade(attempt, cases, hint=hint)


@app.cell(hide_code=True)
def _(my_labels):
    mo.vstack([show(check_labels(my_labels)), mo.md("**2.** `my_smooth_l1(d, beta)` for one number d, beta > 0.")])
    return


@app.cell
def _():
    def my_smooth_l1(d, beta):
        """The loss of one error."""
        return None  # your turn

    return (my_smooth_l1,)


@app.function(hide_code=True)
def check_smooth_l1(attempt):
    """Exercise 2 against `smooth_l1`."""
    cases = [(d, beta) for beta in (1.0, 1 / 9) for d in (0.0, 0.05, -0.5, 2.0, -3.0)]
    right = [float(smooth_l1(jnp.array(d), beta)) for d, beta in cases]
    return grade(attempt, list(zip(cases, right, strict=True)), hint="The two parts must meet at |d| = beta.")


@app.cell(hide_code=True)
def _(my_smooth_l1):
    mo.vstack(
        [
            show(check_smooth_l1(my_smooth_l1)),
            mo.md(
                "**3.** `my_entropy(logit, positive)`: the binary cross entropy of one anchor. It must not overflow "
                "for a "
                "logit of -1000: a loss that is **NaN at step 1** often comes from here."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_entropy(logit, positive):
        """- log of the probability that the sigmoid of the logit gives to the right answer."""
        return None  # your turn

    return (my_entropy,)


@app.function(hide_code=True)
def check_entropy(attempt):
    """Exercise 3 against optax, which `rpn_losses` calls."""
    cases = [(0.0, True), (2.0, True), (2.0, False), (-3.0, True), (-1000.0, True), (1000.0, False), (1000.0, True)]
    right = [float(optax.sigmoid_binary_cross_entropy(jnp.array(z), jnp.array(float(p)))) for z, p in cases]
    hint = "log(1 + exp(z)) for large z is z: write it as max(z, 0) + log1p(exp(-|z|)), with z = -logit for positives."
    return grade(attempt, list(zip(cases, right, strict=True)), hint=hint)


@app.cell(hide_code=True)
def _(my_entropy):
    mo.vstack([show(check_entropy(my_entropy)), mo.md("**Next:** lesson 06, from all these anchors to proposals.")])
    return


if __name__ == "__main__":
    app.run()
