"""XLA's options for tests: most of a run's time would go into optimising small programs that run once.

Values differ from those of the default options in the last bits at most. `XLA_FLAGS= pytest` runs everything with the
default options. This imports no JAX, which reads the flags when it starts.
"""

from importlib.metadata import version

# XLA ends a process over an option that it does not know; later versions do not know this one.
EMITTERS = "xla_cpu_use_fusion_emitters" if version("jaxlib").startswith("0.10.") else None
LEVEL = "xla_backend_optimization_level"
MODULES = "xla_cpu_parallel_codegen_split_count"
# A fifth of the time to compile. LLVM gets whole programs: to cut them into the default 32 modules costs more than its
# threads save where nothing is optimised, a seventh of a small step's time and more of ResNet101's.
QUICK = f"--{LEVEL}=0 --{MODULES}=1" + (f" --{EMITTERS}=false" if EMITTERS else "")
# For one program: `jax.jit(..., compiler_options=DEFAULT)`.
DEFAULT = {LEVEL: 3, MODULES: 32} | ({EMITTERS: True} if EMITTERS else {})
# One that runs for long, as over thousands of boxes, takes twice as long to compile as with QUICK and runs far quicker.
FOR_LOOPS = {LEVEL: 1}
