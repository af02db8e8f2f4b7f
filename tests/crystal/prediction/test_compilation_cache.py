"""Compiled programs are kept where that can be done, and elsewhere the run goes on with a note."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from crystal.prediction.compilation_cache import MAX_BYTES, use_compilation_cache
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import small_model

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def jax_settings():
    """Those of a process whose user has set no folder; afterwards as before."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    use_compilation_cache()
    folder = Path(jax.config.values["jax_compilation_cache_dir"])
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path / "cache")
    assert jax.config.values["jax_compilation_cache_max_size"] == MAX_BYTES
    assert capsys.readouterr().out == ""


def test_the_users_own_folder_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == "/elsewhere"
    assert list(tmp_path.iterdir()) == []


def no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("home", [no_home, lambda: Path("/proc/nobody")], ids=["unknown", "not writable"])
def test_without_a_folder_that_can_be_written_there_is_a_note(home, monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert "note: compiled programs are not kept" in capsys.readouterr().out


@pytest.mark.slow
def test_a_user_without_home_and_without_a_name_can_train(tmp_path):
    """As in a container that runs under a number: the run goes on without a cache, and says so."""
    write_scenes(tmp_path / "data", 2, seed=1)
    checkpoint.save(small_model(), tmp_path / "weights")
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef unknown(uid): raise KeyError(f'uid not found: {uid}')\npwd.getpwuid = unknown\n"
    )
    words = ["train", "--data", "data", "--out", "run", "--init", "weights", "--steps", "1", "--set", "batch_size=2"]
    done = subprocess.run(
        [sys.executable, "-m", "crystal", *words],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: compiled programs are not kept" in done.stdout
