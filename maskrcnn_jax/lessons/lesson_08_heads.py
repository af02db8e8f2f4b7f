"""Lesson 08: from pooled features to class, box and mask, and the three losses."""

import marimo

app = marimo.App(app_title="08 Box and mask heads, and their losses", width="medium")

with app.setup:
    from functools import lru_cache

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np
    import optax

    from maskrcnn_jax.boxes.coding import decode, encode
    from maskrcnn_jax.boxes.geometry import iou
    from maskrcnn_jax.config import RoILossConfig, Sampling
    from maskrcnn_jax.lessons.diagrams import box_head, mask_head
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, diagram, start
    from maskrcnn_jax.lessons.network import compiled, pyramid_of
    from maskrcnn_jax.lessons.show import (
        BLUE,
        GREY,
        ORANGE,
        PINK,
        VERMILLION,
        boxes_over,
        canvas,
        panels,
        photo,
        source,
    )
    from maskrcnn_jax.roi.box_head import BoxHead
    from maskrcnn_jax.roi.loss import roi_losses
    from maskrcnn_jax.roi.mask_head import MaskHead
    from maskrcnn_jax.roi.masks import paste
    from maskrcnn_jax.roi.targets import RoITargets, mask_targets, roi_targets
    from maskrcnn_jax.structures import Pyramid

    SEED, SIZE, BETA = 8, (256, 320), 1 / 9


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 08 Box and mask heads, and their losses"),
            start(
                5,
                know="deltas (lesson 01), smooth L1 (lesson 05), RoI Align (lesson 07)",
                pages={
                    "Box head": "components/box_head",
                    "Mask head": "components/mask_head",
                    "Targets and losses": "components/losses",
                },
                papers={
                    "Crystals 2021": "section 2.4 and equation 1",
                    "Mask R-CNN": "section 3, figure 4 and table 2b",
                },
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** A proposal is only a first estimate of a box. From its features, pooled to 7x7 cells, the
        *box head* predicts the class and the deltas to a better box. From features pooled to 14x14 cells the *mask
        head* predicts the mask, as 28x28 probabilities over the box (Mask R-CNN, section 3 and figure 4; Crystals 2021,
        section 2.4). Both are trained together with the loss (Crystals 2021, eq. 1)

        $$L = L_{cls} + L_{box} + L_{mask}$$

        $L_{cls}$ is the cross entropy over all classes, with background as class 0. $L_{box}$ is smooth L1 (lesson 05)
        of the deltas for the *true* class. $L_{mask}$ is the mean binary cross entropy over the $m^2$ cells of the
        mask,

        $$L_{mask} = -\frac{1}{m^2} \sum_{ij} \left[ y_{ij} \log \hat{y}_{ij} + (1 - y_{ij}) \log (1 - \hat{y}_{ij})
        \right]$$

        with $y$ the target and $\hat{y}$ the prediction for the *true* class. There is one mask per class, and masks of
        other classes do not enter the loss: only the box head has to tell the classes apart. $L_{box}$ and $L_{mask}$
        are computed for positive proposals only, those with an IoU of 0.5 or more with a crystal.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            diagram(box_head(), "The box head for one proposal (RoI); k: classes, background included"),
            diagram(mask_head(), "The mask head for one proposal (RoI)"),
            mo.md("These calls make the pictures below:"),
            calls(heads, "classify", "decode", "outline"),
            calls(three_losses, "roi_losses"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    right = mo.ui.slider(-30, 30, value=7, label="proposal moved right", show_value=True)
    down = mo.ui.slider(-30, 30, value=-5, label="moved down", show_value=True)
    size = mo.ui.slider(0.5, 2.0, step=0.05, value=1.15, label="size times", show_value=True)
    crystal = mo.ui.slider(0, 5, value=0, label="crystal", show_value=True)
    mo.vstack(
        [
            mo.md(
                "## Move a proposal away from a crystal\n\nThe network was trained on drawn shapes and has never seen "
                "a drop. Crystals are numbered from the largest, 0."
            ),
            mo.hstack([right, down, size, crystal], wrap=True, justify="start"),
        ]
    )
    return crystal, down, right, size


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def features():
    """The pyramid of this lesson's drop: it does not change while the proposal moves."""
    return compiled(pyramid_of)(scene(SEED, light=0.2).image[None])


@app.function(hide_code=True)
def heads(model, pyramid, boxes):
    """For boxes [1, r, 4]: class logits, deltas, refined boxes, mask logits, and mask logits of the refined boxes."""
    logits, deltas = model.classify(Pyramid(*pyramid), boxes)
    refined = decode(deltas[:, :, 1], boxes, model.config.roi.coding.weights)
    outlines = model.outline(Pyramid(*pyramid), boxes)
    return (
        logits[0],
        deltas[0],
        refined[0],
        outlines[0],
        model.outline(Pyramid(*pyramid), refined)[0, ..., 1],
    )


@app.function(hide_code=True)
@jax.jit
def three_losses(logits, deltas, mask_logits, box, truth, mask):
    """The package's losses of one positive proposal, and the mask's target: `mask` cut out at the proposal."""
    frame = jnp.array([[0.0, 0.0, SIZE[1], SIZE[1]]])
    adaptive = Sampling(sampling_ratio=0)
    cut = mask_targets(box, jnp.array([0]), mask, frame, size=mask_logits.shape[1], sampling=adaptive, binary=True)
    yes = jnp.ones((1, 1), bool)
    wanted = encode(truth, box, (10.0, 10.0, 5.0, 5.0))
    targets = RoITargets(box[None], jnp.ones((1, 1), jnp.int32), wanted[None], cut[None], yes, yes)
    losses = roi_losses(
        logits[None],
        deltas[None],
        mask_logits[None],
        targets,
        config=RoILossConfig(box_normaliser="sampled", box_beta=BETA),
    )
    return losses, cut[0]


@app.function(hide_code=True)
def largest():
    """This drop's crystals, the largest first: boxes and masks."""
    drop = scene(SEED, light=0.2)
    order = np.argsort(-drop.masks.sum((1, 2)))
    return drop.boxes[order], drop.masks[order]


@app.function(hide_code=True)
def displaced(box, right, down, size):
    """The box moved by pixels and scaled about its centre."""
    centre, half = (box[:2] + box[2:]) / 2 + [right, down], (box[2:] - box[:2]) / 2 * size
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


@app.function(hide_code=True)
def picture(right, down, size, crystal):
    """Proposal, refined box and outline over the drop; the mask's cells; the three losses."""
    drop, (boxes, masks) = scene(SEED, light=0.2), largest()
    truth = boxes[min(crystal, len(boxes) - 1)].astype(np.float32)
    square = np.zeros((1, SIZE[1], SIZE[1]), np.float32)
    square[0, : SIZE[0]] = masks[min(crystal, len(boxes) - 1)]
    box = displaced(truth, right, down, size)
    logits, deltas, refined, outlines, final = compiled(heads)(features(), box[None, None])
    losses, wanted = three_losses(logits, deltas, outlines, box[None], truth[None], square)
    refined, probability = np.asarray(refined)[0], float(jax.nn.softmax(logits[0])[1])
    cells = np.asarray(jax.nn.sigmoid(final[0]))
    before, after = (float(iou(jnp.asarray(b)[None], jnp.asarray(truth)[None]).item()) for b in (box, refined))

    over, axes = photo(drop.image)
    looks = (
        (truth, "white", 1.4, "-", "true box"),
        (box, ORANGE, 1.8, (0, (4, 2)), "proposal"),
        (refined, BLUE, 1.8, "-", "refined box"),
    )
    for outline, colour, width, dash, name in looks:
        boxes_over(axes, outline[None], colour, width=width, dash=dash)
        axes.plot([], [], color=colour, ls=dash, label=name)
    pasted = paste(cells, refined, height=SIZE[0], width=SIZE[1])
    if pasted.any():
        axes.contour(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5, pasted, [0.5], colors=[PINK], linewidths=1.4)
    axes.plot([], [], color=PINK, label="predicted mask")
    axes.legend(fontsize=7, ncols=2, loc="lower left", facecolor="#444444", labelcolor="white", framealpha=0.8)
    drawn, axes = canvas(3.3, 3.3, frame=False)
    axes.imshow(np.asarray(jax.nn.sigmoid(outlines[0, ..., 1])), cmap="cividis", vmin=0, vmax=1)
    axes.contour(np.asarray(wanted), [0.5], colors=["white"], linewidths=2)
    bars, axes = canvas(3.6, 3.3)
    values = [float(loss) for loss in losses]
    axes.bar(["class", "box", "mask"], values, color=[BLUE, ORANGE, GREY], width=0.6)
    for place, value in enumerate(values):
        axes.text(place, value, f"{value:.2f}", ha="center", va="bottom", fontsize=9)
    axes.set(ylabel="loss", ylim=(0, max(1.5, 1.15 * max(values))))
    return {
        f"Probability of an object: {probability:.2f}. IoU with the true box: proposal {before:.2f}, refined box "
        f"{after:.2f}": over,
        "The 28x28 cells that the mask head predicts for the proposal; white: outline of its target": drawn,
        "The three losses of this proposal, taken as positive": bars,
    }


@app.function(hide_code=True)
def before_and_after(right, down, size):
    """IoU of a proposal with the box of the largest crystal, and that of the refined box."""
    truth = largest()[0][0].astype(np.float32)
    box = displaced(truth, right, down, size)
    refined = np.asarray(compiled(heads)(features(), box[None, None])[2])
    return tuple(np.asarray(iou(jnp.asarray(np.stack([box, refined[0]])), jnp.asarray(truth)[None]))[:, 0].tolist())


@app.cell(hide_code=True)
def _(crystal, down, right, size):
    panels(picture(right.value, down.value, size.value, crystal.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                The box head moves the first proposal, with an IoU of {before_and_after(7, -5, 1.15)[0]:.2f}, to a box
                with an IoU of {before_and_after(7, -5, 1.15)[1]:.2f}. Move the proposal further away, and the refined
                box no longer returns to the crystal. In training, the target of the mask is the part of the
                crystal that lies *in the proposal*. At inference the mask is predicted for the refined box: the boxes
                are then better than those the mask head was trained on.

                The output layers start with small random weights (Fast R-CNN, section 2.3), so that an untrained head
                predicts about equal probabilities and deltas near zero. Large initial weights, or pixels that are not
                normalised, are common causes of a **loss that is NaN at step 1**.
                """
            ),
            source(BoxHead, MaskHead, roi_targets, roi_losses),
        ]
    )
    return


@app.function(hide_code=True)
def left_out():
    """IoU of proposals and of refined boxes; and the loss of a mask cell with a sigmoid and with a softmax."""
    truth = largest()[0][0].astype(np.float32)
    shifts = np.linspace(-24, 24, 25)
    boxes = np.stack([displaced(truth, shift, 0.4 * shift, 1.1) for shift in shifts])
    refined = np.asarray(compiled(heads)(features(), boxes[None])[2])
    moved, axes = canvas()
    for which, colour, dash, name in (
        (refined, BLUE, "-", "refined box"),
        (boxes, VERMILLION, (0, (4, 1.5)), "proposal"),
    ):
        overlap = np.asarray(iou(jnp.asarray(which), jnp.asarray(truth)[None]))[:, 0]
        axes.plot(shifts, overlap, color=colour, ls=dash, label=name)
    axes.set(xlabel="proposal moved right, pixels", ylabel="IoU with the true box", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower center")

    rival, axes = canvas()
    other = jnp.linspace(-4, 4, 81)
    alone = jnp.full(81, jax.jit(optax.sigmoid_binary_cross_entropy)(2.0, 1.0))
    competing = jax.jit(optax.softmax_cross_entropy_with_integer_labels)(
        jnp.stack([jnp.full(81, 2.0), other], 1), jnp.zeros(81, int)
    )
    axes.plot(other, alone, color=BLUE, label="a sigmoid per class")
    axes.plot(other, competing, color=VERMILLION, ls=(0, (4, 1.5)), label="a softmax over classes")
    axes.set(xlabel="logit of another class's mask in this cell", ylabel="loss (logit of the true class: 2)")
    axes.legend(frameon=False)
    return {
        "What the box head gains: IoU before and after it": moved,
        "With a softmax, the loss of a cell also depends on the masks of other classes": rival,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong with simpler heads

                Without the deltas of the box head, final boxes are only as good as the proposals, and a box that cuts
                off part of its crystal also cuts off its mask. With a softmax over the classes of each cell, in place
                of an independent sigmoid for each class, the masks of the classes compete; Mask R-CNN then loses 5.5
                points of mask AP (table 2b).
                """
            ),
            panels(left_out()),
            mo.md("## Exercises\n\n**1.** `my_cross_entropy(logits, true_class)`: $L_{cls}$ of one proposal."),
        ]
    )
    return


@app.cell
def _():
    def my_cross_entropy(logits, true_class):
        """Minus the logarithm of the softmax probability of the true class."""
        return None  # your turn

    return (my_cross_entropy,)


@app.function(hide_code=True)
def check_cross_entropy(attempt):
    """Exercise 1 against optax, which `roi_losses` calls."""
    cases = [([0.0, 0.0], 1), ([2.0, -1.0, 0.5], 0), ([1000.0, 0.0], 0), ([1000.0, 0.0], 1)]
    peer = jax.jit(optax.softmax_cross_entropy_with_integer_labels)
    right = [float(peer(jnp.array(z), jnp.array(k))) for z, k in cases]
    hint = "Subtract the largest logit from all logits first, so that no exponential overflows."
    return grade(attempt, list(zip(cases, right, strict=True)), hint=hint)


@app.function(hide_code=True)
def solve_cross_entropy(logits, true_class):
    """Minus the logarithm of the softmax probability of the true class."""
    highest = max(logits)
    return highest + np.log(sum(np.exp(z - highest) for z in logits)) - logits[true_class]


@app.cell(hide_code=True)
def _(my_cross_entropy):
    mo.vstack(
        [
            show(check_cross_entropy(my_cross_entropy)),
            solution(
                solve_cross_entropy,
                r"Minus the logarithm of $e^{z_k} / \sum_j e^{z_j}$ is $\log \sum_j e^{z_j} - z_k$. To take "
                r"the highest logit out of the sum does not change the result, and then the largest "
                r"exponential is 1: nothing overflows, and the sum is never 0.",
            ),
            mo.md(
                "**2.** `my_mask_loss(logits, target, true_class)`: the mask loss of one positive proposal, with "
                "`logits[i][j][k]` of cell (i, j) and class k, and `target[i][j]` 0 or 1."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_mask_loss(logits, target, true_class):
        """The mean binary cross entropy over the cells."""
        return None  # your turn

    return (my_mask_loss,)


@app.function(hide_code=True)
def check_mask_loss(attempt):
    """Exercise 2 against `roi_losses`."""
    rng, cases, losses = np.random.default_rng(0), [], jax.jit(roi_losses, static_argnames="config")
    for m, k, true_class in ((2, 3, 1), (2, 3, 2), (2, 3, 1)):
        logits = rng.normal(0, 2, (m, m, k)).round(2).astype(np.float32)
        target = rng.integers(0, 2, (m, m)).astype(np.float32)
        one = jnp.ones((1, 1), bool)
        zero = jnp.zeros((1, 1, 4))
        targets = RoITargets(zero, jnp.full((1, 1), true_class), zero, jnp.asarray(target)[None, None], one, one)
        nothing, rule = (jnp.zeros((1, 1, k)), jnp.zeros((1, 1, k, 4))), RoILossConfig()
        right = losses(*nothing, jnp.asarray(logits)[None, None], targets, config=rule)[2]
        cases.append(((logits.tolist(), target.tolist(), true_class), float(right)))
    return grade(
        attempt, cases, hint="In each cell, take the sigmoid of the true class's logit; average over the cells."
    )


@app.function(hide_code=True)
def solve_mask_loss(logits, target, true_class):
    """The mean binary cross entropy over the cells."""
    losses = []
    for row, wanted in zip(logits, target, strict=True):
        for cell, y in zip(row, wanted, strict=True):
            z = -cell[true_class] if y else cell[true_class]
            losses.append(max(z, 0.0) + np.log1p(np.exp(-abs(z))))
    return sum(losses) / len(losses)


@app.cell(hide_code=True)
def _(my_mask_loss):
    mo.vstack(
        [
            show(check_mask_loss(my_mask_loss)),
            solution(
                solve_mask_loss,
                "Each cell is a yes-or-no question for the true class alone, with the cross entropy of lesson "
                "05. The logits of other classes are never read, so they get no gradient: the masks of the "
                "classes do not compete. The mean, not the sum, keeps the loss independent of the size of the "
                "mask.",
            ),
            mo.md("**Next:** lesson 09, the whole network."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
