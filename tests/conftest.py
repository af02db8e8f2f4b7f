"""What all tests share: shapes and types of `maskrcnn_jax` are checked at every call, programs compiled once a run."""

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

# JAX reads these when it starts; the worker processes of one run inherit it, and share what they compile.
os.environ.setdefault("XLA_FLAGS", QUICK)
CACHE = "JAX_COMPILATION_CACHE_DIR"
OURS = CACHE not in os.environ
if OURS:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="maskrcnn-jax-tests-")
    # Small programs as well, by default not worth a file: plain calls compile hundreds, one for each operation.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


# Two workers take whole files, one after the other: what takes minutes must not begin when all else is done.
SLOWEST_FIRST = (
    "test_lessons.py",
    "test_train.py",
    "test_processes.py",
    "test_torchvision.py",
    "test_step.py",
    "test_inspector.py",
    "test_demo.py",
    "test_killed.py",
    "test_architecture.py",
    "test_matterport.py",
    "test_model.py",
    "test_mesh.py",
    "test_weights.py",
    "test_verify.py",
    "test_detectron2.py",
)


def pytest_collection_modifyitems(items):
    """Put the slowest files first (with `--no-loadscope-reorder`, see pyproject.toml); otherwise the order stays."""
    items.sort(key=lambda item: (*SLOWEST_FIRST, item.path.name).index(item.path.name))


def pytest_unconfigure(config):
    """Remove the compiled programs when the process that made the folder ends."""
    if OURS:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
