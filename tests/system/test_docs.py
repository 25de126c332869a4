"""Tests of the documentation: links, commands, Python blocks, names in backticks, generated pages, the notebook."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import semiseg.cli
import semiseg.workflows
from semiseg.cli.option_parsing import parse
from semiseg.data import Shapes, write_folder

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PACKAGE = SRC / "semiseg"
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS, *sorted((ROOT / "configs").rglob("*.md"))]
CHECKED = [page for page in PAGES if page.name not in ("reference.md", "dependencies.md")]
NOTEBOOK = ROOT / "notebooks" / "first_model.ipynb"


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def without_blocks(page: Path) -> str:
    """Return the text of a page outside fenced code blocks."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def slug(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_point_to_existing_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page_name(page)} links to {target}"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page_name(page)} links to {target}"


# Values for the placeholders in commands.
PLACEHOLDERS = {
    "$METHOD": "dual-teacher",
    "METHOD": "dual-teacher",
    "$SEED": "0",
    "SEED": "0",
    "$3": "partial",
    "OPTIONS": "",
}


class Parsed(Exception):
    """Raised after the command line was parsed, instead of running the command."""


def commands(page: Path) -> Iterator[str]:
    """Yield every call of semiseg in a page's shell blocks, with continued lines joined."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"[;|]|&&|>", re.sub(r"(^|\s)#.*", "", line)):
                if command.strip().startswith("semiseg "):
                    yield " ".join(command.split())


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=page_name)
def test_commands_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse_only(*args: object) -> None:
        parse(*args)
        raise Parsed

    for info in pkgutil.iter_modules(semiseg.cli.__path__):
        if info.name not in ("__main__", "option_parsing"):
            module = importlib.import_module(f"semiseg.cli.{info.name}")
            monkeypatch.setattr(module, "parse", parse_only, raising=False)
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        for placeholder, value in PLACEHOLDERS.items():
            command = command.replace(placeholder, value)
        words = shlex.split(command)[1:]
        with pytest.raises(Parsed):
            semiseg.cli.COMMANDS[words[0]](words[1:])
            pytest.fail(f"not parsed: {command}")


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a directory with ``flowers/``, partly annotated, ``my-export/`` and ``photo.jpg``, for the examples."""
    shapes = Shapes.from_text("images=9,val=2,test=2,size=48")
    write_folder(shapes, tmp_path / "flowers")
    for id in shapes.split("train")[5:]:
        (tmp_path / "flowers" / "masks" / f"{id}.png").unlink()
    pixels = shapes.read_image(shapes.split("test")[0]).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    shutil.copytree(ROOT / "tests" / "fixtures" / "cvat", tmp_path / "my-export")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_name)
def test_python_blocks_run(page: Path, flowers: Path) -> None:
    text = "\n".join(blocks(page, "python"))
    if "class " in text:
        pytest.skip("defines a method: tests/methods/test_own_method.py runs it")
    small = "steps=2, batch_size=2, crop_size=32, weights='none', encoder='test_resnet', workers=0, val_every=2"
    if "semiseg.train" not in text:
        semiseg.train("flowers", "dual-teacher", "runs/flowers", **eval(f"dict({small})"))
    names: dict[str, object] = {}
    exec(compile(re.sub(r"steps=\d+|time=.20m.", small, text), page_name(page), "exec"), names)
    if page.name == "README.md":
        mask = names["mask"]
        assert isinstance(mask, torch.Tensor) and mask.dtype == torch.uint8 and mask.shape == (48, 48)


# Names in backticks. Extensions of data files, which look like attributes (`metrics.jsonl`):
EXTENSIONS = {
    *("csv", "html", "ini", "ipynb", "jpg", "json", "jsonl", "lock", "log", "md", "onnx"),
    *("pkl", "png", "pt", "pt2", "safetensors", "tar", "toml", "txt", "yaml", "zip"),
}
# Python files that users write or that semiseg writes for them, and names of other programs:
EXAMPLES = {"inference.py", "my_method.py", "path/to/file.py", "src/semiseg/methods/self_training.py"}
ELSEWHERE = {"GraceTime", "flag_extra_weak", "shape_to_mask"}
SHORT = {"nn": "torch.nn", "F": "torch.nn.functional"}
NAME = r"[A-Za-z_]\w*"


def names_in_backticks(page: Path) -> set[str]:
    """Return the inline code of a page, without call parentheses."""
    return {code.removesuffix("()") for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_blocks(page))}


@cache
def modules() -> dict[str, Path]:
    """Return every module of semiseg by its full name."""
    return {
        ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


@cache
def classes() -> dict[str, list[str]]:
    """Return the modules that define each class, by the class's name."""
    found: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    return found


@cache
def words() -> set[str]:
    """Return every word of the repository's Python files and of the Makefile, where option and key names occur too."""
    folders = [PACKAGE, ROOT / "benchmarks", ROOT / "examples", ROOT / "tests"]
    files = {path for folder in folders for path in folder.rglob("*.py")} - {Path(__file__)}
    texts = [path.read_text(encoding="utf-8") for path in files]
    return set(re.findall(r"\w+", " ".join([*texts, (ROOT / "Makefile").read_text(encoding="utf-8")])))


def has_attributes(value: object, names: list[str]) -> bool:
    """Return whether ``value.a.b`` exists; fields that only instances have count too."""
    for name in names:
        fields = {**getattr(value, "__dataclass_fields__", {}), **getattr(value, "__annotations__", {})}
        if name in fields:
            return True
        if isinstance(value, type) and not hasattr(value, name):
            source = Path(sys.modules[value.__module__].__file__ or "").read_text(encoding="utf-8")
            return f"self.{name}" in source
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def dotted_name_exists(name: str) -> bool:
    """Return whether ``module.function``, ``package.module`` or ``Class.attribute`` exists in semiseg or elsewhere."""
    parts = name.removeprefix("self.").split(".")
    if len(parts) == 1:
        return parts[0] in words()
    for k in range(len(parts), 0, -1):
        ending = "." + ".".join(parts[:k])
        for module in modules():
            if f".{module}".endswith(ending) and has_attributes(importlib.import_module(module), parts[k:]):
                return True
    for module in classes().get(parts[0], ()):
        if has_attributes(getattr(importlib.import_module(module), parts[0]), parts[1:]):
            return True
    first = SHORT.get(parts[0], parts[0])
    if first.split(".")[0] == "semiseg" or importlib.util.find_spec(first.split(".")[0]) is None:
        return False
    value: object = importlib.import_module(first)
    while len(parts) > 1 and isinstance(value, ModuleType) and not hasattr(value, parts[1]):
        first, parts = f"{first}.{parts[1]}", parts[1:]
        try:
            value = importlib.import_module(first)
        except ImportError:
            return False
    return has_attributes(value, parts[1:])


def python_file_exists(name: str) -> bool:
    """Return whether a path exists below the root or the package, or a bare file name anywhere in the repository."""
    if (ROOT / name).is_file() or (PACKAGE / name).is_file() or name in EXAMPLES:
        return True
    folders = ("src", "tests", "benchmarks", "examples", "docs")
    return any(path.as_posix().endswith(f"/{name}") for folder in folders for path in (ROOT / folder).rglob("*.py"))


def missing_name(code: str) -> bool:
    """Return whether inline code looks like a Python name of this repository, but does not exist."""
    if re.search(r"\b[A-Z]{2,}\b", code.replace("_", " ")) and not re.fullmatch(rf"{NAME}(\.{NAME})*", code):
        return False  # a placeholder, such as methods/NAME.py
    if re.fullmatch(r"[\w./-]+\.py", code):
        return not python_file_exists(code)
    if match := re.fullmatch(r"([\w./-]+\.py)?::(\w+)", code):  # a test
        return match[2] not in words() or bool(match[1] and not python_file_exists(match[1]))
    if re.fullmatch(rf"{NAME}(\.{NAME})+", code):
        return code.rpartition(".")[2] not in EXTENSIONS and not dotted_name_exists(code)
    if re.fullmatch(r"(\w+/)+", code) and (PACKAGE / code.split("/")[0]).is_dir():
        return not (PACKAGE / code).is_dir() and not (ROOT / code).is_dir()
    if re.fullmatch(NAME, code) and (
        re.search(r"[a-z]_[a-z]|^_[a-z]", code) or re.search(r"^[A-Z]\w*[a-z][A-Z]", code)
    ):
        return code not in words() | ELSEWHERE
    return False


@pytest.mark.parametrize("page", CHECKED, ids=page_name)
def test_names_in_backticks_exist(page: Path) -> None:
    missing = sorted(code for code in names_in_backticks(page) if missing_name(code))
    assert not missing, f"{page_name(page)} names what does not exist: {', '.join(missing)}"


@pytest.mark.parametrize(
    "code",
    [
        "splits.check_masks",
        "semiseg.missing",
        "training/peers.py",
        "loaders.py",
        "TrainConfig.missing",
        "torch.missing",
        "_order_of_nothing",
        "NoSuchClass",
        "tools/missing/",
        "test_imports.py::test_no_such_test",
        "::test_no_such_test",
    ],
)
def test_missing_names_are_found(code: str) -> None:
    assert missing_name(code)


@pytest.mark.parametrize(
    "code",
    [
        "metrics.jsonl",
        "nn.Module",
        "torch.export",
        "methods/NAME.py",
        "cli/train.py",
        "TrainConfig.steps",
        "methods.dual_teacher",
        "semiseg.train",
        "images/",
        "--ema-decay",
        "Method",
        "test_imports.py::test_imports_point_one_way",
    ],
)
def test_existing_names_are_accepted(code: str) -> None:
    assert not missing_name(code)


def load_script(name: str) -> ModuleType:
    """Import a script of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_method_tables_are_up_to_date() -> None:
    script = load_script("make_tables")
    for path, text in script.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run python docs/make_tables.py"
        assert len(re.findall(r"^<!-- (\w+) -->\n(?s:.*)^<!-- /\1 -->$", text, re.MULTILINE)) == 1


def test_list_of_configurations_is_up_to_date() -> None:
    script = load_script("make_configs")
    assert script.page() == script.PAGE.read_text(encoding="utf-8"), "run python docs/make_configs.py"
    assert all(len(script.row(path)[1]) > 3 for path in (ROOT / "configs").glob("*/*.yaml"))


def test_reference_is_up_to_date() -> None:
    script = load_script("make_reference")
    assert script.page() == script.PAGE.read_text(encoding="utf-8"), "run python docs/make_reference.py"


@pytest.mark.parametrize("command", ["train", "suggest", "compare"])
def test_reference_has_every_option_of_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    reference = load_script("make_reference").PAGE.read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        semiseg.cli.COMMANDS[command](["--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert not stop.value.code and "--out" in text
    for option in re.findall(r"^[│| ]*(--[a-z][a-z-]*)", text, re.MULTILINE):
        assert f"`{option.replace('--no-', '--')}`" in reference, f"{option} of {command}"


SMALLER = {"val=20,test=20,size=96": "val=2,test=2,size=48", "time=TIME": "time=TIME, batch_size=2, workers=0"}


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code")
    parameters.source = re.sub(r"IMAGES = \d+", "IMAGES = 36", parameters.source.replace("3m", "1s"))
    source = "\n".join(cell.source for cell in notebook.cells)
    for setting, smaller in SMALLER.items():
        assert setting in source
        for cell in notebook.cells:
            cell.source = cell.source.replace(setting, smaller)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "first-model" / "prediction.png").stat().st_size > 1000
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("mIoU" in output.get("text", "") for output in outputs)


def test_notebook_is_stored_without_outputs() -> None:
    code = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
