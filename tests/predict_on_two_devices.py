"""Predictions of an untrained network on two devices, in a process of its own, as JSON: `test_predictor.py` compares
them with those of one device. `NETWORK` and `pictures` are what both use.
"""

import dataclasses
import json

import jax
import numpy as np

from crystal.prediction.predictor import Predictor
from maskrcnn_jax.model import MaskRCNN
from tests.small import SMALL, quick_rngs

NETWORK = dataclasses.replace(
    SMALL,
    classes=((0, "background"), (7, "crystal")),
    image=dataclasses.replace(SMALL.image, size=(64, 128), clahe=True),
)


def pictures():
    return [np.random.default_rng(i).integers(0, 256, (90 + i, 150, 3), np.uint8) for i in range(3)]


if __name__ == "__main__":
    assert len(jax.local_devices()) == 2
    predictor = Predictor(MaskRCNN(NETWORK, rngs=quick_rngs()), batch_size=1)
    print(json.dumps([[found.boxes.tolist(), found.scores.tolist()] for found in predictor(pictures())]))
