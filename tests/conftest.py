"""What all tests share: shapes and types of `maskrcnn_jax` are checked at every call, programs compiled once a run."""

import os
import shutil
import tempfile

import hypothesis
import jaxtyping

# Before anything imports the package. The numeric tower: an int is welcome where a float is annotated.
jaxtyping.install_import_hook("maskrcnn_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("small", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("small")

# JAX reads this when it is first imported; the worker processes of one run inherit it, and share what they compile.
CACHE = "JAX_COMPILATION_CACHE_DIR"
OURS = CACHE not in os.environ
if OURS:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="maskrcnn-jax-tests-")


def pytest_unconfigure(config):
    """Remove the compiled programs when the process that made the folder ends."""
    if OURS:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
