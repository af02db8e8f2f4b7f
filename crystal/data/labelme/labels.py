"""The category that a label means, labels that are dropped, and suffixes that number instances.

LabelMe 3.16.2 had no group_id: people wrote `person-1`, `person-2`, so a number after a hyphen numbers an instance and
what precedes it is the category. A rule may name a label with its number (`form-2`), which then is part of the name.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from crystal.data.dataset import BACKGROUND_NAMES
from crystal.errors import CrystalError

DROPPED = {*BACKGROUND_NAMES, "__ignore__"}
OTHERS = "*"
_SUFFIX = re.compile(r"(.+?)-(\d+)", re.DOTALL)


class LabelRuleError(CrystalError, ValueError):
    """A wrong rule in `--labels`; the message says how to write it."""


class Meaning(NamedTuple):
    """`category`; the `suffix` that tells instances apart, "" if there is none; and `name`, the label without it."""

    category: str
    suffix: str
    name: str


class LabelRules(NamedTuple):
    """`renamed`: label or category -> category, "" to drop it; "*" stands for all that are not named.

    >>> rules = LabelRules.parse(["xtal=crystal", "ice=", "form-2=form-2"])
    >>> rules.category("xtal-12"), rules.category("ice"), rules.category("__ignore__")
    (Meaning(category='crystal', suffix='12', name='xtal'), None, None)
    >>> rules.category("form-2")
    Meaning(category='form-2', suffix='', name='form-2')
    >>> LabelRules.parse(["crystal=crystal", "*="]).category("loop")
    """

    renamed: Mapping[str, str] = {}

    @classmethod
    def parse(cls, rules: Iterable[str]) -> Self:
        """Rules as the command line gives them: "old=new", "old=" to drop, "*=" to drop all others.

        Raises:
            LabelRuleError: a rule without an equals sign or a label, or a second one for the same label.
        """
        renamed: dict[str, str] = {}
        for rule in rules:
            old, equals, new = (part.strip() for part in rule.rpartition("="))
            if not equals or not old:
                raise LabelRuleError(f"--labels {rule}: write old=new to rename a label, old= to drop it")
            if old in renamed:
                raise LabelRuleError(f"--labels {rule}: there are two rules for {old!r}; keep one")
            renamed[old] = new
        return cls(renamed)

    def category(self, label: str) -> Meaning | None:
        """What a label means; None for one that is dropped: by a rule, or, without one, background and ignored."""
        suffixed = _SUFFIX.fullmatch(label)
        if label in self.renamed or not suffixed:
            name, suffix = label, ""
        else:
            name, suffix = suffixed.groups()
        category = self.renamed.get(name)
        if category is None:
            category = "" if name in DROPPED else self.renamed.get(OTHERS, name)
        return Meaning(category, suffix, name) if category else None
