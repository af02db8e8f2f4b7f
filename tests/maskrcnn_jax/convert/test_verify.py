"""The comparison that gates the saving: it passes the model it was recorded from, and fails any other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.config import Sampling
from maskrcnn_jax.convert.table import ConversionError
from maskrcnn_jax.convert.verify import Comparison, compare, read_golden
from tests.small import SMALL, small_batch, small_model

EVERY_SECOND = slice(None, None, 2)


@pytest.fixture(scope="module")
def model():
    return small_model(5)


def record(model, image):
    """A golden of the model itself."""
    stages = nnx.jit(lambda model, images: model.stages(images))(model, jnp.asarray(image)[None])
    flat = {name: np.asarray(getattr(stages, name)[0]).ravel() for name in ("c2", "p3", "objectness", "rpn_deltas")}
    golden = {"image": image} | {name: values[EVERY_SECOND] for name, values in flat.items()}
    golden |= {f"{name}.index": np.arange(values.size)[EVERY_SECOND] for name, values in flat.items()}
    detections = jax.tree.map(lambda a: np.asarray(a[0])[np.asarray(stages.detections.valid[0])], stages.detections)
    assert len(detections.boxes) >= 2
    count = int(stages.proposals.valid[0].sum())
    anchors = np.arange(stages.objectness.shape[1])
    return golden | {
        "ranked.index": anchors,
        "ranked.objectness": np.asarray(stages.objectness[0]),
        "ranked.deltas": np.asarray(stages.rpn_deltas[0]),
        "proposals": np.asarray(stages.proposals.boxes[0, :count]),
        "class_logits.rows": np.arange(count)[EVERY_SECOND],
        "class_logits": np.asarray(stages.class_logits[0, :count])[EVERY_SECOND],
        "box_deltas.rows": np.arange(count)[EVERY_SECOND],
        "box_deltas": np.asarray(stages.box_deltas[0, :count])[EVERY_SECOND],
        "detections.boxes": detections.boxes,
        "detections.classes": detections.classes,
        "detections.scores": detections.scores,
        "masks.rows": np.array([0, 1]),
        "masks": detections.masks[:2],
    }


@pytest.fixture(scope="module")
def golden(model):
    return record(model, np.asarray(small_batch(1)[0][0]))


def test_a_model_passes_its_own_golden(model, golden):
    rows = compare(model, golden)
    assert [row for row in rows if not row.passed] == []
    assert len(rows) == 10
    assert model.config == SMALL  # the spare slots are the comparison's own


def changed(golden, name, change):
    return golden | {name: change(golden[name].copy())}


@pytest.mark.parametrize(
    ("stage", "name", "change"),
    [
        ("c2", "c2", lambda a: a + 2e-4 * np.abs(a).max()),
        ("p3", "p3", lambda a: np.where(np.arange(a.size) == 5, np.nan, a)),
        ("objectness", "objectness", lambda a: a[::-1]),
        ("proposals from the recorded outputs of the RPN", "proposals", lambda a: a + 5e-3),
        ("proposals, end to end", "proposals", lambda a: a[:, [1, 0, 3, 2]]),
        ("class_logits", "class_logits", lambda a: np.roll(a, 1, 1)),
        ("box_deltas", "box_deltas", lambda a: a[..., [1, 0, 3, 2]]),
        ("detections, end to end", "detections.classes", lambda a: 0 * a),
        ("detections, end to end", "detections.scores", lambda a: a + 2e-3),
        ("detections, end to end", "detections.boxes", lambda a: a + 3.0),
        ("mask probabilities", "masks", lambda a: a + 2e-3),
    ],
)
def test_each_stage_can_fail(model, golden, stage, name, change):
    failed = [row.stage for row in compare(model, changed(golden, name, change)) if not row.passed]
    assert stage in failed


def of_detections(golden):
    """What is needed to compare them: a comparison of every stage compiles a program for each."""
    return {n: values for n, values in golden.items() if n in ("image", "proposals") or n.startswith("detections.")}


def test_a_window_and_a_threshold_that_were_recorded_are_used(model, golden):
    none = of_detections(golden) | {"score_threshold": np.array(0.999)}
    assert "detections, end to end" in [row.stage for row in compare(model, none) if not row.passed]
    half = golden | {"window": np.array([0, 0, 64, 32])}
    assert "proposals, end to end" in [row.stage for row in compare(model, half) if not row.passed]


def test_only_what_was_recorded_is_compared(model, golden):
    assert compare(model, {"image": golden["image"]}) == []
    names = ("image", "p3", "p3.index")
    assert [row.stage for row in compare(model, {name: golden[name] for name in names})] == ["p3"]


def test_not_a_number_does_not_pass():
    assert not Comparison("c2", "", float("nan"), 1.0).passed


def test_what_is_no_golden(tmp_path):
    path = tmp_path / "golden.npz"
    with pytest.raises(ConversionError, match="not a golden"):
        read_golden(path)
    path.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(ConversionError, match="not a golden"):
        read_golden(path)
    np.savez(path, c2=np.ones(3))
    with pytest.raises(ConversionError, match="has no image"):
        read_golden(path)
    np.savez(path, image=np.array([None, {}], dtype=object))
    with pytest.raises(ConversionError, match="not a golden"):
        read_golden(path)


def test_detections_at_the_far_border_are_left_out_of_crops():
    """Of a network that pools with `crop_and_resize` they hang on an ulp; of the others every one counts."""
    corners = dataclasses.replace(SMALL, roi=dataclasses.replace(SMALL.roi, pooling=Sampling("corners")))
    ours = small_model(5, corners)
    golden = of_detections(record(ours, np.asarray(small_batch(1)[0][0])))
    n = len(golden["detections.boxes"])
    moved = golden["detections.boxes"].copy()
    moved[0] += 5
    at_border = golden["proposals"].copy()
    at_border[0, 2] = 64.0
    inside = np.where(golden["proposals"] >= 64, 63.0, golden["proposals"])
    for proposals, passes in ((at_border, True), (inside, False)):
        rois = np.where(np.arange(n) == 0, 0, len(proposals) - 1)
        changed = golden | {"detections.boxes": moved, "proposals": proposals, "detections.roi": rois}
        row = next(row for row in compare(ours, changed) if row.stage == "detections, end to end")
        assert row.passed == passes or len(set(rois)) == 1
