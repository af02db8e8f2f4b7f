"""crystals.csv and drops.csv: a row for every picture, ranked; micrometres and points that agree with the pixels."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from crystal.files import name_outputs
from crystal.prediction.calibration import UNKNOWN, Calibration
from crystal.prediction.outputs import OutputFolder
from crystal.prediction.tables import CRYSTAL_COLUMNS, DROP_COLUMNS
from tests.predictions import ONE_CLASS, WITH_DROP, disc, predicted

IMAGE = np.full((80, 100, 3), 128, np.uint8)


def tables(out, found, *, classes=WITH_DROP, calibration=UNKNOWN, outside=False):
    """(rows of crystals.csv, rows of drops.csv, the folder) of predictions by file name."""
    names = name_outputs([Path(name) for name in found])
    with OutputFolder(
        out, classes=classes, score_threshold=0.5, labelme=False, calibration=calibration, outside=outside
    ) as folder:
        for path, name in names.items():
            folder.add(path, name, IMAGE, found[str(path)])
        folder.publish()
    files = []
    for name in ("crystals.csv", "drops.csv"):
        with open(out / name, newline="") as file:
            files.append(list(csv.DictReader(file)))
    return *files, folder


IN_DROP = predicted((disc((40, 40), 30), 0.9, 2), (disc((30, 40), 6), 0.8, 1), (disc((92, 70), 5), 0.95, 1))


def test_a_plate_ranked_with_its_empty_drops(tmp_path):
    found = {
        "x_A01_1.png": predicted(),
        "x_A01_2.png": predicted((disc((30, 40), 6), 0.4, 1)),
        "x_B12_1.png": predicted((disc((30, 40), 6), 0.8, 1), (disc((60, 40), 9), 0.7, 1)),
        "x_C03_1.png": predicted((disc((30, 40), 6), 0.9, 1)),
        "x_C03_2.png": predicted((disc((30, 40), 6), 0.8, 1)),
    }
    crystals, drops, folder = tables(tmp_path, found)
    assert tuple(crystals[0]) == CRYSTAL_COLUMNS
    assert tuple(drops[0]) == DROP_COLUMNS
    assert [(d["rank"], d["well"], d["subwell"], d["crystals"], d["hit_score"]) for d in drops] == [
        ("1", "C3", "1", "1", "0.9000"),
        ("2", "B12", "1", "2", "0.8000"),  # more crystals than the next at the same score
        ("3", "C3", "2", "1", "0.8000"),
        ("4", "A1", "2", "0", "0.4000"),  # the best score, though it does not reach the threshold
        ("5", "A1", "1", "0", "0.0000"),
    ]
    assert (len(crystals), folder.crystals, folder.done) == (4, 4, 5)
    largest = next(row for row in crystals if row["image"] == "x_B12_1.png" and row["crystal"] == "2")
    for name in ("area", "length", "width", "equivalent_diameter"):
        assert drops[1][f"largest_{name}_px"] == largest[f"{name}_px"]
    for row in crystals + drops:
        assert (tmp_path / row["overlay"]).exists()
        assert {row[name] for name in row if "um" in name} == {""}
        assert row.get("outside", "false") == "false", "no drop was found, so all count"


def test_models_without_drops_leave_what_they_cannot_know_empty(tmp_path):
    crystals, drops, _ = tables(tmp_path, {"a.png": predicted((disc((30, 40), 6), 0.8, 1))}, classes=ONE_CLASS)
    assert crystals[0]["outside"] == ""
    assert {drops[0][name] for name in drops[0] if name.startswith(("drop_", "dispense_"))} == {""}
    assert (drops[0]["well"], drops[0]["subwell"]) == ("", "")


@pytest.mark.parametrize("outside", [False, True])
def test_crystals_outside_the_drop(tmp_path, outside):
    """They are in the table, and count only if asked for; the drop itself is no crystal."""
    crystals, drops, folder = tables(tmp_path, {"a.png": IN_DROP}, outside=outside)
    assert [(row["crystal"], row["class"], row["outside"]) for row in crystals] == [
        ("1", "crystal", "true"),
        ("2", "crystal", "false"),
    ]
    assert (drops[0]["crystals"], drops[0]["hit_score"]) == (("2", "0.9500") if outside else ("1", "0.8000"))
    assert (folder.crystals, folder.left_out) == ((2, 0) if outside else (1, 1))
    assert drops[0]["drop_area_px"] == str(disc((40, 40), 30).sum())
    drawn = cv2.imread(str(tmp_path / "overlays" / "a.jpg")).astype(int)
    changed = np.abs(drawn - IMAGE).max(-1) > 40
    assert changed[5:12, 40].any(), "the drop's rim"
    assert changed[64:78, 84:99].any() == outside, "the crystal beside it"


def test_micrometres_are_counted_from_the_drops_centre(tmp_path):
    um = 2.5
    [beside, inside], [drop], _ = tables(tmp_path, {"a.png": IN_DROP}, calibration=Calibration(um))
    for name in ("length", "width", "equivalent_diameter"):
        assert float(inside[f"{name}_um"]) == pytest.approx(um * float(inside[f"{name}_px"]), abs=0.03)
    assert float(inside["area_um2"]) == pytest.approx(um**2 * float(inside["area_px"]))
    assert float(inside["shoot_x_um"]) == pytest.approx(um * (30.5 - 40.5), abs=0.2)
    assert float(inside["shoot_y_um"]) == pytest.approx(0, abs=0.2)
    assert float(beside["shoot_x_um"]) == pytest.approx(um * (92 - 40), abs=0.2)
    assert float(drop["dispense_x_um"]) == pytest.approx(um * (float(drop["dispense_x"]) - 40.5), abs=0.3)
    assert float(drop["drop_area_um2"]) == pytest.approx(um**2 * float(drop["drop_area_px"]))
    assert drop["um_per_pixel"] == "2.5"


def test_without_a_drop_the_pictures_centre_counts_and_an_imagers_scale_holds_for_its_size(tmp_path):
    found = {"a.png": predicted((disc((30, 40), 6), 0.8, 1))}
    [row], _, folder = tables(tmp_path / "own", found, calibration=Calibration(2.0, (80, 100)))
    assert float(row["shoot_x_um"]) == pytest.approx(2 * (30.5 - 50), abs=0.2)
    assert folder.without_scale == 0
    [row], _, folder = tables(tmp_path / "other", found, calibration=Calibration(2.0, (960, 1280)))
    assert (row["length_um"], folder.without_scale) == ("", 1)
