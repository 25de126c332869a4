"""Comparisons: what is asked for, what is done, and what the table says of it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import signal
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import yaml
from rich.console import Console

import semiseg
from semiseg import cli
from semiseg.data import open_dataset, write_split
from semiseg.data.preview_selection import PREVIEW_COUNT, select_distinct
from semiseg.errors import UserError
from semiseg.tools.comparison import live_progress as progress
from semiseg.tools.comparison import runner as work
from semiseg.tools.comparison.cells import Block, Cell, Plan
from semiseg.tools.comparison.compare_methods import compare, plan_of
from semiseg.tools.comparison.comparison_page import shown_cells, write_page, write_tables
from semiseg.tools.comparison.comparison_table import make_table, read_results
from semiseg.tools.comparison.entries import make_entries, split_names
from semiseg.tools.comparison.gallery import disagreement, draw, gallery
from semiseg.tools.comparison.live_progress import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    Display,
    Standing,
    seconds_left,
    summary,
)
from semiseg.tools.comparison.published_figures import TABLES, published
from semiseg.tools.comparison.seed_statistics import Spread, paired, t_quantile
from semiseg.tools.comparison.table_text import columns, comma_separated, markdown
from semiseg.tools.report import LoadedRun
from semiseg.training.resolve_config import resolve

DATA = "shapes:images=10,val=3,test=2,size=48"
QUICK: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "steps": 4, "val_every": 2},
}


def plan(
    out: Path, methods: Any = "supervised,mean-teacher", labeled: Any = "4", seeds: Any = "0", **more: Any
) -> Plan:
    preset, config = more.pop("preset", None), more.pop("config", None)
    return plan_of(out, methods, labeled, seeds, preset, config, {"data": DATA} | QUICK | more)


def finish(cell: Cell, best: float, last: float, step: int = 2, **changes: Any) -> None:
    """Write what a finished cell leaves."""
    best, last = float(best), float(last)
    networks = {"student": best} if cell.name == "supervised" else {"student": best, "teacher1": best - 1}
    summaries = {n: {"miou": m, "pixel_accuracy": 50.0, "iou": {"a": m, "b": None}} for n, m in networks.items()}
    evaluation = summaries["student"] | {"network": "student", "networks": summaries, "step": step}
    content = {"split": cell.split, "val": best + 5, "best": evaluation, "last": evaluation | {"miou": last}} | changes
    cell.run.mkdir(parents=True)
    (cell.run / "config.yaml").write_text("method: x\n")
    (cell.run / "evaluation.json").write_text(json.dumps(content))
    cost = {"trainable_parameters": 3_900_000, "training_s": 90.0 + cell.seed, "peak_memory_mb": 500.0 + cell.seed}
    (cell.run / "resources.json").write_text(json.dumps(cost | {"device": "cpu"}))


# Arithmetic.


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (6, 2.447), (9, 2.262), (10, 2.228), (30, 2.042)],
)
def test_students_t_is_that_of_the_printed_tables(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-4)


def test_students_t_at_another_confidence_and_in_the_limit() -> None:
    assert t_quantile(3, 0.99) == pytest.approx(5.841, abs=5e-4)
    assert t_quantile(5000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-3)
    with pytest.raises(ValueError):
        t_quantile(0)


def test_mean_standard_deviation_and_interval_by_hand() -> None:
    spread = Spread({0: 1.0, 1: 2.0, 2: 6.0})
    assert spread.mean == 3.0 and spread.std == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    low, high = spread.interval() or (0, 0)
    assert (low, high) == pytest.approx((3 - 4.30265 * math.sqrt(7 / 3), 3 + 4.30265 * math.sqrt(7 / 3)), abs=1e-4)
    assert Spread({0: 5.0}).std is None and Spread({0: 5.0}).interval() is None


def test_pairs_are_of_one_seed() -> None:
    assert paired({0: 5.0, 1: 7.0, 2: 9.0}, {2: 4.0, 0: 4.5, 3: 0.0}) == {0: 0.5, 2: 5.0}


# The table.


@pytest.fixture
def made_up(tmp_path: Path) -> Plan:
    """Two methods, two shares of labels, three seeds; one cell of mean-teacher at 5 is missing, one has failed."""
    made = plan(tmp_path / "out", labeled="5,4", seeds="0,1,2")
    figures = {
        ("supervised", "4"): (40, 50, 45),
        ("mean-teacher", "4"): (42, 49, 50),
        ("supervised", "5"): (50, 55, 54),
    }
    for (name, labeled), values in figures.items():
        for seed, value in enumerate(values):
            finish(made.cells[name, labeled, seed], value, value - 2)
    finish(made.cells["mean-teacher", "5", 0], 53.126, 52)
    return made


def table_of(made: Plan, failures: dict[Path, str] | None = None, published: bool = False) -> dict[str, Any]:
    return make_table(made, read_results(made.cells.values()), failures or {}, published)


def test_means_spreads_and_paired_differences(made_up: Plan) -> None:
    table = table_of(made_up)
    assert (table["split"], table["reference"]) == ("test", "supervised")
    rows = {(row["method"], row["labeled"]): row for row in table["rows"]}
    assert list(rows) == [("supervised", "4"), ("mean-teacher", "4"), ("supervised", "5"), ("mean-teacher", "5")]
    row = rows["mean-teacher", "4"]
    assert row["best"]["mean"] == 47 and row["best"]["std"] == pytest.approx(math.sqrt(19))  # (25 + 4 + 9) / 2
    assert row["last"]["mean"] == 45 and row["val"]["mean"] == 52 and row["labeled_images"] == 4
    assert row["best"]["each"] == {0: 42, 1: 49, 2: 50} and row["finished"] == [0, 1, 2]
    found = row["best"]["difference"]  # 2, -1, 5
    assert (found["mean"], found["std"], found["n"]) == (2, 3, 3)
    assert (found["low"], found["high"]) == pytest.approx((2 - 7.4524, 2 + 7.4524), abs=1e-3)  # 4.3027 * 3 / sqrt(3)
    assert "difference" not in rows["supervised", "4"]["best"]
    assert (row["trainable_parameters"], row["training_s"], row["peak_memory_mb"]) == (3_900_000, 91.0, 502.0)
    assert row["networks"]["teacher1"]["mean"] == 46


def test_one_finished_seed_has_a_difference_and_no_interval(made_up: Plan) -> None:
    row = table_of(made_up)["rows"][3]
    assert (row["finished"], row["seeds"], row["best"]["std"]) == ([0], [0, 1, 2], None)
    assert row["best"]["difference"]["mean"] == pytest.approx(3.126)
    assert row["best"]["difference"]["low"] is None and row["best"]["difference"]["n"] == 1


def test_what_is_missing_or_has_failed_is_said(made_up: Plan) -> None:
    run = made_up.cells["mean-teacher", "5", 2].run
    table = table_of(made_up, {run: "no memory | left"})
    assert [(one["seed"], one["state"], one["reason"]) for one in table["unfinished"]] == [
        (1, "missing", None),
        (2, "failed", "no memory | left"),
    ]
    text = markdown(table)
    assert "53.13, missing, missing" in text and "- mean-teacher, 5, seed 2: failed: no memory | left" in text
    for seed in (0, 1, 2):
        cell = made_up.cells["supervised", "5", seed]
        (cell.run / "evaluation.json").unlink()
    lines = [line for line in markdown(table_of(made_up)).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1  # every row has every column
    assert re.search(r"\| supervised \| 5 \| missing \|", "\n".join(lines))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_cell_whose_result_is_empty_or_cut_short_is_not_finished(made_up: Plan, content: str) -> None:
    cell = made_up.cells["supervised", "5", 0]
    assert cell.finished
    cell.result.write_text(content)
    assert not cell.finished
    assert [one["state"] for one in table_of(made_up)["unfinished"] if one["method"] == "supervised"] == ["missing"]


def test_percentages_have_two_decimals_and_one_seed_has_no_spread(made_up: Plan) -> None:
    parts = columns(table_of(made_up))
    assert parts["test mIoU, best on val"] == ["45.00 ± 5.00", "47.00 ± 4.36", "53.00 ± 2.65", "53.13"]
    assert parts["difference to supervised"] == ["", "+2.00 [-5.45, +9.45], n = 3", "", "+3.13, n = 1"]
    assert parts["each seed"][1] == "42.00, 49.00, 50.00"
    assert parts["time a run"][0] == "2 min" and parts["parameters"][0] == "3.9 M" and "published" not in parts
    rows = list(csv.DictReader(io.StringIO(comma_separated(table_of(made_up)))))
    assert (rows[1]["best_mean"], rows[1]["best_seed2"], rows[1]["best_difference"]) == ("47.00", "50.00", "2.00")
    assert (rows[3]["best_seed1"], rows[3]["finished"], rows[3]["best_difference_low"]) == ("", "1", "")


def test_without_supervised_there_are_no_differences(tmp_path: Path) -> None:
    made = plan(tmp_path / "out", methods="mean-teacher,dual-teacher")
    for cell in made.cells.values():
        finish(cell, 40, 40)
    table = table_of(made)
    assert table["reference"] is None and not any("difference" in head for head in columns(table))
    assert "Differences" not in markdown(table)


def test_undefined_miou_counts_nowhere(tmp_path: Path) -> None:
    made = plan(tmp_path / "out", seeds="0,1")
    for cell in made.cells.values():
        finish(cell, 40, 40)
    cell = made.cells["supervised", "4", 1]
    content = json.loads(cell.result.read_text())
    content["best"] |= {"miou": None, "networks": {"student": {"miou": None}}}
    cell.result.write_text(json.dumps(content | {"val": None}))
    row = table_of(made)["rows"][0]
    assert row["best"]["each"] == {0: 40} and row["val"]["each"] == {0: 45}
    assert table_of(made)["rows"][1]["best"]["difference"]["n"] == 1


def test_the_page_and_the_files_are_written_from_what_there_is(made_up: Plan) -> None:
    table, results = table_of(made_up), read_results(made_up.cells.values())
    write_tables(made_up.out, table)
    page = write_page(made_up, table, results, "nobody asked").read_text()
    assert json.loads((made_up.out / "table.json").read_text())["rows"][1]["best"]["mean"] == 47
    assert (made_up.out / "miou_vs_labels.png").is_file() and not (made_up.out / "pictures.png").exists()
    for expected in ("47.00 ± 4.36", "No pictures: nobody asked", "mean-teacher, 5, seed 1: missing", "Student"):
        assert expected in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)


def test_nothing_finished_makes_a_table_too(tmp_path: Path) -> None:
    made = plan(tmp_path / "out")
    table = table_of(made)
    write_tables(made.out, table)
    assert "Nothing is finished yet" in write_page(made, table, {}).read_text()
    assert (made.out / "table.md").read_text().count("| missing |") == 2


# Published figures.


def test_published_figures_are_those_of_this_data_set_encoder_and_number_of_labels() -> None:
    found = published("voc2012", "resnet50", 183, "dual-teacher")
    assert found is not None and found.miou == 74.53 and "Dual Teacher" in found.source and "resnet50" in found.source
    assert (published("voc2012", "tu-resnet101.a1h_in1k", 92, "unimatch") or found).miou == 75.2
    assert (published("cityscapes", "resnet101", 744, "dual-teacher") or found).miou == 79.46
    for nothing in (
        ("camvid", "resnet50", 183, "dual-teacher"),
        ("voc2012", "resnet50", 184, "dual-teacher"),
        ("voc2012", "tf_efficientnet_lite0", 183, "dual-teacher"),
        ("voc2012", "resnet50", 183, "nobody"),
        ("voc2012", "resnet101", 1464, "dual-student"),  # a row that ends before
    ):
        assert published(*nothing) is None, nothing


def test_published_rows_are_percentages_that_fit_their_heads_and_stand_there_once() -> None:
    for (_, _, numbers), table in TABLES.items():
        methods = [method for rows in table.values() for method in rows]
        assert len(set(methods)) == len(methods)
        rows = [figures for rows in table.values() for figures in rows.values()]
        assert all(1 <= len(row) <= len(numbers) and all(20 < figure < 100 for figure in row) for row in rows)


def test_published_figures_stand_beside_only_when_asked_for_and_only_where_there_are_some(made_up: Plan) -> None:
    assert "published" not in table_of(made_up)["rows"][0]
    assert [row["published"] for row in table_of(made_up, published=True)["rows"]] == [None] * 4
    voc = replace(
        made_up,
        entries={n: replace(e, config=replace(e.config, encoder="resnet50")) for n, e in made_up.entries.items()},
    )
    voc.dataset.name = "voc2012"
    for key, cell in voc.cells.items():
        voc.cells[key] = replace(cell, labeled_images=92)
    table = table_of(voc, published=True)
    assert columns(table)["published"] == ["44.03", "", "44.03", ""]
    assert "supervised at 92: table of Dual Teacher" in markdown(table)
    assert comma_separated(table).splitlines()[0].endswith("published,published_source")


# Pictures.


def test_disagreement_is_the_mean_over_pairs_of_the_known_pixels_that_differ() -> None:
    truth = torch.tensor([[0, 0], [0, 255]])
    a, b, c = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1], [0, 0]]), torch.tensor([[1, 1], [0, 0]])
    assert disagreement([a, b], truth) == pytest.approx(1 / 3)
    assert disagreement([a, b, c], truth) == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    assert disagreement([a], truth) == 0 and disagreement([a, b], torch.full((2, 2), 255)) == 0


def test_drawn_images_are_the_same_ones_at_every_call_and_not_the_first() -> None:
    ids = [f"image{index:02}" for index in range(40)]
    assert draw(ids) == draw(ids) and len(set(draw(ids))) == PREVIEW_COUNT and draw(ids) != ids[:PREVIEW_COUNT]
    assert draw(ids[:2]) == ids[:2]


def test_images_that_differ_most_are_no_neighbors() -> None:
    ids = [f"{index:03}" for index in range(100)]
    assert select_distinct(["050", "051", "045", "044", "012", "008", "090"], ids, ["010"]) == ["050", "044", "090"]


def test_the_gallery_shows_the_images_on_which_the_runs_differ() -> None:
    dataset = open_dataset("shapes:images=4,val=2,test=30,size=48")
    ids = dataset.split("test") or ()
    odd = {ids[index] for index in range(0, 30, 9)}

    def run(name: str, wrong: bool) -> LoadedRun:
        masks = {dataset.read_image(id).sum().item(): (dataset.read_mask(id), id) for id in ids}

        def predict(image: torch.Tensor) -> torch.Tensor:
            mask, id = masks[image.sum().item()]
            return (mask + 1) % 7 if wrong and id in odd else mask

        return LoadedRun(name, predict, dataset, ids, dataset.classes, dataset.palette, {})

    picture, caption = gallery({"one": run("one", False), "two": run("two", True)})
    drawn, differing = re.findall(r"(?:drawn at random|differ most): ([^;.]*)[;.]", caption)
    assert len(drawn.split(", ")) == PREVIEW_COUNT and set(differing.split(", ")) <= odd
    assert picture.width == 4 * 326 + 6
    _, caption = gallery({"one": run("one", False)})
    assert "differ most" not in caption  # from whom?


# What is asked for.


def test_names_may_hold_commas() -> None:
    known = ["dual-teacher, one teacher", "dual-teacher", "a,b"]
    assert split_names("supervised,dual-teacher, one teacher,dual-teacher", known) == [
        "supervised",
        "dual-teacher, one teacher",
        "dual-teacher",
    ]
    assert split_names("a, b ,c", known) == ["a,b", "c"] and split_names(" , ", known) == []


def test_all_cells_share_their_settings_and_methods_keep_their_own_options(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "preset: small\nlabeled: [4, 1/2]\nseeds: 7\nlr: 1e-4\nmethods:\n  supervised:\n  cps: {cutmix: false}\n"
        "  dual-teacher, one teacher: {method: dual-teacher, teachers: 1}\n"
    )
    made = plan_of(tmp_path / "out", None, None, None, None, str(tmp_path / "c.yaml"), {"data": DATA, "lr": 0.01})
    assert list(made.entries) == ["supervised", "dual-student", "dual-teacher, one teacher"]
    assert [cell.seed for cell in made.todo] == [7] * 6 and {cell.labeled_images for cell in made.todo} == {4, 5}
    configs = {replace(cell.config, method="", labeled=None, seed=0) for cell in made.todo}
    assert len(configs) == 1
    (config,) = configs
    assert (config.lr, config.batchnorm, config.steps) == (0.01, "frozen-encoder", 2000)
    assert made.entries["dual-student"].options.cutmix is False
    one = made.entries["dual-teacher, one teacher"]
    assert (one.config.method, one.options.teachers, one.options.threshold_mode) == ("dual-teacher", 1, "none")
    assert made.todo[-1].run == tmp_path / "out/runs/1_2/dual-teacher_one_teacher-seed7"


def test_passes_become_the_same_number_of_steps_for_every_method(tmp_path: Path) -> None:
    made = plan_of(
        tmp_path / "out", ["supervised", "cps"], ["4"], [0], None, None, {"data": DATA, "epochs": 3, "batch_size": 4}
    )
    assert [(cell.config.steps, cell.config.epochs) for cell in made.todo] == [(6, None)] * 2  # 6 unlabeled, 4 a step


def test_a_cells_configuration_can_be_trained_by_itself(tmp_path: Path) -> None:
    made = plan(tmp_path / "out", labeled="all", methods=["supervised"])
    path = made.todo[0].write_config()
    assert resolve({}, file=str(path)) == (made.todo[0].config, made.todo[0].options)
    assert made.todo[0].config.labeled is None and made.todo[0].labeled_images == 10


def test_a_later_call_adds_to_what_was_asked_for(tmp_path: Path) -> None:
    first = plan(tmp_path / "out", seeds="0")
    first.out.mkdir()
    first.save()
    second = plan(tmp_path / "out", methods="dual-teacher,supervised", labeled="4,5", seeds="1")
    assert [cell.title for cell in second.todo][:2] == ["dual-teacher, 4, seed 1", "supervised, 4, seed 1"]
    assert len(second.cells) == 2 + 4 and list(second.entries) == ["supervised", "mean-teacher", "dual-teacher"]
    second.save()
    third = plan(tmp_path / "out", methods="supervised,mean-teacher", labeled="4,5", seeds="0,1")
    assert len(third.blocks) == 2  # it covers the first
    assert yaml.safe_load((tmp_path / "out" / "compare.yaml").read_text())["asked"][1]["labeled"] == ["4", "5"]


def test_a_result_on_val_does_not_count_once_there_is_a_test_list(tmp_path: Path) -> None:
    made = plan(tmp_path / "out", methods=["supervised"])
    finish(made.todo[0], 40, 40)
    assert made.todo[0].finished
    made.todo[0].result.write_text(made.todo[0].result.read_text().replace('"split": "test"', '"split": "val"'))
    assert not made.todo[0].finished


def test_without_a_test_list_val_judges_and_the_head_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    (tiny_folder / "splits" / "test.txt").unlink()
    made = plan_of(tmp_path / "out", ["supervised"], ["4"], [0], None, None, {"data": str(tiny_folder)})
    finish(made.todo[0], 40, 40)
    text = markdown(table_of(made))
    assert made.split == "val" and "| val mIoU, best on val |" in text and "on val, there being no test list," in text


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"methods": "supervised,dual-teachr"}, "unknown method 'dual-teachr': did you mean dual-teacher"),
        ({"methods": "cps,dual-student"}, "--methods: dual-student stands there twice"),
        ({"methods": []}, "--methods is empty"),
        ({"labeled": "4,99"}, "--labeled 99: 99 labeled images asked for"),
        ({"labeled": ""}, "--labeled is empty"),
        ({"labeled": ["4", "4"]}, "--labeled: 4 stands there twice"),
        ({"labeled": "all"}, "no unlabeled images left for mean-teacher"),
        ({"seeds": "0,1,0"}, "--seeds: 0 stands there twice"),
        ({"seeds": []}, "--seeds is empty"),
        ({"seeds": "0,one"}, "--seeds: 'one' is no whole number"),
        ({"data": None}, "--data is missing"),
        ({"data": "nowhere"}, "nowhere: there is no such folder"),
        ({"jobs": 0}, "--jobs is 0: it must be at least 1"),
        ({"stepz": 3}, "unknown option 'stepz': did you mean steps"),
        ({"threshold": 0.9}, "unknown option 'threshold'"),
        ({"seed": 3}, "unknown option 'seed': did you mean seeds"),
        ({"crop_size": 3}, "--crop-size is 3: it must be at least 16"),
        ({"encoder": "resnet5"}, "unknown encoder 'resnet5'"),
        ({"preset": "smal"}, "unknown preset 'smal': did you mean small"),
        ({"file": "stepz: 3"}, "c.yaml: unknown key 'stepz': did you mean steps"),
        ({"file": "seed: 3"}, "c.yaml: unknown key 'seed': did you mean seeds"),
        ({"file": "steps: many"}, "c.yaml: steps is 'many': expected a whole number"),
        ({"file": "methods: [supervised]"}, "c.yaml: methods: expected lines of 'name: {option: value, ...}'"),
        ({"file": "methods: {cps: {}, dual-student: {}}"}, "under its name and its alias"),
        ({"file": "methods: {mean-teacher: {thresold: 0.9}}"}, "methods: mean-teacher: unknown key 'thresold': did"),
        ({"file": "methods: {mean-teacher: {ema_decay: 2}}"}, "methods: mean-teacher: ema-decay is 2: it must be in"),
        ({"file": "methods: {mean-teacher: {steps: 5}}"}, "mean-teacher: steps is the same for all methods"),
        ({"file": "methods: {mine: {mixing: cutmix}}", "methods": "mine"}, "mine is no method: add 'method: NAME'"),
        ({"file": "methods: {mine: {method: x}}", "methods": "mine"}, "unknown method 'x'"),
        ({"file": "methods: {a b: {method: cps}, a/b: {method: cps}}", "methods": None}, "would share a folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, Any], pattern: str
) -> None:
    arguments: dict[str, Any] = {"data": DATA, "methods": "supervised,mean-teacher", "labeled": "4", "seeds": "0"}
    if text := changes.pop("file", None):
        (tmp_path / "c.yaml").write_text(text)
        arguments["config"] = str(tmp_path / "c.yaml")
    with pytest.raises(UserError, match=re.escape(pattern)) as error:
        compare(**{**arguments, **QUICK, **changes}, out=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_preset_may_not_treat_methods_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"supervised": {"batchnorm": "frozen-encoder"}, "mean-teacher": {}}
    monkeypatch.setitem(semiseg.presets.PRESETS, "odd", odd)
    with pytest.raises(UserError, match="--preset odd gives batchnorm frozen-encoder to supervised and train to mean"):
        plan(tmp_path / "out", preset="odd")
    assert plan(tmp_path / "out", preset="odd", batchnorm="train").settings["batchnorm"] == "train"


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="exists and holds no comparison: choose another --out"):
            plan(out)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_comparison_with_other_settings_is_left_alone(tmp_path: Path) -> None:
    made = plan(tmp_path / "out", config=None)
    made.out.mkdir()
    made.save()
    before = (made.out / "compare.yaml").read_text()
    with pytest.raises(
        UserError, match="a comparison with crop_size 32, not 48: choose another --out, or the settings"
    ):
        plan(tmp_path / "out", crop_size=48)
    (tmp_path / "c.yaml").write_text("methods: {mean-teacher: {ema_decay: 0.5}}")
    with pytest.raises(UserError, match=r"a comparison with ema_decay of mean-teacher 0\.99, not 0\.5"):
        plan(tmp_path / "out", config=str(tmp_path / "c.yaml"))
    assert (made.out / "compare.yaml").read_text() == before
    (made.out / "compare.yaml").write_text("settings: 3\n")
    with pytest.raises(UserError, match="not as semiseg compare wrote it"):
        plan(tmp_path / "out")


def test_one_comparison_at_a_time(tmp_path: Path) -> None:
    with work.locked(tmp_path / "out"), pytest.raises(UserError, match="another comparison is at work there"):
        compare(DATA, ["supervised"], ["4"], out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out" / "runs").exists()


# How it stands.


def test_time_left_is_by_own_pace_or_that_of_others_and_shared_by_the_jobs(tmp_path: Path) -> None:
    cells = {cell.title: cell for cell in plan(tmp_path / "out", seeds="0,1", steps=100).todo}
    one, two, three, four = (Standing(cell, WAITING) for cell in cells.values())
    assert seconds_left([one, two, three, four], 1) is None  # nobody knows
    one = replace(one, state=RUNNING, step=50, time_s=100.0)  # supervised: 2 s a step, 100 s left
    two = replace(two, state=RUNNING, step=10, time_s=40.0)  # mean-teacher: 4 s a step, 360 s left
    assert seconds_left([one, two, three, four], 1) == pytest.approx(100 + 360 + 200 + 400)
    assert seconds_left([one, two, three, four], 2) == pytest.approx(530)
    assert seconds_left([one, two], 2) == pytest.approx(360)  # no sooner than the slowest
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
def test_the_display_shows_states_steps_and_figures(tmp_path: Path, terminal: bool) -> None:
    cells = plan(tmp_path / "out", seeds="0,1", steps=100).todo
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, height=40)
    display = Display(cells, 2, console)
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
    assert ("20/100" in shown) and ("31.2" in shown)


# From end to end.


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", *map(str, argv)])
        capsys.readouterr()
        return cli.main(), *capsys.readouterr()

    return run


@pytest.mark.timeout(600)  # five processes that load PyTorch, perhaps beside other work
def test_cells_are_interrupted_gone_on_with_and_left_alone_when_finished(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "REFRESH_S", 0.01)
    out = tmp_path / "out"
    arguments = ["compare", "--data", DATA, "--methods", "supervised,mean-teacher", "--labeled", "4"]
    settings = QUICK | {"steps": 16, "val_every": 4, "val_limit": 1}
    arguments += [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    crews = []

    def interrupt(self: Display, states: Any, failures: Any) -> None:
        if any((cell.run / "checkpoints" / "last.pt").is_file() for cell in self.cells):
            raise KeyboardInterrupt

    class Watched(work.Crew):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            crews.append(self)

    monkeypatch.setattr("semiseg.tools.comparison.compare_methods.Crew", Watched)
    with monkeypatch.context() as patch:
        patch.setattr(progress.Display, "show", interrupt)
        status, _, err = call(*arguments, "--out", out)  # with one job, so that the other has not begun
    assert status == 130 and err.endswith("semiseg: interrupted; it goes on by the same command again\n")
    assert not crews[0].processes and (out / "table.md").read_text().count("| missing |") == 2
    assert "the comparison was interrupted" in (out / "report.html").read_text()

    status, printed, _ = call(*arguments, "--out", out, "--jobs", 2)
    assert status == 0 and printed == (out / "table.md").read_text() + f"report: {(out / 'report.html').resolve()}\n"
    runs = sorted((out / "runs" / "4").glob("*-seed0"))
    assert [run.name for run in runs] == ["mean-teacher-seed0", "supervised-seed0"]
    logs = [(run / "log.txt").read_text() for run in runs]
    assert "resumed at" not in logs[0] and re.search(r"resumed at step \d+ of 16", logs[1])
    table = json.loads((out / "table.json").read_text())
    for run, row in zip(runs, reversed(table["rows"]), strict=True):
        kept = json.loads((run / "evaluation.json").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        vals = [line["miou"] for line in lines if line.get("split") == "val" and line["network"] == "student"]
        assert (kept["split"], kept["last"]["step"], kept["val"]) == ("test", 16, max(vals))
        assert (row["best"]["mean"], row["last"]["mean"]) == (kept["best"]["miou"], kept["last"]["miou"])
        assert row["training_s"] > 0 and row["peak_memory_mb"] > 50 and row["trainable_parameters"] > 1000
    assert PIL.Image.open(out / "pictures.png").width == 4 * 326 + 6

    before = {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()}
    monkeypatch.setattr(work.subprocess, "Popen", None)  # nothing is run again
    assert call(*arguments, "--out", out)[0] == 0
    assert {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()} == before


def test_a_second_interrupt_ends_cells_that_do_not_end_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first asks for is ignored; the second, while it is waited for, kills."""
    begun = tmp_path / "begun"
    stubborn = "import pathlib, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    stubborn += f"pathlib.Path({str(begun)!r}).touch()\ntime.sleep(600)\n"
    (tmp_path / "stubborn.py").write_text(stubborn)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(work, "REFRESH_S", 0.01)
    ended = []

    class Stubborn(work.Crew):
        def _process(self, command: list[str], log: Path) -> int:
            ended.append(super()._process(["stubborn"], log))
            return ended[-1]

    def interrupt(self: Display, states: Any, failures: Any) -> None:
        if begun.exists():
            raise KeyboardInterrupt

    waits = 0

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:  # it has been asked, and is still there
            assert not ended
            raise KeyboardInterrupt
        wait(seconds)

    cells = [*plan(tmp_path / "out").cells.values()]
    wait = work.time.sleep
    monkeypatch.setattr(work.time, "sleep", sleep)
    monkeypatch.setattr(Display, "show", interrupt)
    for cell in cells:
        cell.run.parent.mkdir(parents=True, exist_ok=True)
    with work.locked(tmp_path / "out") as lock:
        crew = Stubborn(cells, 1, lock)
        with pytest.raises(KeyboardInterrupt):
            crew.work(Display(cells, 1, Console(file=io.StringIO())))
    assert ended == [-signal.SIGKILL] and not crew.processes
    assert set(crew.states.values()) == {WAITING}


def test_a_cell_that_fails_stops_no_other_and_is_reported(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def process(self: work.Crew, command: list[str], log: Path) -> int:
        cell = next(cell for cell in self.cells if cell.log == log)
        log.write_text("step 1\nsemiseg: loss or gradient is not finite at step 1\n\n")
        if cell.name == "supervised":
            return 1
        if "judging" in command[0]:
            finish(cell, 40, 40)
        return 0

    monkeypatch.setattr(work.Crew, "_process", process)
    monkeypatch.setattr(
        "semiseg.tools.comparison.comparison_page.loaded_run", lambda path: (_ for _ in ()).throw(UserError("none"))
    )
    out = tmp_path / "out"
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in QUICK.items()]
    status, printed, err = call(
        "compare", "--data", DATA, "--methods", "supervised,mean-teacher", "--labeled", 4, *arguments, "--out", out
    )
    assert status == 1 and "supervised, 4, seed 0: loss or gradient is not finite at step 1" in err.splitlines()[-1]
    assert "| supervised | 4 | failed |" in printed and "40.00" in printed
    assert "failed: loss or gradient is not finite" in (out / "report.html").read_text()


def test_a_variant_is_compared_under_its_own_name() -> None:
    shared = {"data": "shapes", "weights": "none"}
    entries = make_entries(["cutmix-seg", "mean-teacher"], {"cutmix-seg": {"threshold": 0.9}}, shared, None, "file")
    assert list(entries) == ["cutmix-seg", "mean-teacher"]
    options = entries["cutmix-seg"].options
    assert (options.unsupervised_loss, options.threshold) == ("mse", 0.9)
    assert entries["cutmix-seg"].config.method == "mean-teacher"


# What a further call finds.


def test_cells_of_other_images_are_no_cells_of_this_comparison(tmp_path: Path) -> None:
    made = plan(tmp_path / "out")
    cell = made.cells["supervised", "4", 0]
    finish(cell, 40, 40)
    split = made.splits["4", 0]
    write_split(split, cell.run / "splits")
    made.check()
    write_split(replace(split, test=()), cell.run / "splits")
    made.check()  # a test list that has been added since
    write_split(replace(split, labeled=split.labeled[1:]), cell.run / "splits")
    with pytest.raises(UserError, match=r"its labeled list has 3 images, and by the data as they are now .* 4"):
        made.check()


def test_the_length_on_the_command_line_wins_over_the_files(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 5\nmethods: {supervised: }\n")
    quick = {key: value for key, value in QUICK.items() if key != "steps"}
    made = plan_of(tmp_path / "out", None, "4", "0", None, str(file), {"data": DATA, "epochs": 3} | quick)
    entry = made.entries["supervised"]
    assert (entry.config.steps, entry.config.epochs) == (None, 3)


def test_pictures_are_of_the_first_seed_that_is_finished_with_the_fewest_labels(tmp_path: Path) -> None:
    made = plan(tmp_path / "out", seeds="1")
    finish(made.cells["supervised", "4", 1], 40, 40)
    later = replace(made, blocks=(*made.blocks, Block(("supervised",), ("5",), (0,))))
    shown = shown_cells(later, read_results(later.cells.values()))
    assert {name: (cell.labeled, cell.seed) for name, cell in shown.items()} == {"supervised": ("4", 1)}
