"""Checkpoints that were damaged after they were written are noticed, moved aside, and passed over."""

import shutil
from functools import cache

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from crystal.errors import RunError
from crystal.training.checkpoints import DAMAGED, FAILED, Checkpoints, checksum
from tests.small import small_model

model = cache(small_model)


def optimizer_after(step):
    return jax.eval_shape(optax.trace(0.9).init, nnx.to_pure_dict(nnx.state(model())))


def filled(step):
    """A model and an optimizer's state of random numbers; constant arrays would compress to nothing."""
    rng = np.random.default_rng(step)
    graph, state = nnx.split(model())
    state, optimizer = jax.tree.map(
        lambda leaf: jax.numpy.asarray(rng.standard_normal(leaf.shape), leaf.dtype), (state, optimizer_after(step))
    )
    return nnx.merge(graph, state), optimizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 2 and 4 of three that were saved."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 4):
        checkpoints.save(step, *filled(step), {"input": step})
    checkpoints.close()
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["2", "4"]
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of them, to damage."""
    return shutil.copytree(saved, tmp_path, dirs_exist_ok=True)


def newest(run):
    checkpoints = Checkpoints(run)
    found = checkpoints.newest_whole(model(), optimizer_after)
    checkpoints.close()
    return found


def assert_is_step(found, step):
    assert (found.step, found.position) == (step, {"input": step})
    wanted, optimizer = filled(step)
    assert found.model.config == wanted.config
    for ours, theirs in zip(
        jax.tree.leaves((nnx.state(found.model), found.optimizer)),
        jax.tree.leaves((nnx.state(wanted), optimizer)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def data_files(folder):
    """Orbax keeps arrays in a few files, and not all of them are read again."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 2000]
    assert found
    return found


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


def test_what_was_saved_comes_back(run):
    assert_is_step(newest(run), 4)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: [path.write_bytes(path.read_bytes()[:-1000]) for path in data_files(folder / "model")],
        lambda folder: max(data_files(folder / "optimizer"), key=lambda path: path.stat().st_size).unlink(),
        lambda folder: shutil.rmtree(folder / "model"),
        lambda folder: next((folder / "position").iterdir()).write_text("{"),
        lambda folder: next((folder / "checksums").iterdir()).unlink(),
        lambda folder: next((folder / "checksums").iterdir()).write_text("[]"),
    ],
    ids=["cut", "file gone", "folder gone", "position", "no checksum", "other JSON"],
)
def test_damage_is_passed_over_with_a_note_and_moved_aside(run, damage, capsys):
    damage(run / "checkpoints" / "4")
    checkpoints = Checkpoints(run)
    assert_is_step(checkpoints.newest_whole(model(), optimizer_after), 2)
    assert "step 4 is damaged and is passed over" in capsys.readouterr().out.replace("\n", " ")
    (aside,) = (run / "damaged-checkpoints").iterdir()
    assert aside.name.startswith("4-")
    checkpoints.save(3, *filled(3), {"input": 3})
    checkpoints.save(4, *filled(4), {"input": 4})
    checkpoints.close()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["3", "4"]
    assert_is_step(newest(run), 4)


@pytest.mark.parametrize("item", ["model", "optimizer"])
def test_no_flipped_bit_is_taken_for_a_number(run, item):
    """Some bytes of a file have no meaning; wherever else a bit flips, the checkpoint is passed over."""
    whole, noticed = (run / "checkpoints" / "4"), 0
    shutil.copytree(whole, run / "copy")
    for at in (0.3, 0.5, 0.7):
        for path in data_files(whole / item):
            flip(path, at)
        found = newest(run)
        assert_is_step(found, found.step)
        noticed += found.step == 2
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(run / "copy", whole)
    assert noticed


def test_with_nothing_whole_the_run_does_not_begin_anew_by_itself(run):
    for step in ("2", "4"):
        shutil.rmtree(run / "checkpoints" / step / "optimizer")
    for _ in range(2):  # nothing has moved: the second answer is the first
        with pytest.raises(RunError, match=r"no checkpoint in .* can be read \(step 4: .*; step 2: .*another --out"):
            newest(run)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "4"]
    assert not (run / "damaged-checkpoints").exists()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError(), RuntimeError("no device")])
def test_an_error_of_the_system_is_no_damage(run, error, monkeypatch):
    def fail(self, *arguments):
        raise error

    monkeypatch.setattr(Checkpoints, "_restore", fail)
    with pytest.raises(type(error)):
        newest(run)
    assert not (run / "damaged-checkpoints").exists()


def of_two(monkeypatch, reading):
    """This process is one of two; the other one fares with the checkpoint of step 4 as given, and sees the same."""
    gathered = []

    def gather(own):
        gathered.append(own)
        return np.array([own, own if len(gathered) != 2 else [reading]])

    monkeypatch.setattr("crystal.training.checkpoints.processes.gather", gather)


def test_what_another_process_cannot_read_is_passed_over_here_too(run, monkeypatch, capsys):
    of_two(monkeypatch, DAMAGED)
    assert_is_step(newest(run), 2)
    assert "step 4 is damaged and is passed over (process 1 cannot read it)" in capsys.readouterr().out


def test_an_error_of_the_system_in_another_process_ends_this_one(run, monkeypatch):
    of_two(monkeypatch, FAILED)
    with pytest.raises(RunError, match=r"process 1 could not read the checkpoint of step 4; see its message"):
        newest(run)
    assert not (run / "damaged-checkpoints").exists()


def test_a_file_that_must_not_be_read_is_no_damage(run, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionError):
        newest(run)
    assert not (run / "damaged-checkpoints").exists()


def test_where_nothing_was_written_there_is_nothing(tmp_path):
    assert newest(tmp_path) is None


def test_a_checksum_notices_every_bit_and_the_order():
    words = np.arange(6, dtype=np.uint32)
    original = checksum([words])
    for word in range(words.size):
        for bit in range(32):
            changed = words.copy()
            changed[word] ^= np.uint32(1 << bit)
            assert checksum([changed]) != original
    assert checksum([words[::-1]]) != original
    assert checksum([jax.numpy.asarray(words[:3]), words[3:]]) == original
    assert checksum({}) == 0
