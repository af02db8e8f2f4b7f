"""Drops for the lessons: small micrographs drawn by `crystal.drops.drop`, with the boxes of their crystals."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from crystal.drops.drop import draw_drop


class Scene(NamedTuple):
    """A micrograph, and n crystals that are not to be ignored: boxes in continuous pixels, and masks."""

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    masks: Bool[np.ndarray, "n h w"]


def box_of(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " 4"]:
    """The box around a mask, in continuous pixels.

    >>> box_of(np.array([[0, 0, 0], [0, 1, 1]], bool)).tolist()
    [1.0, 1.0, 3.0, 2.0]
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


@lru_cache(maxsize=32)
def scene(seed: int, *, crystals: int | None = 6, light: float = 0.3, height: int = 256, width: int = 320) -> Scene:
    """The drop of a seed; equal arguments give the same one."""
    drop = draw_drop(seed, height=height, width=width, light=light, crystals=crystals)
    masks = [instance.mask for instance in drop.instances if not instance.ignored]
    boxes = np.array([box_of(mask) for mask in masks]).reshape(-1, 4)
    return Scene(drop.image, boxes, np.array(masks, bool).reshape(-1, height, width))
