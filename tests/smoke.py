"""What the installed wheel must do with its base dependencies alone; .ci/run calls it outside the repository.

python smoke.py
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from compiler import QUICK  # of this folder, the script's own

os.environ["XLA_FLAGS"] = QUICK

import jax.numpy as jnp
from flax import nnx
from small import small_model

import maskrcnn_jax
from maskrcnn_jax import letterbox, nms, roi_align

package = Path(maskrcnn_jax.__file__).parent
assert package.parent.name == "site-packages", f"{package} is not the installed wheel"
assert (package / "py.typed").exists()
assert (package.parent / "crystal" / "py.typed").exists()
assert maskrcnn_jax.__version__ == version("maskrcnn-jax")

boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 5], [4, 4, 8, 8]])
kept, valid = nms(boxes, jnp.array([0.9, 0.8, 0.7]), iou_threshold=0.5, max_outputs=2)
assert kept.tolist() == [0, 2]
assert valid.all()
assert roi_align(jnp.ones((8, 8, 3)), boxes, output_size=2).shape == (3, 2, 2, 3)

image, _ = letterbox(jnp.zeros((40, 60, 3), jnp.uint8), 64)
found = nnx.jit(lambda model, images: model.detect(images))(small_model(), image[None])
assert found.boxes.shape == (1, 8, 4)

said = subprocess.run(["crystal", "demo"], capture_output=True, text=True, check=False)
assert said.returncode == 1
assert said.stderr == 'error: tyro is not installed: pip install "maskrcnn-jax[crystal]"\n', said.stderr
print(f"maskrcnn_jax {maskrcnn_jax.__version__} works on {sys.version.split()[0]} with its base dependencies")
