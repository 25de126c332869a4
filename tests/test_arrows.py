"""Imports point one way: cli -> api -> training, evaluation, report -> methods, data, networks -> ops -> torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import semiseg

ROOT = Path(semiseg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LEAVES = {"config", "devices", "errors", "plain_file", "seeding"}

# What each part may import of semiseg, itself aside. Longer names are exceptions, for one file.
ALLOWED: dict[str, set[str]] = {
    "__init__": {"api", "comparison", "suggestion", "errors"},
    "cli": {"api", "checking", "comparison", "suggestion", "serving", "demo", "methods", "data", "networks", "__init__"}
    | LEAVES,
    "demo": {"api", "training", "evaluation", "report", "methods", "data", "networks", "__init__", *LEAVES},
    "comparison": {"api", "training", "evaluation", "report", "methods", "data", *LEAVES},
    "suggestion": {"api", "training", "evaluation", "report", "data", "networks", *LEAVES},
    "serving": {"api", "training", "evaluation", "report", "data", *LEAVES},
    "api": {"checking", "exporting", "training", "evaluation", "report", "methods", "data", "networks", "presets"}
    | LEAVES,
    "checking": {"report", "data", *LEAVES},
    "exporting": {"report", "data", "networks", "__init__", *LEAVES},
    "training": {"evaluation", "report", "methods", "data", "networks", "ops", "__init__", *LEAVES},
    "report": {"training", "evaluation", "methods", "data", "__init__", *LEAVES},
    "evaluation": {"data", "networks", "ops", *LEAVES},
    "data": {"errors", "plain_file", "seeding"},
    "data.loaders": {"errors", "seeding", "methods.method"},  # Batch
    "networks": {"ops", "errors"},
    "methods": {"ops"},
    "ops": set(),
    "presets": set(),
    "config": {"errors", "plain_file"},
    "devices": {"errors"},
    "errors": set(),
    "plain_file": set(),
    "seeding": set(),
}

# What ops and methods may import from outside: tensors and the language, no files, engines or loggers.
PURE = {
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
    """``training.trainer`` for ``training/trainer.py``, ``methods`` for ``methods/__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


def imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in the file, also inside functions."""
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
    part = name.split(".")[0]
    allowed = ALLOWED.get(name, ALLOWED[part])
    for module in imports(path):
        package, _, rest = module.partition(".")
        if package != "semiseg":
            continue
        target = rest or "__init__"
        ok = target.split(".")[0] == part or target in allowed or target.split(".")[0] in allowed
        assert ok, f"{name} imports {module}"


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).split(".")[0] in ("ops", "methods")], ids=name_of)
def test_ops_and_methods_know_nothing_of_files_engines_and_loggers(path: Path) -> None:
    outside = {module.split(".")[0] for module in imports(path)} - {"semiseg"}
    assert outside <= PURE
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval"}


def test_the_table_names_what_there_is() -> None:
    assert {name_of(path).split(".")[0] for path in FILES} <= ALLOWED.keys()
    assert all(any(name_of(path).startswith(name) for path in FILES) for name in ALLOWED)


def test_nothing_imports_the_command_line() -> None:
    importing = [name_of(path) for path in FILES if any(name.startswith("semiseg.cli") for name in imports(path))]
    assert all(name.split(".")[0] == "cli" for name in importing)


def test_methods_do_not_import_one_another() -> None:
    for path in (ROOT / "methods").glob("*.py"):
        if path.stem not in ("__init__", "method"):
            own = {module for module in imports(path) if module.startswith("semiseg.methods")}
            assert own <= {"semiseg.methods.method"}


def test_importing_semiseg_costs_nothing() -> None:
    text = (ROOT / "__init__.py").read_text()
    top = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in top if isinstance(node, ast.ImportFrom)] == ["typing"] and len(top) == 1
