"""Names of several imagers, and names that only look like wells."""

import pytest

from crystal.prediction.wells import ROWS, Well, parse_well, wells_of

PLATE = "RMM3_01_222_ROBO_Test1_Clon1_CI_0000CI022987_003_121121_{:02}_{:02}_{:02}_HF_99_030_001_RDI"


@pytest.mark.parametrize(
    ("stem", "well"),
    [
        (PLATE.format(1, 1, 3), ("A1", 3)),
        (PLATE.format(12, 8, 4), ("H12", 4)),
        ("vmxi_A03", ("A3", 1)),
        ("97wo_01A_1", ("A1", 1)),
        ("97wo_12H_3", ("H12", 3)),
        ("A10_2", ("A10", 2)),
        ("h12d1", ("H12", 1)),
        ("plate7-B04-drop2", ("B4", 2)),
        ("wellC5c", ("C5", 3)),
        ("P24", ("P24", 1)),
        ("plate7_A01_drop_2", ("A1", 2)),
        ("A01 d2", ("A1", 2)),
        ("H12_subwell3_ef", ("H12", 3)),
        ("01A_d2", ("A1", 2)),
        ("d1_r49284_ef", None),
        ("D1_r7036", ("D1", 1)),
        ("small_crystals_2", None),
        ("big_crystals_3", None),
        ("0000CI022987_003", None),
        ("Test1_Clon1", None),
        ("A00", None),
        ("A25", None),
        ("Q01", None),
        ("2021-11-03", None),
        ("", None),
    ],
)
def test_one_name(stem, well):
    found = parse_well(stem)
    assert (found and (found.name, found.drop)) == well


def test_a_whole_plate_and_a_few_other_files():
    stems = [PLATE.format(column, row, drop) for column in range(1, 13) for row in range(1, 9) for drop in (1, 3, 4)]
    wells = wells_of([*stems, "notes"])
    assert len(set(wells)) == 289
    assert wells[:4] == [Well(0, 1, 1), Well(0, 1, 3), Well(0, 1, 4), Well(1, 1, 1)]
    assert wells[-1] is None
    assert {well.name for well in wells[:-1]} == {f"{row}{column}" for row in ROWS[:8] for column in range(1, 13)}


@pytest.mark.parametrize("stems", [["A01_1", "A01_1"], ["A01", "x", "y"], []])
def test_no_map_where_names_are_no_wells(stems):
    assert wells_of(stems) == [None] * len(stems)
