"""The faults of `tests/mutations.py` can still be put in: what they replace stands where they say, once."""

import ast

import pytest

from tests.mutations import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits_the_code(fault):
    text = (ROOT / fault.file).read_text()
    assert text.count(fault.old) == 1
    broken = text.replace(fault.old, fault.new)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(text))  # it runs, and says something else
    assert (ROOT / fault.tests).is_file()
