"""``semiseg check`` on the command line: exit statuses, stdout and stderr, and that it replaces no file."""

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
    """Run the command line in this process: exit status, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", *map(str, argv)])
        capsys.readouterr()
        status = cli.main()
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def broken(tiny_folder: Path) -> Path:
    """Data with two masks that cannot be read."""
    for name in ("train00003", "val00001"):
        (tiny_folder / "masks" / f"{name}.png").write_bytes(b"no picture")
    return tiny_folder


@pytest.mark.parametrize(("at_fault", "status"), [(False, 0), (True, 2)])
def test_a_process_of_its_own_ends_with_the_status_and_one_json_object(
    broken: Path, at_fault: bool, status: int
) -> None:
    command = [sys.executable, "-m", "semiseg.cli", "check", str(broken) if at_fault else DATA, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    content = json.loads(ended.stdout)
    assert (ended.returncode, content["usable"]) == (status, not at_fault)
    assert ended.stderr.count("\n") == (1 if at_fault else 0) and "Traceback" not in ended.stderr


def test_warnings_leave_the_status_at_0(call: Call, tiny_folder: Path) -> None:
    (tiny_folder / "masks" / "train00001.png").rename(tiny_folder / "masks" / "Train00001.png")
    status, out, err = call("check", tiny_folder)
    assert (status, err) == (0, "")
    assert "Warnings" in out and "mask without image" in out


def test_problems_are_told_on_stdout_and_end_with_one_line_on_stderr(call: Call, broken: Path) -> None:
    status, out, err = call("check", broken)
    assert status == 2
    assert "masks/train00003.png, masks/val00001.png: the mask cannot be read" in out and "What to do" in out
    assert err == f"semiseg: {broken}: it cannot be trained on; correct what is listed (1 problem)\n"


def test_json_has_all_that_python_has(call: Call, broken: Path) -> None:
    _, out, _ = call("check", broken, "--json")
    content = json.loads(out)
    assert content == json.loads(json.dumps(semiseg.check(broken).to_json()))
    assert set(content) == {
        *("usable", "data", "name", "images", "masks", "lists", "sizes", "known", "classes", "findings", "command")
    }
    assert set(content["findings"][0]) == {"severity", "kind", "text", "remedy", "files"}
    assert content["findings"][0]["files"] == ["masks/train00003.png", "masks/val00001.png"]
    assert set(content["classes"][0]) == {"name", "pixels", "share", "images"}


def test_data_that_are_not_there_are_one_json_object_too(call: Call) -> None:
    status, out, err = call("check", "nowhere", "--json")
    assert status == 2 and err.count("\n") == 1
    assert json.loads(out)["findings"][0]["text"] == "nowhere: there is no such folder"


def test_a_page_is_written_once(call: Call, tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    status, out, _ = call("check", DATA, "--html", page)
    assert status == 0 and out.endswith(f"page: {page}\n") and "What to do" in page.read_text()
    page.write_text("mine")
    status, out, err = call("check", DATA, "--html", page)
    assert (status, out, page.read_text()) == (2, "", "mine")
    assert err == f"semiseg: {page} exists: nothing is overwritten: choose another --html\n"


def test_an_unknown_option_is_refused(call: Call) -> None:
    status, out, err = call("check", DATA, "--htm", "x")
    assert (status, out) == (2, "") and "--htm" in err and err.count("\n") == 1


def test_bars_fit_terminals_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, "ascii", write_through=True))
    check([DATA])
    assert b"###" in output.getvalue()


def test_progress_is_shown_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
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
    told: list[tuple[int, int]] = []
    semiseg.check(DATA, progress=lambda done, total: told.append((done, total)))
    assert told == [(index, 15) for index in range(1, 16)]
