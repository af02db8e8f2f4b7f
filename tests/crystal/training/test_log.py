"""The log: cut back to the step that a run goes on from, whole lines only, and a sentence when the disk is full."""

from pathlib import Path

import pytest

from crystal.errors import RunError
from crystal.training.log import Log, read_metrics


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_in_a_sentence(tmp_path):
    log = Log(tmp_path, 0)
    log._file.close()
    with Path("/dev/full").open("a") as log._file:
        with pytest.raises(RunError, match=r"cannot write .*No space left on device; make room and repeat"):
            log.write(step=1, loss=1.0)
        log.close()
