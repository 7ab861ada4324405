"""The direction of dependencies, read from the imports of the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import landslip

ROOT = Path(landslip.__file__).parent
FLOORS = (
    {"geo"},
    {"prepare", "assess", "samples"},
    {"learn", "inventory"},
    {"mapping", "deliver"},
    {"demo", "study"},
    {"cli"},
    {"__main__"},
)
RANKS = {name: rank for rank, names in enumerate(FLOORS) for name in names}
TORCH = {"torch", "torchvision", "segmentation_models_pytorch", "timm", "lightning", "safetensors"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
"""Files by their name below landslip; the package itself is ''."""


def statements(node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[ast.stmt]:
    """Import statements: in functions too if `lazy`, for the type checker too if `typing`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            if typing:
                yield from statements(child, lazy=lazy, typing=typing)
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or lazy:
            yield from statements(child, lazy=lazy, typing=typing)


def imported(path: Path, *, lazy: bool, typing: bool) -> Iterator[str]:
    """Full names of modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for statement in statements(tree, lazy=lazy, typing=typing):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: imports are absolute"
            source = statement.module or ""
            for alias in statement.names:
                below = f"{source}.{alias.name}".removeprefix("landslip.")
                is_module = source.startswith("landslip") and below in MODULES
                yield f"landslip.{below}" if is_module else source


def own_imports(path: Path, *, typing: bool) -> set[str]:
    """Names below landslip of the package's own modules that a file imports."""
    found = imported(path, lazy=True, typing=typing)
    return {
        name.removeprefix("landslip").removeprefix(".")
        for name in found
        if name == "landslip" or name.startswith("landslip.")
    }


def test_every_module_has_a_floor() -> None:
    assert {name.partition(".")[0] for name in MODULES if name} <= set(RANKS)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_no_import_leads_upwards(name: str) -> None:
    own = name.partition(".")[0]
    for target in own_imports(MODULES[name], typing=True) - {""}:
        other = target.partition(".")[0]
        assert other == own or RANKS[other] < RANKS[own], f"{name} imports {target}"


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_only_the_version_comes_from_the_package_itself(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for statement in statements(tree, lazy=True, typing=True):
        if isinstance(statement, ast.ImportFrom) and statement.module == "landslip":
            names = {alias.name for alias in statement.names}
            modules = {alias for alias in names if alias in MODULES}
            assert names - modules <= {"__version__"}, f"{name} imports {names} from landslip"


def test_no_circle_exists() -> None:
    graph = {name: own_imports(path, typing=False) - {""} for name, path in MODULES.items() if name}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join((*way, name))}"
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            visit(target, (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("learn.")])
def test_torch_is_loaded_at_the_top_in_learn_only(name: str) -> None:
    tops = {
        target.partition(".")[0] for target in imported(MODULES[name], lazy=False, typing=False)
    }
    assert not tops & TORCH


def test_the_test_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import torch\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from landslip.learn import card\n"
        "class A:\n    import os\n"
        "def f():\n    from landslip.geo import grid\n"
        "try:\n    import timm\nexcept ImportError:\n    pass\n"
    )
    assert set(imported(path, lazy=False, typing=False)) == {"torch", "typing", "os", "timm"}
    assert own_imports(path, typing=False) == {"geo.grid"}
    assert own_imports(path, typing=True) == {"geo.grid", "learn.card"}
