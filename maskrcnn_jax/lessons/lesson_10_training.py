"""Lesson 10: transfer learning, held-out drops and the learning rate, with a short training."""

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
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.network import every_stage, program
    from maskrcnn_jax.lessons.short_training import EVERY, HELD_OUT, RATE, STEPS, TOO_FAST, WARMUP, train, trained
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, VERMILLION, canvas, panels, source
    from maskrcnn_jax.roi.masks import paste
    from maskrcnn_jax.training.optimizer import make_optimizer, make_schedule
    from maskrcnn_jax.training.state import trainable_filter
    from maskrcnn_jax.training.step import make_step
    from maskrcnn_jax.training.transfer import replace_classes


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 10 Training on drops"),
            start(
                5,
                know="the losses (lessons 05 and 08), gradient descent",
                pages={"Training step": "components/training"},
                papers={"Crystals 2021": "section 2.2", "SGDR": "equation 5"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** To train a deep network from random weights takes far more outlined crystals than a
        laboratory has. Qin et al. therefore start from weights trained on the photographs of COCO (Crystals 2021,
        section 2.2): a backbone that recognises edges and corners there recognises them in micrographs too. Only the
        output layers, which depend on the classes, start with random weights. All other weights are kept, and the
        backbone is often frozen at first. This is *transfer learning*.

        A training step samples anchors and proposals (lessons 05 and 08), adds the five losses, and changes the weights
        against the gradient $g$. The gradient is first *clipped*: if its norm exceeds $c$ (5 in Matterport's
        configuration), it is scaled down to it,

        $$g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert}\right)$$

        The learning rate rises linearly in a short *warm-up*, and then falls from $\eta$ to 0 as half a cosine (SGDR,
        eq. 5):

        $$\eta_t = \frac{\eta}{2} \left(1 + \cos \frac{\pi t}{T}\right)$$

        Below, a small network is trained when you open the lesson, with one drop per step. It was trained on drawn
        shapes before; here its backbone is frozen, and the output layers of both heads are new.
        """
    )
    return


@app.function(hide_code=True)
def rates():
    """The learning rate of each step of the training below, of `make_schedule`."""
    chart, axes = canvas(height=2.6)
    schedule = jax.jit(jax.vmap(make_schedule(RATE, steps=STEPS, warmup=WARMUP)))
    axes.plot(np.arange(STEPS + 1), schedule(jnp.arange(STEPS + 1)), color=BLUE)
    axes.axvspan(0, WARMUP, color=ORANGE, alpha=0.2)
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, STEPS), ylim=(0, None))
    return chart


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            panels({"The learning rate of each step of the training below; shaded: the warm-up": rates()}),
            mo.md(
                "## Exercises\n\nThe training below takes about a minute. These two do not wait for it.\n\n"
                "**1.** `my_rate(step, rate, steps, warmup)`: the learning rate, linear from 0 to `rate` over the "
                "first `warmup` steps, then half a cosine that reaches 0 at `steps`."
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
    hint = "The cosine spans the steps after the warm-up, from warmup to steps."
    return grade(attempt, cases, hint=hint, tolerance=1e-6)


@app.function(hide_code=True)
def solve_rate(step, rate, steps, warmup):
    """The learning rate at a step."""
    if step < warmup:
        return rate * step / warmup
    return rate / 2 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))


@app.cell(hide_code=True)
def _(my_rate):
    mo.vstack(
        [
            show(check_rate(my_rate)),
            solution(
                solve_rate,
                "Both parts are `rate` at `step = warmup`, so the curve has no jump. New output layers have "
                "large, changing gradients at first; during the warm-up they do little harm to the pretrained "
                "weights. Towards the end small steps let the weights settle.",
            ),
            mo.md(
                "**2.** `my_clip(gradients, longest)`: clip the gradients, a list for each weight tensor, by their "
                "*global* norm, the norm of all numbers together, to at most `longest`."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_clip(gradients, longest):
        """The gradients, all multiplied by the same factor if their global norm is too large."""
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
    return grade(
        attempt,
        cases,
        hint="One norm of all numbers, one factor for all of them; gradients within the limit stay as they are.",
    )


@app.function(hide_code=True)
def solve_clip(gradients, longest):
    """The gradients, all multiplied by the same factor if their global norm is too large."""
    norm = np.sqrt(sum(value**2 for gradient in gradients for value in gradient))
    factor = min(1.0, longest / norm)
    return [[factor * value for value in gradient] for gradient in gradients]


@app.cell(hide_code=True)
def _(my_clip):
    mo.vstack(
        [
            show(check_clip(my_clip)),
            solution(
                solve_clip,
                "One factor for all tensors changes the length of the gradient, but not its direction. "
                "Clipping each tensor by itself would change the direction, and with it what the step does.",
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("## The training\n\nThese calls make it:"),
            calls(train, "make_optimizer", "create_state", "make_step"),
        ]
    )
    return


@app.function(hide_code=True)
def fall_of_the_loss():
    """The total loss on the held-out drops before and after the training."""
    held_out = trained().held_out
    return held_out[0]["total"], held_out[max(held_out)]["total"]


@app.cell(hide_code=True)
def _():
    with mo.status.progress_bar(
        total=STEPS + TOO_FAST + 1,
        title="Training",
        subtitle="the first step also compiles the program",
        show_rate=False,
        show_eta=False,  # the first step takes far longer than the others
        remove_on_exit=True,
        disabled=not mo.running_in_notebook(),
    ) as _bar:
        trained(lambda text: _bar.update(subtitle=text))
    _before, _after = fall_of_the_loss()
    mo.md(
        f"""
        **Done:** {STEPS} steps of one drop each. On {len(HELD_OUT)} *held-out* drops, which are not trained on, the sum
        of the five losses fell from {_before:.2f} to {_after:.2f}.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    step = mo.ui.slider(0, STEPS, step=EVERY, value=STEPS, label="after step", show_value=True)
    seed = mo.ui.slider(HELD_OUT[0], HELD_OUT[-1], value=6, label="held-out drop", show_value=True)
    score = mo.ui.slider(0.1, 0.9, step=0.05, value=0.5, label="score threshold", show_value=True)
    mo.vstack([mo.md("## Watch it learn"), mo.hstack([step, seed, score], wrap=True, justify="start")])
    return score, seed, step


@app.function(hide_code=True)
@lru_cache(maxsize=64)
def detected(step, seed):
    """Scores and full-size masks on a held-out drop, with the weights after a number of steps."""
    found = jax.device_get(program(every_stage)(trained().weights[step], scene(seed, light=0.2).image[None]).detections)
    valid = found.valid[0]
    masks = [
        paste(m, b, height=256, width=320) for m, b in zip(found.masks[0][valid], found.boxes[0][valid], strict=True)
    ]
    return found.scores[0][valid], np.array(masks, bool).reshape(-1, 256, 320)


@app.function(hide_code=True)
def score_of(step):
    """The paper's mAP of the held-out drops at an IoU threshold of 0.5, after a number of steps."""
    truths, predictions = [], []
    for seed in HELD_OUT:
        scores, masks = detected(step, seed)
        real = scene(seed, light=0.2).masks
        truths.append({"masks": real, "classes": [1] * len(real)})
        predictions.append({"masks": masks, "classes": [1] * len(masks), "scores": scores})
    return paper_map(truths, predictions, iou=0.5)


@app.function(hide_code=True)
def picture(step, seed, score):
    """A held-out drop with its detections, and the five losses on the held-out drops."""
    drop, (scores, masks), held_out = scene(seed, light=0.2), detected(step, seed), trained().held_out
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
        axes.plot(list(held_out), [m[name] for m in held_out.values()], "o", color=colour, ls=dash, label=name, ms=4)
    axes.axvline(step, color="black", lw=0.8)
    axes.set(xlabel="steps", ylabel="loss", ylim=(0, 1.2), xlim=(-1, STEPS + 1))
    axes.legend(frameon=False, ncols=2, fontsize=8, loc="upper right")
    return {
        f"After {step} steps: {int(kept.sum())} detections; the drop holds {len(drop.boxes)} crystals": outlined,
        f"The five losses, mean of {len(HELD_OUT)} held-out drops": losses,
    }


@app.cell(hide_code=True)
def _(score, seed, step):
    panels(picture(step.value, seed.value, score.value))
    return


@app.function(hide_code=True)
def progress():
    """Chart of the mAP of the held-out drops after every ten steps."""
    steps = list(range(0, STEPS + 1, EVERY))
    chart, axes = canvas()
    values = [score_of(step) for step in steps]
    axes.plot(steps, values, "o-", color=BLUE)
    for step, value in zip(steps, values, strict=True):
        axes.text(step, value + 0.03, f"{value:.2f}", ha="center", fontsize=9)
    axes.set(xlabel="steps", ylabel="mAP at an IoU threshold of 0.5", ylim=(0, 1), xticks=steps)
    return chart


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                The losses of single steps are noisy, because each step sees another drop. So judge a training by drops
                that it does not see, and not by the loss alone. Look at the detections and compute a metric (lesson
                11): the loss can fall while all boxes stay at their anchors, or while every proposal is classified as
                background. A few dozen steps only start the training; `crystal demo` trains for about ten minutes.
                """
            ),
            panels({f"The paper's mAP of the {len(HELD_OUT)} held-out drops": progress()}),
            source(make_step, make_optimizer, make_schedule, trainable_filter, replace_classes),
        ]
    )
    return


@app.function(hide_code=True)
def too_fast():
    """The total loss of each step of the training, and of the steps after it at a rate of 30."""
    chart, axes = canvas()
    totals = np.array([m["total"] for m in trained().steps])
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
                ## What goes wrong when the learning rate is too high

                The shaded steps have a learning rate of 30. Clipping the gradient does not help: Adam divides it by its
                own magnitude, so that every weight changes by about the learning rate. One such step destroys what was
                learnt.

                A **loss that is NaN at step 1** has other causes: pixels that are not normalised, a box of zero area,
                or weights that do not fit the configuration. `make_step` skips an update whose gradients are not finite
                and counts it in the metric `skipped`. After several in a row `crystal train` stops, with the last good
                weights saved.
                """
            ),
            panels({"Total loss of each step; shaded: with a learning rate of 30": too_fast()}),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("**Next:** lesson 11, how to measure the result.")
    return


if __name__ == "__main__":
    app.run()
