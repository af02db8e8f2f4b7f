"""What all tests share: shapes and types of `maskrcnn_jax` are checked at every call, and programs compile quickly."""

import os
import shutil
import tempfile

import hypothesis
import jaxtyping

from tests.compiler import QUICK

# Before anything imports the package. The numeric tower: an int is welcome where a float is annotated.
jaxtyping.install_import_hook("maskrcnn_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("small", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("small")

# JAX reads these when it starts; the workers of one run and the processes they start inherit them.
os.environ.setdefault("XLA_FLAGS", QUICK)
if shutil.which("nvidia-smi"):  # GPUs round float32 factors of products to ten bits, unless they are told not to
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
CACHE = "JAX_COMPILATION_CACHE_DIR"
OURS = CACHE not in os.environ
if OURS:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="maskrcnn-jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_unconfigure(config):
    """Remove the compiled programs when the process that made the folder ends."""
    if OURS:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
