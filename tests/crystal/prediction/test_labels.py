"""Labels: each beside its own instance, over no instance and no other label, however many there are."""

import numpy as np

from crystal.prediction.labels import FEW, write_labels

RED, BLUE = (255, 0, 0), (0, 0, 255)


def square(left, top, side):
    corners = [[0, 0], [side - 1, 0], [side - 1, side - 1], [0, side - 1]]
    return [np.array(corners, np.int32) + np.array([left, top], np.int32)]


def written(outlines, labels, colours, size=(200, 300)):
    picture = np.full((*size, 3), 128, np.uint8)
    write_labels(picture, outlines, labels, colours, gap=2)
    return picture


def plate(picture, colour):
    """(left, top, right, bottom) of what is written on a colour."""
    rows, columns = np.nonzero((picture == colour).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_number_stands_on_its_colour_and_the_score_behind_it_on_dark():
    picture = written([square(100, 100, 20)], [("2", "0.94")], [RED])
    left, top, right, bottom = plate(picture, RED)
    assert bottom <= 98
    assert bottom > 90, "beside it"
    dark = (picture[top:bottom, right:] == 16).all(-1)
    assert dark[0, : right - left].all(), "another plate, not the same one"
    assert (picture[top:bottom, left:right] == 16).all(-1).any(), "dark letters"
    assert (picture[98:122, 98:122] == 128).all()


def test_more_than_a_few_are_numbered_without_scores():
    many = [square(10 + 40 * (i % 7), 20 + 40 * (i // 7), 6) for i in range(FEW + 1)]
    numbers = [(str(i), "0.94") for i in range(len(many))]
    picture = written(many, numbers, [RED] * len(many))
    np.testing.assert_array_equal(picture, written(many, [n[:1] for n in numbers], [RED] * len(many)))
    assert (written(many[:FEW], numbers[:FEW], [RED] * FEW) != picture).any()


def test_four_hundred_labels_cover_no_instance_and_no_other_label():
    """Each plate has a colour of its own, and as much of it is seen as if it were alone."""
    rng, count = np.random.default_rng(0), 400
    places = np.stack(np.divmod(np.arange(count), 20), 1) * (40, 48) + rng.integers(4, 20, (count, 2))
    outlines = [square(x, y, int(rng.integers(3, 20))) for y, x in places]
    colours = [(200 + i % 50, 100 + i // 50, 50) for i in range(count)]
    labels = [(str(100 + i),) for i in range(count)]
    picture = written(outlines, labels, colours, (800, 960))
    for [points] in outlines:
        (left, top), (right, bottom) = points.min(0), points.max(0)
        assert (picture[top:bottom, left:right] == 128).all()
    packed = np.array([65536, 256, 1])
    seen = np.bincount(picture.reshape(-1, 3) @ packed, minlength=1 << 24)[np.array(colours) @ packed]
    alone = written([[]] * 99 + [square(150, 90, 5)], [("",)] * 99 + [("100",)], colours[:100])
    assert (seen > 0.6 * (alone == colours[99]).all(-1).sum()).mean() > 0.95
    assert seen.max() < 1000


def test_in_a_crowd_a_large_instance_has_its_label_inside():
    outlines = [square(0, 0, 100), square(105, 0, 100), square(210, 0, 100), square(0, 105, 310)]
    picture = written(outlines, [("1",), ("2",), ("3",), ("4",)], [RED, BLUE, RED, BLUE], (200, 310))
    for corner in (0, 105, 210):
        inside = picture[:, corner : corner + 100]
        left, top, right, bottom = plate(inside, BLUE if corner == 105 else RED)
        assert 30 < left < right < 70
        assert 30 < top < bottom < 70


def test_a_line_leads_to_a_place_farther_off():
    """A small one in a narrow gap: its tag lies beyond its neighbours, and the line passes between them."""
    outlines = [square(102, 102, 4), *(square(x, y, 20) for x in (78, 110) for y in (78, 110))]
    picture = written(outlines, [("7",), *[("",)] * 4], [RED, *[BLUE] * 4])
    _, _, _, bottom = plate(picture, RED)
    assert bottom < 78, "beyond them"
    assert (picture[bottom:100, 90:118, 0] > picture[bottom:100, 90:118, 2] + 40).any(1).all(), "a red line"
    for [points] in outlines:
        (left, top), (right, bottom) = points.min(0) + 3, points.max(0) - 3
        assert (picture[top:bottom, left:right] == 128).all()


def test_no_room_no_label():
    picture = written([square(0, 0, 20), square(0, 0, 20)], [("1",), ("2",)], [RED, BLUE], size=(20, 20))
    assert (picture == 128).all()
    assert (written([[]], [("1",)], [RED]) == 128).all(), "an empty mask has no outline"
