"""JAX's cache of compiled programs on disk, so that the second start of a network compiles nothing."""

import os
import tempfile
from pathlib import Path

import jax

from crystal.console import console

MAX_BYTES = 4 * 2**30  # what was not used for longest goes first


def use_compilation_cache() -> None:
    """Have JAX keep compiled programs in the user's cache folder, up to `MAX_BYTES`.

    Where JAX_COMPILATION_CACHE_DIR or JAX's config names a folder, nothing is changed. Without a folder that can be
    written a note is printed, and every start compiles anew.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crystal" / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no HOME, and a user without an entry in the password file
        console.print(
            f"note: compiled programs are not kept for the next start ({error}); set JAX_COMPILATION_CACHE_DIR to a "
            "folder that can be written",
            markup=False,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    # Small programs too, which JAX leaves out by default: a new ResNet101 is made by hundreds of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
