"""Which stage of the network an instruction belongs to, by the Python lines that it comes from.

The names below are those of functions and files of `maskrcnn_jax`. Where they change, time of the plan goes to "other",
of which `plan.check` allows little.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.gpu.program import Instruction, Place, Program

OTHER = "other"
BACKWARD = ", backward"


class Rule(NamedTuple):
    """A stage, and the functions (by the beginning of their name) and files that belong to it."""

    stage: str
    functions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


# The first that fits counts: from what is called to what calls it.
RULES = (
    Rule("RoI Align", ("MaskRCNN.pool", "pyramid_roi_align", "bilinear_pool")),
    Rule("box head", ("MaskRCNN.classify", "BoxHead")),
    Rule("mask head", ("MaskRCNN.outline", "MaskRCNN.detection_masks", "MaskHead")),
    Rule("losses", ("rpn_losses", "roi_losses")),
    Rule("targets", ("rpn_targets", "roi_targets", "image_keys"), ("rpn/targets.py", "roi/targets.py")),
    Rule("NMS", ("_nms", "nms", "_greedy_fixed_point", "_select_per_level")),
    Rule("proposals", ("MaskRCNN.propose", "MaskRCNN.rank", "propose", "Ranked")),
    Rule("detections", ("MaskRCNN.refine", "select_detections", "Refined")),
    Rule("RPN head", ("RPNHead",)),
    Rule("FPN", ("FPN",)),
    Rule("backbone", ("ResNet", "Stage", "Bottleneck", "BasicBlock", "MaskRCNN.features"), ("image/normalise.py",)),
    Rule("losses", ("MaskRCNN.supervise", "MaskRCNN.compare", "MaskRCNN.losses")),
    Rule("optimizer", ("_update", "make_step", "_gradients"), ("training/optimizer.py",)),
)
ORDER = (
    *("parameters", "backbone", "FPN", "RPN head", "proposals", "NMS", "targets", "RoI Align", "box head", "mask head"),
    *("detections", "losses", "optimizer", OTHER),
)


class Origin(NamedTuple):
    """A stage, and a line of the source."""

    stage: str = OTHER
    line: str = ""


def origin(program: Program, instruction: Instruction) -> Origin:
    """Where an instruction comes from."""
    stack = program.stack(instruction)
    name = instruction.find(r'op_name="((?:[^"\\]|\\.)*)"') or ""
    if not stack:  # parameters have a name but no line
        return Origin("parameters") if name.startswith(("state.", "state[", "weights")) else Origin()
    stage = _stage(stack)
    backward = "transpose(" in name and stage not in (OTHER, "optimizer")  # JAX's name of a gradient's second half
    return Origin(stage + (BACKWARD if backward else ""), _line(stack))


def _stage(stack: list[Place]) -> str:
    functions = {place.function for place in stack}
    files = {re.sub(r".*/maskrcnn_jax/", "", place.file) for place in stack}
    for rule in RULES:
        if any(_starts(function, rule.functions) for function in functions) or files & set(rule.files):
            return rule.stage
    return "optimizer" if any("/optax/" in place.file for place in stack) else OTHER


def _starts(function: str, names: Iterable[str]) -> bool:
    """Whether a function is one of the names, a method of one, or inside of one."""
    return any(function == name or function.startswith(name + ".") for name in names)


def _line(stack: list[Place]) -> str:
    """The innermost line of the package."""
    for place in stack:
        if "/maskrcnn_jax/" in place.file:
            return f"{re.sub(r'.*/maskrcnn_jax/', '', place.file)}:{place.line}"
    return ""
