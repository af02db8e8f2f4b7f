"""Make the package's small weights again: `python -m crystal.weights.pretrain --out FOLDER`.

Writes scenes of ordinary shapes as a COCO dataset, trains the `tiny` preset on them as `crystal train` does, and saves
the result in half precision. Half of the scenes have gone through CLAHE, so that the weights favour neither of the two
trainings that `crystal demo` compares.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import tyro
from flax import nnx

from crystal.console import one_bar
from crystal.data.coco_file import coco_annotation, coco_document
from crystal.data.dataset import load_split
from crystal.data.images import apply_clahe
from crystal.data.loader import training_loader
from crystal.data.outlines import cut, encode_patch
from crystal.prediction.trained_model import for_this_machine
from crystal.training.config import Phase, TrainConfig
from crystal.training.run_folder import claim
from crystal.training.trainer import Trainer
from crystal.weights.package import save_for_package
from crystal.weights.scenes import draw_scene
from maskrcnn_jax.model import MaskRCNN

CLASSES = ((0, "background"), (1, "shape"))


def write_scenes(out: Path, count: int, *, seed: int = 0) -> None:
    """`count` scenes as PNG files and OUT/train.json."""
    folder = out / "train" / "images"
    folder.mkdir(parents=True)
    images = []
    with one_bar("drawing shapes", count) as bar:
        for i in range(count):
            scene = draw_scene((seed, i))
            picture = apply_clahe(scene.image) if i % 2 else scene.image
            name = f"scene_{i:06d}.png"
            cv2.imwrite(str(folder / name), picture[..., ::-1])
            height, width = picture.shape[:2]
            annotations = [
                coco_annotation(encode_patch(*cut(mask), height=height, width=width), "shape", crowd=bool(crowd))
                for mask, crowd in zip(scene.masks, scene.crowd, strict=True)
            ]
            images.append(({"file_name": name, "height": height, "width": width}, annotations))
            bar(i + 1)
    (out / "train.json").write_text(json.dumps(coco_document(images, ["shape"])))


def main(out: Path, work: Path = Path("runs/shapes"), scenes: int = 6000, steps: int = 3000, seed: int = 0) -> None:
    """Draw, train, save. An interrupted run in `work` is resumed; `out` is written at the end.

    Args:
        out: the new checkpoint folder.
        work: scenes and run.
        scenes: how many to draw.
        steps: optimizer steps of eight scenes.
        seed: of scenes, weights and order.
    """
    if not (work / "scenes" / "train.json").exists():
        shutil.rmtree(work / "scenes", ignore_errors=True)
        write_scenes(work / "scenes", scenes, seed=seed)
    preset = TrainConfig.tiny()
    model_config = for_this_machine(dataclasses.replace(preset.model, classes=CLASSES))
    config = dataclasses.replace(
        preset, model=model_config, phases=(Phase("all", steps, 2e-3),), seed=seed, slots=64, checkpoint_every=200
    )
    claim(work / "run", config, "none")
    batches = training_loader(
        load_split(work / "scenes", "train"),
        size=model_config.image.size,
        batch_size=config.batch_size,
        slots=config.slots,
        seed=seed,
        clahe=False,
    )
    with one_bar("training", steps) as bar:
        trainer = Trainer(MaskRCNN(model_config, rngs=nnx.Rngs(seed)), batches, config, work / "run", progress=bar)
        model = trainer.run()
    save_for_package(model, out)


if __name__ == "__main__":
    tyro.cli(main)
