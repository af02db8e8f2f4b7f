"""Of each lesson: two settings of its sliders that look different, and of each exercise wrong solutions.

The right ones are shown in the lessons: `solve_area` is that of `check_area`.
"""

import math

PICTURES = {}
WRONG = {}


# 1 boxes


def iou_without_floor(box, other):
    shared = (min(box[2], other[2]) - max(box[0], other[0])) * (min(box[3], other[3]) - max(box[1], other[1]))
    return shared / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)) - shared)


def decoded_from_the_corner(anchor, deltas):
    x1, y1, x2, y2 = anchor
    w, h = x2 - x1, y2 - y1
    x, y = x1 + deltas[0] * w, y1 + deltas[1] * h
    return [x, y, x + w * math.exp(deltas[2]), y + h * math.exp(deltas[3])]


_MOVED = dict(right=8, down=-5, wider=1.2, taller=0.9)
PICTURES[1] = _MOVED, _MOVED | {"right": 20}
WRONG[1] = {
    "check_area": [lambda b: (b[2] - b[0]) * (b[3] - b[1])],
    "check_iou": [iou_without_floor],
    "check_decode": [decoded_from_the_corner],
}


# 2 anchors


def anchor_turned(size, ratio):
    w, h = size * math.sqrt(ratio), size / math.sqrt(ratio)
    return [-w / 2, -h / 2, w / 2, h / 2]


def count_floored(height, width, strides, ratios):
    return sum((height // s) * (width // s) * len(ratios) for s in strides)


PICTURES[2] = dict(smallest=32, ratios="2, 1, 1/2", seed=3), dict(smallest=12, ratios="2, 1, 1/2", seed=3)
WRONG[2] = {
    "check_anchor": [anchor_turned],
    "check_count": [count_floored],
    "check_index": [lambda row, column, ratio, columns, ratios: (column * columns + row) * ratios + ratio],
}


# 3 CLAHE


def blend_turned(top_left, top_right, low_left, low_right, down, right):
    left = top_left * (1 - right) + low_left * right
    return left * (1 - down) + (top_right * (1 - right) + low_right * right) * down


PICTURES[3] = dict(clip=2.0, tiles=8, light=0.9), dict(clip=3.0, tiles=8, light=0.9)
WRONG[3] = {
    "check_clip_count": [lambda limit, area: limit * area / 256],
    "check_curve": [lambda levels: [round(255 / len(levels) * sum(u < v for u in levels)) for v in levels]],
    "check_blend": [blend_turned],
}


# 4 backbone


PICTURES[4] = dict(seed=8, level=3, channel=0), dict(seed=8, level=3, channel=1)
WRONG[4] = {
    "check_sides": [lambda height, width: [(height // s, width // s) for s in (1, 2, 4, 8, 16)]],
    "check_upsample": [lambda rows: [[v for v in row for _ in range(2)] for row in rows]],
    "check_view": [lambda layers: 1 + sum(kernel - 1 for kernel, _ in layers)],
}


# 5 RPN


def labels_of_high_quality(table):
    return [1 if max(c) >= 0.7 else 0 if max(c) < 0.3 else -1 for c in zip(*table, strict=True)]


def entropy_overflowing(logit, positive):
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if positive else 1 - p)


_RULE = dict(positive=0.7, negative=0.3, low_quality=True, seed=9)
PICTURES[5] = _RULE, _RULE | {"low_quality": False}
WRONG[5] = {
    "check_labels": [labels_of_high_quality],
    "check_smooth_l1": [lambda d, beta: 0.5 * d * d if abs(d) < beta else abs(d) - 0.5],
    "check_entropy": [entropy_overflowing],
}


# 6 NMS


def suppressed_by_anybody(overlap, scores, threshold):
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i for n, i in enumerate(order) if all(overlap[i][j] <= threshold for j in order[:n])]


PICTURES[6] = dict(threshold=0.5, score=0.0, seed=6), dict(threshold=0.8, score=0.0, seed=6)
WRONG[6] = {
    "check_nms": [suppressed_by_anybody],
    "check_round": [lambda s, keep: [not any(s[i][j] for i in range(len(keep))) for j in range(len(keep))]],
}


# 7 RoI Align


def positions_on_corners(low, high, bins, samples):
    n = bins * samples
    return [low + k * (high - low) / (n - 1) for k in range(n)]


_BOX = dict(x1=1.3, y1=2.2, x2=8.7, y2=9.4, bins=3, samples=2, reduce="mean")
PICTURES[7] = _BOX, _BOX | {"x1": 1.8}
WRONG[7] = {
    "check_bilinear": [lambda grid, y, x: grid[round(y)][round(x)]],
    "check_positions": [positions_on_corners, lambda low, high, bins, samples: [low]],
    "check_level": [lambda width, height: min(max(round(4 + math.log2(math.sqrt(width * height) / 224)), 2), 5)],
}


# 8 heads


def mask_loss_of_all_classes(logits, target, true_class):
    return sum(
        math.log1p(math.exp(-z if wanted > 0.5 else z))
        for row, answers in zip(logits, target, strict=True)
        for cell, wanted in zip(row, answers, strict=True)
        for z in cell
    ) / (len(target) * len(target[0]))


_PROPOSAL = dict(right=7, down=-5, size=1.15, crystal=0)
PICTURES[8] = _PROPOSAL, _PROPOSAL | {"right": 12}
WRONG[8] = {
    "check_cross_entropy": [lambda logits, k: -math.log(math.exp(logits[k]) / sum(map(math.exp, logits)))],
    "check_mask_loss": [mask_loss_of_all_classes],
}


# 9 network


PICTURES[9] = dict(seed=8, score=0.5, count=40), dict(seed=8, score=0.3, count=40)
WRONG[9] = {
    "check_letterbox": [lambda h, w, size: (max(size / h, size / w), 0, 0)],
    "check_candidates": [
        lambda probabilities, least: [(p, 1) for p, row in enumerate(probabilities) if row[1] >= least]
    ],
}


# 10 training


def clipped_one_by_one(gradients, longest):
    norms = [math.hypot(*gradient) for gradient in gradients]
    return [[v * min(1, longest / n) if n else v for v in g] for g, n in zip(gradients, norms, strict=True)]


PICTURES[10] = dict(step=6, seed=6, score=0.5), dict(step=0, seed=6, score=0.5)
WRONG[10] = {
    "check_rate": [lambda step, rate, steps, warmup: rate / 2 * (1 + math.cos(math.pi * step / steps))],
    "check_clip": [clipped_one_by_one],
}


# 11 metrics


def matching_without_memory(overlap, threshold):
    return [row.index(max(row)) if max(row) >= threshold else -1 for row in overlap]


_JUDGED = dict(iou_threshold=0.5, score=0.3, shift=2, repeats=1)
PICTURES[11] = _JUDGED, _JUDGED | {"shift": 6}
WRONG[11] = {
    "check_iou": [lambda mask, other: sum(map(sum, mask)) / max(1, sum(map(sum, other)))],
    "check_match": [matching_without_memory],
    "check_ap": [lambda hits, crystals: sum(hits) / crystals],
}


# 12 speed


def sum_of_all(values, valid):
    return sum(v * ok for v, ok in zip(values, valid, strict=True)) / max(1, sum(valid))


PICTURES[12] = dict(slots=24, batch=4), dict(slots=8, batch=4)
WRONG[12] = {
    "check_pad": [lambda boxes, slots: [[*box, 1] for box in boxes]],
    "check_masked_mean": [sum_of_all],
    "check_flops": [lambda h, w, kernel, i, o, stride: kernel * kernel * i * o * (h // stride) * (w // stride)],
}


# 13 data


_SHOWN = dict(seed=8, number=3, cells=28, strength=1.0)
PICTURES[13] = _SHOWN, _SHOWN | {"number": 4}
WRONG[13] = {
    "check_mirror": [lambda box, width: [width - box[0], box[1], width - box[2], box[3]]],
    "check_box": [lambda mask: [min(r.index(1) for r in mask if 1 in r), 0, len(mask[0]) - 1, len(mask) - 1]],
    "check_cell": [lambda x, x1, x2, m: round((x - x1) / (x2 - x1) * m)],
}


# 14 weights


def lengths_of_inputs(kernel):
    return [math.sqrt(sum(v * v for v in kernel[..., k, :].ravel())) for k in range(kernel.shape[2])]


_WEIGHTS = dict(part="backbone", weak=0.5, shift=0)
PICTURES[14] = _WEIGHTS, _WEIGHTS | {"shift": -3}
WRONG[14] = {
    "check_deviation": [lambda kernel, inputs: math.sqrt(2 / (kernel * inputs))],
    "check_norms": [lengths_of_inputs],
    "check_dead": [lambda responses: [k for k in range(len(responses[0])) if responses[0][k] <= 0]],
}


# 15 tiles


PICTURES[15] = dict(zooms="1, 2", score=0.4, crystal=5), dict(zooms="1", score=0.4, crystal=5)
WRONG[15] = {
    "check_side": [lambda side, height, width, zoom: zoom * side * 320 / width],
    "check_tiles": [lambda zoom, overlap: zoom * zoom],
    "check_merge": [lambda iou, views: [i for i in range(len(iou)) if all(iou[i][k] < 0.5 for k in range(i))]],
}


# 16 fine-tuning


_READ = dict(drop=0, score=0.5, window=10)
PICTURES[16] = _READ, _READ | {"drop": 1}
WRONG[16] = {
    "check_coco_box": [lambda points: [*map(min, zip(*points, strict=True)), *map(max, zip(*points, strict=True))]],
    "check_mean": [lambda values, n: [sum(values[t : t + n]) / len(values[t : t + n]) for t in range(len(values))]],
}
