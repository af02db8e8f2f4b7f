"""Which shapes are one object, and what it is called.

In a drop two polygons `crystal` are two crystals, so shapes are objects of their own unless something groups them: the
same `group_id`, or, as LabelMe 3.16.2 had it, the same numbered label (`crystal-1` twice is one crystal in two parts).
Both count: shapes belong together if label, suffix and group_id are equal, and suffix or group_id is there. The label
is the one in the file: `plate-1` and `needle-1` stay two crystals where both labels are renamed to `crystal`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from crystal.data.labelme.document import Shape
from crystal.data.labelme.labels import LabelRules


class LabelledObject(NamedTuple):
    """One object: `name` is its own in its image (`crystal-2`), as LabelMe 3.16.2 needs it; `shapes` at least one."""

    category: str
    name: str
    shapes: tuple[Shape, ...]

    @property
    def crowd(self) -> bool:
        """Whether it is a region to ignore, as `crystal render` marks what is nearly hidden."""
        return any(shape.crowd for shape in self.shapes)


def _names(wanted: Sequence[tuple[str, str]]) -> list[str]:
    """A name each: the label where only one object has it, otherwise the category and the first number that is free."""
    labels = [category + (f"-{suffix}" if suffix else "") for category, suffix in wanted]
    own = {label for label, times in Counter(labels).items() if times == 1}
    taken, names = set(own), []
    following: dict[str, int] = {}
    for label, (category, _) in zip(labels, wanted, strict=True):
        if label not in own:
            number = following.get(category, 1)
            while f"{category}-{number}" in taken:
                number += 1
            following[category] = number + 1
            label = f"{category}-{number}"
        taken.add(label)
        names.append(label)
    return names


def group_shapes(shapes: Sequence[Shape], rules: LabelRules) -> list[LabelledObject]:
    """The objects of one file, in the order of their first shapes.

    Args:
        shapes: as `read_document` gives them.
        rules: what labels mean; shapes whose label they drop are left out.
    """
    groups: dict[tuple, list[Shape]] = {}
    wanted: dict[tuple, tuple[str, str]] = {}
    for shape in shapes:
        meaning = rules.category(shape.label)
        if meaning is None:
            continue
        alone = not meaning.suffix and shape.group is None
        key = (*meaning, shape.number) if alone else (*meaning, None, shape.group)
        groups.setdefault(key, []).append(shape)
        wanted[key] = meaning.category, meaning.suffix
    names = _names(list(wanted.values()))
    return [
        LabelledObject(category, name, tuple(groups[key]))
        for (key, (category, _)), name in zip(wanted.items(), names, strict=True)
    ]
