"""What a figure was measured on: hardware, versions, commit; part of every file of results."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")  # one of them


def versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    found = {}
    for name in (*PACKAGES, *OPENCV):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, JAX's device, Python and package versions, and the commit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    return {
        "processor": _processor(),
        "cores": cores,
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "platform": device.platform,
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit(),
    }


def file_name(machine: Mapping[str, Any], question: str) -> str:
    """The name of a file of results: what it was measured on, and the question.

    >>> file_name({"platform": "cpu", "cores": 2}, "precision")
    'cpu-2-cores-precision.json'
    >>> file_name({"platform": "gpu", "device": "8 x NVIDIA H200"}, "step")
    'nvidia-h200-x8-step.json'
    """
    if machine["platform"] == "cpu":
        return f"cpu-{machine['cores']}-cores-{question}.json"
    count, _, kind = machine["device"].partition(" x ")
    return f"{re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')}-x{count}-{question}.json"


def _processor() -> str:
    """The processor's name, from /proc/cpuinfo where that exists."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the checkout that this code runs from, with a plus if files were changed; None outside of one."""
    folder = Path(__file__).parent
    try:
        found = [
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return found[0] + ("+" if found[1] else "")
