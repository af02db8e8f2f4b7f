"""Slow, obvious NumPy: what every component must equal. Read these first; they import nothing of the packages."""

import numpy as np

# ---------------------------------------------------------------------------------------------------------------------
# Image: CLAHE, equalisation, resampling
# ---------------------------------------------------------------------------------------------------------------------


def equalize(image):
    """Histogram equalisation of a grey image, pixel by pixel."""
    counts = [int((image == level).sum()) for level in range(256)]
    darkest = next(level for level in range(256) if counts[level])
    above = image.size - counts[darkest]
    if above == 0:
        return image.copy()
    result = np.zeros_like(image)
    for y, x in np.ndindex(image.shape):
        up_to = sum(counts[darkest + 1 : int(image[y, x]) + 1])
        result[y, x] = np.rint(np.float32(up_to) * (np.float32(255) / np.float32(above)))
    return result


def clahe(image, clip_limit, tiles):
    """CLAHE in OpenCV's arithmetic: float32, every product and sum rounded on its own."""
    f = np.float32
    height, width = image.shape
    rows, columns = tiles
    padded = image
    if height % rows or width % columns:
        padded = np.pad(image, ((0, rows - height % rows), (0, columns - width % columns)), mode="reflect")
    tall, wide = padded.shape[0] // rows, padded.shape[1] // columns
    area = tall * wide

    curves = np.zeros((rows, columns, 256), np.uint8)
    for row in range(rows):
        for column in range(columns):
            tile = padded[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
            counts = [0] * 256
            for level in tile.ravel():
                counts[level] += 1
            if clip_limit > 0:
                most = max(int(clip_limit * area / 256), 1)
                excess = sum(max(count - most, 0) for count in counts)
                counts = [min(count, most) + excess // 256 for count in counts]
                left = excess % 256
                for i in range(left):
                    counts[i * max(256 // left, 1)] += 1
            total = 0
            for level in range(256):
                total += counts[level]
                curves[row, column, level] = min(np.rint(f(total) * (f(255) / f(area))), 255)

    result = np.zeros_like(image)
    for y, x in np.ndindex(image.shape):
        down, right = f(y) * (f(1) / f(tall)) - f(0.5), f(x) * (f(1) / f(wide)) - f(0.5)
        top, left = int(np.floor(down)), int(np.floor(right))
        down, right = down - f(top), right - f(left)

        def corner(row, column, level=image[y, x]):
            return f(curves[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1), level])

        above = corner(top, left) * (f(1) - right) + corner(top, left + 1) * right
        below = corner(top + 1, left) * (f(1) - right) + corner(top + 1, left + 1) * right
        result[y, x] = np.rint(above * (f(1) - down) + below * down)
    return result


def rgb_to_lab(colour):
    """CIE L*, a*, b* of one sRGB colour in bytes (D65, CIE 1976), scaled to bytes: L * 255 / 100, a + 128, b + 128."""
    linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in map(int, colour)]
    red, green, blue = linear
    x = (0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.950456
    y = 0.212671 * red + 0.715160 * green + 0.072169 * blue
    z = (0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.088754
    f_x, f_y, f_z = (t ** (1 / 3) if t > 216 / 24389 else 841 / 108 * t + 16 / 116 for t in (x, y, z))
    return np.array([(116 * f_y - 16) * 255 / 100, 500 * (f_x - f_y) + 128, 200 * (f_y - f_z) + 128])


def resize_linear(image, height, width, *, repeat_edges):
    """Linear interpolation of a grey image between the four nearest pixel centres; in float64."""
    old_height, old_width = image.shape

    def pixel(y, x):
        if repeat_edges:
            y, x = min(max(y, 0), old_height - 1), min(max(x, 0), old_width - 1)
        inside = 0 <= y < old_height and 0 <= x < old_width
        return float(image[y, x]) if inside else 0.0

    result = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        y, x = (i + 0.5) * old_height / height - 0.5, (j + 0.5) * old_width / width - 0.5
        top, left = int(np.floor(y)), int(np.floor(x))
        for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
            for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
                result[i, j] += pixel(row, column) * row_weight * column_weight
    return result


def resize_area(image, height, width):
    """Mean of a grey image over each new pixel's footprint; in float64."""
    tall, wide = image.shape[0] / height, image.shape[1] / width
    result = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        for y, x in np.ndindex(image.shape):
            covered_y = max(min((i + 1) * tall, y + 1) - max(i * tall, y), 0)
            covered_x = max(min((j + 1) * wide, x + 1) - max(j * wide, x), 0)
            result[i, j] += float(image[y, x]) * covered_y * covered_x / (tall * wide)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation: mask IoU, average precision of one image
# ---------------------------------------------------------------------------------------------------------------------


def mask_iou(a, b):
    """IoU of each of the masks a [n, h, w] with each of b [m, h, w]."""
    result = np.zeros((len(a), len(b)))
    for i, j in np.ndindex(len(a), len(b)):
        union = np.logical_or(a[i], b[j]).sum()
        result[i, j] = np.logical_and(a[i], b[j]).sum() / union if union else 0.0
    return result


def image_average_precision(truth, prediction, iou):
    """AP of one image without crowds, by walking down the ranking and integrating recall step by step."""
    overlaps = mask_iou(prediction["masks"], truth["masks"])
    g = len(truth["classes"])
    matched = set()
    points = [(0.0, 0.0)]  # (recall, precision) after each prediction
    ranking = sorted(range(len(prediction["scores"])), key=lambda i: -prediction["scores"][i])
    for n, i in enumerate(ranking, start=1):
        best = None
        for j in range(g):
            allowed = j not in matched and prediction["classes"][i] == truth["classes"][j] and overlaps[i, j] >= iou
            if allowed and (best is None or overlaps[i, j] > overlaps[i, best]):
                best = j
        if best is not None:
            matched.add(best)
        points.append((len(matched) / g, len(matched) / n))
    area = 0.0
    for k in range(1, len(points)):
        best_later = max(precision for _, precision in points[k:])
        area += (points[k][0] - points[k - 1][0]) * best_later
    return area


def paper_numbers(truths, predictions, iou):
    """(mAP over the images with ground truth, precision, recall); nan where there is nothing to divide by."""
    values, hits, predicted, true = [], 0, 0, 0
    for truth, prediction in zip(truths, predictions, strict=True):
        if len(truth["classes"]):
            values.append(image_average_precision(truth, prediction, iou))
        overlaps, matched = mask_iou(prediction["masks"], truth["masks"]), set()
        for i in sorted(range(len(prediction["scores"])), key=lambda i: -prediction["scores"][i]):
            same = [j for j in range(len(truth["classes"])) if truth["classes"][j] == prediction["classes"][i]]
            free = [j for j in same if j not in matched and overlaps[i, j] >= iou]
            if free:
                matched.add(max(free, key=lambda j: overlaps[i, j]))
        hits, predicted, true = hits + len(matched), predicted + len(prediction["scores"]), true + len(truth["classes"])
    nan = float("nan")
    return (
        sum(values) / len(values) if values else nan,
        hits / predicted if predicted else nan,
        hits / true if true else nan,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Boxes: area, overlap, coding, matching, suppression. A box is x1, y1, x2, y2.
# ---------------------------------------------------------------------------------------------------------------------


def box_area(box):
    """Width times height; 0 where a side is negative."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)


def box_iou(a, b):
    """IoU of every pair, [n, m]."""
    table = np.zeros((len(a), len(b)))
    for i, (ax1, ay1, ax2, ay2) in enumerate(np.asarray(a, float)):
        for j, (bx1, by1, bx2, by2) in enumerate(np.asarray(b, float)):
            width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
            shared = width * height if width > 0 and height > 0 else 0.0
            union = box_area(a[i]) + box_area(b[j]) - shared
            table[i, j] = shared / union if union > 0 else 0.0
    return table


def clip_boxes(boxes, window):
    """Every corner moved into the window x1, y1, x2, y2."""
    result = np.array(boxes, float)
    for box in result:
        for i in range(4):
            low, high = window[i % 2], window[2 + i % 2]
            box[i] = min(max(box[i], low), high)
    return result


def encode_boxes(boxes, anchors, weights):
    """Deltas that move each anchor onto its box."""
    rows = []
    for (x1, y1, x2, y2), (ax1, ay1, ax2, ay2) in zip(
        np.asarray(boxes, float), np.asarray(anchors, float), strict=True
    ):
        width, height, anchor_width, anchor_height = x2 - x1, y2 - y1, ax2 - ax1, ay2 - ay1
        rows.append(
            [
                weights[0] * ((x1 + x2) / 2 - (ax1 + ax2) / 2) / anchor_width,
                weights[1] * ((y1 + y2) / 2 - (ay1 + ay2) / 2) / anchor_height,
                weights[2] * np.log(width / anchor_width),
                weights[3] * np.log(height / anchor_height),
            ]
        )
    return np.array(rows).reshape(-1, 4)


def decode_boxes(deltas, anchors, weights, max_log_scale=None):
    """Anchors moved by deltas."""
    rows = []
    for delta, (ax1, ay1, ax2, ay2) in zip(np.asarray(deltas, float), np.asarray(anchors, float), strict=True):
        dx, dy, dw, dh = delta / np.array(weights, float)
        if max_log_scale is not None:
            dw, dh = min(dw, max_log_scale), min(dh, max_log_scale)
        x, y = (ax1 + ax2) / 2 + dx * (ax2 - ax1), (ay1 + ay2) / 2 + dy * (ay2 - ay1)
        width, height = np.exp(dw) * (ax2 - ax1), np.exp(dh) * (ay2 - ay1)
        rows.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return np.array(rows).reshape(-1, 4)


def match_table(iou, positive_iou, negative_iou, allow_low_quality, gt_valid):
    """(best ground truth, label) of every column of an IoU table [g, n]; label 1, 0, or -1 = ignored."""
    g, n = iou.shape
    best, label = np.zeros(n, int), np.zeros(n, int)
    rows = [i for i in range(g) if gt_valid[i]]
    for j in range(n):
        if not rows:
            continue
        best[j] = max(rows, key=lambda i: (iou[i, j], -i))
        overlap = iou[best[j], j]
        label[j] = 1 if overlap >= positive_iou else 0 if overlap < negative_iou else -1
    if allow_low_quality:
        for i in rows:
            most = max(iou[i])
            for j in range(n):
                if most > 0 and iou[i, j] == most:
                    label[j] = 1
    return best, label


def greedy_nms(boxes, scores, iou_threshold, valid=None, groups=None):
    """Indices that survive, best first; equal scores: the lower index first. The overlaps are taken in the precision of
    the boxes, because a threshold hit exactly should not be decided by another rounding.
    """
    boxes = np.asarray(boxes)
    order = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))
    kept = []
    for i in order:
        if (valid is not None and not valid[i]) or np.isnan(scores[i]):
            continue
        for j in kept:
            if groups is not None and groups[i] != groups[j]:
                continue
            width = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            height = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            if width <= 0 or height <= 0:
                continue
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])]
            if width * height / (areas[0] + areas[1] - width * height) > iou_threshold:
                break
        else:
            kept.append(i)
    return kept


# ---------------------------------------------------------------------------------------------------------------------
# RPN: anchors, labels, proposals
# ---------------------------------------------------------------------------------------------------------------------


def anchor_grid(height, width, strides, sizes, ratios):
    """Anchors by level, row, column, ratio = height / width; centres at whole multiples of the stride."""
    boxes = []
    for stride, size in zip(strides, sizes, strict=True):
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                for ratio in ratios:
                    w, h = size / ratio**0.5, size * ratio**0.5
                    boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(boxes)


def rpn_labels(anchors, gt_boxes, gt_valid, gt_crowd, positive_iou, negative_iou, crowd_iou):
    """Label of every anchor: an object's, background, or ignored because it is in between or within a crowd. IoUs are
    rounded to float32, so that those equal there are ties here too.
    """
    table = box_iou(gt_boxes, anchors).astype(np.float32)
    best, label = match_table(table, positive_iou, negative_iou, True, gt_valid & ~gt_crowd)
    for j in range(len(anchors)):
        for i in range(len(gt_boxes)):
            if gt_valid[i] and gt_crowd[i] and table[i, j] >= crowd_iou and label[j] == 0:
                label[j] = -1
    return best, label


def propose(logits, deltas, anchors, window, level_sizes, before_nms, after_nms, nms_iou, min_side, weights, limit):
    """(boxes, scores) of the proposals, best first, each level ranked and suppressed alone."""
    found, start = [], 0
    for size in level_sizes:
        level = range(start, start + size)
        best = sorted(level, key=lambda i: (-float(logits[i]), i))[:before_nms]
        boxes = clip_boxes(decode_boxes(deltas[best], anchors[best], weights, limit), window)
        large = [i for i in range(len(best)) if min(boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]) >= min_side]
        kept = greedy_nms(boxes[large], logits[best][large], nms_iou)[:after_nms]
        found += [(-float(logits[best[large[i]]]), best[large[i]], boxes[large[i]]) for i in kept]
        start += size
    found.sort(key=lambda f: f[:2])
    found = found[:after_nms]
    return np.array([f[2] for f in found]).reshape(-1, 4), np.array([-f[0] for f in found])


# ---------------------------------------------------------------------------------------------------------------------
# RoI: alignment, levels, detections, pasting
# ---------------------------------------------------------------------------------------------------------------------


def bilinear(features, y, x):
    """Value between the four cells around (y, x), where whole numbers are cells; inside the map only."""
    height, width = features.shape[:2]
    top, left = int(np.floor(y)), int(np.floor(x))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    upper = (1 - along) * features[top, left] + along * features[top, right]
    lower = (1 - along) * features[bottom, left] + along * features[bottom, right]
    return (1 - down) * upper + down * lower


def roi_align(features, boxes, output_size, spatial_scale, sampling_ratio, aligned, reduce="mean", max_samples=10**9):
    """Samples at the middles of equal parts of each bin; 0 more than a cell outside, else moved onto the border."""
    height, width, channels = features.shape
    result = np.zeros((len(boxes), output_size, output_size, channels))
    for r, box in enumerate(np.asarray(boxes, float)):
        x1, y1, x2, y2 = box * spatial_scale - (0.5 if aligned else 0.0)
        bin_w, bin_h = (x2 - x1) / output_size, (y2 - y1) / output_size
        if not aligned:
            bin_w, bin_h = max(x2 - x1, 1.0) / output_size, max(y2 - y1, 1.0) / output_size
        down = sampling_ratio or min(max(int(np.ceil(bin_h)), 0), max_samples)
        along = sampling_ratio or min(max(int(np.ceil(bin_w)), 0), max_samples)
        for i, j in np.ndindex(output_size, output_size):
            values = []
            for s, t in np.ndindex(down, along):
                y, x = y1 + (i + (s + 0.5) / down) * bin_h, x1 + (j + (t + 0.5) / along) * bin_w
                if y < -1 or y > height or x < -1 or x > width:
                    values.append(np.zeros(channels))
                else:
                    values.append(bilinear(features, min(max(y, 0), height - 1), min(max(x, 0), width - 1)))
            if values:
                result[r, i, j] = np.max(values, axis=0) if reduce == "max" else np.mean(values, axis=0)
    return result


def crop_and_resize(features, boxes01, output_size):
    """One sample a bin, the outer ones on the box's borders; 0 outside the map."""
    height, width, channels = features.shape
    result = np.zeros((len(boxes01), output_size, output_size, channels))
    for r, (x1, y1, x2, y2) in enumerate(np.asarray(boxes01, float)):
        for i, j in np.ndindex(output_size, output_size):
            down, along = (i / (output_size - 1), j / (output_size - 1)) if output_size > 1 else (0.5, 0.5)
            y, x = (y1 + down * (y2 - y1)) * (height - 1), (x1 + along * (x2 - x1)) * (width - 1)
            if 0 <= y <= height - 1 and 0 <= x <= width - 1:
                result[r, i, j] = bilinear(features, y, x)
    return result


def pyramid_level(box, rounding):
    """FPN equation 1 for levels 2 to 5."""
    size = np.sqrt(box_area(box))
    if size == 0:
        return 2
    level = 4 + np.log2(size / 224)
    level = np.floor(level) if rounding == "floor" else np.rint(level)
    return int(min(max(level, 2), 5))


def detections(logits, deltas, boxes, valid, window, one_class, score_threshold, nms_iou, count, weights):
    """(boxes, classes, scores), best first: every class of every RoI, or its best alone; suppressed class by class."""
    found = []
    for r in range(len(boxes)):
        probabilities = np.exp(logits[r] - logits[r].max())
        probabilities /= probabilities.sum()
        for k in range(1, logits.shape[1]):
            if not valid[r] or probabilities[k] < score_threshold or (one_class and k != probabilities.argmax()):
                continue
            box = clip_boxes(decode_boxes(deltas[r, k][None], boxes[r][None], weights, np.log(1000 / 16)), window)[0]
            found.append((box, k, probabilities[k]))
    kept = greedy_nms([f[0] for f in found], [f[2] for f in found], nms_iou, groups=[f[1] for f in found])[:count]
    return [found[i] for i in kept]


def paste_mask(mask, box, height, width, border):
    """Pixels of a full frame whose centres lie in the box and where the mask, stretched over it, is 0.5 or more."""
    cells = len(mask)
    x1, y1, x2, y2 = (float(v) for v in box)
    frame = np.zeros((height, width), bool)
    ring = np.pad(mask, 1, mode="edge" if border == "edge" else "constant")
    for row, column in np.ndindex(height, width):
        y, x = row + 0.5, column + 0.5
        if x1 <= x < x2 and y1 <= y < y2:
            v, u = (y - y1) / (y2 - y1) * cells - 0.5, (x - x1) / (x2 - x1) * cells - 0.5
            frame[row, column] = bilinear(ring, v + 1, u + 1) >= 0.5
    return frame


# ---------------------------------------------------------------------------------------------------------------------
# Layers and losses
# ---------------------------------------------------------------------------------------------------------------------


def conv2d(features, kernel, stride, padding, bias=None):
    """Cross-correlation of [h, w, i] with [kh, kw, i, o], zeros around."""
    (top, bottom), (left, right) = padding
    padded = np.pad(np.asarray(features, float), ((top, bottom), (left, right), (0, 0)))
    kh, kw, _, outputs = kernel.shape
    height, width = (padded.shape[0] - kh) // stride + 1, (padded.shape[1] - kw) // stride + 1
    result = np.zeros((height, width, outputs))
    for i, j in np.ndindex(height, width):
        patch = padded[i * stride : i * stride + kh, j * stride : j * stride + kw]
        for o in range(outputs):
            result[i, j, o] = (patch * kernel[..., o]).sum()
    return result if bias is None else result + bias


def group_norm(features, group_size, scale, shift, epsilon):
    """[h, w, c] less its mean over rows, columns and the channels of a group, over its standard deviation."""
    result = np.zeros(features.shape)
    for start in range(0, features.shape[-1], group_size):
        group = features[..., start : start + group_size].astype(float)
        result[..., start : start + group_size] = (group - group.mean()) / np.sqrt(group.var() + epsilon)
    return result * scale + shift


def smooth_l1(difference, beta):
    """0.5 d^2 / beta near 0, |d| - beta / 2 far from it."""
    d = abs(float(difference))
    return 0.5 * d * d / beta if d < beta else d - 0.5 * beta


def binary_cross_entropy(logit, target):
    """-log of the probability that the sigmoid gives to the target; without overflow."""
    return max(float(logit), 0.0) - float(logit) * float(target) + np.log1p(np.exp(-abs(float(logit))))


def cross_entropy(logits, target):
    """-log of the probability that the softmax gives to the target class."""
    logits = np.asarray(logits, float)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


def rpn_losses(objectness, deltas, index, positive, valid, targets, class_divisor, box_divisor, beta):
    """(class, box) of a batch, summed anchor by anchor."""
    total_class = total_box = 0.0
    for b, s in np.ndindex(index.shape):
        if valid[b, s]:
            total_class += binary_cross_entropy(objectness[b, index[b, s]], positive[b, s])
        if positive[b, s]:
            total_box += sum(smooth_l1(deltas[b, index[b, s], i] - targets[b, s, i], beta) for i in range(4))
    return total_class / max(class_divisor, 1), total_box / max(box_divisor, 1)


def roi_losses(logits, deltas, mask_logits, classes, targets, masks, positive, valid, box_divisor, beta):
    """(class, box, mask) of a batch, class over the valid RoIs, mask over the positives."""
    total_class = total_box = total_mask = 0.0
    for b, r in np.ndindex(classes.shape):
        k = classes[b, r]
        if valid[b, r]:
            total_class += cross_entropy(logits[b, r], k)
        if positive[b, r]:
            total_box += sum(smooth_l1(deltas[b, r, k, i] - targets[b, r, i], beta) for i in range(4))
            cells = [
                binary_cross_entropy(mask_logits[b, r, i, j, k], masks[b, r, i, j])
                for i, j in np.ndindex(masks.shape[2:])
            ]
            total_mask += np.mean(cells)
    return total_class / max(valid.sum(), 1), total_box / max(box_divisor, 1), total_mask / max(positive.sum(), 1)


def moving_average(first, seen, decay):
    """The average of weights after each of the `seen`; early ones have less decay, as in TensorFlow."""
    average = np.array(first, np.float64)
    for t, weights in enumerate(seen):
        now = min(decay, (1 + t) / (10 + t))
        average = now * average + (1 - now) * weights
    return average
