"""A thousand damaged COCO files: each is read, or listed as a problem in a sentence; nothing else ever happens.

In a process of its own, since outlines reach C code: a crash there must fail a test, not end the run; and so that the
memory that it took can be measured.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FILES, MEGABYTES, SECONDS = 1000, 400, 120  # far above what it takes: 15 s, and 200 MB more than the imports

SCRIPT = r'''
import copy, json, resource, sys, warnings
from pathlib import Path
import cv2
import numpy as np
from pycocotools import mask as coco_mask

sys.path.insert(0, sys.argv[2])
from crystal.data.check import check, rows_of
from crystal.pages.check import write_check_page
from crystal.training.config import TrainConfig
from crystal.data.dataset import box_mask, left_out, load_split
from crystal.errors import CrystalError
from crystal.data.anchor_coverage import coverage_of
from crystal.data.segmentation import to_rle

MODEL = TrainConfig.tiny().model
page = Path(sys.argv[1]) / "page.html"
root = Path(sys.argv[1]) / "set"
HEIGHT, WIDTH = 48, 64
rng = np.random.default_rng(0)
(root / "train" / "images").mkdir(parents=True)
for name in ("a.png", "b.png"):
    cv2.imwrite(str(root / "train/images" / name), rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
cv2.imwrite(str(root.parent / "outside.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
blob = np.zeros((HEIGHT, WIDTH), np.uint8)
blob[5:20, 8:30] = 1
packed = coco_mask.encode(np.asfortranarray(blob))["counts"].decode()
flat = np.flatnonzero(np.diff(blob.T.ravel(), prepend=0, append=0))
runs = np.diff(flat, prepend=0, append=blob.size).tolist()
polygon = [[10.0, 10.0, 30.0, 10.5, 30.0, 30.0, 12.0, 28.0], [40.0, 5.0, 50.0, 5.0, 45.0, 15.0]]
fields = {"category_id": 3, "bbox": [10, 10, 20, 20], "area": 300.0, "iscrowd": 0}
sound = {
    "images": [{"id": k, "file_name": n, "height": HEIGHT, "width": WIDTH} for k, n in ((1, "a.png"), (2, "b.png"))],
    "annotations": [
        {"id": 1, "image_id": 1, "segmentation": polygon} | fields,
        {"id": 2, "image_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": packed}} | fields,
        {"id": 3, "image_id": 2, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}} | fields | {"iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "crystal"}, {"id": 9, "name": "loop"}],
}

deep = "700 levels deep"  # put in when the file is written: the tools that mutate would give up on it themselves

NUMBERS = [0, -1, 1, 2, 0.5, -7.25, 3.0, 1e308, -1e308, 1e9, 2**31, 2**32, 2**63, -(2**63), 10**30, 100_000]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
VALUES = [None, True, "", "x", "1", [], {}, [1], {"a": 1}, deep, "\ud800", "\x1b[2J", *NUMBERS]
nan, twice = float("nan"), np.tile([0.0, 0.0, 64.0, 48.0, 64.0, 0.0], 20_000).tolist()
SUITED = {
    "file_name": [
        "../../outside.png", str(root.parent / "outside.png"), "..\\..\\outside.png", "C:\\x.png", "/dev/zero",
        "/etc/passwd", ".", "..", "images", "~/x.png", "y" * 5000, "a\x00b.png", "\ud800", "\x1b[2J.png",
        "[red]a.png[/red]",
    ],
    "name": ["background", "\ud800", "y" * 5000, deep],
    "size": [[HEIGHT, WIDTH], [100_000, 100_000], [2**31, 2**33], [WIDTH, HEIGHT], [nan, nan]],
    "counts": [
        "o" * 40 + "0", packed * 3, "\u00e9" * 9, "~" * 9, [2**40, 1], [2**32, HEIGHT * WIDTH], [0.5, 9],
        [-5, HEIGHT * WIDTH + 5],
        [HEIGHT * WIDTH] * 50, [0, HEIGHT * WIDTH], [2**62, 2**62, 2**62, 2**62, HEIGHT * WIDTH],
    ],
    "segmentation": [
        [[1e9, 0.0, 0.0, 1e9, 1e9, 1e9]], [[0.0, 0.0, nan, 9.0, 9.0, 9.0]], [[1e-300] * 8], [[5.0] * 9999], [twice],
        [[1e308, 0.0, -1e308, 5.0, 9.0, 1e308]], [["1", "2", "3", "4", "5", "9"]], [[0.0, 0.0, deep, 1.0, 5.0, 5.0]],
        [[i, i % 2 * 48] for i in range(64)], {"counts": packed}, {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
    ],
    "bbox": [[nan] * 4, [1e308] * 4, [0, 0, -5, -5], "1234", [1, 2]],
}

def places(part):
    """Every (container, key) of a document."""
    for key, value in list(part.items() if isinstance(part, dict) else enumerate(part)):
        yield part, key
        if isinstance(value, dict | list):
            yield from places(value)

def claims(document):
    """100,000 x 100,000 pixels, with run lengths that agree."""
    image = document["images"][rng.integers(2)]
    image["height"] = image["width"] = 100_000
    for annotation in document["annotations"]:
        if isinstance(annotation["segmentation"], dict):
            annotation["segmentation"] = {"size": [100_000, 100_000], "counts": [0, 10**10]}

def mutated() -> bytes:
    kind = rng.integers(10)
    document = copy.deepcopy(sound)
    if kind == 0:
        claims(document)
    if kind <= 5:
        for _ in range(rng.integers(1, 4)):
            spots = list(places(document))
            keys = sorted({str(key) for part, key in spots if isinstance(part, dict)}) + ["in a list"]
            wanted = str(rng.choice(keys))  # each key as often, however many numbers stand in the lists
            spots = [s for s in spots if str(s[1]) == wanted or (wanted == "in a list" and isinstance(s[0], list))]
            part, key = spots[rng.integers(len(spots))]
            action = rng.integers(6)
            if action == 0:
                del part[key]
            elif action == 1 and isinstance(part, list):
                part.append(copy.deepcopy(part[key]))
            else:
                values = SUITED.get(key, NUMBERS) if rng.random() < 0.6 else VALUES
                part[key] = copy.deepcopy(values[rng.integers(len(values))])
        return json.dumps(document).encode().replace(json.dumps(deep).encode(), b"[" * 700 + b"]" * 700)
    text = bytearray(json.dumps(document).encode())
    if kind == 6:
        return bytes(text[: rng.integers(len(text))])
    if kind == 7:
        at = int(rng.integers(len(text)))
        text[at:at] = b"[" * int(rng.choice([5, 500, 200_000]))
        return bytes(text)
    for _ in range(rng.integers(1, 6)):
        text[rng.integers(len(text))] ^= 1 << int(rng.integers(8))
    return bytes(text)

def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def files() -> set:
    return {(str(p), p.stat().st_size) for p in root.parent.rglob("*") if p.name != "train.json"}

def use(split):
    for record in split.records:
        for instance in record.instances:
            box_mask(instance, record.height, record.width, 28)
            to_rle(instance.segmentation, record.height, record.width)

warnings.simplefilter("ignore")
(root / "train.json").write_text(json.dumps(sound))
use(load_split(root, "train"))
usual = rows_of(check(root, slots=8))
before, base = files(), peak()
counts = {"files": 0, "trained on": 0, "refused": 0, "listed": 0, "not reported": 0, "pages": 0}
for _ in range(int(sys.argv[3])):
    data = mutated()
    (root / "train.json").write_bytes(data)
    counts["files"] += 1
    refused = some_left_out = False
    try:
        split = load_split(root, "train")
        use(split)
        some_left_out = bool(left_out(split))
        counts["trained on"] += 1
    except CrystalError as error:
        refused = True
        assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
        str(error).encode()
        counts["refused"] += 1
    try:
        checked = check(root, slots=8)
    except CrystalError as error:
        assert refused, error
        str(error).encode()
        counts["listed"] += 1
        continue
    rows = rows_of(checked)
    if counts["files"] % 200 == 0:
        coverage = coverage_of([(name, r) for name, split in checked.splits.items() for r in split.records], MODEL)
        write_check_page(page, root, checked, rows, coverage, "as planned")
        page.unlink()
        counts["pages"] += 1
    for row in rows:
        " ".join(row).encode()  # can be printed: no lone surrogates
        assert all(c.isprintable() for c in "".join(row)), row
        assert len(row.text) < 600, row.text
    counts["listed"] += rows != usual
    # What training refuses is an error in the table, what it leaves out a warning.
    errors, warned = checked.count("error"), checked.count("warning")
    if (refused and not errors) or (some_left_out and not warned):
        counts["not reported"] += 1
        print(data[:2000], file=sys.stderr)
assert files() == before, "something was written"
print(json.dumps(counts | {"megabytes": peak() - base}))
'''


def test_a_thousand_damaged_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(ROOT), str(FILES)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    print(counts)
    assert counts["files"] == FILES
    assert counts["not reported"] == 0, done.stderr[-3000:]
    assert counts["refused"] > 100  # the mutations do reach what is looked at
    assert counts["trained on"] > 100
    assert counts["listed"] > 500
    assert counts["pages"] > 2
    assert counts["megabytes"] < MEGABYTES
