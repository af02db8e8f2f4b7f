"""Of each lesson: two settings of its sliders that look different, and of each exercise a right and wrong solutions."""

import math

PICTURES = {}
SOLUTIONS = {}


def bilinear(grid, y, x):
    total = 0.0
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            total += value * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
    return total


def nearest(grid, y, x):
    return grid[round(y)][round(x)]


def positions(low, high, bins, samples):
    step = (high - low) / (bins * samples)
    return [low + (k + 0.5) * step for k in range(bins * samples)]


def positions_on_corners(low, high, bins, samples):
    n = bins * samples
    return [low + k * (high - low) / (n - 1) for k in range(n)]


def level(width, height):
    return min(max(math.floor(4 + math.log2(math.sqrt(width * height) / 224)), 2), 5)


def level_rounded(width, height):
    return min(max(round(4 + math.log2(math.sqrt(width * height) / 224)), 2), 5)


_BOX = dict(x1=1.3, y1=2.2, x2=8.7, y2=9.4, bins=3, samples=2, reduce="mean")
PICTURES[7] = _BOX, _BOX | {"x1": 1.8}
SOLUTIONS[7] = {
    "check_bilinear": (bilinear, nearest),
    "check_positions": (positions, positions_on_corners, lambda low, high, bins, samples: [low]),
    "check_level": (level, level_rounded),
}


# 1 boxes


def iou_of(box, other):
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    shared = width * height
    return shared / (area_of(box) + area_of(other) - shared)


def iou_without_floor(box, other):
    shared = (min(box[2], other[2]) - max(box[0], other[0])) * (min(box[3], other[3]) - max(box[1], other[1]))
    return shared / (area_of(box) + area_of(other) - shared)


def area_of(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def decoded(anchor, deltas):
    x1, y1, x2, y2 = anchor
    w, h = x2 - x1, y2 - y1
    x, y = (x1 + x2) / 2 + deltas[0] * w, (y1 + y2) / 2 + deltas[1] * h
    w, h = w * math.exp(deltas[2]), h * math.exp(deltas[3])
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def decoded_from_the_corner(anchor, deltas):
    x1, y1, x2, y2 = anchor
    w, h = x2 - x1, y2 - y1
    x, y = x1 + deltas[0] * w, y1 + deltas[1] * h
    return [x, y, x + w * math.exp(deltas[2]), y + h * math.exp(deltas[3])]


_MOVED = dict(right=8, down=-5, wider=1.2, taller=0.9)
PICTURES[1] = _MOVED, _MOVED | {"right": 20}
SOLUTIONS[1] = {
    "check_area": (area_of, lambda b: (b[2] - b[0]) * (b[3] - b[1])),
    "check_iou": (iou_of, iou_without_floor),
    "check_decode": (decoded, decoded_from_the_corner),
}


# 2 anchors


def anchor(size, ratio):
    w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
    return [-w / 2, -h / 2, w / 2, h / 2]


def anchor_turned(size, ratio):
    return anchor(size, 1 / ratio)


def count(height, width, strides, ratios):
    return sum(math.ceil(height / s) * math.ceil(width / s) * len(ratios) for s in strides)


def count_floored(height, width, strides, ratios):
    return sum((height // s) * (width // s) * len(ratios) for s in strides)


PICTURES[2] = dict(smallest=32, ratios="2, 1, 1/2", seed=3), dict(smallest=12, ratios="2, 1, 1/2", seed=3)
SOLUTIONS[2] = {
    "check_anchor": (anchor, anchor_turned),
    "check_count": (count, count_floored),
    "check_index": (
        lambda row, column, ratio, columns, ratios: (row * columns + column) * ratios + ratio,
        lambda row, column, ratio, columns, ratios: (column * columns + row) * ratios + ratio,
    ),
}


# 3 CLAHE


def clip_count(clip_limit, area):
    return max(math.floor(clip_limit * area / 256), 1) if clip_limit > 0 else area


def curve(levels):
    return [round(255 / len(levels) * sum(u <= v for u in levels)) for v in levels]


def blend(top_left, top_right, low_left, low_right, down, right):
    top = top_left * (1 - right) + top_right * right
    low = low_left * (1 - right) + low_right * right
    return top * (1 - down) + low * down


PICTURES[3] = dict(clip=2.0, tiles=8, light=0.9), dict(clip=3.0, tiles=8, light=0.9)
SOLUTIONS[3] = {
    "check_clip_count": (clip_count, lambda limit, area: limit * area / 256),
    "check_curve": (curve, lambda levels: [round(255 / len(levels) * sum(u < v for u in levels)) for v in levels]),
    "check_blend": (blend, lambda a, b, c, d, down, right: blend(a, c, b, d, down, right)),
}


# 4 backbone


def view(layers):
    seen, stride = 1, 1
    for kernel, step in layers:
        seen += (kernel - 1) * stride
        stride *= step
    return seen


PICTURES[4] = dict(seed=8, level=3, channel=0), dict(seed=8, level=3, channel=1)
SOLUTIONS[4] = {
    "check_sides": (
        lambda height, width: [(height // s, width // s) for s in (2, 4, 8, 16, 32)],
        lambda height, width: [(height // s, width // s) for s in (1, 2, 4, 8, 16)],
    ),
    "check_upsample": (
        lambda rows: [[v for v in row for _ in range(2)] for row in rows for _ in range(2)],
        lambda rows: [[v for v in row for _ in range(2)] for row in rows],
    ),
    "check_view": (view, lambda layers: 1 + sum(kernel - 1 for kernel, _ in layers)),
}


# 5 RPN


def labels(table):
    columns = list(zip(*table, strict=True))
    claims = {a for row in table if max(row) > 0 for a, value in enumerate(row) if value == max(row)}
    return [
        1 if a in claims or max(column) >= 0.7 else 0 if max(column) < 0.3 else -1 for a, column in enumerate(columns)
    ]


def labels_of_high_quality(table):
    return [1 if max(c) >= 0.7 else 0 if max(c) < 0.3 else -1 for c in zip(*table, strict=True)]


def smooth_l1(d, beta):
    return 0.5 * d * d / beta if abs(d) < beta else abs(d) - beta / 2


def entropy(logit, positive):
    z = -logit if positive else logit
    return max(z, 0) + math.log1p(math.exp(-abs(z)))


def entropy_overflowing(logit, positive):
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if positive else 1 - p)


_RULE = dict(positive=0.7, negative=0.3, low_quality=True, seed=9)
PICTURES[5] = _RULE, _RULE | {"low_quality": False}
SOLUTIONS[5] = {
    "check_labels": (labels, labels_of_high_quality),
    "check_smooth_l1": (smooth_l1, lambda d, beta: 0.5 * d * d if abs(d) < beta else abs(d) - 0.5),
    "check_entropy": (entropy, entropy_overflowing),
}


# 6 NMS


def greedy(overlap, scores, threshold):
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlap[i][k] <= threshold for k in kept):
            kept.append(i)
    return kept


def suppressed_by_anybody(overlap, scores, threshold):
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i for n, i in enumerate(order) if all(overlap[i][j] <= threshold for j in order[:n])]


PICTURES[6] = dict(threshold=0.5, score=0.0, seed=6), dict(threshold=0.8, score=0.0, seed=6)
SOLUTIONS[6] = {
    "check_nms": (greedy, suppressed_by_anybody),
    "check_round": (
        lambda s, keep: [not any(s[i][j] and keep[i] for i in range(len(keep))) for j in range(len(keep))],
        lambda s, keep: [not any(s[i][j] for i in range(len(keep))) for j in range(len(keep))],
    ),
}


# 8 heads


def cross_entropy(logits, true_class):
    top = max(logits)
    return top + math.log(sum(math.exp(z - top) for z in logits)) - logits[true_class]


def mask_loss(logits, target, true_class):
    cells = [
        entropy(cell[true_class], wanted > 0.5)
        for row, answers in zip(logits, target, strict=True)
        for cell, wanted in zip(row, answers, strict=True)
    ]
    return sum(cells) / len(cells)


def mask_loss_of_all_classes(logits, target, true_class):
    return sum(mask_loss(logits, target, k) for k in range(len(logits[0][0])))


_PROPOSAL = dict(right=7, down=-5, size=1.15, crystal=0)
PICTURES[8] = _PROPOSAL, _PROPOSAL | {"right": 12}
SOLUTIONS[8] = {
    "check_cross_entropy": (
        cross_entropy,
        lambda logits, k: -math.log(math.exp(logits[k]) / sum(map(math.exp, logits))),
    ),
    "check_mask_loss": (mask_loss, mask_loss_of_all_classes),
}


# 9 network


def letterboxed(height, width, size):
    scale = min(size / height, size / width)
    return scale, (size - round(width * scale)) // 2, (size - round(height * scale)) // 2


def candidates(probabilities, least):
    pairs = [(p, k) for p, row in enumerate(probabilities) for k, value in enumerate(row) if k and value >= least]
    return sorted(pairs, key=lambda pair: -probabilities[pair[0]][pair[1]])


PICTURES[9] = dict(seed=8, score=0.5, count=40), dict(seed=8, score=0.3, count=40)
SOLUTIONS[9] = {
    "check_letterbox": (letterboxed, lambda h, w, size: (max(size / h, size / w), 0, 0)),
    "check_candidates": (
        candidates,
        lambda probabilities, least: [(p, 1) for p, row in enumerate(probabilities) if row[1] >= least],
    ),
}


# 10 training


def rate(step, rate, steps, warmup):
    if step < warmup:
        return rate * step / warmup
    return rate / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def clipped(gradients, longest):
    norm = math.sqrt(sum(v * v for g in gradients for v in g))
    return [[v * min(1, longest / norm) for v in g] for g in gradients]


def clipped_one_by_one(gradients, longest):
    return [clipped([g], longest)[0] if any(g) else g for g in gradients]


PICTURES[10] = dict(step=6, seed=6, score=0.5), dict(step=0, seed=6, score=0.5)
SOLUTIONS[10] = {
    "check_rate": (rate, lambda step, rate, steps, warmup: rate / 2 * (1 + math.cos(math.pi * step / steps))),
    "check_clip": (clipped, clipped_one_by_one),
}


# 11 metrics


def mask_overlap(mask, other):
    pairs = [(a, b) for row, across in zip(mask, other, strict=True) for a, b in zip(row, across, strict=True)]
    either = sum(bool(a or b) for a, b in pairs)
    return sum(bool(a and b) for a, b in pairs) / either if either else 0.0


def matching(overlap, threshold):
    taken, answer = set(), []
    for row in overlap:
        free = [g for g in range(len(row)) if g not in taken]
        best = max(free, key=lambda g: row[g], default=None)
        answer.append(best if best is not None and row[best] >= threshold else -1)
        taken.add(answer[-1])
    return answer


def matching_without_memory(overlap, threshold):
    return [row.index(max(row)) if max(row) >= threshold else -1 for row in overlap]


def average(hits, crystals):
    precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    return sum(max(precision[n:]) for n, hit in enumerate(hits) if hit) / crystals


_JUDGED = dict(iou_threshold=0.5, score=0.3, shift=2, repeats=1)
PICTURES[11] = _JUDGED, _JUDGED | {"shift": 6}
SOLUTIONS[11] = {
    "check_iou": (mask_overlap, lambda mask, other: sum(map(sum, mask)) / max(1, sum(map(sum, other)))),
    "check_match": (matching, matching_without_memory),
    "check_ap": (average, lambda hits, crystals: sum(hits) / crystals),
}


# 12 speed


def pad(boxes, slots):
    rows = [[*box, 1] for box in boxes[:slots]]
    return rows + [[0.0] * 5] * (slots - len(rows))


def valid_mean(values, valid):
    kept = [v for v, ok in zip(values, valid, strict=True) if ok]
    return sum(kept) / max(1, len(kept))


PICTURES[12] = dict(slots=24, batch=4), dict(slots=8, batch=4)
SOLUTIONS[12] = {
    "check_pad": (pad, lambda boxes, slots: [[*box, 1] for box in boxes]),
    "check_masked_mean": (
        valid_mean,
        lambda values, valid: sum(v * ok for v, ok in zip(values, valid, strict=True)) / max(1, sum(valid)),
    ),
    "check_flops": (
        lambda h, w, kernel, i, o, stride: 2 * kernel * kernel * i * o * (h // stride) * (w // stride),
        lambda h, w, kernel, i, o, stride: kernel * kernel * i * o * (h // stride) * (w // stride),
    ),
}
