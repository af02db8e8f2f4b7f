"""The table says what the figures say."""

import copy

import pytest

from crystal.evaluation.table1 import measures
from crystal.pages.table1 import compared, print_table, rows, verdict, write_markdown, write_table_page

NAMES = {"coco_segm_ap": 0.31, "coco_segm_ap50": 0.6, "coco_bbox_ap": 0.3, "precision": 0.7, "recall": None}


def evaluation(*aps):
    return {
        "numbers": NAMES,
        "drawn": {"10": [0, 1], "100": [0, 1, 2]},
        "ap": {iou: list(aps) for iou in ("0.50", "0.65")},
    }


@pytest.fixture
def results():
    plain, clahe = [evaluation(0.2, 0.4, 0.6), evaluation(0.2, 0.5, 0.5)], [evaluation(0.4, 0.5, 0.7)] * 2
    evaluations = {"plain": plain, "clahe": clahe}
    return {
        "command": "crystal table1 --data <drops>",
        "machine": {"processor": "an abacus", "device": "1 x cpu", "commit": None},
        "settings": {"preset": "tiny", "init": None, "steps": 9, "set": ["batch_size=2"], "images": [5, 3]},
        "seeds": 2,
        "arms": {"plain": "without CLAHE", "clahe": "with CLAHE"},
        "measures": measures(evaluations),
        "ap": {arm: [one["ap"] for one in own] for arm, own in evaluations.items()},
    }


def test_rows(results):
    header, cells = rows(results)
    assert header[:5] == ["measure", "images", "without CLAHE", "with CLAHE", "difference"]
    assert cells[0][:4] == ["mAP, IoU 0.50, 10 images", "2", "0.325 ± 0.035", "0.450 ± 0.000"]
    assert cells[0][4] == "+0.125 ± 0.035"
    assert cells[0][-2:] == ["0.668", "0.703"]
    assert cells[-1] == ["recall, score 0.5", "3", *["–"] * 7]
    assert compared(results) == ["clahe"]


def test_one_seed_has_no_spread_and_no_interval_over_seeds(results):
    alone = {"plain": [evaluation(0.2, 0.4, 0.6)], "clahe": [evaluation(0.4, 0.5, 0.7)]}
    header, cells = rows(results | {"seeds": 1, "measures": measures(alone)})
    assert "95 %, images" in header
    assert not any("seeds" in column for column in header)
    assert cells[3][2:5] == ["0.400", "0.533", "+0.133"]
    assert "With one seed" in verdict(results | {"seeds": 1, "measures": measures(alone)})
    assert "With one seed" not in verdict(results)


def test_the_verdict_goes_with_the_interval(results):
    assert "it helps" in verdict(results)
    turned = copy.deepcopy(results)
    for measure in turned["measures"].values():
        difference = measure["differences"]["clahe"]
        if "interval_images_and_seeds" in difference:
            low, high = difference["interval_images_and_seeds"]
            difference["interval_images_and_seeds"] = (-high, -low)
    assert "it harms" in verdict(turned)
    for measure in turned["measures"].values():
        measure["differences"]["clahe"]["interval_images_and_seeds"] = (-0.1, 0.2)
    assert "no effect is shown" in verdict(turned)


def test_the_files(results, tmp_path, capsys):
    print_table(results)
    said = capsys.readouterr().out
    assert "mAP, IoU 0.50, 10 images" in said
    assert max(map(len, said.splitlines()[:-1])) <= 80
    write_markdown(tmp_path / "table1.md", results)
    table = [line for line in (tmp_path / "table1.md").read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    for seed in (0, 1):
        for arm in ("plain", "clahe"):
            run = tmp_path / "runs" / f"{seed}-{arm}"
            run.mkdir(parents=True)
            (run / "metrics.jsonl").write_text("".join(f'{{"step": {k}, "loss": {3 - k}}}\n' for k in (1, 2)))
    text = write_table_page(tmp_path / "table1.html", results, runs=tmp_path / "runs").read_text()
    assert "http" not in text
    assert text.count("<svg") == 1 + 5 + 2 + 1
    assert "&lt;drops&gt;" in text
