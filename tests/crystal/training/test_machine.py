"""Where a figure comes from can be told."""

import json
import re

import jax

from crystal.training.machine import describe_machine


def test_it_names_hardware_versions_and_commit():
    found = json.loads(json.dumps(describe_machine()))
    assert found["processor"]
    assert found["cores"] >= 1
    assert found["platform"] == jax.default_backend()
    assert found["versions"]["jax"] == jax.__version__
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{7,}\+?", found["commit"])
