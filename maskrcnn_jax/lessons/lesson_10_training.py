"""Lesson 10: training on drops, half a minute of it."""

import marimo

app = marimo.App(app_title="10 Training on drops", width="medium")

with app.setup:
    from functools import lru_cache

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np
    import optax

    from crystal.evaluation.metrics import paper_map
    from crystal.prediction.overlays import draw_outlines
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show
    from maskrcnn_jax.lessons.network import every_stage, program
    from maskrcnn_jax.lessons.short_training import EVERY, STEPS, trained
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, VERMILLION, canvas, panels, source
    from maskrcnn_jax.roi.masks import paste
    from maskrcnn_jax.training.optimizer import make_optimizer, make_schedule
    from maskrcnn_jax.training.state import trainable_filter
    from maskrcnn_jax.training.step import make_step
    from maskrcnn_jax.training.transfer import replace_classes

    HELD_OUT = tuple(range(4, 10))


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        # 10 Training on drops

        **What it is for.** Nobody has outlined enough crystals to train a deep network from nothing. Qin et al. start
        from weights that learnt on COCO (Crystals 2021, section 2.2): what an edge or a corner is need not be learnt
        again, only what a crystal is. The outputs that depend on the classes start anew; the rest is kept, and may be
        frozen at first.

        A step draws anchors and proposals (lessons 05 and 08), sums the five losses, and moves the weights against the
        gradient $g$, after cutting its length (Matterport: at 5),

        $$g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert}\right)$$

        at a rate that falls from $\eta$ to 0 like half a cosine (SGDR, eq. 5), after a linear warm-up:

        $$\eta_t = \frac{\eta}{2} \left(1 + \cos \frac{\pi t}{T}\right)$$

        Below, thirty steps of one drop each run when the lesson is opened: the small network that knows shapes is
        taught drops, its backbone frozen. What took the demo ten minutes is only begun here.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    step = mo.ui.slider(0, STEPS, step=EVERY, value=STEPS, label="after step", show_value=True)
    seed = mo.ui.slider(HELD_OUT[0], HELD_OUT[-1], value=6, label="held-out drop", show_value=True)
    score = mo.ui.slider(0.1, 0.9, step=0.05, value=0.5, label="least score", show_value=True)
    mo.vstack([mo.md("## Watch it learn"), mo.hstack([step, seed, score], wrap=True, justify="start")])
    return score, seed, step


@app.function(hide_code=True)
@lru_cache(maxsize=64)
def detected(step, seed):
    """Scores and full masks on a held-out drop, of the weights after a step."""
    found = jax.device_get(program(every_stage)(trained()[1][step], scene(seed, light=0.2).image[None]).detections)
    valid = found.valid[0]
    masks = [
        paste(m, b, height=256, width=320) for m, b in zip(found.masks[0][valid], found.boxes[0][valid], strict=True)
    ]
    return found.scores[0][valid], np.array(masks, bool).reshape(-1, 256, 320)


@app.function(hide_code=True)
def score_of(step):
    """The paper's mAP at an IoU of 0.5 over the held-out drops."""
    truths, predictions = [], []
    for seed in HELD_OUT:
        scores, masks = detected(step, seed)
        real = scene(seed, light=0.2).masks
        truths.append({"masks": real, "classes": [1] * len(real)})
        predictions.append({"masks": masks, "classes": [1] * len(masks), "scores": scores})
    return paper_map(truths, predictions, iou=0.5)


@app.function(hide_code=True)
def picture(step, seed, score):
    """A held-out drop with its detections, and the five losses so far."""
    drop, (scores, masks), metrics = scene(seed, light=0.2), detected(step, seed), trained()[0]
    kept = scores >= score
    outlined = draw_outlines(drop.image, masks[kept], scores=scores[kept], scale=2)
    losses, axes = canvas(4.6, 3.4)
    looks = (
        (BLUE, "-"),
        (ORANGE, (0, (4, 1.5))),
        (VERMILLION, ":"),
        (GREY, (0, (1, 1))),
        ("#009e73", (0, (5, 1, 1, 1))),
    )
    for name, (colour, dash) in zip(("roi_class", "roi_box", "roi_mask", "rpn_class", "rpn_box"), looks, strict=True):
        values = np.array([m[name] for m in metrics[:STEPS]])
        smooth = np.convolve(np.pad(values, 2, mode="edge"), np.ones(5) / 5, mode="valid")
        axes.plot(range(1, STEPS + 1), smooth, color=colour, ls=dash, label=name)
    axes.axvline(max(step, 0.5), color="black", lw=0.8)
    axes.set(xlabel="step", ylabel="loss, mean of five steps", ylim=(0, 1.6), xlim=(0, STEPS + 1))
    axes.legend(frameon=False, ncols=2, fontsize=8, loc="upper center")
    return {
        f"After {step} steps: {int(kept.sum())} detections, {len(drop.boxes)} crystals are there": outlined,
        "The five losses": losses,
    }


@app.cell(hide_code=True)
def _(score, seed, step):
    panels(picture(step.value, seed.value, score.value))
    return


@app.function(hide_code=True)
def progress():
    """MAP on the held-out drops after every ten steps."""
    steps = list(range(0, STEPS + 1, EVERY))
    chart, axes = canvas()
    values = [score_of(step) for step in steps]
    axes.plot(steps, values, "o-", color=BLUE)
    for step, value in zip(steps, values, strict=True):
        axes.text(step, value + 0.03, f"{value:.2f}", ha="center", fontsize=9)
    axes.set(xlabel="step", ylabel="mAP at an IoU of 0.5", ylim=(0, 1), xticks=steps)
    return chart


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                One drop a step makes the losses noisy. Look at detections and at a score on drops that were held out: a
                falling loss can hide boxes that never leave their anchors, or a class that is always background. Thirty
                steps on the heads alone are too few to promise anything; the curve below says what they did.
                """
            ),
            panels({f"The paper's mAP over {len(HELD_OUT)} drops that were never trained on": progress()}),
            source(make_step, make_optimizer, make_schedule, trainable_filter, replace_classes),
        ]
    )
    return


@app.function(hide_code=True)
def too_fast():
    """The total loss through the sound part and after it, at a rate of 30."""
    chart, axes = canvas()
    totals = np.array([m["total"] for m in trained()[0]])
    finite = np.where(np.isfinite(totals), totals, np.nan)
    axes.semilogy(range(1, len(totals) + 1), finite, "o-", color=BLUE, ms=3)
    axes.axvspan(STEPS + 1, len(totals) + 0.5, color=VERMILLION, alpha=0.2)
    axes.set(xlabel="step", ylabel="total loss")
    return chart


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without a sound rate

                The shaded steps have a learning rate of 30. Clipping bounds the gradient, and Adam makes every weight's
                step about as long as the rate, whatever the gradient was: one step is enough to lose everything. A
                **loss that is NaN at step 1** has other reasons: pixels that were not normalised, a box without area,
                weights that do not belong to their config. `make_step` skips a step whose gradients are not finite and
                says so (`skipped`), and `crystal train` gives up after several in a row, with the last good weights
                saved.
                """
            ),
            panels({"Total loss; shaded: a learning rate of 30": too_fast()}),
            mo.md(
                "## Exercises\n\n**1.** `my_rate(step, rate, steps, warmup)`: linear from 0 to `rate` over the first "
                "`warmup` "
                "steps, then half a cosine that reaches 0 at `steps`."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_rate(step, rate, steps, warmup):
        """The learning rate at a step."""
        return None  # your turn

    return (my_rate,)


@app.function(hide_code=True)
def check_rate(attempt):
    """Exercise 1 against `make_schedule`."""
    cases = []
    for rate, steps, warmup in ((1.0, 110, 10), (0.002, 40, 4)):
        schedule = make_schedule(rate, steps=steps, warmup=warmup)
        cases += [
            ((t, rate, steps, warmup), float(np.asarray(schedule(t))))
            for t in (0, warmup // 2, warmup, steps // 2, steps)
        ]
    hint = "The cosine runs over the steps after the warm-up: from warmup to steps."
    return grade(attempt, cases, hint=hint, tolerance=1e-6)


@app.cell(hide_code=True)
def _(my_rate):
    mo.vstack(
        [
            show(check_rate(my_rate)),
            mo.md(
                "**2.** `my_clip(gradients, longest)`: a list of lists (a gradient for each weight tensor), cut by "
                "their "
                "*global* norm, that of all numbers together."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_clip(gradients, longest):
        """The gradients, scaled by one number if they are too long together."""
        return None  # your turn

    return (my_clip,)


@app.function(hide_code=True)
def check_clip(attempt):
    """Exercise 2 against optax's rule, which `make_optimizer` puts first."""
    cases = []
    for gradients, longest in (
        ([[3.0, 0.0], [0.0, 4.0]], 1.0),
        ([[0.3, 0.4], [0.0, 0.0]], 5.0),
        ([[30.0, 1.0], [4.0, 2.0]], 5.0),
    ):
        rule = optax.clip_by_global_norm(longest)
        tree = [jnp.array(g) for g in gradients]
        cases.append(((gradients, longest), np.array(jax.tree.leaves(rule.update(tree, rule.init(tree))[0]))))
    return grade(attempt, cases, hint="One norm over everything, one factor for everything; short gradients stay.")


@app.cell(hide_code=True)
def _(my_clip):
    mo.vstack([show(check_clip(my_clip)), mo.md("**Next:** lesson 11, how good is good?")])
    return


if __name__ == "__main__":
    app.run()
