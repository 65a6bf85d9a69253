"""Who may import whom: packages, rooms of ``common``, families of methods; and the mirror of the MindSpore files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import PROJECT

FRAMEWORKS = {"torch", "torchvision", "mindspore", "onnx", "onnxscript", "onnxruntime"}
IMPLEMENTATIONS = {"torch_impl", "mindspore_impl", "onnx_impl"}
PACKAGES = {"common", "converters", "experiments", "benchmarks", "tests"} | IMPLEMENTATIONS
ROOMS = [
    "arrays", "errors", "paths", "rng", "files", "command_line", "machine", "runtimes",
    "config", "images", "datasets", "networks", "reports", "runs", "splits", "checkpoints",
    "prediction", "methods", "experiment", "loading", "models", "segmenting", "check_data", "evaluation", "training", "make_subclasses",
]  # fmt: skip
"""Files and folders of ``common`` from the ground up; one may import only those before it."""
FAMILIES = ("u2pl", "cpcl", "pcr", "usrn", "uccl")
SAME_NAME = {"construct": "forward"}


def imported(node: ast.AST, into_functions: bool) -> Iterator[str]:
    """First parts of the modules that the code under ``node`` imports; type-checking blocks do not count."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0:
            yield child.module.partition(".")[0]
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif into_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imported(child, into_functions)


def layering_faults(root: Path) -> list[str]:
    """Every forbidden import below ``root``, as ``file: module``."""
    rules = [
        ("common", True, FRAMEWORKS | IMPLEMENTATIONS | {"converters"}),
        ("converters", False, FRAMEWORKS | IMPLEMENTATIONS),
    ]
    rules += [(package, True, IMPLEMENTATIONS - {package} | {"converters"}) for package in sorted(IMPLEMENTATIONS)]
    faults = []
    for package, into_functions, forbidden in rules:
        for path in sorted((root / package).rglob("*.py")):
            modules = set(imported(ast.parse(path.read_text()), into_functions)) & forbidden
            faults += [f"{path.relative_to(root)}: {module}" for module in sorted(modules)]
    return faults


def dependencies(root: Path) -> dict[str, set[str]]:
    """The project's modules below ``root``, each with those that it imports: in functions and for type checkers, too."""
    modules = {}
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return {name: {m for m in imported_modules(tree) if m in modules} for name, tree in modules.items()}


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Full names of everything that a file imports; for ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_faults(graph: dict[str, set[str]]) -> list[str]:
    """Modules of ``common`` that are in no room, and their imports of rooms that are not below their own."""
    faults = []
    for module, imports in graph.items():
        room = room_of(module)
        if room is None:
            continue
        if room not in ROOMS:
            faults.append(f"{module}: no room of ROOMS")
            continue
        above = ROOMS[ROOMS.index(room) + 1 :]
        faults += [f"{module}: {other}" for other in sorted(imports) if room_of(other) in above]
    return faults


def room_of(module: str) -> str | None:
    """The file or folder of ``common`` that a module is or lies in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "common" and len(parts) > 1 else None


def family_faults(graph: dict[str, set[str]]) -> list[str]:
    """Imports by which one family of methods needs another."""
    return [
        f"{module}: {other}"
        for module, imports in graph.items()
        for other in sorted(imports)
        if (first := family(module)) and (second := family(other)) and first != second
    ]


def family(module: str) -> str | None:
    """The family that a module of some package's ``methods`` belongs to; None: it belongs to all."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == "methods" and parts[2] in FAMILIES else None


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Groups of modules that import one another, as ``a <-> b``; what only leads into a circle is not named."""
    reach = {module: set(imports) for module, imports in graph.items()}
    for middle in graph:
        for module in graph:
            if middle in reach[module]:
                reach[module] |= reach[middle]
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in graph
        if module in reach[module]
    }
    return [" <-> ".join(group) for group in sorted(groups)]


def arguments(function: ast.FunctionDef) -> str:
    """Names, kinds, order and defaults of a function's arguments, without types and ``self``."""
    signature = function.args
    for argument in ast.walk(signature):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(signature).removeprefix("self").removeprefix("cls").lstrip(", ")


def public_names(path: Path) -> dict[str, str]:
    """Public functions, classes and methods of a file with their arguments; framework-specific names made alike."""
    names = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            names[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            owner = node.name.removeprefix("Torch").removeprefix("MindSpore")
            names[owner] = ""
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and (item.name == "__init__" or not item.name.startswith("_")):
                    names[f"{owner}.{SAME_NAME.get(item.name, item.name)}"] = arguments(item)
    return names


def excluded_rows(path: Path) -> list[tuple[str, str]]:
    """File and name of every row of the table in ``EXCLUDED.md``; every row must give a reason."""
    rows = []
    for line in path.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0] != "file" and set(cells[0]) != {"-"}:
            assert len(cells) == 3 and all(cells), f"{path.name}: a row needs file, name and why: {line}"
            rows.append((cells[0], cells[1]))
    return rows


def mirror_faults(torch_root: Path, mindspore_root: Path, excluded: list[tuple[str, str]]) -> list[str]:
    """Differences between the two trees that no row excuses, and rows that excuse nothing."""
    files = {
        root: {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
        for root in (torch_root, mindspore_root)
    }
    differences = [(file, "*") for file in sorted(files[mindspore_root] - files[torch_root])]
    for path in sorted(torch_root.rglob("*.py")):
        file = path.relative_to(torch_root).as_posix()
        if not (mindspore_root / file).exists():
            differences.append((file, "*"))
            continue
        ours, theirs = public_names(path), public_names(mindspore_root / file)
        differences += [(file, name) for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    faults = [f"{file}: {name}" for file, name in differences if (file, name) not in excluded]
    return faults + [f"needless row: {file}: {name}" for file, name in excluded if (file, name) not in differences]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_imports_point_one_way():
    assert layering_faults(PROJECT) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("common/a.py", "def f():\n    import torch.nn", "common/a.py: torch"),
        ("common/images/b.py", "from onnxruntime import InferenceSession", "common/images/b.py: onnxruntime"),
        ("torch_impl/a.py", "import mindspore_impl.networks.layers", "torch_impl/a.py: mindspore_impl"),
        ("onnx_impl/a.py", "def f():\n    from torch_impl import layers", "onnx_impl/a.py: torch_impl"),
        ("onnx_impl/a.py", "def f():\n    import converters.export_onnx", "onnx_impl/a.py: converters"),
        ("converters/a.py", "try:\n    import mindspore\nexcept ImportError:\n    pass", "converters/a.py: mindspore"),
        ("converters/a.py", "class A:\n    import torch", "converters/a.py: torch"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, text, fault):
    assert layering_faults(write(tmp_path, {file: text})) == [fault]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("converters/a.py", "def f():\n    import torch"),
        ("torch_impl/a.py", "import torch\nfrom common import rng"),
        ("common/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_an_allowed_import_is_not_reported(tmp_path, file, text):
    assert layering_faults(write(tmp_path, {file: text})) == []


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return dependencies(PROJECT)


def test_rooms_of_common_import_only_rooms_below_them(graph):
    assert room_faults(graph) == []
    assert {room_of(module) for module in graph} == {None, *ROOMS}


def test_no_family_of_methods_imports_another(graph):
    assert family_faults(graph) == []
    assert {family(module) for module in graph} == {None, *FAMILIES}


def test_no_modules_import_one_another(graph):
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("common/errors.py", "import common.paths", "common.errors: common.paths"),
        ("common/images/a.py", "from common.loading import plan", "common.images.a: common.loading.plan"),
        ("common/runs/a.py", "def f():\n    from common.loading.plan import x", "common.runs.a: common.loading.plan"),
        (
            "common/config/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import common.loading.plan",
            "common.config.a: common.loading.plan",
        ),
        ("common/drawer/a.py", "", "common.drawer.a: no room of ROOMS"),
        ("common/training/a.py", "import common.loading.plan, common.paths, torch", None),
    ],
)
def test_an_import_of_a_room_above_is_found(tmp_path, file, text, fault):
    write(tmp_path, {"common/paths.py": "", "common/loading/plan.py": "", file: text})
    assert room_faults(dependencies(tmp_path)) == [fault] * (fault is not None)


@pytest.mark.parametrize("package", ["common", "torch_impl", "mindspore_impl"])
def test_an_import_between_families_is_found(tmp_path, package):
    base = {f"{package}/methods/base.py": "", f"{package}/methods/u2pl/bank.py": f"import {package}.methods.base"}
    assert family_faults(dependencies(write(tmp_path, base))) == []
    write(tmp_path, {f"{package}/methods/pcr/pcr.py": f"from {package}.methods.u2pl.bank import Bank"})
    assert family_faults(dependencies(tmp_path)) == [f"{package}.methods.pcr.pcr: {package}.methods.u2pl.bank"]


@pytest.mark.parametrize(
    "late",
    ["import common.a", "def f():\n    from common import a", "if TYPE_CHECKING:\n    from common.a import A"],
)
def test_a_circle_of_imports_is_found(tmp_path, late):
    chain = {"common/a.py": "import common.b", "common/b.py": "import converters.c", "tests/d.py": "import common.a"}
    write(tmp_path, chain | {"converters/c.py": "import json"})
    assert circles(dependencies(tmp_path)) == []
    write(tmp_path, {"converters/c.py": late})
    assert circles(dependencies(tmp_path)) == ["common.a <-> common.b <-> converters.c"]


def test_mindspore_mirrors_torch():
    excluded = excluded_rows(PROJECT / "mindspore_impl" / "EXCLUDED.md")
    assert mirror_faults(PROJECT / "torch_impl", PROJECT / "mindspore_impl", excluded) == []


TORCH = """
def loss(logits, label, weight=1.0, *, ignore=255): ...
def _helper(a): ...
class TorchPredictor:
    def __init__(self, network, device="auto"): ...
    def forward(self, x): ...
    def _private(self, x): ...
"""
MINDSPORE = TORCH.replace("forward", "construct").replace("Torch", "MindSpore").replace("_helper(a)", "_other()")


@pytest.mark.parametrize(
    ("before", "after", "faults"),
    [
        ("", "", []),
        ("weight=1.0", "weight=0.5", ["a.py: loss"]),
        ("logits, label", "label, logits", ["a.py: loss"]),
        ("*, ignore=255", "ignore=255", ["a.py: loss"]),
        ("def loss", "def losses", ["a.py: loss", "a.py: losses"]),
        ("construct(self, x)", "construct(self, y)", ["a.py: Predictor.forward"]),
        ('device="auto"', "device", ["a.py: Predictor.__init__"]),
        ("_private", "public", ["a.py: Predictor.public"]),
    ],
)
def test_a_difference_between_the_frameworks_is_found(tmp_path, before, after, faults):
    changed = MINDSPORE.replace(before, after) if before else MINDSPORE
    write(tmp_path, {"torch/a.py": TORCH, "mindspore/a.py": changed})
    assert mirror_faults(tmp_path / "torch", tmp_path / "mindspore", []) == faults
    rows = [tuple(fault.split(": ")) for fault in faults]
    assert mirror_faults(tmp_path / "torch", tmp_path / "mindspore", rows) == []


def test_missing_files_and_needless_rows_are_found(tmp_path):
    write(tmp_path, {"torch/b/c.py": TORCH, "mindspore/d.py": ""})
    faults = mirror_faults(tmp_path / "torch", tmp_path / "mindspore", [("d.py", "loss")])
    assert faults == ["d.py: *", "b/c.py: *", "needless row: d.py: loss"]


def test_the_table_of_exceptions_is_parsed(tmp_path):
    table = tmp_path / "EXCLUDED.md"
    table.write_text("text\n\n| file | name | why |\n| --- | --- | --- |\n| `a.py` | `f` | no kernel |\n")
    assert excluded_rows(table) == [("a.py", "f")]
    table.write_text("| file | name | why |\n| --- | --- | --- |\n| a.py | f |  |\n")
    with pytest.raises(AssertionError, match="needs file, name and why"):
        excluded_rows(table)
