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
