"""The log: cut back to the step that a run goes on from, whole lines only, and a sentence when the disk is full."""

from pathlib import Path

import pytest

from crystal.errors import RunError
from crystal.pages.charts import curve
from crystal.training.best import Best
from crystal.training.log import Log, read_metrics
from tests.small import small_model


def test_a_log_is_cut_back_to_the_step_and_drops_a_line_cut_short(tmp_path):
    log = Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step=step, loss=1 / 3)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    Log(tmp_path, 2).close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.333333}, {"step": 2, "loss": 0.333333}]


def test_numbers_that_are_not_finite_are_null_in_every_reader(tmp_path):
    """JSON has no NaN. Logs of version 0.1 have it nevertheless."""
    log = Log(tmp_path, 0)
    log.write(step=1, loss=1.0, grad_norm=float("nan"), val_map=float("inf"))
    log.close()
    path = tmp_path / "metrics.jsonl"
    assert path.read_text() == '{"step": 1, "loss": 1.0, "grad_norm": null, "val_map": null}\n'
    with path.open("a") as file:
        file.write('{"step": 2, "loss": 2.0, "val_map": NaN}\n{"step": 3, "val_map": 0.25}\n')
    lines = read_metrics(tmp_path)
    assert lines[1] == {"step": 2, "loss": 2.0, "val_map": None}
    assert [values.tolist() for values in curve(lines, "val_map")] == [[3.0], [0.25]]
    best = Best(tmp_path, 3)
    assert best._value == 0.25
    best.offer(4, small_model(), {"val_map": float("nan")})
    best.offer(4, small_model(), {"val_map": 0.25 + 1e-7})  # in the log, which a resumed run reads, it is 0.25
    assert not (tmp_path / "best").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_in_a_sentence(tmp_path):
    log = Log(tmp_path, 0)
    log._file.close()
    with Path("/dev/full").open("a") as log._file:
        with pytest.raises(RunError, match=r"cannot write .*No space left on device; make room and repeat"):
            log.write(step=1, loss=1.0)
        log.close()


def test_only_a_full_disk_is_called_full(tmp_path, monkeypatch):
    log = Log(tmp_path, 0)

    def fail():
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(log._curves, "flush", fail)
    with pytest.raises(RunError, match=r"Input/output error; repeat the command"):
        log.write(step=1, loss=1.0)
    log.close()
