"""Small data for the tests, generated."""

import os
from pathlib import Path

import pytest

from semiseg.data import Shapes, write_folder


@pytest.fixture(scope="session")
def _tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = Shapes(images=12, val=3, test=3, size=48, seed=7)
    return write_folder(dataset, tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture
def tiny_folder(_tiny_source: Path, tmp_path: Path) -> Path:
    """An own-folder data set: 12 train, 3 val, 3 test images of 48 x 48, 7 classes. Change it freely."""
    target = tmp_path / "tiny"
    for path in sorted(_tiny_source.rglob("*")):
        copy = target / path.relative_to(_tiny_source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            copy.write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope="session")
def camvid_dir() -> Path:
    """CamVid in the own-folder form: $SEMISEG_CAMVID, or ../shared/data/camvid beside the repository."""
    root = Path(__file__).resolve().parents[1]
    path = Path(os.environ.get("SEMISEG_CAMVID") or root.parent / "shared" / "data" / "camvid")
    if not (path / "images").is_dir():
        pytest.skip(f"no CamVid at {path}; set SEMISEG_CAMVID to its folder")
    return path
