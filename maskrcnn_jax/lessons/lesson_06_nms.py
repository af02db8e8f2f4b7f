"""Lesson 06: removing duplicate boxes by non-maximum suppression, and from candidates to proposals."""

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
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.network import compiled, rpn_outputs
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, VERMILLION, boxes_over, canvas, panels, photo, source
    from maskrcnn_jax.rpn.proposals import propose

    N = 96  # boxes before NMS


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 06 NMS and proposals"),
            start(
                4,
                know="IoU (lesson 01), objectness (lesson 05)",
                pages={"Non-maximum suppression": "components/nms", "Region proposal network": "components/rpn"},
                papers={"R-CNN": "section 2.2", "Faster R-CNN": "section 3.3", "Crystals 2021": "section 2.3"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** Several anchors around a crystal get a high objectness, so the RPN predicts the same crystal
        several times. *Non-maximum suppression* (NMS; R-CNN, section 2.2) removes the duplicates: go through the boxes
        by falling score, and keep a box unless its IoU with a box already kept exceeds a threshold. It is applied
        twice: to the proposals of the RPN (Faster R-CNN, section 3.3, with threshold 0.7), and to the final detections
        (lesson 09; Matterport's configuration has 0.3).

        A loop over boxes is slow on an accelerator, and the number of its steps depends on the data. This package has
        no such loop. Sort the boxes by score, let $S_{ij}$ be true if $i < j$ and the IoU of boxes $i$ and $j$ exceeds
        the threshold, and let $k_j$ be true if box $j$ is kept. Then what the loop keeps is the only solution of

        $$k_j = \neg \bigvee_i (S_{ij} \wedge k_i)$$

        Start with all boxes kept and apply the equation until nothing changes. This takes a few rounds, each of them
        one product of a matrix and a vector.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below:"),
            calls(rpn_outputs, "rpn", "rank"),
            calls(suppress, "nms"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    threshold = mo.ui.slider(0.05, 1.0, step=0.05, value=0.5, label="IoU threshold", show_value=True)
    score = mo.ui.slider(0.0, 0.95, step=0.05, value=0.0, label="score threshold", show_value=True)
    seed = mo.ui.slider(0, 15, value=6, label="drop", show_value=True)
    mo.vstack([mo.md("## Choose the thresholds"), mo.hstack([threshold, score, seed], wrap=True, justify="start")])
    return score, seed, threshold


@app.function(hide_code=True)
@lru_cache(maxsize=32)
def candidates(seed):
    """What the trained RPN predicts for a drop: the N anchors of highest objectness, moved by their deltas, [N, 4]; and
    their objectness.
    """
    _, boxes, logits = jax.device_get(compiled(rpn_outputs)(scene(seed, crystals=8).image[None]))
    best = np.argsort(-logits[0], kind="stable")[:N]
    return boxes[0][best], (1 / (1 + np.exp(-logits[0][best]))).astype(np.float32)


@app.function(hide_code=True)
@jax.jit
def suppress(boxes, scores, threshold, lowest):
    """The package's `nms` of the boxes from the lowest score up, and the matrix S of the sorted boxes."""
    kept, filled = nms(boxes, scores, iou_threshold=threshold, max_outputs=N, valid=scores >= lowest)
    ranked = boxes[jnp.argsort(-scores)]
    return kept, filled, jnp.triu(iou(ranked, ranked) > threshold, 1)


@app.function(hide_code=True)
def rounds_of(matrix):
    """How many boxes are kept after each application of the equation, until nothing changes."""
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
    """IoU of each crystal with each candidate; padded with zeros to eight crystals (lesson 12 says why)."""
    truth, boxes = scene(seed, crystals=8).boxes, candidates(seed)[0]
    padded = np.zeros((8, 4), np.float32)
    padded[: len(truth)] = truth
    return np.asarray(iou(jnp.asarray(padded), jnp.asarray(boxes)))


@app.function(hide_code=True)
def found_and_double(seed, chosen):
    """How many crystals have an IoU of 0.5 or more with a chosen box, and how many such boxes are duplicates."""
    overlap = covers(seed)[:, chosen]
    hits = overlap.max(0) >= 0.5
    owners = set(overlap.argmax(0)[hits].tolist())
    return len(owners), int(hits.sum()) - len(owners)


@app.function(hide_code=True)
def picture(threshold, score, seed):
    """All candidates, those that NMS keeps, and the rounds it takes."""
    drop, (boxes, scores) = scene(seed, crystals=8), candidates(seed)
    kept, filled, matrix = jax.device_get(suppress(boxes, scores, threshold, score))
    alive, taking_part = kept[filled], scores >= score
    before, axes = photo(drop.image)
    boxes_over(axes, boxes[taking_part], ORANGE, width=0.9, halo=False)
    after, axes = photo(drop.image)
    on_crystal = (covers(seed)[:, alive] >= 0.5).any(0)
    boxes_over(axes, boxes[alive][~on_crystal], ORANGE, width=1.0, dash=(0, (4, 1.5)), halo=False)
    boxes_over(axes, boxes[alive][on_crystal], BLUE, width=1.8)
    part = matrix[np.ix_(np.sort(scores)[::-1] >= score, np.sort(scores)[::-1] >= score)]
    counts = rounds_of(part)
    settling, axes = canvas()
    axes.plot(range(len(counts)), counts, "o-", color=BLUE)
    axes.axhline(len(alive), color=GREY, ls=":", lw=1)
    axes.set(xlabel="round", ylabel="boxes kept", ylim=(0, N + 4), xticks=range(max(len(counts), 4)))
    found, double = found_and_double(seed, alive)
    return {
        f"The {int(taking_part.sum())} candidates: predicted by the RPN of a trained network": before,
        f"{len(alive)} boxes kept. Blue: on crystals (IoU of 0.5 or more). {found} of {len(drop.boxes)} crystals "
        f"found; {double} boxes are duplicates, {len(alive) - found - double} (orange) are on no crystal": after,
        f"Nothing changes after {len(counts) - 1} rounds; a loop takes {int(taking_part.sum())} steps": settling,
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
                With an IoU threshold of 1.0 nothing is suppressed. Lower it: first duplicates disappear, then also
                boxes of crystals that lie close to each other. No threshold suits needles that cross: the boxes of two
                needles can overlap more than two boxes of the same needle.

                The other steps to proposals are simple. Of each level take the few hundred anchors of highest
                objectness, apply their deltas, clip the boxes to the image, apply NMS, and keep the best of all levels.
                The number of proposals is fixed, and a mask says which of them are valid (lesson 12 explains why).
                """
            ),
            source(nms, propose),
        ]
    )
    return


@app.function(hide_code=True)
def with_and_without():
    """Recall, and the share of boxes on crystals that are not duplicates, of sixteen drops, against the threshold."""
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
    axes.plot(thresholds, found / there, color=BLUE, label="recall: crystals found")
    axes.plot(
        thresholds,
        found / np.maximum(found + double, 1),
        color=VERMILLION,
        ls=(0, (4, 1.5)),
        label="correct boxes without duplicates",
    )
    axes.set(xlabel="IoU threshold", ylabel="share", ylim=(0, 1.03))
    axes.legend(frameon=False, loc="lower left")
    return {"Over 16 drops: share of the crystals found; share of the boxes on crystals that are no duplicates": recall}


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without NMS

                Without NMS (a threshold of 1.0, at the right end), few more crystals are found, and most of the boxes
                on crystals are duplicates. A duplicate counts as a false positive (lesson 11), so precision drops to
                this curve at best, and the number of boxes no longer says how many crystals there are.
                """
            ),
            panels(with_and_without()),
            mo.md(
                "## Exercises\n\n**1.** `my_nms(overlap, scores, threshold)`: the indices of the boxes that NMS keeps, "
                "highest score first. `overlap[i][j]` is the IoU of boxes i and j."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_nms(overlap, scores, threshold):
        """A list of indices, highest score first."""
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
    hint = "A suppressed box suppresses no other; of equal scores the lower index comes first."
    return grade(attempt, cases, hint=hint)


@app.function(hide_code=True)
def solve_nms(overlap, scores, threshold):
    """A list of indices, highest score first."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(overlap[i][k] <= threshold for k in kept):
            kept.append(i)
    return kept


@app.cell(hide_code=True)
def _(my_nms):
    mo.vstack(
        [
            show(check_nms(my_nms)),
            solution(
                solve_nms,
                "Compare each box with the boxes *kept* so far, not with all boxes of a higher score: a box "
                "that was removed must not remove others. Python's `sorted` keeps the order of equal scores, "
                "so the lower index comes first.",
            ),
            mo.md(
                "**2.** `my_round(suppresses, keep)`: apply the equation once; `suppresses[i][j]` is S, `keep[i]` is k."
            ),
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
    """Exercise 2 against the equation in NumPy."""
    matrix = np.triu(np.array([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool), 1)
    cases, keep = [], np.ones(4, bool)
    for _ in range(4):
        after = ~np.any(matrix & keep[:, None], axis=0)
        cases.append(((matrix.tolist(), keep.tolist()), after))
        keep = after
    return grade(attempt, cases, hint="j is kept unless some i has both suppresses[i][j] and keep[i].")


@app.function(hide_code=True)
def solve_round(suppresses, keep):
    """The next `keep`: for each j, whether no kept i suppresses it."""
    n = len(keep)
    return [not any(suppresses[i][j] and keep[i] for i in range(n)) for j in range(n)]


@app.cell(hide_code=True)
def _(my_round):
    mo.vstack(
        [
            show(check_round(my_round)),
            solution(
                solve_round,
                "This is the equation, word for word. The first box in the order is right from the start, as "
                "no box suppresses it. After one round the second is right, since it depends on the first "
                "only, and so on: after as many rounds as there are boxes all are right, and in practice "
                "after a few.",
            ),
            mo.md("**Next:** lesson 07, the features of each proposal."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
