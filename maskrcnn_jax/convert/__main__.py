"""`python -m maskrcnn_jax.convert SOURCE DESTINATION`: convert COCO weights of another implementation to a checkpoint.

SOURCE is Matterport's mask_rcnn_coco.h5, torchvision's maskrcnn_resnet50_fpn_coco-*.pth (or its state dict, ResNet50 or
101) or Detectron2's model_final_*.pkl of mask_rcnn_R_101_FPN_3x; the format is recognised by its content.
"""

import argparse
import sys
from pathlib import Path

from maskrcnn_jax import checkpoint
from maskrcnn_jax.checkpoint import CheckpointError


def main(arguments: list[str] | None = None) -> int:
    """Convert, verify if requested, and save. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m maskrcnn_jax.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the weight file")
    parser.add_argument("destination", type=Path, help="the checkpoint folder to write; must not exist")
    parser.add_argument(
        "--norm-epsilon", type=float, help="of the batch norms; torchvision: 0 for the weights of 2019, else 1e-5"
    )
    parser.add_argument("--verify", type=Path, metavar="GOLDEN", help="recorded outputs (.npz) to check before saving")
    options = parser.parse_args(arguments)
    try:
        _convert(options.source, options.destination, options.norm_epsilon, options.verify)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _convert(source: Path, destination: Path, norm_epsilon: float | None, golden: Path | None) -> None:
    from maskrcnn_jax.convert.table import ConversionError
    from maskrcnn_jax.convert.verify import compare, read_golden
    from maskrcnn_jax.convert.weights import read

    if destination.exists():  # fail before the conversion, which takes minutes
        raise CheckpointError(f"{destination} exists already: remove it or choose another name")
    recorded = None if golden is None else read_golden(golden)
    model, origin = read(source, norm_epsilon=norm_epsilon)
    depth = 3 * sum(model.config.backbone.depths) + 2  # three convolutions per bottleneck, stem and classifier
    print(
        f"{source}: {origin['source']}, ResNet{depth}-FPN, {model.config.num_classes} classes with background, "
        f"{origin['arrays']} arrays, {origin['parameters']:,} parameters, norm epsilon {origin['norm_epsilon']:g}"
        + (f", {origin['prefix']!r} removed from all names" if "prefix" in origin else "")
    )
    if recorded is not None:
        rows = compare(model, recorded)
        for row in rows:
            verdict = "ok  " if row.passed else "FAIL"
            print(f"{verdict} {row.stage}: {row.measure} {row.error:.2g} (at most {row.bar:g})")
        if not rows or not all(row.passed for row in rows):
            failed = ", ".join(row.stage for row in rows if not row.passed) or "it has nothing to compare"
            raise ConversionError(f"{source} does not reproduce {golden} ({failed}); nothing was written")
        origin["verified"] = golden.name if golden else ""
    checkpoint.save(model, destination, origin=origin)
    print(f"{destination}: written; crystal train --init {destination} --preset paper --data DATASET --out RUN")


if __name__ == "__main__":
    sys.exit(main())
