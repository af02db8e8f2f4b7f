"""Live, where torchvision is installed: its operations on fresh random input, at every setting. The recorded numbers
that are compared everywhere are in `tests/goldens`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.roi.align import roi_align

WHY = "torchvision is not installed: pip install torch torchvision"
torch = pytest.importorskip("torch", reason=WHY)
ops = pytest.importorskip("torchvision", reason=WHY).ops


def some_boxes(rng, n, limit=120.0, most=60.0):
    corner = rng.uniform(-10, limit, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(0, most, (n, 2))], 1).astype(np.float32)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [5, 7, 14])
def test_roi_align_forward_and_gradient(size, sampling_ratio, aligned):
    rng = np.random.default_rng(size * 10 + sampling_ratio)
    features = rng.normal(size=(23, 31, 2)).astype(np.float32)
    odd = np.float32([[5.3, 5.1, 5.3, 5.1], [160.2, 160, 170, 171], [-90.1, -80.3, 300.4, 240.9], [-6.2, 2, 3, 95.7]])
    boxes = np.concatenate([some_boxes(rng, 8), odd])  # of no area, off the map, huge, leaving the map
    cotangent = rng.normal(size=(12, size, size, 2)).astype(np.float32)

    theirs = torch.tensor(features.transpose(2, 0, 1)[None], requires_grad=True)
    rois = torch.tensor(np.concatenate([np.zeros((12, 1), np.float32), boxes], 1))
    pooled = ops.roi_align(theirs, rois, size, 0.25, sampling_ratio, aligned)
    pooled.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    assert theirs.grad is not None

    pool = partial(
        roi_align, output_size=size, spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned,
        max_samples=-(-98 // size),  # the largest box covers 98 cells
    )  # fmt: skip
    ours, gradient = jax.jit(lambda f, b, c: (lambda out, pull: (out, pull(c)[0]))(*jax.vjp(lambda f: pool(f, b), f)))(
        features, boxes, cotangent
    )
    np.testing.assert_allclose(ours, pooled.detach().numpy().transpose(0, 2, 3, 1), atol=5e-5)
    np.testing.assert_allclose(gradient, theirs.grad[0].numpy().transpose(1, 2, 0), atol=1e-4)


def test_box_iou():
    rng = np.random.default_rng(0)
    a, b = some_boxes(rng, 200), some_boxes(rng, 100)
    theirs = ops.box_iou(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(jax.jit(iou)(a, b), theirs, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("n", [50, 1000, 5000])
def test_nms_with_and_without_groups(n, threshold):
    """All scores differ: of ties torchvision does not say which comes first. Some boxes have no area."""
    rng = np.random.default_rng(n)
    boxes, scores = some_boxes(rng, n, limit=400), np.float32(rng.permutation(n)) / n
    boxes[::17, 2] = boxes[::17, 0]
    groups = rng.integers(0, 5, n).astype(np.int32)
    run = jax.jit(partial(nms, iou_threshold=threshold, max_outputs=n))
    b, s = torch.tensor(boxes), torch.tensor(scores)
    for given, theirs in (
        ({}, ops.nms(b, s, threshold)),
        ({"groups": jnp.asarray(groups)}, ops.batched_nms(b, s, torch.tensor(groups), threshold)),
    ):
        indices, filled = run(boxes, scores, **given)
        assert np.asarray(indices)[np.asarray(filled)].tolist() == theirs.tolist()
