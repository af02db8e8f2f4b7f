"""Lesson 06: non-maximum suppression and proposals."""

import marimo

app = marimo.App(app_title="06 NMS and proposals", width="medium")

with app.setup:
    from functools import lru_cache

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from maskrcnn_jax.boxes.geometry import iou
    from maskrcnn_jax.boxes.nms import nms
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, VERMILLION, boxes_over, canvas, panels, photo, source
    from maskrcnn_jax.rpn.proposals import propose

    N = 96  # boxes before suppression


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        # 06 NMS and proposals

        **What it is for.** Where there is a crystal, a dozen anchors say so. *Non-maximum suppression* (R-CNN, section
        2.2) keeps the best of each bunch: go through the boxes from the best score down, and keep a box unless it
        overlaps one that was kept by more than a threshold. The RPN does so before it hands over its proposals (Faster
        R-CNN, section 3.3: at 0.7), and the box head once more at the end (at 0.3 in the paper's base, lesson 09).

        A loop over boxes is slow on an accelerator, and its length depends on the data. Here the loop is gone. With the
        boxes sorted by score and $S_{ij} = 1$ if $i < j$ and their IoU is over the threshold, what greedy NMS keeps is
        the only solution of

        $$k_j = \neg \bigvee_i (S_{ij} \wedge k_i)$$

        Start from "all are kept" and apply the equation until nothing changes: a few rounds of one matrix product each.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    threshold = mo.ui.slider(0.05, 1.0, step=0.05, value=0.5, label="IoU threshold", show_value=True)
    score = mo.ui.slider(0.0, 0.95, step=0.05, value=0.0, label="least score", show_value=True)
    seed = mo.ui.slider(0, 15, value=6, label="drop", show_value=True)
    mo.vstack([mo.md("## Thin them out"), mo.hstack([threshold, score, seed], wrap=True, justify="start")])
    return score, seed, threshold


@app.function(hide_code=True)
@lru_cache(maxsize=32)
def candidates(seed):
    """Boxes as an RPN gives them: many about each crystal, the nearer the surer, and some on nothing."""
    drop, rng = scene(seed, crystals=8), np.random.default_rng(seed)
    truth = drop.boxes[rng.integers(len(drop.boxes), size=N)]
    sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    boxes = truth + rng.normal(0, 0.13, (N, 4)) * sides
    stray = rng.random(N) < 0.12
    corner = rng.uniform(0, [270, 210], (N, 2))
    boxes[stray] = np.concatenate([corner, corner + rng.uniform(12, 50, (N, 2))], 1)[stray]
    boxes = np.clip(boxes, 0, [320, 256, 320, 256]).astype(np.float32)
    best = np.asarray(iou(jnp.asarray(boxes), jnp.asarray(drop.boxes, jnp.float32))).max(1)
    scores = np.clip(0.25 + 0.7 * best + rng.normal(0, 0.07, N), 0.01, 0.99).astype(np.float32)
    return boxes, scores


@app.function(hide_code=True)
@jax.jit
def suppress(boxes, scores, threshold, least):
    """The package's `nms`, and the suppression matrix of the sorted boxes."""
    kept, filled = nms(boxes, scores, iou_threshold=threshold, max_outputs=N, valid=scores >= least)
    ranked = boxes[jnp.argsort(-scores)]
    return kept, filled, jnp.triu(iou(ranked, ranked) > threshold, 1)


@app.function(hide_code=True)
def rounds_of(matrix):
    """How many boxes are kept after each round of the fixed point, until nothing changes."""
    keep, counts = np.ones(len(matrix), bool), [len(matrix)]
    while True:
        refined = ~np.any(matrix & keep[:, None], axis=0)
        if (refined == keep).all():
            return counts
        keep = refined
        counts.append(int(keep.sum()))


@app.function(hide_code=True)
@lru_cache(maxsize=32)
def covers(seed):
    """IoU of each crystal with each candidate, once a drop; zeros fill up to eight crystals (lesson 12 says why)."""
    truth, boxes = scene(seed, crystals=8).boxes, candidates(seed)[0]
    padded = np.zeros((8, 4), np.float32)
    padded[: len(truth)] = truth
    return np.asarray(iou(jnp.asarray(padded), jnp.asarray(boxes)))


@app.function(hide_code=True)
def found_and_double(seed, chosen):
    """How many crystals the chosen boxes cover by half, and how many of the boxes cover one that another covers too."""
    overlap = covers(seed)[:, chosen]
    hits = overlap.max(0) >= 0.5
    owners = set(overlap.argmax(0)[hits].tolist())
    return len(owners), int(hits.sum()) - len(owners)


@app.function(hide_code=True)
def picture(threshold, score, seed):
    """All candidates, the survivors, and the rounds of the fixed point."""
    drop, (boxes, scores) = scene(seed, crystals=8), candidates(seed)
    kept, filled, matrix = jax.device_get(suppress(boxes, scores, threshold, score))
    alive, taking_part = kept[filled], scores >= score
    before, axes = photo(drop.image)
    boxes_over(axes, boxes[taking_part], ORANGE, width=0.9, halo=False)
    after, axes = photo(drop.image)
    boxes_over(axes, boxes[alive], BLUE, width=1.8)
    part = matrix[np.ix_(np.sort(scores)[::-1] >= score, np.sort(scores)[::-1] >= score)]
    counts = rounds_of(part)
    settling, axes = canvas()
    axes.plot(range(len(counts)), counts, "o-", color=BLUE)
    axes.axhline(len(alive), color=GREY, ls=":", lw=1)
    axes.set(xlabel="round", ylabel="boxes that count as kept", ylim=(0, N + 4), xticks=range(max(len(counts), 4)))
    found, double = found_and_double(seed, alive)
    return {
        f"{int(taking_part.sum())} candidates": before,
        f"{len(alive)} left: {found} of {len(drop.boxes)} crystals found, {double} of them told again": after,
        f"Settled after {len(counts) - 1} rounds, where a loop would take {int(taking_part.sum())}": settling,
    }


@app.cell(hide_code=True)
def _(score, seed, threshold):
    panels(picture(threshold.value, score.value, seed.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                At a threshold of 1.0 nothing is suppressed. Slide down: repeats go first, and at 0.05 crystals that
                touch begin to lose their neighbours. There is no right value for a shower of needles; boxes of two
                needles that cross overlap more than two detections of one.

                The rest of making proposals is bookkeeping: of each level take the best few hundred anchors by
                objectness, move them by their deltas, clip them to the image, suppress, keep the best of all levels.
                Everything has a fixed number of slots, and a mask says which are filled: lesson 12 says why.
                """
            ),
            source(nms, propose),
        ]
    )
    return


@app.function(hide_code=True)
def with_and_without():
    """Over sixteen drops: crystals found, and repeats, for thresholds from 0.05 to no suppression."""
    thresholds = np.arange(0.05, 1.01, 0.05)
    found, double, there = np.zeros(len(thresholds)), np.zeros(len(thresholds)), 0
    for seed in range(16):
        drop, (boxes, scores) = scene(seed, crystals=8), candidates(seed)
        there += len(drop.boxes)
        for i, threshold in enumerate(thresholds):
            kept, filled, _ = jax.device_get(suppress(boxes, scores, threshold, 0.0))
            hits, repeats = found_and_double(seed, kept[filled])
            found[i] += hits
            double[i] += repeats
    recall, axes = canvas()
    axes.plot(thresholds, found / there, color=BLUE, label="crystals found")
    axes.plot(
        thresholds, found / np.maximum(found + double, 1), color=VERMILLION, ls=(0, (4, 1.5)), label="not repeats"
    )
    axes.set(xlabel="IoU threshold", ylabel="share", ylim=(0, 1.03))
    axes.legend(frameon=False, loc="lower left")
    return {"Crystals found, and the share of right boxes that are not repeats, over sixteen drops": recall}


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without it

                Without NMS (1.0, at the right end) nothing more is found, and nearly every box that is right says what
                another has said. All of these count as false: precision falls to that curve, and a count of crystals is
                worthless.
                """
            ),
            panels(with_and_without()),
            mo.md(
                "## Exercises\n\n**1.** `my_nms(overlap, scores, threshold)`: the indices that greedy NMS keeps, best "
                "first. `overlap[i][j]` is the IoU of boxes i and j."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_nms(overlap, scores, threshold):
        """A list of indices, best first."""
        return None  # your turn

    return (my_nms,)


@app.function(hide_code=True)
def check_nms(attempt):
    """Exercise 1 against `nms`."""
    row = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [4, 0, 14, 10], [8, 0, 18, 10], [40, 0, 50, 10.0]], np.float32)
    cases = []
    for scores, threshold in (
        ([0.9, 0.8, 0.7, 0.6, 0.5], 0.3),
        ([0.5, 0.9, 0.7, 0.6, 0.95], 0.3),
        ([0.9, 0.8, 0.7, 0.6, 0.5], 0.1),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 0.5),
    ):
        kept, filled = nms(jnp.asarray(row), jnp.array(scores), iou_threshold=threshold, max_outputs=5)
        overlap = np.asarray(iou(jnp.asarray(row), jnp.asarray(row))).round(3).tolist()
        cases.append(((overlap, scores, threshold), np.asarray(kept)[np.asarray(filled)]))
    hint = "A box that was itself suppressed suppresses nobody; of equal scores the lower index goes first."
    return grade(attempt, cases, hint=hint)


@app.cell(hide_code=True)
def _(my_nms):
    mo.vstack(
        [
            show(check_nms(my_nms)),
            mo.md("**2.** `my_round(suppresses, keep)`: one round of the equation above, for lists of True and False."),
        ]
    )
    return


@app.cell
def _():
    def my_round(suppresses, keep):
        """The next `keep`: for each j, whether no kept i suppresses it."""
        return None  # your turn

    return (my_round,)


@app.function(hide_code=True)
def check_round(attempt):
    """Exercise 2, by the equation."""
    matrix = np.triu(np.array([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool), 1)
    cases, keep = [], np.ones(4, bool)
    for _ in range(4):
        after = ~np.any(matrix & keep[:, None], axis=0)
        cases.append(((matrix.tolist(), keep.tolist()), after))
        keep = after
    return grade(attempt, cases, hint="j is kept unless some i has both suppresses[i][j] and keep[i].")


@app.cell(hide_code=True)
def _(my_round):
    mo.vstack([show(check_round(my_round)), mo.md("**Next:** lesson 07, features out of each proposal.")])
    return


if __name__ == "__main__":
    app.run()
