"""What the site makes of docstrings: examples become code blocks, and bundles and configs show their fields."""

import re
import textwrap
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Called by mkdocstrings for what it has read, before it is shown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence each example, up to the next blank line: Markdown would take its >>> for quotations."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Below the docstring of a NamedTuple or dataclass its fields as written, unless it describes them itself."""
        fields = [m for m in cls.attributes.values() if m.annotation and m.lineno and "property" not in m.labels]
        told = not cls.docstring or "Attributes:" in cls.docstring.value
        if fields and not told and ("dataclass" in cls.labels or "NamedTuple" in map(str, cls.bases)):
            lines = cls.source.splitlines()
            first = min(m.lineno for m in fields) - cls.lineno
            last = max(m.endlineno for m in fields) - cls.lineno
            written = textwrap.dedent("\n".join(lines[first : last + 1]))
            cls.docstring.value += f"\n\n```python\n{written}\n```"
