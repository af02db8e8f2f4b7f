"""Writes tests/goldens/torchvision_exact_norms.npz: the norms of the gradients of torchvision's recorded training step,
with our network in float64, where no ReLU falls on the wrong side of 0. Three minutes on two cores:

    python -m tests.exact_gradients
"""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.model import MaskRCNN
from tests.maskrcnn_jax.convert import test_torchvision

OUT = Path(__file__).parent / "goldens" / "torchvision_exact_norms.npz"


def in_float64(model: MaskRCNN) -> MaskRCNN:
    """The same network with float64 parameters and arithmetic."""
    config = dataclasses.replace(model.config, compute_dtype="float64")
    graph, _ = nnx.split(nnx.eval_shape(lambda: MaskRCNN(config, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, jax.tree.map(lambda p: p.astype(jnp.float64), nnx.state(model)))


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as folder:
        model = test_torchvision.converted(Path(folder))
    _, gradients = test_torchvision.training_step(in_float64(model), np.float64)
    names = sorted(gradients)
    np.savez_compressed(OUT, names=np.array(names), norms=np.array([np.linalg.norm(gradients[n]) for n in names]))


if __name__ == "__main__":
    main()
