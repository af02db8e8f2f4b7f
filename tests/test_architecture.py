"""Rules of the code base as tests: who may import whom, what is documented, which names and orders others rely on."""

import ast
import doctest
import importlib
import inspect
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskrcnn_jax

ROOT = Path(__file__).parent.parent
FILES = sorted(p for package in ("maskrcnn_jax", "crystal") for p in (ROOT / package).rglob("*.py"))
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
LIBRARY = [m for m in MODULES if m.startswith("maskrcnn_jax") and not m.endswith("__main__") and ".lessons" not in m]

# From the bottom up. A file imports from lower lines only, or from its own folder.
LAYERS = (
    "maskrcnn_jax.coco",
    "maskrcnn_jax.config maskrcnn_jax.structures maskrcnn_jax.migration",
    "maskrcnn_jax.checks",
    "maskrcnn_jax.kernels",
    "maskrcnn_jax.losses maskrcnn_jax.layers maskrcnn_jax.boxes maskrcnn_jax.image",
    "maskrcnn_jax.backbone maskrcnn_jax.rpn maskrcnn_jax.roi",
    "maskrcnn_jax.model",
    "maskrcnn_jax.checkpoint",
    "maskrcnn_jax.training maskrcnn_jax.convert",
    "crystal.errors",
    "crystal.console crystal.files",
    "crystal.data",
    "crystal.drops",
    "crystal.prediction",
    "crystal.evaluation",
    "crystal.training",
    "crystal.inspection",
    "crystal.pages",
    "crystal.weights",
    "crystal.demo",
    "crystal.cli",
    "crystal.__main__",
    "maskrcnn_jax.lessons",
)
LAYER = {prefix: level for level, line in enumerate(LAYERS) for prefix in line.split()}
ALLOWED = {"jax", "flax", "optax", "orbax", "numpy", "jaxtyping", "maskrcnn_jax", *sys.stdlib_module_names}
LESSONS = {"marimo", "crystal", "cv2", "matplotlib", "latex2mathml", "pygments"}
ALLOWED_BELOW = {"maskrcnn_jax.convert": {"h5py"}, "maskrcnn_jax.lessons": LESSONS}
# Names of distributions that are not those of their imports.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python",
    "orbax": "orbax-checkpoint",
    "yaml": "pyyaml",
}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            # `from package import module` names a module as well
            found |= {n for a in node.names if (n := f"{node.module}.{a.name}") in MODULES} or {node.module}
    return found


def folder(module: str) -> str | None:
    return next((prefix for prefix in LAYER if module == prefix or module.startswith(prefix + ".")), None)


@pytest.mark.parametrize("module", [m for m in MODULES if m not in ("maskrcnn_jax", "crystal")])
def test_imports_go_downwards(module):
    """Those inside functions and under TYPE_CHECKING included."""
    ours = folder(module)
    assert ours, f"{module} has no layer: add it to LAYERS"
    for other in imports(MODULES[module]):
        theirs = folder(other)
        if theirs and theirs != ours:
            assert LAYER[theirs] < LAYER[ours], f"{module} imports {other}, which is not below it"


def test_no_circles():
    """Files of one folder import each other in one direction only."""
    graph = {module: imports(path) & set(MODULES) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above[above.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


ROOMS = {"drops", "data", "prediction", "evaluation", "training", "inspection", "pages", "weights"}


def test_the_top_of_crystal_has_eight_rooms_and_seven_files():
    inside = {path for path in (ROOT / "crystal").iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert {path.name for path in inside if path.is_dir()} == ROOMS
    files = {path.stem for path in inside if path.is_file()}
    assert files == {"__init__", "__main__", "cli", "demo", "errors", "console", "files"}
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((ROOT / "crystal" / room / "__init__.py").read_text())), room


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("maskrcnn_jax")])
def test_the_library_needs_little(module):
    allowed = ALLOWED | next((more for prefix, more in ALLOWED_BELOW.items() if module.startswith(prefix)), set())
    assert {name.split(".")[0] for name in imports(MODULES[module])} <= allowed


def test_imports_are_brought_by_the_base_or_the_extra_of_their_folder():
    """And an extra brings nothing that its folder does not import."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def brought(requirements: list[str]) -> set[str]:
        found = set()
        for requirement in requirements:
            name, _, extra = re.split(r"[>=!]", requirement)[0].rstrip("]").partition("[")
            found |= brought(project["optional-dependencies"][extra]) if name == "maskrcnn-jax" else {name}
        return found

    used = defaultdict(set)
    for module, path in MODULES.items():
        folder = next(
            (f for f in ("crystal", "maskrcnn_jax.convert", "maskrcnn_jax.lessons") if module.startswith(f)), ""
        )
        tops = {name.split(".")[0] for name in imports(path)}
        used[folder] |= {
            DISTRIBUTIONS.get(name, name) for name in tops - {"maskrcnn_jax", "crystal", *sys.stdlib_module_names}
        }
    base, extras = brought(project["dependencies"]), project["optional-dependencies"]
    assert used[""] <= base
    assert used["maskrcnn_jax.convert"] <= base | brought(extras["convert"])
    assert used["maskrcnn_jax.lessons"] <= base | brought(extras["lessons"])
    assert used["crystal"] - base == brought(extras["crystal"]) - brought(extras["convert"])


def test_the_whole_config_is_read_by_the_model_alone():
    """Components take their own part of it."""
    for module in LIBRARY:
        if folder(module) in {f"maskrcnn_jax.{f}" for f in ("boxes", "image", "backbone", "rpn", "roi", "layers")}:
            assert "MaskRCNNConfig" not in MODULES[module].read_text(), module
    assert imports(MODULES["maskrcnn_jax.config"]) <= {*sys.stdlib_module_names, "maskrcnn_jax.coco"}


def test_only_kernels_depend_on_the_device_or_have_gradients_of_their_own():
    """Everything else is differentiated by JAX, any number of times and in any direction."""
    for module in LIBRARY:
        if folder(module) != "maskrcnn_jax.kernels":
            found = re.findall(r"platform_dependent|custom_vjp|custom_jvp", MODULES[module].read_text())
            assert not found, f"{module}: {found[0]} belongs in kernels/"


def public(tree: ast.Module | ast.ClassDef, above: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions, classes and methods of a module, by name, that do not begin with an underscore; and `__call__`."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (node.name[0] != "_" or node.name == "__call__"):
            yield above + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{above}{node.name}.")


@pytest.mark.parametrize("module", MODULES)
def test_documented(module):
    """Every module says what it is for, every public class and function as well, in the library every method too (for
    `__call__` the class does).
    """
    tree = ast.parse(MODULES[module].read_text())
    if MODULES[module].name not in {"__init__.py", "__main__.py"}:
        assert ast.get_docstring(tree), f"{module} has no opening docstring"
    missing = [
        name
        for name, node in public(tree)
        if not name.endswith("__call__") and (module in LIBRARY or "." not in name) and not ast.get_docstring(node)
    ]
    assert not missing, f"without docstring in {module}: {', '.join(missing)}"


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__main__") and ".lessons" not in m])
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


PARTS = ("image", "boxes", "backbone", "rpn", "roi", "kernels", "layers", "losses")
COMPONENTS = [m for m in LIBRARY if m.split(".")[1:2] and m.split(".")[1] in PARTS and MODULES[m].name != "__init__.py"]
# A place in a paper, the paper itself, or the code whose numbers are met.
SOURCE = re.compile(
    r"(section|eq\.|equation|table|figure|appendix) [\dA-Z(]|et al\. \d{4}|Crystals 2021|the paper"
    r"|Matterport|torchvision|Detectron2|OpenCV|cv2\.|TensorFlow|scikit-image|pycocotools|`CallInliner`"
)


@pytest.mark.parametrize("module", [*COMPONENTS, "crystal.evaluation.metrics"])
def test_every_component_has_an_example_and_names_its_source(module):
    """Of functions and layers at the top of a module; bundles of arrays compute nothing. The source may stand at the
    head of the file.
    """
    tree = ast.parse(MODULES[module].read_text())
    head = ast.get_docstring(tree) or ""
    computing = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name[0] != "_")
        or (isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "nnx.Module" for base in node.bases))
    ]
    assert computing
    for node in computing:
        text = ast.get_docstring(node) or ""
        assert ">>>" in text, f"{module}.{node.name} has no example to run"
        assert SOURCE.search(head + text), f"{module}.{node.name} does not say where it comes from"


def test_every_component_has_a_page():
    """The site shows its docstrings (`::: module`), so that they are written once."""
    shown = {name for page in DOCS for name in re.findall(r"^::: (\S+)$", (ROOT / page).read_text(), re.MULTILINE)}
    components = {module for module in COMPONENTS if ".kernels." not in module}
    assert components | {"maskrcnn_jax.model", "maskrcnn_jax.config", "maskrcnn_jax.structures"} <= shown


PUBLIC = [n for n in maskrcnn_jax.__all__ if inspect.isroutine(inspect.unwrap(getattr(maskrcnn_jax, n)))]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_functions_are_documented_in_full(name):
    text = inspect.getdoc(getattr(maskrcnn_jax, name)) or ""
    assert [part for part in ("Args:", "Returns:", "Raises:", ">>>") if part not in text] == []


@pytest.mark.parametrize("module", [m for m in LIBRARY if ".convert" not in m])
def test_functions_are_short(module):
    """At most 60 lines, docstring included."""
    functions = [n for n in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(n, ast.FunctionDef)]
    assert [f"{n.name}: {length}" for n in functions if (length := n.end_lineno - n.lineno + 1) > 60] == []


def without_shape(annotation: ast.expr) -> list[str]:
    """What in an annotation leaves shapes open: an array outside `Float[Array, "b 4"]` and its like, or `Any`."""
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        last = annotation.slice.elts[-1]
        if isinstance(last, ast.Constant) and isinstance(last.value, str):
            return []
    if isinstance(annotation, ast.Name | ast.Attribute):
        name = ast.unparse(annotation)
        return [name] if name.split(".")[-1] in {"Array", "ndarray", "Any", "ArrayLike"} else []
    return [name for child in ast.iter_child_nodes(annotation) for name in without_shape(child)]


def test_without_shape_by_hand():
    wanted = {
        "Float[Array, 'n 4']": [],
        "tuple[Float[Array, 'n 4'], ...] | None": [],
        "Array | None": ["Array"],
        "tuple[Float[np.ndarray, 'n'], np.ndarray]": ["np.ndarray"],
        "Callable[[Any], int]": ["Any"],
    }
    for text, expected in wanted.items():
        assert without_shape(ast.parse(text, mode="eval").body) == expected


@pytest.mark.parametrize("module", [*COMPONENTS, "maskrcnn_jax.model"])
def test_shapes_in_every_public_signature(module):
    """Every argument and every result is annotated; those that are arrays say their shape."""
    for name, node in public(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        annotations = {a.arg: a.annotation for a in arguments if a.arg not in {"self", "cls"}}
        for argument, annotation in (annotations | {"its result": node.returns}).items():
            assert annotation is not None, f"{module}.{name}: {argument} has no type"
            assert not without_shape(annotation), f"{module}.{name}: {argument} does not say its shape"


# What stands before the "|" may be passed by place, in this order; what stands after it by name only.
SIGNATURES = {
    "maskrcnn_jax.image.clahe.clahe": "image_u8 | clip_limit tiles",
    "maskrcnn_jax.image.clahe.clahe_rgb": "image_u8 |",
    "maskrcnn_jax.image.clahe.equalize": "image_u8 |",
    "maskrcnn_jax.image.letterbox.letterbox": "image size |",
    "maskrcnn_jax.boxes.geometry.area": "boxes |",
    "maskrcnn_jax.boxes.geometry.iou": "a b |",
    "maskrcnn_jax.boxes.geometry.clip": "boxes height width |",
    "maskrcnn_jax.boxes.coding.encode": "boxes anchors weights |",
    "maskrcnn_jax.boxes.coding.decode": "deltas anchors weights |",
    "maskrcnn_jax.boxes.nms.nms": "boxes scores | iou_threshold max_outputs valid groups",
    "maskrcnn_jax.boxes.matching.match": "iou | positive_iou negative_iou allow_low_quality gt_valid",
    "maskrcnn_jax.rpn.anchors.pyramid_anchors": "image_size | strides sizes ratios rounded",
    "maskrcnn_jax.roi.align.roi_align": "features boxes | output_size spatial_scale sampling_ratio aligned reduce",
    "maskrcnn_jax.roi.align.crop_and_resize": "features boxes01 | output_size",
    "maskrcnn_jax.roi.align.assign_levels": "boxes | min_level max_level canonical_size canonical_level rounding",
    "maskrcnn_jax.roi.align.pyramid_roi_align": "levels boxes |",
    "maskrcnn_jax.config.MaskRCNNConfig.paper": "|",
    "maskrcnn_jax.config.MaskRCNNConfig.matterport_coco": "|",
    "maskrcnn_jax.config.MaskRCNNConfig.torchvision_coco": "depth |",
    "maskrcnn_jax.config.MaskRCNNConfig.detectron2_coco": "|",
    "maskrcnn_jax.config.MaskRCNNConfig.tiny": "|",
    "maskrcnn_jax.model.MaskRCNN.__init__": "self config | rngs",
    "maskrcnn_jax.model.MaskRCNN.stages": "self images windows |",
    "maskrcnn_jax.model.MaskRCNN.losses": "self images truth key |",
    "maskrcnn_jax.model.MaskRCNN.detect": "self images windows |",
    "maskrcnn_jax.convert.load": "path | norm_epsilon",
    "crystal.data.labelme.to_coco": "paths |",
    "crystal.evaluation.paper_map": "truths predictions | iou",
    "crystal.evaluation.precision_recall": "truths predictions | iou",
    "crystal.evaluation.coco_metrics": "coco_truth coco_results | kind",
}
FIELDS = {
    "GroundTruth": "boxes classes masks valid crowd",
    "Proposals": "boxes scores valid",
    "Detections": "boxes classes scores masks valid",
    "Losses": "rpn_class rpn_box roi_class roi_box roi_mask total",
    "Stages": "c1 c2 c3 c4 c5 p2 p3 p4 p5 p6 objectness rpn_deltas anchors proposals class_logits box_deltas "
    "detections",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_names_and_argument_order(name):
    module = next((m for m in (name.rsplit(".", i)[0] for i in (1, 2)) if MODULES.get(m, ROOT).is_file()), None)
    assert module not in (None, "maskrcnn_jax", "crystal"), "it has moved, and others rely on it"
    thing = importlib.import_module(module)
    for part in name.removeprefix(module + ".").split("."):
        thing = getattr(thing, part)
    parameters = inspect.signature(thing).parameters.values()
    placed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    before, after = (part.split() for part in SIGNATURES[name].split("|"))
    assert placed[: len(before)] == before
    assert set(after) <= named, "by name only"


def test_fields_of_the_bundles():
    structures = importlib.import_module("maskrcnn_jax.structures")
    for name, fields in FIELDS.items():
        assert list(getattr(structures, name)._fields) == fields.split()


def test_tests_mirror_the_library():
    """Every module with something in it has a test beside it of the same name."""
    missing = [
        module
        for module, path in MODULES.items()
        if module.startswith("maskrcnn_jax.")
        and path.name not in {"__init__.py", "__main__.py", "structures.py", "coco.py"}
        and ".lessons" not in module
        and not (ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")).exists()
    ]
    assert not missing, f"no test file for {', '.join(missing)}"


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md", *DOCS])
def test_paths_in_the_readme_exist(page):
    """Files of the repository in backquotes, linked files, and the headings that links name; in `docs` as well."""
    text = (ROOT / page).read_text()
    paths = [ROOT / path for path in re.findall(r"`((?:maskrcnn_jax|crystal|tests|benchmarks|docs)/[^`*<> ]*)`", text)]
    links = [link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    links = [((ROOT / page).parent / name if name else ROOT / page, heading) for name, _, heading in links]
    paths += [path for path, _ in links]
    assert [str(path) for path in paths if not path.exists()] == []
    for path, heading in links:
        lines = path.read_text().lower().splitlines() if heading else []
        assert not heading or any(f"# {heading.replace('-', ' ')}" in line for line in lines), f"{path}#{heading}"
    assert page != "docs/paper.md" or len(paths) > 40
