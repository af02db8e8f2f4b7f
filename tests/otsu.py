"""How well a threshold finds crystals: rendered drops must not be that easy."""

import cv2
import numpy as np


def average_precision(masks: list[np.ndarray], found: list[np.ndarray], threshold: float = 0.5) -> float:
    """Per-image AP: detections best first, each takes the free truth it overlaps most, precision made monotone."""
    free, hits = list(masks), []
    for candidate in found:
        ious = [(candidate & truth).sum() / (candidate | truth).sum() for truth in free]
        hit = bool(ious) and max(ious) >= threshold
        hits.append(hit)
        if hit:
            free.pop(int(np.argmax(ious)))
    if not hits:
        return 0.0
    right = np.cumsum(hits)
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float((precision * hits).sum() / len(masks))


def otsu_components(image: np.ndarray, polarity: int) -> list[np.ndarray]:
    """Connected components of an Otsu threshold, holes filled, largest first."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1)
    _, binary = cv2.threshold(grey, 0, 1, polarity | cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    masks = [
        cv2.drawContours(np.zeros_like(grey), [line], 0, 1, -1).astype(bool) for line in outlines if len(line) > 15
    ]
    masks = [mask for mask in masks if mask.sum() >= 60]
    return sorted(masks, key=lambda mask: -mask.sum())[:100]
