"""Checkpoints that were damaged after they were written are noticed, kept aside, and passed over."""

import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crystal.errors import RunError
from crystal.training.checkpoints import PIECE, Checkpoints, _checksum
from maskrcnn_jax.training.state import create_state
from tests.small import small_model

OPTIMIZER = optax.sgd(0.1, momentum=0.9)
model = cache(small_model)


def fresh(step):
    return create_state(model(), OPTIMIZER, part="heads")[1], True


def filled(value):
    """A state whose every number says which step it is of; not a constant array, which would compress to nothing."""
    state, _ = fresh(0)
    rng = np.random.default_rng(value)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype) if leaf.ndim else leaf, state
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 2 and 4 of three that were saved."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(folder, model())
    for step in (1, 2, 4):
        checkpoints.save(step, filled(step), {"input": step})
    checkpoints.close()
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["2", "4"]
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of them, to damage."""
    return shutil.copytree(saved, tmp_path, dirs_exist_ok=True)


def newest(run):
    checkpoints = Checkpoints(run, model())
    found = checkpoints.newest_whole(fresh)
    checkpoints.close()
    return found


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def assert_equal(a, b):
    for ours, theirs in zip(jax.tree.leaves(a._replace(step=0)), jax.tree.leaves(b._replace(step=0)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_was_saved_comes_back(run):
    step, (state, position) = newest(run)
    assert (step, position) == (4, {"input": 4})
    assert_equal(state, filled(4))


def data_files(folder):
    """Orbax keeps arrays in a few files, and not all of them are read again."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 2000]
    assert found
    return found


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: [path.write_bytes(path.read_bytes()[:-1000]) for path in data_files(folder / "model")],
        lambda folder: largest_file(folder / "optimizer").unlink(),
        lambda folder: next((folder / "position").iterdir()).write_text("{"),
        lambda folder: next((folder / "checksums").iterdir()).unlink(),
    ],
    ids=["cut", "gone", "position", "checksum"],
)
def test_damage_is_passed_over_said_and_kept(run, damage, capsys):
    damage(run / "checkpoints" / "4")
    step, (state, position) = newest(run)
    assert (step, position) == (2, {"input": 2})
    np.testing.assert_array_equal(jax.tree.leaves(state.params)[0], jax.tree.leaves(filled(2).params)[0])
    assert "step 4 is damaged and is passed over" in capsys.readouterr().out.replace("\n", " ")
    assert (run / "damaged-checkpoints" / "4").is_dir()
    # The run comes to step 4 again and writes it anew.
    again = Checkpoints(run, model())
    again.save(4, filled(4), {"input": 4})
    again.close()
    assert newest(run)[0] == 4


@pytest.mark.parametrize("item", ["model", "optimizer"])
def test_no_flipped_bit_is_taken_for_a_number(run, item):
    """Some bytes of a file are nobody's; wherever else a bit flips, the checkpoint is passed over."""
    whole, noticed = (run / "checkpoints" / "4"), 0
    shutil.copytree(whole, run / "copy")
    for at in (0.3, 0.5, 0.7):
        for path in data_files(whole / item):
            flip(path, at)
        step, (state, _) = newest(run)
        noticed += step == 2
        if step == 4:
            assert_equal(state, filled(4))
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(run / "copy", whole)
    assert noticed


def test_with_nothing_whole_a_person_decides(run):
    for step in ("2", "4"):
        largest_file(run / "checkpoints" / step / "optimizer").unlink()
    for _ in range(2):  # nothing has moved: the second answer is the first
        with pytest.raises(RunError, match=r"no checkpoint in .* can be read \(step 4: .*; step 2: .*to begin anew"):
            newest(run)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "4"]
    assert not (run / "damaged-checkpoints").exists()


def test_where_nothing_was_written_a_run_begins(tmp_path):
    assert newest(tmp_path) == (0, None)


def test_a_checksum_notices_every_bit():
    words = np.arange(6, dtype=np.uint32)

    def checksum(words):
        return int(_checksum([jnp.asarray(words.view(np.float32))]))

    for word in range(words.size):
        for bit in range(32):
            changed = words.copy()
            changed[word] ^= np.uint32(1 << bit)
            assert checksum(changed) != checksum(words)
    assert checksum(words) == 15
    assert int(_checksum({})) == 0


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_a_checksum_is_the_sum_of_all_words(size):
    words = np.random.default_rng(size).integers(0, 2**32, size, dtype=np.uint32)
    tree = {"long": jnp.asarray(words.view(np.int32)), "matrix": jnp.arange(-6, 0).reshape(2, 3)}
    expected = (words.sum(dtype=np.uint64) + np.arange(-6, 0).astype(np.uint32).sum(dtype=np.uint64)) % 2**32
    assert int(_checksum(tree)) == expected


def test_a_checksum_copies_no_state():
    needed = _checksum.lower({"a": jnp.zeros((64, PIECE))}).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 64 * PIECE  # a quarter of the array
