"""XLA's options for tests. Most of a run's time goes into compiling small programs that run once; values differ from
those of the default options in the last bits at most.

`XLA_FLAGS= pytest` runs everything with the default options. This imports no JAX, which reads the flags when it starts.
"""

import os
from importlib.metadata import version

# XLA ends a process over an option that it does not know, and these are no promise.
KNOWN = version("jaxlib").startswith(("0.10.", "0.11."))
EMITTERS = "xla_cpu_use_fusion_emitters"
# Two thirds of the time to compile, a little slower to run.
FASTER = f"--{EMITTERS}=false" if KNOWN else ""
# A fifth, for programs that run a few times.
QUICK = f"{FASTER} --xla_backend_optimization_level=0"
QUICKLY = {"xla_backend_optimization_level": 0} | ({EMITTERS: False} if KNOWN else {})  # QUICK, for one program
DEFAULT = {EMITTERS: True} if KNOWN else {}  # for one program: `jax.jit(..., compiler_options=DEFAULT)`


def quickly(jitted, **options):
    """A function that is jitted already, compiled with QUICK's options; `options` are those of `jax.jit`."""
    import jax

    return jax.jit(jitted.__wrapped__, compiler_options=QUICKLY, **options)


def quick_training(monkeypatch):
    """For trainings of a few steps in this process."""
    from crystal import train

    make_step = train.make_step
    monkeypatch.setattr(train, "make_step", lambda *arguments: quickly(make_step(*arguments), donate_argnums=0))


def quick_environment(monkeypatch):
    """For trainings of a step or two in processes of their own, which read QUICK; this one keeps what it has."""
    import jax

    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {QUICK}")
