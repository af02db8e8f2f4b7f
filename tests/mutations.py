"""Does the suite notice faults? `python -m tests.mutations [WORD ...]` breaks one line at a time and runs the tests.

Each fault is put into a copy of the tree, where the tests that should notice it run until two fail. What is printed is
the fault and who noticed. Those tests run once more in a copy without a fault, where they must pass. Exit code 1 if a
fault survives. Words pick the faults whose name holds one of them. About ten minutes on two cores; `test_mutations.py`
holds the list to the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).parent.parent


class Fault(NamedTuple):
    """`old`, which stands in `file` once, becomes `new`; `tests` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


GRID, BILINEAR = "maskrcnn_jax/roi/grid.py", "maskrcnn_jax/roi/bilinear.py"
CODING, CLAHE = "maskrcnn_jax/boxes/coding.py", "maskrcnn_jax/image/clahe.py"
TESTS = "tests/maskrcnn_jax"
FAULTS = (
    Fault("x and y swapped in RoI Align", GRID,
          "x1, y1, x2, y2 = rounded(boxes).T", "y1, x1, y2, x2 = rounded(boxes).T",
          f"{TESTS}/roi/test_align.py"),
    Fault("half pixel dropped in RoI Align", GRID,
          "low, high = low - 0.5, high - 0.5", "pass", f"{TESTS}/roi/test_align.py"),
    Fault("a coordinate rounded in RoI Align", GRID,
          "position = low[:, None, None] + ", "position = jnp.round(low)[:, None, None] + ",
          f"{TESTS}/roi/test_align.py"),
    Fault("products of CLAHE open to a fused multiply-add", CLAHE,
          "return jnp.maximum(a * b, 0)", "return a * b", f"{TESTS}/image/test_clahe.py"),
    Fault("mean for max in RoI Align", BILINEAR,
          'if reduce == "max":', 'if reduce == "":', f"{TESTS}/roi/test_align.py"),
    Fault("cells below and above in RoI Align", BILINEAR,
          "2 * jnp.round(position / 2), 2 * jnp.floor(position / 2) + 1",
          "jnp.floor(position), jnp.floor(position) + 1", f"{TESTS}/roi/test_bilinear.py"),
    Fault("bins by the inverse of their number", "maskrcnn_jax/roi/crop.py",
          "return a / jnp.where(jnp.isnan(a), 1, divisor)", "return a / divisor", f"{TESTS}/roi/test_crop.py"),
    Fault("other levels' RoIs pooled as well", "maskrcnn_jax/roi/separable.py",
          "jnp.where(level == i, weight_y, 0.0)", "weight_y", f"{TESTS}/roi/test_separable.py"),
    Fault("far edge forgotten in pooling", GRID,
          "quotient(boxes - edge, ", "quotient(boxes, ", f"{TESTS}/roi/test_align.py"),
    Fault("levels rounded for floored", "maskrcnn_jax/roi/levels.py",
          'jnp.floor(level) if rounding == "floor" else', 'jnp.round(level) if rounding == "floor" else',
          f"{TESTS}/roi/test_levels.py"),
    Fault("clamp of decode forgotten", CODING,
          "log_scale = jnp.minimum(log_scale, max_log_scale)", "pass", f"{TESTS}/boxes/test_coding.py"),
    Fault("delta weights forgotten in decode", CODING,
          "deltas = deltas / jnp.asarray(weights, deltas.dtype)", "pass", f"{TESTS}/boxes/test_coding.py"),
    Fault("one residual bin too many in CLAHE", CLAHE,
          "(level // step < residue)", "(level // step <= residue)", f"{TESTS}/image/test_clahe.py"),
    Fault("half a tile dropped in CLAHE", CLAHE,
          "np.float32(tile_side)) - np.float32(0.5)", "np.float32(tile_side))", f"{TESTS}/image/test_clahe.py"),
    Fault("half pixel dropped in the letterbox", "maskrcnn_jax/image/letterbox.py",
          "centre = (np.arange(new) + 0.5) * (old / new) - 0.5", "centre = np.arange(new) * (old / new)",
          f"{TESTS}/image/test_letterbox.py"),
    Fault("overlaps open to a fused multiply-add", "maskrcnn_jax/boxes/geometry.py",
          "return jnp.maximum(a * b, 0.0)", "return a * b", f"{TESTS}/boxes/test_geometry.py"),
    Fault("a box of NaN in NMS", "maskrcnn_jax/boxes/nms.py",
          " | jnp.isnan(boxes).any(axis=1)", "", f"{TESTS}/boxes/test_nms.py"),
    Fault("NMS at the threshold itself", "maskrcnn_jax/boxes/nms.py",
          "iou(ranked, ranked) > iou_threshold", "iou(ranked, ranked) >= iou_threshold", f"{TESTS}/boxes/test_nms.py"),
    Fault("groups forgotten in NMS", "maskrcnn_jax/boxes/nms.py",
          "suppresses &= groups[order][:, None] == groups[order][None, :]", "pass", f"{TESTS}/boxes/test_nms.py"),
    Fault("padded truth unmasked in matching", "maskrcnn_jax/boxes/matching.py",
          "counts &= gt_valid[:, None]", "pass", f"{TESTS}/boxes/test_matching.py"),
    Fault("an untouched object claims all", "maskrcnn_jax/boxes/matching.py",
          " & (best_of_gt > 0)", "", f"{TESTS}/boxes/test_matching.py"),
    Fault("too many positives drawn", "maskrcnn_jax/boxes/sampling.py",
          "jnp.minimum(candidates.sum(), most)", "candidates.sum()", f"{TESTS}/boxes/test_sampling.py"),
    Fault("strides in reverse order", "maskrcnn_jax/rpn/anchors.py",
          "in zip(strides, sizes, strict=True)", "in zip(strides[::-1], sizes, strict=True)",
          f"{TESTS}/rpn/test_anchors.py"),
    Fault("window forgotten for proposals", "maskrcnn_jax/rpn/proposals.py",
          "boxes, scores = clip_to_window(moved, window)", "boxes, scores = moved",
          f"{TESTS}/rpn/test_proposals.py"),
    Fault("mean over the four deltas for their sum", "maskrcnn_jax/rpn/loss.py",
          "config.box_beta).sum(-1)", "config.box_beta).mean(-1)", f"{TESTS}/rpn/test_loss.py"),
    Fault("negatives of padded slots counted", "maskrcnn_jax/rpn/loss.py",
          "masked_mean(entropy, targets.valid,", "masked_mean(entropy, targets.valid | True,",
          f"{TESTS}/rpn/test_loss.py"),
    Fault("mask loss of the wrong class", "maskrcnn_jax/roi/loss.py",
          "jnp.take_along_axis(mask_logits, true_class[:, :q, None, None], axis=4)",
          "jnp.take_along_axis(mask_logits, 0 * true_class[:, :q, None, None], axis=4)", f"{TESTS}/roi/test_loss.py"),
    Fault("background class shifted to the end", "maskrcnn_jax/roi/detections.py",
          "(jnp.arange(k) > 0)", "(jnp.arange(k) < k - 1)", f"{TESTS}/roi/test_detections.py"),
    Fault("RoIs within a crowd as negatives", "maskrcnn_jax/roi/targets.py",
          "ignored = ~valid | (in_crowd & (matches.label == Label.NEGATIVE))", "ignored = ~valid",
          f"{TESTS}/roi/test_targets.py"),
    Fault("far edge forgotten in RoI targets", "maskrcnn_jax/roi/targets.py",
          "candidates, truth_boxes = boxes - edge, truth.boxes - edge", "candidates, truth_boxes = boxes, truth.boxes",
          f"{TESTS}/roi/test_targets.py"),
    Fault("masks pasted from the pixel's corner", "maskrcnn_jax/roi/masks.py",
          "position = (pixels + 0.5 - low)", "position = (pixels - low)", f"{TESTS}/roi/test_masks.py"),
    Fault("stride on the other convolution", "maskrcnn_jax/backbone/resnet.py",
          '(stride, 1) if config.stride_on == "1x1"', '(stride, 1) if config.stride_on == "3x3"',
          f"{TESTS}/backbone/test_resnet.py"),
    Fault("far edge not given back by the model", "maskrcnn_jax/model.py",
          "boxes=ranked.boxes + edge", "boxes=ranked.boxes", f"{TESTS}/test_model.py"),
    Fault("windows forgotten for detections", "maskrcnn_jax/model.py",
          "(select)(class_logits, box_deltas, proposals, windows)",
          "(select)(class_logits, box_deltas, proposals, windows * 0 + 128)", f"{TESTS}/test_model.py"),
    Fault("precision not made monotone", "crystal/evaluation/metrics.py",
          "precision = np.maximum.accumulate(precision[::-1])[::-1]", "pass",
          "tests/crystal/evaluation/test_metrics.py"),
    Fault("a truth found twice", "crystal/evaluation/metrics.py",
          "overlaps[:, taken[row]] = -1.0", "pass", "tests/crystal/evaluation/test_metrics.py"),
    Fault("kernel not turned in Winograd's gradient", "maskrcnn_jax/kernels/winograd.py",
          "_weights_at_points(G[:, ::-1], kernel)", "_weights_at_points(G, kernel)",
          f"{TESTS}/kernels/test_winograd.py"),
    Fault("Winograd's convolution whatever the padding", "maskrcnn_jax/kernels/convolution.py",
          "stride == 1 and padding == ((1, 1), (1, 1))", "stride == 1", f"{TESTS}/kernels/test_winograd.py"),
    Fault("float64 narrowed", "maskrcnn_jax/layers.py",
          "values.astype(jnp.promote_types(values.dtype, jnp.float32))", "values.astype(jnp.float32)",
          f"{TESTS}/training/test_precision.py"),
    Fault("first scanned layer for all", "maskrcnn_jax/backbone/scan.py",
          "jnp.stack(leaves)", "jnp.stack([leaves[0]] * len(leaves))", f"{TESTS}/backbone/test_scan.py"),
    Fault("old names of norms counted from 1", "maskrcnn_jax/migration.py",
          '\\1.{kind}{i + 1}.', '\\1.{kind}{i}.', f"{TESTS}/test_migration.py"),
    Fault("deviation of random weights forgotten", "maskrcnn_jax/kernels/normal.py",
          " * deviation).reshape", ").reshape", f"{TESTS}/kernels/test_normal.py"),
    Fault("Roboflow's valid is no validation", "crystal/data/coco_file.py",
          'SYNONYMS = {"training": "train", "valid": "val", ', 'SYNONYMS = {"training": "train", ',
          "tests/crystal/data/test_coco_file.py"),
    Fault("validation in val.json alone", "crystal/training/train.py",
          'if not has_split(data, "val"):', 'if not (data / "val.json").exists():',
          "tests/crystal/training/test_train.py"),
    Fault("classes by position", "crystal/data/classes.py",
          "index_of(own[1], classes)", "k", "tests/crystal/evaluation/test_assessment.py"),
    Fault("CLAHE not in the checkpoint", "crystal/training/train.py",
          "classes=split.categories, image=image", "classes=split.categories", "tests/crystal/training/test_train.py"),
    Fault("training on crowds alone", "crystal/data/dataset.py",
          "if any(not instance.crowd for instance in instances):", "if instances:", "tests/crystal/data/test_check.py"),
    Fault("TIFF where 0 is white as its negative", "crystal/data/tiff.py",
          "if page.negative and", "if False and", "tests/crystal/data/test_tiff.py"),
    Fault("the first page for the sharpest", "crystal/data/images.py",
          "if image is not None and sharp > most:", "if image is not None and best is None:",
          "tests/crystal/data/test_tiff.py"),
    Fault("objects without a slot as background", "crystal/data/preparation.py",
          "regions = enclosing_boxes(boxes[rest], slots - len(used))", "regions = boxes[:0]",
          "tests/crystal/data/test_preparation.py"),
    Fault("objects cut by a tile reported", "maskrcnn_jax/image/tiles.py",
          "clear = boxes * (1, 1, -1, -1) - (x1, y1, -x2, -y2) >= np.tile(margin * sides, 2)",
          "clear = np.ones(boxes.shape, bool)", f"{TESTS}/image/test_tiles.py"),
    Fault("what lies in a better mask fully trusted", "crystal/prediction/merging.py",
          "inside_threshold * np.minimum(areas[i], areas[near])", "inside_threshold * areas.max() + 1",
          "tests/crystal/prediction/test_merging.py"),
    Fault("colours of Detectron2 not reversed", "maskrcnn_jax/convert/detectron2.py",
          "reverse_inputs=True", "reverse_inputs=False", f"{TESTS}/convert/test_detectron2.py"),
)  # fmt: skip


def copy_tree(destination: Path) -> None:
    """The working tree's packages and tests."""
    for folder in ("maskrcnn_jax", "crystal", "tests"):
        shutil.copytree(ROOT / folder, destination / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", destination)


def failing(tree: Path, arguments: list[str]) -> list[str]:
    """Names of the tests that fail there. Raises RuntimeError where the tests cannot run at all."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTEST_ADDOPTS": "", "COLUMNS": "1000"}
    run = subprocess.run([*command, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {run.returncode}:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    lines = [line.removeprefix("FAILED ").split(" - ")[0] for line in run.stdout.splitlines() if line[:7] == "FAILED "]
    if run.returncode == 1 and not lines:
        raise RuntimeError(f"no test failed by itself:\n{run.stdout[-2000:]}")
    return lines


def break_and_test(fault: Fault) -> list[str]:
    """Names of the tests that notice; none: it survives."""
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        copy_tree(Path(folder))
        path = Path(folder) / fault.file
        text = path.read_text()
        if text.count(fault.old) != 1:
            raise SystemExit(f"{fault.file} holds {text.count(fault.old)} times, not once: {fault.old}")
        path.write_text(text.replace(fault.old, fault.new))
        noticed = failing(Path(folder), ["--maxfail=2", *fault.tests.split()])
        print(f"{fault.name}: {'killed' if noticed else 'SURVIVED'}", file=sys.stderr, flush=True)
        return noticed


def main(words: list[str]) -> int:
    """Print the table; 1 if a fault survives or a test fails without one."""
    faults = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    with ThreadPoolExecutor(2) as pool:
        noticed = dict(zip(faults, pool.map(break_and_test, faults), strict=True))
    table = Table("fault", "file", "killed by")
    for fault, tests in noticed.items():
        killers = escape("\n".join(test.split("::")[1] for test in tests))
        table.add_row(fault.name, fault.file, killers or "[bold red]SURVIVED")
    Console(width=160).print(table)

    with tempfile.TemporaryDirectory(prefix="control-") as folder:
        copy_tree(Path(folder))
        blind = failing(Path(folder), sorted({test for tests in noticed.values() for test in tests}))
    print(f"without a fault these tests pass, but for {len(blind)}: {' '.join(blind)}")
    survived = sum(not tests for tests in noticed.values())
    print(f"{len(faults)} faults, {survived} survived")
    return int(bool(survived or blind))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
