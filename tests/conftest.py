"""Small data for the tests, generated."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import settings

from semiseg.data import Shapes, write_folder

settings.register_profile("no deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("no deadline")


@pytest.fixture(scope="module", autouse=True)
def _trim_heap() -> Iterator[None]:
    """Return freed memory to the system after each file; glibc keeps hundreds of megabytes of freed networks."""
    yield
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def without_pictures() -> Iterator[None]:
    """Skip report and sample pictures, which have their own tests and take most of the time of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semiseg.workflows.train.report", lambda runs: None)
        patch.setattr("semiseg.training.logging.sample_pictures.Samples.write", lambda *_: [])
        yield


@pytest.fixture
def quick() -> Iterator[None]:
    """Skip report and sample pictures in one test."""
    with without_pictures():
        yield


@pytest.fixture(scope="module")
def quick_module() -> Iterator[None]:
    """Skip report and sample pictures in a whole file."""
    with without_pictures():
        yield


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


def real_data(name: str, variable: str, holds: str) -> Path:
    """The folder in an environment variable, or ../shared/data/NAME next to the repository; skips if it is missing."""
    root = Path(__file__).resolve().parents[1]
    path = Path(os.environ.get(variable) or root.parent / "shared" / "data" / name)
    if not (path / holds).is_dir():
        pytest.skip(f"no {name} at {path}; set {variable} to its folder")
    return path


@pytest.fixture(scope="session")
def camvid_dir() -> Path:
    """CamVid in the own-folder form: $SEMISEG_CAMVID."""
    return real_data("camvid", "SEMISEG_CAMVID", "images")


@pytest.fixture(scope="session")
def voc_dir() -> Path:
    """Pascal VOC 2012, or some of its images with the lists of UniMatch: $SEMISEG_VOC2012."""
    return real_data("voc2012", "SEMISEG_VOC2012", "JPEGImages")


@pytest.fixture(scope="session")
def list_dir() -> Path:
    """Published lists, a folder a source: $SEMISEG_SPLIT_LISTS."""
    return real_data("split-lists", "SEMISEG_SPLIT_LISTS", "pseudoseg")
