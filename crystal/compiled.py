"""Compiled programs kept on disk, so that the second start of a network needs no compiler."""

import os
from pathlib import Path

import jax


def keep_compiled_programs() -> None:
    """Tell JAX to keep them in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR or its config says where.

    A folder that cannot be written costs a warning of JAX's, no more.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "crystal" / "compiled"))
    # Small ones as well, by default not worth a file: a fresh ResNet101 is made by hundreds of them, 4 of 6 seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
