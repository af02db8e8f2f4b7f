"""Arrays come out of pickles of every age; nothing that a pickle wants to run is run."""

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskrcnn_jax.convert import pickles
from maskrcnn_jax.convert.pickles import PickleError

DTYPES = st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", "|u1", "|b1"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(hnp.arrays(DTYPES, SHAPES), st.sampled_from([2, 3, 4, 5]), st.booleans())
def test_round_trip(array, protocol, column_major):
    array = np.asfortranarray(array) if column_major else array
    entry = pickles.arrays(pickles.loads(pickle.dumps({"w": array}, protocol=protocol)))["w"]
    assert entry.shape == array.shape
    assert entry.read().dtype == array.dtype
    np.testing.assert_array_equal(entry.read(), array)


def test_a_pickle_of_python_2():
    """Its bytes are text, read as Latin-1: `cPickle.dumps({"w": numpy.arange(2, dtype="f4")}, 2)`, by hand."""
    raw = np.arange(2, dtype="<f4").tobytes()
    program = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbs."
    )
    assert pickles.arrays(pickles.loads(program))["w"].read().tolist() == [0.0, 1.0]


def test_dictionaries_within_dictionaries():
    array = np.ones(2, np.float32)
    for content in ({"model": {"w": array}, "epoch": 3}, {"state_dict": OrderedDict(w=array)}, {"w": array}):
        assert list(pickles.arrays(pickles.loads(pickle.dumps(content)))) == ["w"]


class Malicious:
    """What a pickle may hold: a call of anything."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("where", [lambda m: m, lambda m: {"model": {"w": m}}, lambda m: [m, np.ones(2)]])
def test_nothing_is_run(tmp_path, protocol, where):
    victim = tmp_path / "victim"
    for call in (
        (os.system, f"touch {victim}"),
        (eval, f"open({str(victim)!r}, 'w')"),
        (open, str(victim), "w"),
        (np.save, str(victim), np.ones(1)),
        (getattr, str, "join"),
    ):
        program = pickle.dumps(where(Malicious(*call)), protocol=protocol)
        with pytest.raises(PickleError, match="weights do not need"):
            pickles.loads(program)
    assert list(tmp_path.iterdir()) == []
    pickle.loads(pickle.dumps(Malicious(os.system, f"touch {victim}")))
    assert victim.exists()  # what would have happened


@pytest.mark.parametrize(
    "program",
    [
        b"(S'touch x'\nios\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\nU\x07touch xo.",  # OBJ
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo of two thousand million
        b"\x80\x02ccollections\nOrderedDict\n}U\x08__init__K\x01sb.",  # BUILD on the class
        b"\x80\x02c_codecs\nencode\n}U\x0c__defaults__)sb.",  # BUILD on a function
        b"\x80\x02ctorch.storage\n_load_from_bytes\nU\x01x\x85R.",  # unpickles again, without restrictions
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",  # an array of objects
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x80\x02U\x07storageQ.",  # a storage that is none
        b"",
        b"\x80",
        b"\x80\x02}",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of two gigabytes
        b"not a pickle",
    ],
)
def test_strange_programs(program):
    with pytest.raises(PickleError):
        pickles.arrays(pickles.loads(program))


def test_deeply_nested_is_no_dictionary_of_arrays():
    program = b"\x80\x02" + b")" + b"\x85" * 200_000 + b"."
    with pytest.raises(PickleError, match="no dictionary"):
        pickles.arrays(pickles.loads(program))


def test_an_array_that_is_larger_than_its_bytes():
    program = pickle.dumps({"w": np.zeros(8, np.float32)}, protocol=2)
    with pytest.raises(PickleError, match=r"array of shape \(9,\) with 32 bytes"):
        pickles.loads(program.replace(b"K\x08\x85", b"K\x09\x85"))


@pytest.mark.parametrize("content", [[1, 2], {}, {"w": 3}, {"w": np.ones(1), 5: np.ones(1)}, {"model": []}])
def test_what_is_no_dictionary_of_arrays(content):
    with pytest.raises(PickleError, match=r"no dictionary of arrays|not a dictionary of arrays"):
        pickles.arrays(pickles.loads(pickle.dumps(content)))


@given(st.data())
def test_damage_is_an_error_or_harmless(data):
    """Bits flipped and ends cut off anywhere: never another exception, and never another shape than bytes."""
    program = bytearray(pickle.dumps({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, protocol=4))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    program = program[: data.draw(st.integers(1, len(program)))]
    try:
        found = pickles.arrays(pickles.load(io.BytesIO(bytes(program))))
    except PickleError:
        return
    for entry in found.values():
        assert entry.read().shape == entry.shape
