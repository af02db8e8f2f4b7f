"""One image with a LabelMe file, followed through the smallest network; compiled once for the tests that look at it."""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np

from crystal.inspection.inspector import Inspector
from crystal.inspection.targets import find_truth, supervise
from crystal.inspection.views import follow_views
from crystal.prediction.predictor import Predictor
from tests.labelme_files import document, shape
from tests.small import SMALL, small_model

HEIGHT, WIDTH = 90, 120
# Two objects; the second is a needle that no anchor reaches.
OBJECTS = ((20, 20, 60, 50), (70, 60, 110, 63))


def write_image(folder: Path, name: str = "drop.png", label: str = "crystal") -> Path:
    """A grey image with bright boxes, and a LabelMe file beside it that outlines them."""
    rng = np.random.default_rng(0)
    image = rng.integers(60, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    shapes = []
    for x1, y1, x2, y2 in OBJECTS:
        image[y1:y2, x1:x2] = 220
        shapes.append(shape(label, [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]))
    cv2.imwrite(str(folder / name), image)
    content = document(shapes, name, imageHeight=HEIGHT, imageWidth=WIDTH)
    (folder / name).with_suffix(".json").write_text(json.dumps(content))
    return folder / name


@functools.cache
def inspected(**changes):
    """(model, inspection, supervised, path, followed views). `changes`: of the detection config."""
    path = write_image(Path(tempfile.mkdtemp(prefix="inspected-")))
    image = dataclasses.replace(SMALL.image, clahe=True)
    config = dataclasses.replace(SMALL, image=image, detection=dataclasses.replace(SMALL.detection, **changes))
    model = small_model(config=config)
    inspection, forward = Inspector(model).follow(path)
    truth = find_truth(path, (HEIGHT, WIDTH), None, config.classes)
    followed = follow_views(Predictor(model, zoom=(1.0, 2.0)), inspection.image)
    return model, inspection, supervise(inspection, forward, truth), path, followed
