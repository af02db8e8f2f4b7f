"""A thousand damaged LabelMe files: each is converted or explained, in bounded memory, and nothing is written outside.

Seeded, so that a failure comes again. The damage: flipped bits, cut ends, wrong types anywhere in the document, numbers
that are huge, negative, NaN or infinite, deep nesting, sizes of 100,000 x 100,000, paths that lead elsewhere.
"""

import base64
import copy
import json
import random
import resource
import warnings

import numpy as np
import pytest

from crystal.data.convert import convert_dataset
from crystal.data.labelme import LabelRules, to_coco
from tests.labelme_files import document, encoded, mask_shape, picture, shape, stating

FILES = 1000
MOST_GROWTH = 200 * 2**20  # bytes of resident memory that all of them together may add; one 100,000 px image is 30 GB

WILD = [
    None, True, False, 0, -1, 1, 3.7, 1e9, -1e9, 1e308, 10**30, 10**400, float("nan"), float("inf"), -float("inf"),
    "", "x", "\ud800", "\0", "a" * 10_000, "../../../../etc/passwd", "/dev/zero", "/etc/passwd", "C:\\a.png",
    "\\\\host\\share\\a.png", "http://example.org/a.png", "..", ".", "~", [], {}, [[]], [[1, 2]], [None] * 5,
    {"a": {"b": []}},
    [[1e18, 1e18], [-1e18, 5], [3, 4]], [[0, 0], [99_999, 99_999]], "polygon", "mask", "circle", "rectangle", "points",
]  # fmt: skip
SIZES = [100_000, -100_000, 0, 2**31, 2**63, 10**30, 1e300, "60", None, [60], 60.0, 60.5]


def a_document(rng):
    """A good one of some version, with shapes of all kinds."""
    shapes = [
        shape(points=[(rng.uniform(0, 30), rng.uniform(0, 22)) for _ in range(rng.randint(3, 8))]),
        shape("crystal-2", [(3, 3), (20, 15)], "rectangle"),
        shape("ice", [(10, 10), (15, 12)], "circle", group_id=1),
        mask_shape(np.eye(9, dtype=bool) | (np.arange(9) > 4), 5, 5, group_id=1),
        shape(points=[(1, 1)], kind="point"),
    ]
    data = rng.choice([None, base64.b64encode(encoded(picture(24, 32, rng.randrange(9)), "JPEG")).decode()])
    size = {"imageHeight": 24, "imageWidth": 32} if rng.random() < 0.7 else {}
    content = document(rng.sample(shapes, rng.randint(1, 5)), "drop.png", data, **size)
    if rng.random() < 0.3:  # 3.16.2
        content.pop("version")
        for entry in content["shapes"]:
            if entry["shape_type"] == "polygon":
                entry.pop("shape_type")
    return content


def places(node, path=()):
    """Every place in a document, as a path of keys."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def with_another(node, path, value):
    """The document with another value in one place, or, half of the time, without it."""
    if not path:
        return value
    node = copy.deepcopy(node)
    parent = node
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return node


def damaged(rng):
    content = a_document(rng)
    way = rng.choice(["bits", "cut", "types", "types", "types", "size", "nested", "path", "data", "claim"])
    if way in ("types", "path"):
        for _ in range(rng.randint(1, 3)):
            where = [("imagePath",)] if way == "path" else list(places(content))
            content = with_another(content, rng.choice(where), rng.choice(WILD))
            if not isinstance(content, dict):
                break
        if way == "path" and isinstance(content, dict):
            content["imageData"] = None
    elif way == "size":
        content[rng.choice(["imageHeight", "imageWidth"])] = rng.choice(SIZES)
    elif way in ("data", "claim"):
        data = bytearray(encoded(picture(24, 32), rng.choice(["PNG", "JPEG", "BMP", "TIFF"])))
        if way == "claim" and data[:4] == b"\x89PNG":
            data = bytearray(stating(100_000, bytes(data)))
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        text = base64.b64encode(data[: rng.choice([len(data), rng.randrange(len(data))])]).decode()
        content["imageData"] = text
        content["shapes"].append(shape(points=[(0, 0), (31, 23)], kind="mask", mask=text))
    written = bytearray(json.dumps(content).encode())
    if way == "bits":
        for _ in range(rng.randint(1, 30)):
            written[rng.randrange(len(written))] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del written[rng.randrange(len(written)) :]
    elif way == "nested":
        depth = rng.choice([50, 2_000, 200_000])
        written[1:1] = (
            b'"x": ' + rng.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth]) + b", "
        )
    return bytes(written)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz") / "in"
    place.mkdir()
    (place / "drop.png").write_bytes(encoded(picture(24, 32)))
    rng = random.Random(0)
    for i in range(FILES):
        (place / f"{i:04d}.json").write_bytes(damaged(rng))
    return place


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_each_is_converted_or_listed(folder):
    before = resident()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # NaN or overflow that slipped into arithmetic
        coco, problems = to_coco(folder)
    assert resident() - before < MOST_GROWTH
    whole = {p.path.stem for p in problems if p.shape is None}
    images = {i["file_name"].rsplit(".", 1)[0] for i in coco["images"]}
    assert images.isdisjoint(whole)
    assert images | whole == {f"{i:04d}" for i in range(FILES)}
    assert 200 < len(images) < 800  # both ends are met often
    assert not [str(p) for p in problems if "unforeseen" in p.text]
    assert all(str(p).isprintable() for p in problems)
    json.dumps(coco, allow_nan=False).encode()
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        assert a["area"] > 0
        assert x >= 0
        assert y >= 0
        assert w >= 1
        assert h >= 1


def test_nothing_is_written_outside(folder):
    """A quarter of them through the whole conversion: the same files are left out, and only DATASET appears."""
    some = sorted(folder.glob("*.json"))[::4]
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    out = folder.parent / "out"
    result = convert_dataset(some, out, rules=LabelRules(), shares={"train": 0.8, "val": 0.2, "test": 0.0}, workers=1)
    _, problems = to_coco(some)
    assert [(p.path, p.shape) for p in result.problems] == sorted(
        ((p.path, p.shape) for p in problems), key=lambda pair: (str(pair[0]), pair[1] or 0)
    )
    assert not [str(p) for p in result.problems if "unforeseen" in p.text]
    assert {path for path in folder.parent.rglob("*") if out not in (path, *path.parents)} == set(before)
    assert all(path == folder.parent or path.stat().st_mtime_ns == time for path, time in before.items())
