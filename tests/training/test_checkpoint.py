"""Checkpoint files: deterministic bytes and atomic writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from semiseg.training.checkpoint import save_checkpoint, write_atomically


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    name = "".join(["stu", "dent"])  # equal to the literal, but another object
    states = [{"student": torch.ones(3), "again": "student"}, {name: torch.ones(3), "again": "student"}]
    for index, state in enumerate(states):
        save_checkpoint(tmp_path / f"{index}.pt", state)
    assert (tmp_path / "0.pt").read_bytes() == (tmp_path / "1.pt").read_bytes()


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
