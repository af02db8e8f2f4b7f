"""Programs kept on disk, so that the second start of a network needs no compiler, and its step no tracing either.

JAX keeps what it has compiled, by what it was compiled from: that must be traced and lowered first, some 4 s of 11 for
ResNet101. So the step is kept as well in the form in which the compiler takes it, StableHLO, by all that it was traced
from: the library's source, versions, settings and shapes.
"""

import contextlib
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax import export

import maskrcnn_jax
from maskrcnn_jax.training.step import Step

TRACED_BY = ("jax", "jaxlib", "flax", "optax", "numpy")
DIGEST = 32  # bytes of SHA-256


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


def keep_traced(step: Step, arguments: tuple[Any, ...], settings: Any) -> Step:
    """`step`, for arguments like these, as it was traced here before, or as it is now traced for the next time.

    Args:
        step: from `make_step`; the memory of its first argument, the state, goes to the new one.
        arguments: of one call, for their shapes.
        settings: all that `step` was made of, with a `repr` that tells it all.

    Only for one CPU: elsewhere, where no folder is set for compiled programs, and where StableHLO cannot hold what the
    step does, as after a `jax.debug.print` was put into the network, `step` comes back as it is. A file
    that is damaged or from another version is written anew, one that cannot be written is done without. The library's
    source is looked at as it lies on disk: who replaces a function of it in the running process sets no such folder.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or jax.device_count() > 1 or jax.default_backend() != "cpu":
        return step
    leaves, tree = jax.tree.flatten(arguments)
    held = jax.tree.structure(arguments[0])
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    path = Path(folder) / "traced" / hashlib.sha256(repr((_origin(), settings, tree, shapes)).encode()).hexdigest()
    exported = _read(path)
    if exported is None:

        def of_leaves(leaves: list[Any]) -> tuple[list[Any], Any]:
            state, metrics = step(*jax.tree.unflatten(tree, leaves))
            return jax.tree.leaves(state), metrics

        try:
            exported = export.export(jax.jit(of_leaves))(leaves)
            program = bytes(exported.serialize())
        except Exception:
            return step  # it prints, or calls the host otherwise; if it is wrong, its own call will say so
        _write(path, program)

    def call(state: list[Any], rest: list[Any]) -> Any:
        return exported.call([*state, *rest])

    compiled = jax.jit(call, donate_argnums=0)

    def kept(*arguments: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(arguments)
        state, metrics = compiled(leaves[: held.num_leaves], leaves[held.num_leaves :])
        return jax.tree.unflatten(held, state), metrics

    return kept


def _origin() -> tuple[Any, ...]:
    """What a trace depends on beside its arguments: the library's source, versions, JAX's settings."""
    plain = {name: value for name, value in jax.config.values.items() if isinstance(value, bool | int | float | str)}
    plain.pop("jax_compilation_cache_dir", None)
    return _source(), platform.python_version(), [version(name) for name in TRACED_BY], sorted(plain.items())


def _source() -> str:
    source = hashlib.sha256()
    for path in sorted(Path(maskrcnn_jax.__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    return source.hexdigest()


def _read(path: Path) -> export.Exported | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, program = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(program).digest() != digest:
        return None
    return export.deserialize(bytearray(program))


def _write(path: Path, program: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(program).digest() + program)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
