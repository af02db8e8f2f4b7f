"""Compiled programs kept on disk, so that the second start of a network needs no compiler."""

import os
from pathlib import Path

import jax

SECONDS = 0.2  # what compiled faster is not worth a file


def keep_compiled_programs() -> None:
    """Tell JAX to keep them in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR or its config says where.

    A folder that cannot be written costs a warning of JAX's, no more.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "crystal" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
