"""The documentation is true: its links lead somewhere, its commands are understood, its Python runs."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import semiseg.cli
import semiseg.workflows
from semiseg.cli.option_parsing import parse
from semiseg.data import Shapes, write_folder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "configs").rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> Iterator[str]:
    """Every call of semiseg in a page's shell blocks, lines that go on joined."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"[;|]|&&|>", re.sub(r"(^|\s)#.*", "", line)):
                if part.strip().startswith("semiseg "):
                    yield " ".join(part.split())


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{name_of(page)} points to {target}"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{name_of(page)} points to {target}"


# What a reader puts in place of these.
STANDINS = {
    "$METHOD": "dual-teacher",
    "METHOD": "dual-teacher",
    "$SEED": "0",
    "SEED": "0",
    "$3": "partial",
    "OPTIONS": "",
}


class Understood(Exception):
    """The command line was parsed; what would follow is not done."""


@pytest.mark.parametrize(
    "page, command", [(p, c) for p in PAGES for c in commands(p)], ids=lambda x: x if isinstance(x, str) else name_of(x)
)
def test_commands_are_understood(page: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def understand(*args: object) -> None:
        parse(*args)
        raise Understood

    for info in pkgutil.iter_modules(semiseg.cli.__path__):
        if info.name not in ("__main__", "parsing"):
            module = importlib.import_module(f"semiseg.cli.{info.name}")
            monkeypatch.setattr(module, "parse", understand)
    monkeypatch.chdir(ROOT)
    for standing_for, word in STANDINS.items():
        command = command.replace(standing_for, word)
    words = shlex.split(command)[1:]
    with pytest.raises(Understood):
        semiseg.cli.COMMANDS[words[0]](words[1:])


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the pages' examples begin: ``flowers``, some of it annotated, and ``photo.jpg``."""
    shapes = Shapes.from_text("images=9,val=2,test=2,size=48")
    write_folder(shapes, tmp_path / "flowers")
    for id in shapes.split("train")[5:]:
        (tmp_path / "flowers" / "masks" / f"{id}.png").unlink()
    pixels = shapes.read_image(shapes.split("test")[0]).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_runs(page: Path, flowers: Path) -> None:
    text = "\n".join(blocks(page, "python"))
    if "class " in text:
        pytest.skip("defines a method: tests/test_own_method.py runs it")
    small = "steps=2, batch_size=2, crop_size=32, weights='none', workers=0, val_every=1"
    if "semiseg.train" not in text:
        semiseg.train("flowers", "dual-teacher", "runs/flowers", **eval(f"dict({small})"))
    names: dict[str, object] = {}
    exec(compile(re.sub(r"steps=\d+", small, text), name_of(page), "exec"), names)
    if page.name == "README.md":
        mask = names["mask"]
        assert isinstance(mask, torch.Tensor) and mask.dtype == torch.uint8 and mask.shape == (48, 48)


def help_of(command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "semiseg.cli", command, "--help"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and "--out" in done.stdout
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def test_the_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.page()
    assert made == module.PAGE.read_text(encoding="utf-8"), "run python docs/make_reference.py"
    for name in ("train", "suggest", "compare"):  # what --help tells is there
        for option in re.findall(r"^[│ ]*(--[a-z-]+)", help_of(name), re.MULTILINE):
            assert f"`{option.replace('--no-', '--')}`" in made, f"{option} of {name}"
