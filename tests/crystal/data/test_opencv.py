"""A container without libGL is told what to install."""

import subprocess
import sys
from pathlib import Path


def test_missing_system_library_is_one_sentence():
    code = (
        "import sys, builtins; real = builtins.__import__\n"
        "def fail(name, *rest, **more):\n"
        "    if name == 'cv2': raise ImportError('libGL.so.1: cannot open shared object file')\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = fail\n"
        "try: import crystal.data.images\n"
        "except ImportError as error: print(error)"
    )
    root = Path(__file__).resolve().parents[3]
    said = subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True).stdout
    assert "libGL.so.1" in said
    assert "apt-get install libgl1 libglib2.0-0" in said
