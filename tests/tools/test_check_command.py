"""Tests of ``semiseg check`` on the command line: exit status, stdout, stderr and the page."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import semiseg
from semiseg import cli
from semiseg.cli.check import check, progress_bar

DATA = "shapes:images=10,val=3,test=2,size=48"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command line in this process: exit status, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", *map(str, argv)])
        capsys.readouterr()
        status = cli.main()
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def broken(tiny_folder: Path) -> Path:
    """Return data with two unreadable masks."""
    for name in ("train00003", "val00001"):
        (tiny_folder / "masks" / f"{name}.png").write_bytes(b"no picture")
    return tiny_folder


@pytest.mark.slow
def test_process_exits_with_2_and_prints_one_json_object(broken: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "semiseg.cli", "check", str(broken), "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = process.stderr.splitlines()
    assert process.returncode == 2 and json.loads(process.stdout)["usable"] is False
    assert [line for line in lines if not line.startswith("import time:")] == [lines[-1]]
    assert lines[-1].startswith("semiseg: ")
    imported = {line.rpartition("|")[2].strip() for line in lines[:-1]}
    assert "semiseg.tools.checking" in imported and not imported & {"semiseg.training", "lightning", "matplotlib"}


def test_exit_status_is_0_with_warnings(call: Call, tiny_folder: Path) -> None:
    (tiny_folder / "masks" / "train00001.png").rename(tiny_folder / "masks" / "holiday.png")
    status, out, err = call("check", tiny_folder)
    assert (status, err) == (0, "")
    assert "Warnings" in out and "mask without image" in out


def test_exit_status_is_2_with_problems(call: Call, broken: Path) -> None:
    status, out, err = call("check", broken)
    assert status == 2
    assert "masks/train00003.png, masks/val00001.png: the mask cannot be read" in out and "What to do" in out
    assert err == f"semiseg: {broken}: not usable for training (1 problem). Fix the problems listed above.\n"


def test_json_equals_the_python_result(call: Call, broken: Path) -> None:
    _, out, _ = call("check", broken, "--json")
    content = json.loads(out)
    assert content == json.loads(json.dumps(semiseg.check(broken).to_json()))
    assert set(content) == {
        *("usable", "data", "name", "images", "masks", "lists", "sizes", "known", "classes", "findings", "command")
    }
    assert set(content["findings"][0]) == {"severity", "kind", "text", "remedy", "files"}
    assert content["findings"][0]["files"] == ["masks/train00003.png", "masks/val00001.png"]
    assert set(content["classes"][0]) == {"name", "pixels", "share", "images"}


def test_json_for_missing_data(call: Call) -> None:
    status, out, err = call("check", "nowhere", "--json")
    assert status == 2 and err.count("\n") == 1
    assert json.loads(out)["findings"][0]["text"] == "nowhere: there is no such folder"


def test_page_is_not_overwritten(call: Call, tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    status, out, _ = call("check", DATA, "--html", page)
    assert status == 0 and out.endswith(f"page: {page}\n") and "What to do" in page.read_text()
    page.write_text("mine")
    status, out, err = call("check", DATA, "--html", page)
    assert (status, out, page.read_text()) == (2, "", "mine")
    assert err == f"semiseg: {page}: already exists. Choose another --html.\n"


def test_unknown_option(call: Call) -> None:
    status, out, err = call("check", DATA, "--htm", "x")
    assert (status, out) == (2, "") and "--htm" in err and err.count("\n") == 1


def test_bars_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, "ascii", write_through=True))
    check([DATA])
    assert b"###" in output.getvalue()


def test_progress_is_shown_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar() as progress:
        assert progress is not None
        semiseg.check(DATA, progress=progress)
    assert "reading images" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar() as progress:
        assert progress is None


def test_progress_counts_every_image() -> None:
    calls: list[tuple[int, int]] = []
    semiseg.check(DATA, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(index, 15) for index in range(1, 16)]
