"""What all tests share: shapes and types of `maskrcnn_jax` are checked at every call, programs compiled once a run."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import coverage
import hypothesis
import jaxtyping
import pytest

import crystal  # noqa: F401  # OpenCV reads its settings when a test first loads it
from tests.compiler import QUICK

# Before anything imports the package. The numeric tower: an int is welcome where a float is annotated.
jaxtyping.install_import_hook("maskrcnn_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("small", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("small")

# JAX reads these when it starts; the worker processes of one run inherit it, and share what they compile.
os.environ.setdefault("XLA_FLAGS", QUICK)
APPLICATION = Path(__file__).parent / "crystal"
CACHE = "JAX_COMPILATION_CACHE_DIR"
OURS = CACHE not in os.environ
if OURS:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="maskrcnn-jax-tests-")
    # Programs of 0.1 s as well, by default 1 s; those of a single operation take longer to read than to compile.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


# Tracing makes objects by the million that live on, and the collector would look at them again and again.
gc.set_threshold(100_000, 20, 100)

MANY = 500  # programs

# Two workers take whole files, one after the other: what takes minutes must not begin when all else is done.
SLOWEST_FIRST = (
    "test_lessons.py",
    "test_step.py",
    "test_torchvision.py",
    "test_demo.py",
    "test_processes.py",
    "test_killed.py",
    "test_mesh.py",
    "test_matterport.py",
    "test_detectron2.py",
    "test_clahe.py",
    "test_align.py",
    "test_train.py",
    "test_browser.py",
    "test_model.py",
    "test_inspector.py",
    "test_architecture.py",
    "test_nms.py",
    "test_table1.py",
    "test_verify.py",
)


def pytest_collection_modifyitems(items):
    """Put the slowest files first (with `--no-loadscope-reorder`, see pyproject.toml); otherwise the order stays."""
    items.sort(key=lambda item: (*SLOWEST_FIRST, item.path.name).index(item.path.name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The application, what is slow and what is marked so count for no line of the library's coverage, nor do their
    fixtures: that a component's lines run in a whole network says little, and measured tracing takes half as long
    again. What is timed would be slowed down.
    """
    stopped = []
    uncounted = item.get_closest_marker("slow") or item.get_closest_marker("uncounted")
    if uncounted or APPLICATION in item.path.parents:
        while measurement := coverage.Coverage.current():  # xdist's workers have one inside another
            measurement.stop()
            stopped.append(measurement)
    try:
        return (yield)
    finally:
        for measurement in reversed(stopped):
            measurement.start()


@pytest.fixture(scope="session")
def _compiled():
    """A list that gets an item for each program that JAX compiles."""
    import jax  # reads the environment set above

    programs: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: programs.append(event) if event.endswith("backend_compile_duration") else None
    )
    return programs


@pytest.fixture(scope="module", autouse=True)
def _forget_programs(_compiled):
    """After a file, if there are many: JAX keeps the text of its last 2048 programs, each in an MLIR context of its
    own, and a thousand of them make the next program take a fifth longer. Few serve another file.
    """
    yield
    if len(_compiled) > MANY:
        import jax

        jax.clear_caches()
        _compiled.clear()


def pytest_unconfigure(config):
    """Remove the compiled programs when the process that made the folder ends."""
    if OURS:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
