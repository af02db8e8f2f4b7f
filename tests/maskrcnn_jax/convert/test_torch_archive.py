"""Tensors of PyTorch files, new and old; with PyTorch at hand, its own."""

import zipfile

import numpy as np
import pytest

from maskrcnn_jax.convert.pickles import PickleError, bfloat16_to_float32
from maskrcnn_jax.convert.torch_archive import open_legacy, open_zip
from tests.weight_files import write_legacy, write_zip

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "scalar": np.float32(5).reshape(()),
    "counter": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}
FORMATS = {"zip": (write_zip, open_zip), "legacy": (write_legacy, open_legacy)}


@pytest.fixture(params=FORMATS)
def format_(request):
    return FORMATS[request.param]


def test_round_trip(tmp_path, format_):
    write, open_ = format_
    write(tmp_path / "w", ARRAYS)
    with open_(tmp_path / "w") as entries:
        assert list(entries) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert entries[name].shape == array.shape
            np.testing.assert_array_equal(entries[name].read(), array)
            assert entries[name].read().dtype == array.dtype


def test_a_file_cut_short_anywhere(tmp_path, format_):
    write, open_ = format_
    write(tmp_path / "w", ARRAYS)
    whole = (tmp_path / "w").read_bytes()
    for length in range(20, len(whole) - 1, 37):
        (tmp_path / "w").write_bytes(whole[:length])
        with pytest.raises(PickleError), open_(tmp_path / "w") as entries:
            [entry.read() for entry in entries.values()]


def test_a_bit_flipped_among_the_numbers_is_seen_in_a_zip(tmp_path):
    write_zip(tmp_path / "w", ARRAYS)
    content = bytearray((tmp_path / "w").read_bytes())
    content[content.index(ARRAYS["conv.weight"].tobytes()) + 5] ^= 1
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(PickleError, match="damaged"), open_zip(tmp_path / "w") as entries:
        entries["conv.weight"].read()


def test_compressed_numbers_are_refused(tmp_path):
    """They could unpack to anything."""
    write_zip(tmp_path / "w", ARRAYS)
    with zipfile.ZipFile(tmp_path / "w") as old, zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(PickleError, match="compressed"), open_zip(tmp_path / "z") as entries:
        entries["conv.weight"].read()


def test_other_zips_and_byte_orders(tmp_path):
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(PickleError, match=r"no data\.pkl"), open_zip(tmp_path / "w"):
        pass
    write_zip(tmp_path / "w", ARRAYS)
    with zipfile.ZipFile(tmp_path / "w") as old, zipfile.ZipFile(tmp_path / "z", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(PickleError, match="big-endian"), open_zip(tmp_path / "z"):
        pass


def test_a_tensor_beyond_its_storage(tmp_path):
    """Sizes and strides are the pickle's to choose; they must not reach into other memory."""
    write_zip(tmp_path / "w", {"w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    with zipfile.ZipFile(tmp_path / "w") as old, zipfile.ZipFile(tmp_path / "z", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86") if "pkl" in name else content)
    with pytest.raises(PickleError, match=r"size \(2, 127\) that extends beyond"), open_zip(tmp_path / "z"):
        pass


def test_bfloat16():
    values = np.array([1.0, -2.5, 3.0e38, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_allclose(bfloat16_to_float32(bits), values, rtol=2**-8)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_pytorch_itself(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "counter": torch.tensor(3),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    torch.save(tensors, tmp_path / "w", _use_new_zipfile_serialization=not legacy)
    with (open_legacy if legacy else open_zip)(tmp_path / "w") as entries:
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(entries[name].read(), tensor.detach().to(torch.float64).numpy())
