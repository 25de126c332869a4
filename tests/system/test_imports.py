"""A package imports only packages below it, as listed in docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import semiseg

ROOT = Path(semiseg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Groups of packages and modules for the table below.
LEAVES = {"batch", "config", "errors", "option_ranges", "presets", "seeding", "version"}  # modules directly in semiseg/
CORE = {"methods", "data", "networks"}
RUNNING = {"training", "inference", "visualization"}

# One row per package or module, from the top layer to the bottom: what it may import, besides itself.
# "semiseg" is semiseg/__init__.py, which loads the public functions on first use.
MAY_IMPORT: dict[str, set[str]] = {
    "semiseg": {"workflows", "tools", "errors", "version"},
    "__main__": {"cli"},
    "api": set(),
    "cli": {"workflows", "tools", "training.resolve_config", *CORE, *LEAVES},
    "workflows": {"tools", *RUNNING, *CORE, *LEAVES},
    "tools": {*RUNNING, *CORE, *LEAVES},
    "training": {"inference", "visualization", *CORE, "ops", *LEAVES},
    "inference": {"visualization", "data", "networks", "ops", *LEAVES},
    "visualization": {"data", *LEAVES},
    "methods": {"ops", "batch", "option_ranges"},
    "networks": {"ops", "errors"},
    "data": LEAVES,
    "ops": set(),
    "config": {"errors", "option_ranges"},
    "batch": set(),
    "errors": set(),
    "option_ranges": {"errors"},
    "presets": set(),
    "seeding": set(),
    "version": set(),
}

# The packages of tools/ that each of them may import, besides itself.
TOOLS_MAY_IMPORT: dict[str, set[str]] = {
    "checking": {"report"},
    "comparison": {"models", "planning", "report"},
    "exporting": {"report"},
    "models": {"exporting"},
    "report": {"models"},
    "reproduction": {"comparison", "report"},
    "serving": {"models"},
    "suggestion": {"models"},
}

# Other packages that ops and methods may import: tensors and the language, but no files, engines or loggers.
PURE = {
    "functools",
    "torch",
    "torchvision",
    "abc",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "math",
    "types",
    "typing",
    "__future__",
}


def name_of(path: Path) -> str:
    """Return ``training.trainer`` for ``training/trainer.py``, and ``methods`` for ``methods/__init__.py``."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts[1:]) or "semiseg"


def imports(path: Path) -> Iterator[str]:
    """Yield every module imported in the file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            whole = [name for name in names if (ROOT.parent / Path(*name.split("."))).with_suffix(".py").exists()]
            package = [name for name in names if (ROOT.parent / Path(*name.split(".")) / "__init__.py").exists()]
            yield from whole + package or [str(node.module)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    name = name_of(path)
    package = name.split(".")[0]
    for module in imports(path):
        if module.split(".")[0] == "semiseg":
            target = module.removeprefix("semiseg.")
            target_package = target.split(".")[0]
            allowed = target_package == package or {target, target_package} & MAY_IMPORT[package]
            assert allowed, f"{name} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "tools").rglob("*.py")), ids=name_of)
def test_tools_import_only_listed_tools(path: Path) -> None:
    name = name_of(path).split(".")
    for module in imports(path):
        parts = module.split(".")
        if parts[:2] == ["semiseg", "tools"] and len(name) > 1 and parts[2] != name[1]:
            assert parts[2] in TOOLS_MAY_IMPORT[name[1]], f"{'.'.join(name)} imports {module}"


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).split(".")[0] in ("ops", "methods")], ids=name_of)
def test_ops_and_methods_use_no_files_engines_or_loggers(path: Path) -> None:
    outside = {module.split(".")[0] for module in imports(path)} - {"semiseg"}
    assert outside <= PURE
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval"}


def test_module_names_are_unique_except_commands_and_their_workflows() -> None:
    names: dict[str, list[str]] = {}
    for path in FILES:
        if path.stem not in ("__init__", "__main__"):
            names.setdefault(path.stem, []).append(name_of(path).rpartition(".")[0])
    shared = {name: packages for name, packages in names.items() if len(packages) > 1}
    assert all(sorted(packages) == ["cli", "workflows"] for packages in shared.values()), shared


def test_the_table_lists_every_package() -> None:
    assert {name_of(path).split(".")[0] for path in FILES} == MAY_IMPORT.keys()


def test_nothing_imports_the_command_line() -> None:
    importing = [name_of(path) for path in FILES if any(name.startswith("semiseg.cli") for name in imports(path))]
    assert all(name.split(".")[0] in ("cli", "__main__") for name in importing)


def test_methods_do_not_import_one_another() -> None:
    for path in (ROOT / "methods").glob("*.py"):
        if path.stem not in ("__init__", "method", "teachers"):
            own = {module for module in imports(path) if module.startswith("semiseg.methods")}
            assert own <= {"semiseg.methods.method", "semiseg.methods.teachers"}


def test_importing_semiseg_imports_only_its_version() -> None:
    text = (ROOT / "__init__.py").read_text()
    top = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in top if isinstance(node, ast.ImportFrom)] == ["typing", "semiseg.version"] and len(
        top
    ) == 2
