"""Benchmarks are run by hand and seldom: a name that moved must not be noticed only then."""

import importlib
import pkgutil

import pytest

import benchmarks

MODULES = [module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_imported(name):
    if "torchvision" in name:
        pytest.importorskip("torch")
    importlib.import_module(name)
