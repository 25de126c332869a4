"""Errors of the operating system on the command line: one line and status 2."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import semiseg
from semiseg import cli
from semiseg.tools.models import evaluate_model
from semiseg.training.run_directory import RunDirectory

LONG = "x" * 300
BYTES = os.fsdecode(b"d\xff")
SHAPES = ("--data", "shapes:images=8,val=2,test=2,size=48")
QUICK = (
    *("train", "--method", "supervised", "--encoder", "test_resnet", "--steps", "1", "--weights", "none"),
    *("--crop-size", "32", "--batch-size", "2", "--workers", "0", "--accelerator", "cpu"),
)
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run the command line in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", *argv])
        capsys.readouterr()
        return (cli.main(), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    options = {"crop_size": 32, "batch_size": 2, "steps": 1, "workers": 0, "accelerator": "cpu", "weights": "none"}
    return semiseg.train(SHAPES[1], "supervised", run, encoder="test_resnet", **options)


def assert_one_line(result: tuple[int, str, str], *parts: str) -> None:
    status, out, err = result
    assert status == 2 and out == "" and err.startswith("semiseg: ") and err.count("\n") == 1, result
    assert all(part in err for part in parts), err


@pytest.mark.parametrize(
    "argv",
    [
        (*QUICK, *SHAPES, "--out", LONG),
        (*QUICK, "--data", LONG, "--out", "run"),
        (*QUICK, *SHAPES, "--weights", LONG, "--out", "run"),
        ("train", "--resume", LONG),
        ("evaluate", LONG),
        ("predict", LONG, "image.png", "--out", "masks"),
        ("report", LONG),
        ("export", LONG),
        ("check", LONG),
        ("compare", *SHAPES, "--methods", "supervised", "--labeled", "2", "--out", LONG),
        ("split", LONG, "--labeled", "2"),
        ("prepare", "voc2012", "--from", LONG, "--out", "voc"),
    ],
    ids=lambda argv: " ".join(argv[:1] + argv[-2:]).replace(LONG, "LONG"),
)
def test_names_that_are_too_long_are_reported_in_one_line(call: Call, tmp_path: Path, argv: tuple[str, ...]) -> None:
    assert_one_line(call(*argv), LONG[:200])
    assert not list(tmp_path.iterdir())


def test_os_errors_that_name_a_file_are_reported_in_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENOTDIR, errno.EIO, errno.EISDIR):
        error = OSError(number, os.strerror(number), "some/file\n")
        monkeypatch.setitem(cli.COMMANDS, "check", raises(error))
        assert_one_line(call("check"), rf"some/file\n: {os.strerror(number)}. ")


def test_other_os_errors_keep_their_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(errno.EIO, "without a file"), ConnectionResetError(), OSError(errno.EBADF, "", 3)):
        monkeypatch.setitem(cli.COMMANDS, "check", raises(error))
        with pytest.raises(OSError) as raised:
            call("check")
        assert raised.value is error


def raises(error: OSError) -> Callable[[object], None]:
    def command(argv: object) -> None:
        raise error

    return command


@pytest.mark.slow
def test_directories_without_read_permission_are_reported_in_one_line(
    call: Call, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulate mode 0, which does not stop root."""

    def closed(real: Callable[..., object]) -> Callable[..., object]:
        def refused(path: object = ".") -> object:
            if str(path).endswith("images"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path)

        return refused

    (tmp_path / "data" / "images").mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", closed(os.scandir))
    monkeypatch.setattr(os, "listdir", closed(os.listdir))
    predict = ("predict", str(trained), "data/images", "--out", "masks", "--accelerator", "cpu")
    for argv in ((*QUICK, "--data", "data", "--out", "run"), ("check", "data"), predict):
        assert_one_line(call(*argv), "images: ", "Permission denied", "heck its permissions")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_evaluate_prints_figures_that_cannot_be_saved(
    call: Call, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """The disk is full: the partial line is removed."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "evaluations.jsonl").write_text("{}\n")
    (run / "report.html").unlink()
    real = open

    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *problem: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def write(self, text: str) -> None:
            self.file.write(text[:10])  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluate_model, "open", lambda path, *a, **k: Full(real(path, *a, **k)), raising=False)
    status, out, err = call("evaluate", str(run), *arguments, "--accelerator", "cpu")
    assert status == 0 and "miou" in out and (not arguments or json.loads(out)["networks"])
    assert err.splitlines()[-1] == (
        f"warning: {run / 'evaluations.jsonl'}: the result is not saved (No space left on device)"
    )
    assert (run / "evaluations.jsonl").read_text() == "{}\n"


def test_names_that_are_not_utf8_are_rejected_before_training(call: Call, tmp_path: Path) -> None:
    assert_one_line(call(*QUICK, "--data", BYTES, "--out", "run"), "--data", "UTF-8")
    assert_one_line(call(*QUICK, *SHAPES, "--out", BYTES), r"d\udcff", "another --out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_reports_work_in_directories_whose_names_are_not_utf8(trained: Path, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(trained, tmp_path / name)) for name in ("a", BYTES)]
    for run in runs:
        assert semiseg.report([run]) == run / "report.html"
    assert r"d\udcff" in semiseg.report(runs, tmp_path / "both.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_lock_that_is_not_a_file_is_reported(
    call: Call, trained: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / ".lock").unlink()
    make(RunDirectory(run).path / ".lock")
    assert_one_line(call("train", "--resume", str(run)), ".lock", "emove it")


def test_numbers_out_of_range_are_rejected(call: Call, tmp_path: Path) -> None:
    numbers = {"crop-size": "100000", "seed": "1" * 23, "steps": "1" * 23, "workers": "100000", "val-limit": "1" * 12}
    for option, value in numbers.items():
        assert_one_line(
            call("train", *SHAPES, f"--{option}", value, "--out", "run"),
            f"--{option}: {value} is out of range",
            "hoose a value",
        )
    assert not list(tmp_path.iterdir())
