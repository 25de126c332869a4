"""``semiseg reproduce``: the plan of a published table, its estimate, its states and its outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from comparison_toy import finish
from semiseg import cli
from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.errors import UserError
from semiseg.methods.supervised import SupervisedOptions
from semiseg.tools.comparison import evaluate_cell as evaluation
from semiseg.tools.reproduction.published_tables import CAMVID, TABLES, config_folder, read_entries
from semiseg.tools.reproduction.step_timing import random_batch, step_seconds
from semiseg.visualization.run_pictures import LoadedRun
from semiseg.workflows import reproduce as workflow
from semiseg.workflows.reproduce import reproduce
from trees import VOC_TRAIN, make_voc, two_columns, write_lines

ROOT = Path(__file__).parents[2]
TABLE = "voc2012-highquality"
SCALED: dict[str, Any] = {
    **{"steps": 2, "crop_size": 32, "batch_size": 2, "encoder": "test_resnet", "weights": "none", "val_limit": 1},
    **{"workers": 0, "accelerator": "cpu"},
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step take a third of a second."""
    monkeypatch.setattr(workflow, "step_seconds", lambda config, options, classes: 0.36)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Return a small VOC with some of the images of the list of 92."""
    root = make_voc(tmp_path / "voc")
    missing = [two_columns(f"2011_{index:06d}") for index in range(3)]
    write_lines(root / "splits" / "92" / "labeled.txt", *map(two_columns, VOC_TRAIN[1:3]), *missing)
    write_lines(root / "splits" / "92" / "unlabeled.txt", *map(two_columns, (VOC_TRAIN[0], *VOC_TRAIN[3:])))
    return root


def rows(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["config"], row["labeled"]): row for row in content["rows"]}


# The plan.


def test_plan_lists_figures_sources_steps_and_hours(quick: None, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"methods": ["supervised", "dual-teacher"], "encoders": ["resnet50"], "dry_run": True}
    content = reproduce(TABLE, out=tmp_path / "out", **chosen)
    assert not (tmp_path / "out").exists()
    planned = rows(content)
    assert [name for name, labeled in planned if labeled == "92"] == [
        *("supervised-resnet50", "dual-teacher-resnet50", "dual-teacher-resnet50-513")
    ]
    row = planned["supervised-resnet50", "92"]
    assert (row["published"], row["steps"], row["state"]) == (44.03, 480, "ready")
    assert row["hours"] == pytest.approx(0.36 * 480 / 3600) and "Dual Teacher" in row["source"]
    row = planned["dual-teacher-resnet50", "92"]
    assert (row["published"], row["steps"]) == (70.76, 80 * 1312)  # 10,490 unlabeled images, 8 per step
    assert planned["dual-teacher-resnet50", "1464"]["published"] == 78.15
    text = workflow.to_markdown(content)
    assert (
        "| dual-teacher | deeplabv3plus-u2pl over resnet50s | 92 | 70.76 |" in text
        and "estimated from a step timed on one" in text
    )
    assert "SCALED DOWN" not in text


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_configurations_and_published_figures(table: str) -> None:
    published, entries = TABLES[table], read_entries(TABLES[table], config_folder(None), {})
    known = [entry.expected(published, labeled) for entry in entries for labeled in published.partitions]
    assert sum(figure is not None for figure in known) >= 8
    assert all(entry.config.data == published.folder for entry in entries)


def test_runs_that_take_too_long_are_left_out(quick: None) -> None:
    content = reproduce(TABLE, dry_run=True, methods=["dual-teacher-resnet50"], labeled=["92"], max_hours=1)
    row = content["rows"][0]
    assert (row["state"], row["reason"]) == ("too long", "more than --max-hours 1")
    assert row["hours"] == pytest.approx(10.5, abs=0.1) and "| 10 | too long: more than --max-hours 1 |" in (
        workflow.to_markdown(content)
    )


def test_options_of_a_partition() -> None:
    entries = {entry.name: entry for entry in read_entries(TABLES["voc2012-blended"], config_folder(None), {})}
    cps, augseg = entries["dual-student-resnet50"], entries["augseg-resnet50"]
    table = TABLES["voc2012-blended"]
    assert [cps.changes(table, part).get("epochs", cps.config.epochs) for part in table.partitions] == [32, 34, 40]
    assert augseg.changes(table, "1/16") == {"extra_weak": False} and augseg.changes(table, "92") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": "voc"}, "unknown table 'voc'"),
        ({"methods": ["st++"]}, "--methods: 'st\\+\\+' is not in this table. Choose from augseg, "),
        ({"labeled": ["1/16"]}, "--labeled: '1/16' is not in this table. Choose from 92, 183, "),
        ({"dry_run": False}, "--data: not given"),
        ({"configs": "nowhere"}, "--configs: 'nowhere' is not a directory. Pass the folder configs/"),
        ({"data": "shapes"}, "shapes: has 7 classes, not the 21 of Pascal VOC 2012"),
        ({"jobs": 0}, "--jobs: 0 is out of range"),
    ],
)
def test_invalid_requests(quick: None, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        reproduce(**{"table": TABLE, "dry_run": True} | arguments)


def test_reference_on_camvid_is_that_of_the_docs() -> None:
    section = (ROOT / "docs" / "results.md").read_text().split("### Every method, one seed")[1].split("###")[0]
    for method, miou in CAMVID.items():
        assert f"| {method} | {miou:.2f} |" in section


def test_step_is_timed_without_data() -> None:
    config = TrainConfig(method="supervised", encoder="test_resnet", crop_size=32, batch_size=4, accelerator="cpu")
    seconds = step_seconds(config, SupervisedOptions(), 3)
    assert seconds is not None and 0 < seconds < 60
    batch = random_batch(config, 3)
    assert len(batch.labeled_images) == 4 and not len(batch.unlabeled_images) and batch.masks.max() == 2


# Runs and outputs.


def test_existing_images_are_enough_for_a_scaled_down_table(
    quick: None, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, dataset = tmp_path / "out", open_dataset(str(voc))

    def run(self: Any, display: Any) -> None:
        for cell in self.cells:
            mious = {"supervised": 40.0, "dual-teacher": 60.0}
            finish(cell, best=mious.get(cell.config.method, 50.0), last=1.0)

    def load(path: Path) -> LoadedRun:
        return LoadedRun(lambda image: torch.zeros(48, 48), dataset, dataset.split("val") or (), ("a",), ((0, 0, 0),))

    monkeypatch.setattr(workflow.Runner, "run", run)
    monkeypatch.setattr(workflow, "load_run", load)
    chosen: dict[str, Any] = {"methods": ["supervised", "mean-teacher", "dual-teacher"], "encoders": ["resnet50"]}
    content = reproduce(TABLE, voc, out, existing_only=True, labeled=["92", "183"], **chosen, **SCALED)
    found = rows(content)
    row = found["dual-teacher-resnet50", "92"]
    assert (row["miou"], row["difference"], row["existing_images"]) == (60.0, pytest.approx(60 - 70.76), 2)
    assert found["supervised-resnet50", "183"]["state"] == "no data" and row["steps"] == 2
    saved = json.loads((out / "table.json").read_text())
    assert saved["scaled_down"]["steps"] == 2 and "accelerator" not in saved["scaled_down"] and saved["existing_only"]
    text = (out / "table.md").read_text()
    assert "SCALED DOWN (steps 2, crop-size 32" in text and "| 92, 2 exist | 70.76 | 60.00 | -10.76 |" in text
    first = (out / "dual-teacher-table1.md").read_text()
    assert "| supervised | published | 44.03 | 52.26 |" in first and "| supervised | ours | 40.00 |  |" in first
    assert "SCALED DOWN" in first
    picture = PIL.Image.open(out / "dual-teacher-figure4.png")
    assert picture.width > 5 * 320 and picture.info["images"] == "2008_000001, 2008_000002"
    (out / "runs" / "92" / "supervised-resnet50-seed0" / "config.yaml").write_text("steps: 7\n")
    with pytest.raises(UserError, match="was started with steps 7, not 2"):
        reproduce(TABLE, voc, out, existing_only=True, labeled=["92"], **chosen, **SCALED)


def test_cells_are_evaluated_in_the_mode_of_their_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("method: supervised\nval_mode: slide\n")
    given: list[bool] = []

    def evaluate(path: Path, *, sliding: bool, **_: Any) -> dict[str, Any]:
        given.append(sliding)
        return {"step": 2, "network": "student"}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(evaluation, "read_metrics", lambda path: [{"step": 3}])
    monkeypatch.setattr(evaluation, "write_report", lambda paths: None)
    assert evaluation.evaluate_cell(tmp_path, "val")["best"]["step"] == 2 and given == [True, True]


@pytest.mark.slow
@pytest.mark.long
def test_command_trains_and_prints_the_table(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SCALED.items()]
    methods = "supervised-resnet50,mean-teacher-resnet50,dual-teacher-resnet50"
    command = ["reproduce", TABLE, "--data", str(voc), "--out", str(tmp_path / "out"), "--existing-only"]
    command += ["--methods", methods, "--labeled", "92"]
    monkeypatch.setattr(sys, "argv", ["semiseg", *command, *options])
    assert cli.main() == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "out" / "table.md").read_text() and text.count("| done |") == 3
    assert (tmp_path / "out" / "dual-teacher-figure4.png").is_file()
