"""Lesson 11: IoU, precision, recall and average precision, step by step."""

import marimo

app = marimo.App(app_title="11 Metrics: IoU, P, R, AP by hand", width="medium")

with app.setup:
    import cv2
    import marimo as mo
    import numpy as np

    from crystal.evaluation.metrics import average_precision, mask_iou, match, paper_map, precision_recall
    from crystal.prediction.overlays import draw_outlines
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, canvas, panels, source, table

    SEED = 8


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 11 Metrics: IoU, P, R, AP by hand"),
            start(
                5,
                know="IoU (lesson 01)",
                pages={"The map from the paper": "paper", "Results": "results"},
                papers={"Crystals 2021": "equations 3 to 5, table 1"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** A metric tells you whether a change made the network better. First, predictions are matched
        to crystals, highest score first. A prediction is matched to the crystal with which its *mask* has the highest
        IoU (Crystals 2021, eq. 5), among the crystals not matched yet, if that IoU reaches a threshold. It is then a
        true positive (TP), and otherwise a false positive (FP). Crystals without a match are false negatives (FN).
        *Precision* and *recall* (eq. 3 and 4) are

        $$P = \frac{TP}{TP + FP}, \qquad R = \frac{TP}{TP + FN}$$

        Both depend on the score threshold. *Average precision* (AP) takes all score thresholds into account. Let $P_k$
        and $R_k$ be precision and recall of the $k$ predictions of highest score. AP is the area under the curve of
        precision against recall, where each precision is replaced by the highest one at the same or a higher recall:

        $$AP = \sum_k (R_k - R_{k-1}) \max_{j \ge k} P_j$$

        The paper's mAP is the mean of the AP of each *image*. COCO's AP takes the predictions of all images together,
        and averages over classes and ten IoU thresholds. The two numbers cannot be compared.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below:"),
            calls(picture, "match", "precision_recall", "average_precision"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    iou_threshold = mo.ui.slider(0.3, 0.95, step=0.05, value=0.5, label="IoU threshold", show_value=True)
    score = mo.ui.slider(0.0, 0.95, step=0.05, value=0.3, label="score threshold", show_value=True)
    shift = mo.ui.slider(0, 12, step=1, value=2, label="predictions moved by (pixels)", show_value=True)
    repeats = mo.ui.slider(0, 4, step=1, value=1, label="duplicates", show_value=True)
    mo.vstack(
        [
            mo.md("## Evaluate predictions\n\nBlue: true positives. Vermillion: false positives. White: the truth."),
            mo.hstack([iou_threshold, score, shift, repeats], wrap=True, justify="start"),
        ]
    )
    return iou_threshold, repeats, score, shift


@app.function(hide_code=True)
def moved(mask, right, down):
    """A mask moved by whole pixels; what leaves the image is cut off."""
    frame = np.zeros_like(mask)
    h, w = mask.shape
    rows, columns = slice(max(down, 0), h + min(down, 0)), slice(max(right, 0), w + min(right, 0))
    frame[rows, columns] = mask[max(-down, 0) : h - max(down, 0), max(-right, 0) : w - max(right, 0)]
    return frame


@app.function(hide_code=True)
def prediction(shift, repeats):
    """Predictions as of a network: masks a little off, the first crystal missed, some duplicates, and a false positive
    on a bubble.
    """
    masks = list(scene(SEED, light=0.2).masks[1:])
    found = [moved(mask, shift, (-1) ** i * shift // 2) for i, mask in enumerate(masks)]
    scores = [0.95 - 0.11 * i for i in range(len(found))]
    found += [moved(masks[i], -shift - 1, 1) for i in range(repeats)]
    scores += [0.88 - 0.12 * i for i in range(repeats)]
    bubble = np.zeros(masks[0].shape, np.uint8)
    cv2.circle(bubble, (230, 60), 14, 1, -1)
    return {"masks": np.array([*found, bubble > 0]), "classes": [1] * (len(found) + 1), "scores": [*scores, 0.66]}


@app.function(hide_code=True)
def truth():
    """The crystals in the form that `crystal.evaluation.metrics` takes."""
    masks = scene(SEED, light=0.2).masks
    return {"masks": masks, "classes": [1] * len(masks)}


@app.function(hide_code=True)
def over(predicted, lowest):
    """The predictions with at least this score."""
    keep = np.asarray(predicted["scores"]) >= lowest
    return {
        "masks": predicted["masks"][keep],
        "classes": [1] * int(keep.sum()),
        "scores": np.asarray(predicted["scores"])[keep],
    }


@app.function(hide_code=True)
def curve(found):
    """Recall and precision after each prediction, highest score first, and the highest precision from there on."""
    hit = found.truth >= 0
    n = np.arange(1, len(hit) + 1)
    precision = np.cumsum(hit) / n
    return np.cumsum(hit) / found.is_truth.sum(), precision, np.maximum.accumulate(precision[::-1])[::-1]


@app.function(hide_code=True)
def picture(iou_threshold, score, shift, repeats):
    """True and false positives; the precision-recall curve; AP against the IoU threshold."""
    drop, real, predicted = scene(SEED, light=0.2), truth(), prediction(shift, repeats)
    working = over(predicted, score)
    found = match(real, working, iou=iou_threshold)
    right = np.zeros(len(working["scores"]), bool)
    right[found.order] = found.truth >= 0
    colours = [(255, 255, 255)] * len(real["masks"])
    colours += [(86, 180, 233) if r else (213, 94, 0) for r in right]
    everything = np.concatenate([real["masks"], working["masks"]])
    labels = [""] * len(real["masks"]) + [f"{s:.2f}" for s in working["scores"]]
    outlined = draw_outlines(drop.image, everything, colours=colours, labels=labels, scale=2)
    p, r = precision_recall([real], [working], iou=iou_threshold)

    chart, axes = canvas()
    recall, precision, monotone = curve(match(real, predicted, iou=iou_threshold))
    axes.fill_between([0, *recall], [monotone[0], *monotone], step="pre", color=BLUE, alpha=0.2)
    axes.step([0, *recall], [monotone[0], *monotone], where="pre", color=BLUE, label="highest precision from there on")
    axes.plot(recall, precision, "o:", color=GREY, ms=4, label="precision")
    if not np.isnan(p):
        axes.plot([r], [p], "D", color=ORANGE, mec="black", ms=8, label="at the score threshold")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.05))
    axes.legend(frameon=False, loc="lower left", fontsize=8)
    ap = average_precision(real, predicted, iou=iou_threshold)

    against, axes = canvas()
    thresholds = np.arange(0.3, 1.0, 0.05)
    axes.plot(thresholds, [average_precision(real, predicted, iou=float(t)) for t in thresholds], color=BLUE)
    axes.plot([iou_threshold], [ap], "o", color=ORANGE, mec="black", ms=8)
    axes.set(xlabel="IoU threshold", ylabel="AP of this image", ylim=(0, 1.05))
    return {
        f"Score {score:.2f} or more: {right.sum()} true and {(~right).sum()} false positives. Precision {p:.2f}, "
        f"recall {r:.2f}": outlined,
        f"AP = {ap:.3f}: the shaded area": chart,
        "AP of the same predictions against the IoU threshold": against,
    }


@app.function(hide_code=True)
def ap_of(shift, threshold):
    """AP of the predictions moved by some pixels, with one duplicate, at an IoU threshold."""
    return average_precision(truth(), prediction(shift, 1), iou=threshold)


@app.cell(hide_code=True)
def _(iou_threshold, repeats, score, shift):
    panels(picture(iou_threshold.value, score.value, shift.value, repeats.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f""" Move the predictions by four pixels. To the eye they still look good, but the IoU of small crystals
                drops most, and AP falls from {ap_of(2, 0.5):.2f} (moved by two pixels) to {ap_of(4, 0.5):.2f} at an IoU
                threshold of 0.5, and to {ap_of(4, 0.75):.2f} at 0.75. The paper reports mAP at 0.50 and 0.65. An mAP
                says little without its IoU threshold.

                AP depends on the *order* of the predictions: a false positive whose score is below those of all true
                positives does not change it. If you count crystals, precision and recall at your score threshold matter
                more.
                """
            ),
            source(mask_iou, match, average_precision, paper_map, precision_recall),
        ]
    )
    return


@app.function(hide_code=True)
def careless():
    """Metrics of the same predictions with and without the rules of the evaluation."""
    real, predicted = truth(), prediction(2, 4)
    found = match(real, predicted, iou=0.5)
    best = mask_iou(predicted["masks"], real["masks"]).max(1)
    hits, n, g = int((found.truth >= 0).sum()), len(best), len(real["masks"])
    nothing = {"masks": np.zeros((0, *real["masks"].shape[1:]), bool), "classes": []}
    false_alarm = {"masks": predicted["masks"][-1:], "classes": [1], "scores": [0.9]}
    alone = average_precision(real, predicted, iou=0.5)
    shifted = average_precision(real, {**predicted, "classes": [2] * n}, iou=0.5)
    beside = paper_map([real, nothing], [predicted, false_alarm], iou=0.5)
    return table(
        ["metric", "value"],
        [
            ["precision", f"{hits / n:.2f}"],
            ["precision, if duplicates counted as true positives", f"{(best >= 0.5).sum() / n:.2f}"],
            ["recall", f"{hits / g:.2f}"],
            ["recall, if duplicates counted as true positives", f"{(best >= 0.5).sum() / g:.2f}"],
            ["AP", f"{alone:.2f}"],
            ["AP, if the class ids are off by one", f"{shifted:.2f}"],
            [
                "mAP with a second image, without crystals but with a false positive (the image is left out)",
                f"{beside:.2f}",
            ],
        ],
    )


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without the rules

                The most important rule is that a crystal is matched at most once. Without it, five detections of one
                crystal count like five crystals found.

                If **mAP is 0 while the loss falls**, the evaluation is more often wrong than the network. Check for
                class ids that are off by one, masks of another size than the true ones, boxes in pixels of the
                letterboxed image, and crowds treated as single crystals.
                """
            ),
            careless(),
            mo.md("## Exercises\n\n**1.** `my_iou(mask, other)`: the IoU of two masks, lists of rows of 0 and 1."),
        ]
    )
    return


@app.cell
def _():
    def my_iou(mask, other):
        """Pixels in both masks divided by pixels in at least one; 0 if both masks are empty."""
        return None  # your turn

    return (my_iou,)


@app.function(hide_code=True)
def check_iou(attempt):
    """Exercise 1 against `mask_iou`."""
    rng, cases = np.random.default_rng(0), []
    for a, b in [rng.integers(0, 2, (2, 3, 4)) for _ in range(3)] + [np.zeros((2, 2, 2), int), np.ones((2, 2, 2), int)]:
        cases.append(((a.tolist(), b.tolist()), float(mask_iou(a[None] > 0, b[None] > 0)[0, 0])))
    return grade(attempt, cases, hint="The IoU of two empty masks is 0.")


@app.function(hide_code=True)
def solve_iou(mask, other):
    """Pixels in both masks divided by pixels in at least one; 0 if both masks are empty."""
    a, b = np.array(mask) > 0, np.array(other) > 0
    either = (a | b).sum()
    return (a & b).sum() / either if either else 0.0


@app.cell(hide_code=True)
def _(my_iou):
    mo.vstack(
        [
            show(check_iou(my_iou)),
            solution(
                solve_iou,
                "This is the IoU of boxes with pixels in place of areas. Masks are stricter than boxes: the "
                "boxes of two needles that cross can agree almost perfectly while the needles share a few "
                "pixels only.",
            ),
            mo.md(
                "**2.** `my_match(overlap, threshold)`: for each prediction the index of its crystal, or -1 if it is "
                "not matched. `overlap[p][g]` is the IoU of prediction p, highest score first, with crystal g."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_match(overlap, threshold):
        """A list with the index of a crystal, or -1, for each prediction."""
        return None  # your turn

    return (my_match,)


@app.function(hide_code=True)
def check_match(attempt):
    """Exercise 2 against `match`, on stripes of pixels."""

    def stripe(low, high):
        return (np.arange(24) >= low) & (np.arange(24) < high)

    cases = []
    for found, real in (
        ([(0, 8), (0, 8), (12, 20)], [(0, 8), (12, 20)]),
        ([(2, 10), (0, 8)], [(0, 8), (5, 13)]),
        ([(0, 24), (14, 22)], [(2, 6), (14, 22)]),
    ):
        masks, crystals = (np.array([stripe(*s) for s in part])[:, None] for part in (found, real))
        overlap = mask_iou(masks, crystals).round(3).tolist()
        scores = np.linspace(0.9, 0.5, len(found))
        both = {"masks": crystals, "classes": [1] * len(real)}
        right = match(both, {"masks": masks, "classes": [1] * len(found), "scores": scores}, iou=0.5).truth
        cases.append(((overlap, 0.5), right))
    return grade(
        attempt,
        cases,
        hint="Of the crystals not matched yet, take the one of highest IoU, if that reaches the threshold.",
    )


@app.function(hide_code=True)
def solve_match(overlap, threshold):
    """A list with the index of a crystal, or -1, for each prediction."""
    matched, answer = set(), []
    for row in overlap:
        free = [crystal for crystal in range(len(row)) if crystal not in matched]
        best = max(free, key=lambda crystal: row[crystal], default=None)
        answer.append(best if best is not None and row[best] >= threshold else -1)
        matched.add(answer[-1])
    return answer


@app.cell(hide_code=True)
def _(my_match):
    mo.vstack(
        [
            show(check_match(my_match)),
            solution(
                solve_match,
                "Predictions choose in the order of their scores, and a crystal that is matched is no longer "
                "available. A prediction takes the best of the *remaining* crystals; if that IoU is too low "
                "it is a false positive, and it does not occupy a crystal.",
            ),
            mo.md(
                "**3.** `my_ap(hits, crystals)`: the AP of an image with so many crystals; `hits[k]` says whether "
                "prediction k, highest score first, is a true positive."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_ap(hits, crystals):
        """Average precision by the last equation."""
        return None  # your turn

    return (my_ap,)


@app.function(hide_code=True)
def check_ap(attempt):
    """Exercise 3 against `average_precision`, on crystals of one pixel."""
    cases = []
    for hits, crystals in (([True, False, True], 2), ([False, True], 1), ([False], 3), ([True, True, False, True], 5)):
        real = np.eye(crystals + len(hits), dtype=bool)[:crystals, None]
        columns = np.where(hits, np.cumsum(hits) - 1, crystals + np.arange(len(hits)))
        masks = np.eye(crystals + len(hits), dtype=bool)[columns, None]
        predicted = {"masks": masks, "classes": [1] * len(hits), "scores": np.linspace(0.9, 0.1, len(hits))}
        right = average_precision({"masks": real, "classes": [1] * crystals}, predicted, iou=0.5)
        cases.append(((hits, crystals), right))
    hint = "Recall rises by 1 / crystals at each hit; multiply that by the highest precision from there on."
    return grade(attempt, cases, hint=hint)


@app.function(hide_code=True)
def solve_ap(hits, crystals):
    """Average precision by the last equation."""
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k, hit in enumerate(hits) if hit) / crystals


@app.cell(hide_code=True)
def _(my_ap):
    mo.vstack(
        [
            show(check_ap(my_ap)),
            solution(
                solve_ap,
                "Recall rises only at a true positive, and by $1 / N$ for $N$ crystals; all other terms of "
                "the sum are 0. Crystals that are never found add nothing, so AP cannot exceed the highest "
                "recall.",
            ),
            mo.md("**Next:** lesson 12, speed."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
