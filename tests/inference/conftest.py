"""A trained run, and a function that calls ``semiseg predict``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import semiseg
from semiseg import cli

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supervised run with random weights in its last layer."""
    options = {"encoder": "test_resnet", "weights": "none", "steps": 1, "workers": 0, "accelerator": "cpu"}
    data, small = "shapes:images=4,val=1,test=1,size=48", {"crop_size": 48, "batch_size": 2}
    run = semiseg.train(data, "supervised", tmp_path_factory.mktemp("runs") / "run", **options | small)
    checkpoint = run / "checkpoints" / "best.pt"
    state = torch.load(checkpoint, weights_only=True)
    for name, value in state["method"].items():
        if "head" in name and value.ndim == 4:  # many classes in every image, without training
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    torch.save(state, checkpoint)
    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", "predict", *map(str, argv), "--accelerator", "cpu"])
        capsys.readouterr()
        return cli.main(), *capsys.readouterr()

    return run
