"""The faults of `python -m tests.mutations` can still be put in."""

from pathlib import Path

from tests.mutations import FAULTS

ROOT = Path(__file__).parent.parent


def test_each_fault_has_its_place():
    for fault in FAULTS:
        assert (ROOT / fault.file).read_text().count(fault.old) == 1, fault.name
        assert fault.old != fault.new
        assert (ROOT / fault.tests).exists()
