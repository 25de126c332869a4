"""``semiseg compare``: runner, progress, picture, and a comparison from start to end."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from rich.console import Console

import semiseg
from commands import ForkedPopen
from comparison_toy import DATA, QUICK, finish, make_plan
from semiseg import cli
from semiseg.data import open_dataset
from semiseg.data.preview_selection import PREVIEW_COUNT, select_distinct
from semiseg.errors import UserError
from semiseg.tools.comparison import runner
from semiseg.tools.comparison.cells import Cell
from semiseg.tools.comparison.evaluate_cell import evaluate_cell
from semiseg.tools.comparison.gallery import disagreement, gallery, sample_ids
from semiseg.tools.comparison.live_progress import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    CellProgress,
    Display,
    seconds_left,
    summary,
)
from semiseg.visualization.run_pictures import LoadedRun

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run ``semiseg compare`` on the small comparison; return exit status, stdout and stderr."""

    def run(out: Path, settings: dict[str, Any], *argv: str) -> tuple[int, str, str]:
        command = ["compare", "--data", DATA, "--methods", "supervised,mean-teacher", "--labeled", "4"]
        command += [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        monkeypatch.setattr(sys, "argv", ["semiseg", *command, "--out", str(out), *argv])
        monkeypatch.setattr(runner, "REFRESH_S", 0.01)
        capsys.readouterr()
        return cli.main(), *capsys.readouterr()

    return run


# Picture.


def test_disagreement_is_mean_over_pairs_of_masks() -> None:
    truth = torch.tensor([[0, 0], [0, 255]])
    a, b, c = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1], [0, 0]]), torch.tensor([[1, 1], [0, 0]])
    assert disagreement([a, b], truth) == pytest.approx(1 / 3)
    assert disagreement([a, b, c], truth) == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    assert disagreement([a], truth) == 0 and disagreement([a, b], torch.full((2, 2), 255)) == 0


def test_random_images_are_the_same_at_every_call() -> None:
    ids = [f"image{index:02}" for index in range(40)]
    assert (
        sample_ids(ids) == sample_ids(ids)
        and len(set(sample_ids(ids))) == PREVIEW_COUNT
        and sample_ids(ids) != ids[:PREVIEW_COUNT]
    )
    assert sample_ids(ids[:2]) == ids[:2]


def test_images_that_differ_most_are_not_neighbors() -> None:
    ids = [f"{index:03}" for index in range(100)]
    assert select_distinct(["050", "051", "045", "044", "012", "008", "090"], ids, ["010"]) == ["050", "044", "090"]


def test_gallery_shows_images_on_which_runs_differ() -> None:
    dataset = open_dataset("shapes:images=4,val=2,test=30,size=48")
    ids = dataset.split("test") or ()
    differing = {ids[index] for index in range(0, 30, 9)}
    masks = {dataset.read_image(id).sum().item(): (dataset.read_mask(id), id) for id in ids}

    def run(wrong: bool) -> LoadedRun:
        def predict(image: torch.Tensor) -> torch.Tensor:
            mask, id = masks[image.sum().item()]
            return (mask + 1) % 7 if wrong and id in differing else mask

        return LoadedRun(predict, dataset, ids, dataset.classes, dataset.palette)

    picture, caption = gallery({"one": run(False), "two": run(True)})
    random, most = re.findall(r"(?:chosen at random|differ most): ([^;.]*)[;.]", caption)
    assert len(random.split(", ")) == PREVIEW_COUNT and set(most.split(", ")) <= differing
    assert picture.width == 4 * 326 + 6
    _, caption = gallery({"one": run(False)})
    assert "differ most" not in caption


# Progress.


def test_time_left_uses_own_speed_or_that_of_other_cells(tmp_path: Path) -> None:
    cells = make_plan(tmp_path / "out", seeds="0,1", steps=100).current_cells
    one, two, three, four = (CellProgress(cell, WAITING) for cell in cells)
    assert seconds_left([one, two, three, four], 1) is None
    one = replace(one, state=RUNNING, step=50, time_s=100.0)  # supervised: 2 s per step, 100 s left
    two = replace(two, state=RUNNING, step=10, time_s=40.0)  # mean-teacher: 4 s per step, 360 s left
    assert seconds_left([one, two, three, four], 1) == pytest.approx(100 + 360 + 200 + 400)
    assert seconds_left([one, two, three, four], 2) == pytest.approx(530)
    assert seconds_left([one, two], 2) == pytest.approx(360)  # the slowest cell
    assert seconds_left([replace(one, state=DONE, step=100), replace(two, state=FAILED)], 1) == 0
    assert summary([one, two, replace(three, state=DONE), replace(four, state=FAILED)], 2) == (
        "4 cells: 1 done, 2 running, 1 failed; about 6 min left"
    )


def write_metrics(cell: Cell, steps: int, miou: float) -> None:
    cell.run.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [{"step": step, "time_s": 2.0 * step, "loss": 1.0} for step in range(1, steps + 1)]
    lines.append({"step": steps, "time_s": 2.0 * steps, "split": "val", "network": "student", "miou": miou})
    lines.append({"step": steps, "time_s": 2.0 * steps, "split": "val", "network": "teacher1", "miou": miou + 30})
    (cell.run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("terminal", [True, False])
def test_display_shows_states_steps_and_miou(tmp_path: Path, terminal: bool) -> None:
    cells = make_plan(tmp_path / "out", seeds="0,1", steps=100).current_cells
    output = io.StringIO()
    display = Display(cells, 2, Console(file=output, force_terminal=terminal, width=120, height=40))
    states = dict(zip([cell.run for cell in cells], (DONE, RUNNING, FAILED, WAITING), strict=True))
    write_metrics(cells[1], 20, 31.25)
    display.show(states, {cells[2].run: "out of [memory]"})
    states[cells[1].run] = DONE
    write_metrics(cells[1], 100, 41.25)
    display.show(states, {cells[2].run: "out of [memory]"})
    display.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    assert "4 cells: 1 done, 1 running, 1 waiting, 1 failed; about" in shown
    assert "out of [memory]" in shown and ("41.2" in shown or "41.3" in shown)
    assert "71.2" not in shown  # the teacher's
    assert "20/100" in shown and "31.2" in shown


# Runner.


def test_second_comparison_in_locked_directory_is_refused(tmp_path: Path) -> None:
    with runner.locked(tmp_path / "out"), pytest.raises(UserError, match="another comparison is running"):
        semiseg.compare(DATA, ["supervised"], ["4"], out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out" / "runs").exists()


def test_failed_cell_is_reported_and_others_finish(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_process(self: runner.Runner, command: list[str], log: Path) -> int:
        cell = next(cell for cell in self.cells if cell.log == log)
        log.write_text("step 1\nsemiseg: loss or gradient is not finite at step 1\n\n")
        if cell.name == "supervised":
            return 1
        if "evaluate_cell" in command[0]:
            finish(cell, 40, 40)
        return 0

    def load_run(path: Path) -> None:
        raise UserError("no network")

    monkeypatch.setattr(runner.Runner, "_run_process", run_process)
    monkeypatch.setattr("semiseg.tools.comparison.comparison_page.load_run", load_run)
    out = tmp_path / "out"
    status, printed, err = call(out, QUICK, "--jobs", "2")
    assert status == 1 and "supervised, 4, seed 0: loss or gradient is not finite at step 1" in err.splitlines()[-1]
    assert "| supervised | 4 | failed |" in printed and "40.00" in printed
    assert "failed: loss or gradient is not finite" in (out / "report.html").read_text()


@pytest.mark.slow
def test_second_interrupt_kills_cells_that_ignore_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    (tmp_path / "stubborn.py").write_text(
        "import pathlib, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(started)!r}).touch()\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(runner, "REFRESH_S", 0.01)
    statuses = []

    class StubbornRunner(runner.Runner):
        def _run_process(self, command: list[str], log: Path) -> int:
            statuses.append(super()._run_process(["stubborn"], log))
            return statuses[-1]

    def interrupt(self: Display, states: Any, failures: Any) -> None:
        if started.exists():
            raise KeyboardInterrupt

    waits = 0
    real_sleep = runner.time.sleep

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:  # it has received SIGTERM and still runs
            assert not statuses
            raise KeyboardInterrupt
        real_sleep(seconds)

    cells = [*make_plan(tmp_path / "out").cells.values()]
    monkeypatch.setattr(runner.time, "sleep", sleep)
    monkeypatch.setattr(Display, "show", interrupt)
    for cell in cells:
        cell.run.parent.mkdir(parents=True, exist_ok=True)
    with runner.locked(tmp_path / "out") as lock:
        stubborn = StubbornRunner(cells, 1, lock)
        with pytest.raises(KeyboardInterrupt):
            stubborn.run(Display(cells, 1, Console(file=io.StringIO())))
    assert statuses == [-signal.SIGKILL] and not stubborn.processes
    assert set(stubborn.states.values()) == {WAITING}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_comparison_is_interrupted_resumed_and_left_unchanged_when_finished(
    quick: None, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    settings = QUICK | {"steps": 8, "val_every": 2, "val_limit": 1}
    runners = []

    def interrupt(self: Display, states: Any, failures: Any) -> None:
        if any(cell.name == "supervised" and (cell.run / "checkpoints" / "last.pt").is_file() for cell in self.cells):
            raise KeyboardInterrupt

    class RecordedRunner(runner.Runner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            runners.append(self)

    # One cell is trained here, by its written configuration, and counts as finished: it saves two processes.
    cell = make_plan(out, **settings).cells["mean-teacher", "4", 0]
    semiseg.train(config=str(cell.write_config()), out=cell.run)
    evaluate_cell(cell.run, cell.split, "cpu")
    made = make_plan(tmp_path / "new", **settings)
    made.out.mkdir()
    made.save()
    (tmp_path / "new" / "compare.yaml").rename(out / "compare.yaml")

    monkeypatch.setattr("semiseg.workflows.compare.Runner", RecordedRunner)
    monkeypatch.setattr(runner.subprocess, "Popen", ForkedPopen)
    with monkeypatch.context() as patch:
        patch.setattr(Display, "show", interrupt)
        status, _, err = call(out, settings)
    assert status == 130 and "semiseg: interrupted" in err.splitlines()[-1]
    assert not runners[0].processes and (out / "table.md").read_text().count("| missing |") == 1
    assert "the comparison was interrupted" in (out / "report.html").read_text()

    status, printed, _ = call(out, settings, "--jobs", "2")
    assert status == 0 and printed == (out / "table.md").read_text() + f"report: {(out / 'report.html').resolve()}\n"
    runs = sorted((out / "runs" / "4").glob("*-seed0"))
    assert [run.name for run in runs] == ["mean-teacher-seed0", "supervised-seed0"]
    assert "--resume" in runs[1].with_name("supervised-seed0.log").read_text()
    assert re.search(r"from step|at step \d+ of 8", (runs[1] / "log.txt").read_text())
    table = json.loads((out / "table.json").read_text())
    for run, row in zip(runs, reversed(table["rows"]), strict=True):
        kept = json.loads((run / "evaluation.json").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        vals = [line["miou"] for line in lines if line.get("split") == "val" and line["network"] == "student"]
        assert (kept["split"], kept["last"]["step"], kept["val"]) == ("test", 8, max(vals))
        assert (row["best"]["mean"], row["last"]["mean"]) == (kept["best"]["miou"], kept["last"]["miou"])
        assert row["training_s"] > 0 and row["peak_memory_mb"] > 50 and row["trainable_parameters"] > 1000
    assert PIL.Image.open(out / "pictures.png").width == 4 * 326 + 6

    before = {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()}
    monkeypatch.setattr(runner.subprocess, "Popen", None)  # no cell may run again
    assert call(out, settings)[0] == 0
    assert {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()} == before
