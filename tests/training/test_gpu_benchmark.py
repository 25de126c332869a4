"""benchmarks/gpu.py on a CPU: its sections run, and the failure of one costs no other."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def test_a_failed_section_keeps_its_rows_and_the_other_sections(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
        yield {"crop": 321, "step_s": 0.123456}
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    monkeypatch.setattr(gpu, "SECTIONS", {"step": fails, "wait": lambda args: iter([{"workers": 8}])})
    args = argparse.Namespace(
        sections=["step", "wait", "camvid"], minutes=1, json=tmp_path / "gpu.json", accelerator="cpu"
    )
    gpu.SECTIONS["camvid"] = lambda args: iter(())
    assert not gpu.run_sections(args, gpu.run_here)
    sections = json.loads(args.json.read_text())["sections"]
    assert sections["step"]["rows"] == [{"crop": 321, "step_s": 0.1235}]
    assert sections["step"]["error"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert sections["wait"]["rows"] == [{"workers": 8}] and sections["wait"]["error"] is None
    assert "step: 1 rows, RuntimeError" in capsys.readouterr().out


def test_no_section_starts_after_the_end(gpu: ModuleType, tmp_path: Path) -> None:
    args = argparse.Namespace(sections=["step"], minutes=0, json=tmp_path / "gpu.json", accelerator="cpu")
    assert not gpu.run_sections(args, gpu.run_here)
    assert json.loads(args.json.read_text())["sections"]["step"]["error"] == "no time left"


def test_limits_leave_time_within_eight_minutes(gpu: ModuleType) -> None:
    assert {*gpu.LIMITS, "camvid"} == {*gpu.SECTIONS}
    assert sum(gpu.LIMITS.values()) <= 7.5 * 60


@pytest.mark.long
def test_a_section_that_takes_too_long_is_stopped(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--smoke", "--json", "unused.json"]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "gpu.py"), *options])
    section = gpu.run_apart(argparse.Namespace(), "step", limit=0.2)
    assert section == {"rows": [], "error": "stopped after 0 s"}


@pytest.mark.long
def test_every_section_runs_on_a_cpu(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--json", str(result)])
    gpu.main()
    sections = json.loads(result.read_text())["sections"]
    assert [*sections] == [*gpu.SECTIONS]
    for name, section in sections.items():
        assert section["error"] is None and (section["rows"] or name == "camvid"), name
    assert sections["step"]["rows"][0]["step_over_floor"] > 0.5
    assert [row["habit"] for row in sections["release"]["rows"]][-1] == "habits, fp32, no workers"
