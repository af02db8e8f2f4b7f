"""The ground truth of a single image, for a trained network: from a LabelMe file, or an image of a COCO file.

`crystal check` and training read whole datasets, whose categories become the network's classes. Here the network's
classes are fixed, and objects take theirs by name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crystal.console import printable
from crystal.data.classes import index_of, is_drop, names_of, with_classes_of
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Instance, Record, read_instance, read_split
from crystal.data.json_text import JsonError, parse_json
from crystal.data.labelme.coco import convert_file
from crystal.data.labelme.document import LabelmeError
from crystal.errors import CrystalError


class GroundTruthError(CrystalError, ValueError):
    """Annotations that do not fit the image or the network; the message names the file and the remedy."""


class ImageGroundTruth(NamedTuple):
    """An image's objects. `record`'s categories index the network's classes; `problems` are sentences; of `unlisted`
    classes nobody outlined objects, so that predictions of them are neither right nor false.
    """

    source: Path
    record: Record
    problems: list[str]
    unlisted: frozenset[int] = frozenset()


def _is_labelme(source: Path) -> bool:
    try:
        document = parse_json(source.read_bytes())
    except OSError as error:
        raise GroundTruthError(f"{source}: cannot be read ({error.strerror or error}); check the path") from error
    except JsonError as error:
        raise GroundTruthError(f"{source}: {error}") from error
    return isinstance(document, dict) and "shapes" in document


def _index(name: str, source: Path, classes: Sequence[tuple[int, str]]) -> int:
    index = index_of(name, classes)
    if index is None:
        raise GroundTruthError(
            f"{source}: outlines objects of the class {printable(name)!r}, but the network knows {names_of(classes)}; "
            "rename the class, or take a run trained on it"
        )
    return index


def _from_labelme(source: Path, record: Record, classes: Sequence[tuple[int, str]]) -> ImageGroundTruth:
    try:
        converted = convert_file(source)
    except LabelmeError as error:
        raise GroundTruthError(f"{source}: {error}") from error
    height, width = converted.pixels.shape[:2]
    if (height, width) != (record.height, record.width):
        raise GroundTruthError(
            f"{source}: outlines an image of {width} x {height} pixels, but {record.path.name} has {record.width} x "
            f"{record.height}; give the image that was annotated"
        )
    instances: list[Instance] = []
    problems = [str(problem) for problem in converted.problems]
    ignored = [region | {"category_id": classes[1][1]} for region in converted.regions]
    for number, annotation in enumerate([*converted.annotations, *ignored], 1):
        category = _index(annotation["category_id"], source, classes)
        instance, own = read_instance({"id": number, **annotation}, record, category)
        problems += [f"{source}: object {number}: {text}" for text, _ in own]
        instances += [instance] if instance else []
    # A LabelMe file lists no classes. All but the drop, which hardly anybody outlines, were looked for.
    drops = {index for index, (_, name) in enumerate(classes) if is_drop(name)}
    unlisted = frozenset(drops - {instance.category for instance in instances if not instance.crowd})
    return ImageGroundTruth(source, record._replace(instances=tuple(instances)), problems, unlisted)


def _from_coco(source: Path, record: Record, classes: Sequence[tuple[int, str]]) -> ImageGroundTruth:
    split = read_split(source, source.stem)
    found = [r for r in split.records if r.path.resolve() == record.path.resolve()]
    if not found:
        raise GroundTruthError(
            f"{source}: lists no image that is {record.path}; give the COCO file of the dataset it belongs to"
        )
    theirs = found[0]
    if (theirs.height, theirs.width) != (record.height, record.width):
        raise GroundTruthError(
            f"{source}: says {record.path.name} has {theirs.width} x {theirs.height} pixels, it has {record.width} x "
            f"{record.height}; convert the annotations again for this image"
        )
    own = [str(problem) for problem in split.problems if problem.file_name == theirs.file_name]
    split, notes = with_classes_of(split._replace(records=(theirs,)), classes)
    instances = split.records[0].instances
    own += notes if len(instances) < len(theirs.instances) else []
    return ImageGroundTruth(source, record._replace(instances=instances), own, split.unlisted)


def read_ground_truth(
    image: Path, size: tuple[int, int], source: Path, classes: Sequence[tuple[int, str]]
) -> ImageGroundTruth:
    """The objects of one image.

    Args:
        image: its file.
        size: its (height, width) in pixels.
        source: a LabelMe JSON of it, or a COCO JSON that lists it, in its dataset.
        classes: (id, name) of the network's classes, background first.

    Raises:
        GroundTruthError: the file is neither, is of another image, or holds classes that the network does not know.
    """
    record = Record(0, image, image.name, *size, ())
    try:
        return (_from_labelme if _is_labelme(source) else _from_coco)(source, record, classes)
    except DatasetError as error:
        raise GroundTruthError(str(error)) from error
