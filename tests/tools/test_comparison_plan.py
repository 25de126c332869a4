"""The plan of a comparison: requests, checks before training, and earlier comparisons in the same directory."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import semiseg
from comparison_toy import DATA, QUICK, finish, make_plan
from semiseg.config import TrainConfig
from semiseg.data import write_split
from semiseg.errors import UserError
from semiseg.tools.comparison.comparison_plan import Plan
from semiseg.tools.comparison.comparison_request import plan_comparison, split_names
from semiseg.tools.comparison.method_entries import make_entries
from semiseg.tools.planning.trial_steps import Speed
from semiseg.training.resolve_config import resolve


def test_names_may_contain_commas() -> None:
    known = ["dual-teacher, one teacher", "dual-teacher", "a,b"]
    assert split_names("supervised,dual-teacher, one teacher,dual-teacher", known) == [
        "supervised",
        "dual-teacher, one teacher",
        "dual-teacher",
    ]
    assert split_names("a, b ,c", known) == ["a,b", "c"] and split_names(" , ", known) == []


def test_cells_share_settings_and_methods_keep_their_options(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "preset: small\nlabeled: [4, 1/2]\nseeds: 7\nlr: 1e-4\nmethods:\n  supervised:\n  cps: {cutmix: false}\n"
        "  dual-teacher, one teacher: {method: dual-teacher, teachers: 1}\n"
    )
    plan = plan_comparison(tmp_path / "out", None, None, None, None, str(file), {"data": DATA, "lr": 0.01})
    cells = plan.current_cells
    assert list(plan.entries) == ["supervised", "dual-student", "dual-teacher, one teacher"]
    assert [cell.seed for cell in cells] == [7] * 6 and {cell.labeled_images for cell in cells} == {4, 5}
    (config,) = {replace(cell.config, method="", labeled=None, seed=0) for cell in cells}
    assert (config.lr, config.batchnorm, config.steps) == (0.01, "frozen-encoder", 2000)
    assert plan.entries["dual-student"].options.cutmix is False
    one = plan.entries["dual-teacher, one teacher"]
    assert (one.config.method, one.options.teachers, one.options.threshold_mode) == ("dual-teacher", 1, "none")
    assert cells[-1].run == tmp_path / "out/runs/1_2/dual-teacher_one_teacher-seed7"


def test_variant_keeps_its_name() -> None:
    shared = {"data": "shapes", "weights": "none"}
    entries = make_entries(["cutmix-seg", "mean-teacher"], {"cutmix-seg": {"threshold": 0.9}}, shared, None, "file")
    assert list(entries) == ["cutmix-seg", "mean-teacher"]
    options = entries["cutmix-seg"].options
    assert (options.unsupervised_loss, options.threshold) == ("mse", 0.9)
    assert entries["cutmix-seg"].config.method == "mean-teacher"


def test_epochs_give_every_method_the_same_number_of_steps(tmp_path: Path) -> None:
    options = {"data": DATA, "epochs": 3, "batch_size": 4}
    plan = plan_comparison(tmp_path / "out", ["supervised", "cps"], ["4"], [0], None, None, options)
    steps = [(cell.config.steps, cell.config.epochs) for cell in plan.current_cells]
    assert steps == [(6, None)] * 2  # 6 unlabeled images, 4 per step
    labeled = plan_comparison(
        tmp_path / "out", ["supervised", "cps"], ["4"], [0], None, None, options | {"epoch_of": "labeled"}
    )
    assert [cell.config.steps for cell in labeled.current_cells] == [3, 3]


def test_epochs_argument_wins_over_steps_in_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 5\nmethods: {supervised: }\n")
    plan = plan_comparison(tmp_path / "out", None, "4", "0", None, str(file), {"data": DATA, "epochs": 3})
    entry = plan.entries["supervised"]
    assert (entry.config.steps, entry.config.epochs) == (None, 3)


def test_configuration_of_cell_can_be_read_back(tmp_path: Path) -> None:
    (cell,) = make_plan(tmp_path / "out", labeled="all", methods=["supervised"]).current_cells
    assert resolve({}, file=str(cell.write_config())) == (cell.config, cell.options)
    assert cell.config.labeled is None and cell.labeled_images == 10


def test_later_call_adds_methods_labels_and_seeds(tmp_path: Path) -> None:
    first = make_plan(tmp_path / "out", seeds="0")
    first.out.mkdir()
    first.save()
    second = make_plan(tmp_path / "out", methods="dual-teacher,supervised", labeled="4,5", seeds="1")
    assert [cell.title for cell in second.current_cells][:2] == ["dual-teacher, 4, seed 1", "supervised, 4, seed 1"]
    assert len(second.cells) == 2 + 4 and list(second.entries) == ["supervised", "mean-teacher", "dual-teacher"]
    second.save()
    third = make_plan(tmp_path / "out", methods="supervised,mean-teacher", labeled="4,5", seeds="0,1")
    assert len(third.blocks) == 2  # it covers the first
    assert yaml.safe_load((tmp_path / "out" / "compare.yaml").read_text())["asked"][1]["labeled"] == ["4", "5"]


def test_result_on_val_does_not_count_after_test_list_was_added(tmp_path: Path) -> None:
    (cell,) = make_plan(tmp_path / "out", methods=["supervised"]).current_cells
    finish(cell, 40, 40)
    assert cell.finished
    cell.result.write_text(cell.result.read_text().replace('"split": "test"', '"split": "val"'))
    assert not cell.finished


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"methods": "supervised,dual-teachr"}, "unknown method 'dual-teachr': did you mean dual-teacher"),
        ({"methods": "cps,dual-student"}, "--methods: dual-student is listed twice"),
        ({"methods": []}, "--methods: no values given"),
        ({"labeled": "4,99"}, "--labeled: 99 labeled images requested"),
        ({"labeled": ""}, "--labeled: no values given"),
        ({"labeled": ["4", "4"]}, "--labeled: 4 is listed twice"),
        ({"labeled": "all"}, "no unlabeled images left for mean-teacher"),
        ({"seeds": "0,1,0"}, "--seeds: 0 is listed twice"),
        ({"seeds": []}, "--seeds: no values given"),
        ({"seeds": "0,one"}, "--seeds: 'one' is not an integer"),
        ({"data": None}, "--data: not given"),
        ({"data": "nowhere"}, "nowhere: there is no such folder"),
        ({"jobs": 0}, "--jobs: 0 is out of range. Choose a value of at least 1"),
        ({"stepz": 3}, "unknown option 'stepz': did you mean steps"),
        ({"threshold": 0.9}, "unknown option 'threshold'"),
        ({"seed": 3}, "unknown option 'seed': did you mean seeds"),
        ({"crop_size": 3}, "--crop-size: 3 is out of range. Choose a value in [16, 16384]"),
        ({"encoder": "resnet5"}, "unknown encoder 'resnet5'"),
        ({"preset": "smal"}, "unknown preset 'smal': did you mean small"),
        ({"batch_size": "auto"}, "--batch-size: auto may differ between methods"),
        ({"file": "stepz: 3"}, "c.yaml: unknown key 'stepz': did you mean steps"),
        ({"file": "seed: 3"}, "c.yaml: unknown key 'seed': did you mean seeds"),
        ({"file": "steps: many"}, "c.yaml: --steps: 'many' is not allowed. Give an integer or null"),
        (
            {"file": "methods: [supervised]"},
            "c.yaml: methods is not a mapping of names to options. Write lines 'name: {",
        ),
        ({"file": "methods: {cps: {}, dual-student: {}}"}, "listed by its name and its alias"),
        ({"file": "methods: {mean-teacher: {thresold: 0.9}}"}, "methods: mean-teacher: unknown key 'thresold': did"),
        (
            {"file": "methods: {mean-teacher: {ema_decay: 2}}"},
            "methods: mean-teacher: --ema-decay: 2 is out of range. Choose a value in [0, 1]",
        ),
        ({"file": "methods: {mean-teacher: {steps: 5}}"}, "mean-teacher: steps is the same for all methods"),
        ({"file": "methods: {mine: {mixing: cutmix}}", "methods": "mine"}, "mine is not a method. Add 'method: NAME'"),
        ({"file": "methods: {mine: {method: x}}", "methods": "mine"}, "unknown method 'x'"),
        ({"file": "methods: {a b: {method: cps}, a/b: {method: cps}}", "methods": None}, "would share a directory"),
    ],
)
def test_invalid_input_fails_in_one_line_before_training(tmp_path: Path, changes: dict[str, Any], pattern: str) -> None:
    arguments: dict[str, Any] = {"data": DATA, "methods": "supervised,mean-teacher", "labeled": "4", "seeds": "0"}
    changes = dict(changes)
    if text := changes.pop("file", None):
        (tmp_path / "c.yaml").write_text(text)
        arguments["config"] = str(tmp_path / "c.yaml")
    with pytest.raises(UserError, match=re.escape(pattern)) as error:
        semiseg.compare(**{**arguments, **QUICK, **changes}, out=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_cells_share_their_val_images_without_val_list(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        (tiny_folder / "splits" / f"{name}.txt").unlink()
    request = {"data": str(tiny_folder), "methods": "supervised", "out": tmp_path / "out"}
    plan = make_plan(labeled="all,1/4,3", seeds="0,1", **request)
    assert len({split.val for split in plan.splits.values()}) == 1 and plan.split == "val"
    files = [tmp_path / "one.txt", tmp_path / "other.txt"]
    for file, first in zip(files, (0, 6), strict=True):
        file.write_text("".join(f"train{index:05d}\n" for index in range(first, first + 6)))
    with pytest.raises(UserError, match=r"different val images \(\d and \d, 0 in common\). Write splits/val.txt"):
        make_plan(labeled=",".join(map(str, files)), seeds="0", **request).check()


def test_preset_with_different_settings_per_method_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"supervised": {"batchnorm": "frozen-encoder"}, "mean-teacher": {}}
    monkeypatch.setitem(semiseg.presets.PRESETS, "odd", odd)
    with pytest.raises(UserError, match="--preset: odd gives batchnorm frozen-encoder to supervised and train to mean"):
        make_plan(tmp_path / "out", preset="odd")
    assert make_plan(tmp_path / "out", preset="odd", batchnorm="train").settings["batchnorm"] == "train"


def test_other_content_of_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="exists and is not a comparison"):
            make_plan(out)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_comparison_with_other_settings_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out")
    plan.out.mkdir()
    plan.save()
    file = plan.out / "compare.yaml"
    before = file.read_text()
    with pytest.raises(UserError, match="a comparison with crop_size 32, not 48"):
        make_plan(tmp_path / "out", crop_size=48)
    (tmp_path / "c.yaml").write_text("methods: {mean-teacher: {ema_decay: 0.5}}")
    with pytest.raises(UserError, match=r"a comparison with ema_decay of mean-teacher 0\.99, not 0\.5"):
        make_plan(tmp_path / "out", config=str(tmp_path / "c.yaml"))
    assert file.read_text() == before
    file.write_text("settings: 3\n")
    with pytest.raises(UserError, match="was not written by semiseg compare"):
        make_plan(tmp_path / "out")


OF_VERSION_0_1_0 = """\
# What the runs in this folder have in common, and which were asked for. Written by semiseg compare.
settings: {data: 'shapes:images=10,val=3,test=2,size=48', encoder: test_resnet, weights: none, crop_size: 32,
  batch_size: 2, workers: 0, accelerator: cpu, steps: 4, val_every: 2}
methods:
  supervised: {method: supervised}
asked:
- methods: [supervised]
  labeled: ['4']
  seeds: [0]
"""


def test_cells_are_planned_once_for_the_slowest_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def timer(config: TrainConfig, options: Any, threads: int) -> Speed:
        timed.append(config.method)
        return Speed(2.0 if config.method == "supervised" else 10.0, 4.0, 0.0)

    monkeypatch.setattr("semiseg.tools.comparison.cell_plan.time_steps", timer)
    request = {"data": DATA, "encoder": "test_resnet", "weights": "none", "accelerator": "cpu", "lr": 0.1}
    out = tmp_path / "c"
    plan = plan_comparison(out, None, "4", 0, None, None, request, "10m")
    assert timed == list(plan.entries) == ["supervised", "dual-teacher"]
    # 600 s, less 5 %, at 0.7 * 10 + 0.3 * 4 s per step.
    assert {cell.config.steps for cell in plan.cells.values()} == {69}
    supervised, dual = (entry for entry in plan.entries.values())
    assert supervised.shared() == dual.shared() and (dual.config.crop_size, dual.config.lr) == (32, 0.1)
    assert (dual.options.burn_in, dual.options.threshold_mode) == (0.3, "none")
    out.mkdir()
    plan.save()
    for time in ("auto", "600s", None):
        later = plan_comparison(out, "mean-teacher", "4", "0,1", None, None, request, time)
        assert (later.settings["steps"], later.entries["mean-teacher"].options.burn_in) == (69, 0.3)
    assert len(timed) == 2
    with pytest.raises(UserError, match="planned for 600 s"):
        plan_comparison(out, None, "4", 0, None, None, request, "20m")


def test_comparison_of_version_0_1_0_is_continued(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.yaml").write_text(OF_VERSION_0_1_0)
    plan = make_plan(tmp_path / "out", seeds="0,1")
    assert list(plan.entries) == ["supervised", "mean-teacher"] and len(plan.cells) == 4


def test_cell_with_other_images_is_refused(tmp_path: Path) -> None:
    plan: Plan = make_plan(tmp_path / "out")
    cell = plan.cells["supervised", "4", 0]
    finish(cell, 40, 40)
    split = plan.splits["4", 0]
    write_split(split, cell.run / "splits")
    plan.check()
    write_split(replace(split, test=()), cell.run / "splits")
    plan.check()  # a test list may be added later
    write_split(replace(split, labeled=split.labeled[1:]), cell.run / "splits")
    with pytest.raises(UserError, match=r"its labeled list has 3 images, but the data now give 4"):
        plan.check()
