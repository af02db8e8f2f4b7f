"""What every public operation owes a notebook: NumPy arrays and integers are welcome, and nothing is compiled twice."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import maskrcnn_jax as m
from maskrcnn_jax.config import Sampling

BOXES = np.array([[0, 0, 4, 4], [1, 0, 5, 4], [8, 8, 12, 15]])
OTHER = np.array([[0, 0, 4, 4], [2, 3, 9, 9], [1, 2, 14, 15]])
LEVELS = np.array([[2, 3, 2]])
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
THRESHOLDS = dict(positive_iou=0.5, negative_iou=0.3, allow_low_quality=True)


def pyramid_roi_align(values, boxes):
    """On two levels."""
    options = dict(image_size=(64, 64), output_size=2, sampling=Sampling("corners"), far_edge=1)
    return m.pyramid_roi_align((values[None], values[None, ::2, ::2]), boxes[None], roi_levels=LEVELS, **options)


# Calls of boxes and of pixels; sizes and options are fixed. The letterbox and the pasting run on the host, in NumPy.
CALLS = {
    "area": lambda boxes, _: m.area(boxes),
    "iou": lambda boxes, _: m.iou(boxes, OTHER),
    "clip": lambda boxes, _: m.clip(boxes, 10, 10),
    "encode": lambda boxes, _: m.encode(boxes, OTHER),
    "decode": lambda boxes, _: m.decode(boxes, OTHER),
    "match": lambda boxes, _: m.match(m.iou(OTHER, boxes), **THRESHOLDS),
    "nms": lambda boxes, values: m.nms(boxes, values[0, :3, 0], iou_threshold=0.5, max_outputs=3),
    "assign_levels": lambda boxes, _: m.assign_levels(boxes * 50),
    "roi_align": lambda boxes, values: m.roi_align(values, boxes, output_size=2, spatial_scale=0.3),
    "crop_and_resize": lambda boxes, values: m.crop_and_resize(values, boxes, output_size=2),
    "pyramid_roi_align": lambda boxes, values: pyramid_roi_align(values, boxes),
    "clahe": lambda _, values: m.clahe(values[..., 0], tiles=(2, 2)),
    "clahe_rgb": lambda _, values: m.clahe_rgb(values, tiles=(2, 2)),
    "equalize": lambda _, values: m.equalize(values[..., 0]),
    "letterbox": lambda _, values: m.letterbox(np.asarray(values), 8)[0],
    "paste": lambda boxes, _: m.paste(np.eye(3), np.asarray(boxes[1]), height=16, width=16),
    "pyramid_anchors": lambda *_: m.pyramid_anchors((16, 16), strides=(4,), sizes=(8,), ratios=(1.0,)),
}
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "compile" in event else None
)


def test_every_public_function_is_called_here():
    assert set(CALLS) == {name for name in m.__all__ if inspect.isroutine(inspect.unwrap(getattr(m, name)))}


@pytest.mark.parametrize("name", CALLS)
def test_numpy_integers_and_floats_give_one_result_and_compile_once(name):
    call = CALLS[name]
    expected = jax.tree.map(np.asarray, call(jnp.asarray(BOXES, jnp.float32), jnp.asarray(PIXELS)))
    for array in (BOXES, BOXES.astype(np.float64), jnp.asarray(BOXES)):
        jax.tree.map(np.testing.assert_array_equal, call(array, PIXELS), expected)
    del compiled[:]
    call(BOXES + 1, PIXELS[::-1])
    assert not compiled
