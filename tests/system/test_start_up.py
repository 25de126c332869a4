"""A command imports only the heavy packages that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

SLOW = {"torchvision", "timm", "segmentation_models_pytorch", "lightning_fabric", "torch._dynamo", "matplotlib"}
SCRIPT = """
import sys
import semiseg
assert "torch" not in sys.modules and "numpy" not in sys.modules, "import semiseg"

from semiseg.cli import main
assert "torch" not in sys.modules, "semiseg.cli"

import semiseg.workflows.train, semiseg.training.logging.sample_pictures
semiseg.workflows.train.report = lambda runs: None  # plots come after the last step
semiseg.training.logging.sample_pictures.Samples.write = lambda *_: []

run, photo, out, *slow = sys.argv[1:]
data = ["--data", "shapes:images=12,val=1,test=1,size=48", "--labeled", "4", "--batch-size", "2", "--workers", "0"]
for command in (
    ["train", *data, "--steps", "1", "--crop-size", "48", "--accelerator", "cpu", "--out", run],
    ["predict", run, photo, "--out", out, "--accelerator", "cpu"],
):
    sys.argv = ["semiseg", *command]
    assert main() == 0
    assert not (found := set(slow) & sys.modules.keys()), f"semiseg {command[0]} imports {found}"
"""


def test_training_and_prediction_of_the_default_network_import_no_slow_package(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "photo.png")
    paths = [str(tmp_path / name) for name in ("run", "photo.png", "masks")]
    command = [sys.executable, "-c", SCRIPT, *paths, *SLOW]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "masks" / "photo.png").is_file()
