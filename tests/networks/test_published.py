"""Published networks: parameter counts, reference outputs of the releases, and the mapping of their checkpoints.

The reference outputs are in a folder outside the repository, ``$SEMISEG_GOLDEN`` or ``../shared/golden``. A narrow
network, with its forward pass written out in this file, covers the mapping without that folder.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from semiseg.networks import NetworkOptions

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE, TOLERANCE_OF_DINOV2 = 1e-5, 1e-4
"""The release of DINOv2 differs by 1e-5 between 1 and 2 threads."""
SIZES = {
    "unimatch_v1_resnet50": {"64x96": 3, "65x81": 3, "321x337": 2},
    "gta_seg_resnet101": {"64x96": 2, "65x81": 2, "321x337": 2},
    "unimatch_v2_dinov2_small": {"70x98": 3, "70x98-comp_drop-batch4": 1, "518x518": 2},
}
"""The files of each network, and the number of outputs in each."""


def load_script() -> ModuleType:
    """Return benchmarks/published_networks.py, which fills and compares networks."""
    path = ROOT / "benchmarks" / "published_networks.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def golden_folder() -> Path:
    """Return the folder of reference outputs, or skip the test."""
    path = Path(os.environ.get("SEMISEG_GOLDEN") or ROOT.parent / "shared" / "golden")
    if not path.is_dir():
        pytest.skip(f"no reference outputs at {path}; set SEMISEG_GOLDEN to their folder")
    return path


def golden_case(name: str, large: bool) -> Any:
    """Return the parameters of a comparison; the larger images and ResNet-101 take too long for every run."""
    return pytest.param(name, large, marks=[pytest.mark.long if large or "101" in name else pytest.mark.slow])


@pytest.mark.parametrize(
    ("name", "large"), [golden_case(name, large) for name in script.ENTRIES for large in (False, True)]
)
def test_logits_equal_those_of_the_release(name: str, large: bool) -> None:
    folder, entry = golden_folder(), script.ENTRIES[name]
    state = script.fill_network(folder, name)
    found, network = script.load_published({entry: {f"module.{key}": value for key, value in state.items()}})
    assert found.entry == entry
    for size, outputs in SIZES[name].items():
        if (size in ("321x337", "518x518")) == large:
            file = np.load(folder / f"{name}-{size}.npz")
            assert script.checksum(state) == int(file["state_crc32"])
            differences = script.differences(network, file)
            assert len(differences) == outputs
            assert max(differences.values()) < (TOLERANCE_OF_DINOV2 if "dinov2" in name else TOLERANCE), (
                size,
                differences,
            )


@pytest.mark.parametrize(("architecture", "encoder", "options", "millions", "source"), script.COUNTS)
def test_parameters_equal_the_published_number(
    architecture: str, encoder: str, options: NetworkOptions, millions: float, source: str
) -> None:
    unused = script.DINOV2_UNUSED if architecture == "dpt" else 0
    digits = len(str(millions).partition(".")[2])
    assert round((script.count(architecture, encoder, options) + unused) / 1e6, digits) == millions
