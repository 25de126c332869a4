"""The table of a comparison: statistics over seeds, published figures, text, files and page."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comparison_toy import finish, make_plan, table_of
from semiseg.tools.comparison.cells import Block
from semiseg.tools.comparison.comparison_page import shown_cells, write_page, write_tables
from semiseg.tools.comparison.comparison_plan import Plan
from semiseg.tools.comparison.comparison_table import read_results
from semiseg.tools.comparison.published_figures import TABLES, published
from semiseg.tools.comparison.seed_statistics import paired, summarize
from semiseg.tools.comparison.table_text import columns, to_csv, to_markdown
from semiseg.tools.report.evidence import verdict


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two methods, two shares of labels, three seeds; with 5 labels, two cells of mean-teacher are missing."""
    plan = make_plan(tmp_path / "out", labeled="5,4", seeds="0,1,2")
    values = {
        ("supervised", "4"): (40, 50, 45),
        ("mean-teacher", "4"): (42, 49, 50),
        ("supervised", "5"): (50, 55, 54),
    }
    for (name, labeled), mious in values.items():
        for seed, miou in enumerate(mious):
            finish(plan.cells[name, labeled, seed], miou, miou - 2)
    finish(plan.cells["mean-teacher", "5", 0], 53.126, 52)
    return plan


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)])
def test_interval_uses_printed_quantiles_of_student_t(seeds: int, quantile: float) -> None:
    summary = summarize({seed: float(seed) for seed in range(seeds)}, with_interval=True) or {}
    half = quantile * summary["std"] / math.sqrt(seeds)
    distances = summary["high"] - summary["mean"], summary["mean"] - summary["low"]
    assert distances == pytest.approx((half, half), rel=2e-4)


def test_mean_std_and_interval_match_hand_computation() -> None:
    summary = summarize({0: 1.0, 1: 2.0, 2: 6.0}, with_interval=True) or {}
    assert summary["mean"] == 3.0 and summary["std"] == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    half = 4.30265 * math.sqrt(7 / 3)
    assert (summary["low"], summary["high"]) == pytest.approx((3 - half, 3 + half), abs=1e-4)
    one = summarize({0: 5.0}, with_interval=True) or {}
    assert (one["std"], one["low"], one["high"], one["n"]) == (None, None, None, 1)
    assert summarize({}) is None


def test_paired_differences_use_common_seeds() -> None:
    assert paired({0: 5.0, 1: 7.0, 2: 9.0}, {2: 4.0, 0: 4.5, 3: 0.0}) == {0: 0.5, 2: 5.0}


def test_table_has_means_deviations_and_paired_differences(plan: Plan) -> None:
    table = table_of(plan)
    assert (table["split"], table["reference"]) == ("test", "supervised")
    rows = {(row["method"], row["labeled"]): row for row in table["rows"]}
    assert list(rows) == [("supervised", "4"), ("mean-teacher", "4"), ("supervised", "5"), ("mean-teacher", "5")]
    row = rows["mean-teacher", "4"]
    assert row["best"]["mean"] == 47 and row["best"]["std"] == pytest.approx(math.sqrt(19))  # (25 + 4 + 9) / 2
    assert row["last"]["mean"] == 45 and row["val"]["mean"] == 52 and row["labeled_images"] == 4
    assert row["best"]["each"] == {0: 42, 1: 49, 2: 50} and row["finished"] == [0, 1, 2]
    difference = row["best"]["difference"]  # 2, -1, 5
    assert (difference["mean"], difference["std"], difference["n"]) == (2, 3, 3)
    interval = difference["low"], difference["high"]
    assert interval == pytest.approx((2 - 7.4524, 2 + 7.4524), abs=1e-3)  # 4.3027 * 3 / sqrt(3)
    assert "difference" not in rows["supervised", "4"]["best"]
    assert (row["trainable_parameters"], row["training_s"], row["peak_memory_mb"]) == (3_900_000, 91.0, 502.0)
    assert row["networks"]["teacher1"]["mean"] == 46
    row = rows["mean-teacher", "5"]  # one finished seed has a difference without an interval
    assert (row["finished"], row["seeds"], row["best"]["std"]) == ([0], [0, 1, 2], None)
    assert row["best"]["difference"]["mean"] == pytest.approx(3.126)
    assert row["best"]["difference"]["low"] is None and row["best"]["difference"]["n"] == 1


def test_missing_and_failed_cells_are_reported(plan: Plan) -> None:
    table = table_of(plan, {plan.cells["mean-teacher", "5", 2].run: "no memory | left"})
    assert [(one["seed"], one["state"], one["reason"]) for one in table["unfinished"]] == [
        (1, "missing", None),
        (2, "failed", "no memory | left"),
    ]
    text = to_markdown(table)
    assert "53.13, missing, missing" in text and "- mean-teacher, 5, seed 2: failed: no memory | left" in text
    for seed in (0, 1, 2):
        plan.cells["supervised", "5", seed].result.unlink()
    lines = [line for line in to_markdown(table_of(plan)).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1  # every row has every column
    assert re.search(r"\| supervised \| 5 \| missing \|", "\n".join(lines))


def test_cell_with_truncated_result_is_not_finished(plan: Plan) -> None:
    cell = plan.cells["supervised", "5", 0]
    assert cell.finished
    for content in ("", "{", "[]", "{}"):
        cell.result.write_text(content)
        assert not cell.finished
    assert [one["state"] for one in table_of(plan)["unfinished"] if one["method"] == "supervised"] == ["missing"]


def test_text_has_two_decimals_and_no_deviation_for_one_seed(plan: Plan) -> None:
    text = columns(table_of(plan))
    assert text["test mIoU, best on val"] == ["45.00 ± 5.00", "47.00 ± 4.36", "53.00 ± 2.65", "53.13"]
    assert text["difference to supervised"] == ["", "+2.00 [-5.45, +9.45], n = 3", "", "+3.13, n = 1"]
    assert text["each seed"][1] == "42.00, 49.00, 50.00"
    assert text["time per run"][0] == "2 min" and text["parameters"][0] == "3.9 M" and "published" not in text
    rows = list(csv.DictReader(io.StringIO(to_csv(table_of(plan)))))
    assert (rows[1]["best_mean"], rows[1]["best_seed2"], rows[1]["best_difference"]) == ("47.00", "50.00", "2.00")
    assert (rows[3]["best_seed1"], rows[3]["finished"], rows[3]["best_difference_low"]) == ("", "1", "")


def test_table_without_supervised_has_no_differences(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", methods="mean-teacher,dual-teacher")
    for cell in plan.cells.values():
        finish(cell, 40, 40)
    table = table_of(plan)
    assert table["reference"] is None and not any("difference" in head for head in columns(table))
    assert "Differences" not in to_markdown(table)


def test_undefined_miou_is_left_out(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", seeds="0,1")
    for cell in plan.cells.values():
        finish(cell, 40, 40)
    cell = plan.cells["supervised", "4", 1]
    content = json.loads(cell.result.read_text())
    content["best"] |= {"miou": None, "networks": {"student": {"miou": None}}}
    cell.result.write_text(json.dumps(content | {"val": None}))
    row, other = table_of(plan)["rows"]
    assert row["best"]["each"] == {0: 40} and row["val"]["each"] == {0: 45}
    assert other["best"]["difference"]["n"] == 1


def test_files_and_page_are_written(plan: Plan) -> None:
    table, results = table_of(plan), read_results(plan.cells.values())
    write_tables(plan.out, table)
    page = write_page(plan, table, results, "not requested").read_text()
    assert json.loads((plan.out / "table.json").read_text())["rows"][1]["best"]["mean"] == 47
    assert (plan.out / "miou_vs_labels.png").is_file() and not (plan.out / "pictures.png").exists()
    for expected in ("47.00 ± 4.36", "No pictures: not requested", "mean-teacher, 5, seed 1: missing", "Student"):
        assert expected in page
    answer = "Cannot be told: +2.0 mIoU on test (-5.5 to +9.5, 3 seeds), but test has only 2 images (mean-teacher at 4 "
    assert f"Did the unlabeled images help here? {answer}" in page
    for name, count in table["images"].items():
        assert f"{name.capitalize()} has only {count} images" in page
    assert table["images"] == {"val": 3, "test": 2} and "The safeguard left" not in page
    run = plan.cells["mean-teacher", "4", 1].run
    (run / "metrics.jsonl").write_text(json.dumps({"step": 4, "loss": 1.0, "unlabeled_factor": 0.0}) + "\n")
    page = write_page(plan, table, results, "not requested").read_text()
    assert "The safeguard left the unlabeled images out at the end (mean-teacher, 4, seed 1)." in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)


@pytest.mark.parametrize(
    ("points", "images", "seeds", "interval", "expected"),
    [
        (5.0, 100, 3, (1.0, 9.0), "Yes: +5.0 mIoU on test (+1.0 to +9.0, 3 seeds)"),
        (-5.0, 100, 3, (-9.0, -1.0), "No: -5.0 mIoU on test (-9.0 to -1.0, 3 seeds)"),
        (
            5.0,
            100,
            3,
            (-1.0, 11.0),
            "Cannot be told: .* 3 runs each on 100 test images do not show a difference of this",
        ),
        (1.9, 100, 3, (1.8, 2.0), "Cannot be told: .* 3 runs each on 100 test images do not show a difference of this"),
        (5.0, 100, 1, (None, None), r"Probably: \+5.0 mIoU on test \(one run each\)$"),
    ],
)
def test_verdict_needs_a_certain_difference_beyond_the_margin(
    points: float, images: int, seeds: int, interval: tuple[float | None, float | None], expected: str
) -> None:
    text = verdict(points, "test", images, seeds, *interval)
    assert text == expected or re.match(expected, text)


def test_table_and_page_are_written_without_finished_cells(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out")
    table = table_of(plan)
    write_tables(plan.out, table)
    assert "No cell is finished yet" in write_page(plan, table, {}).read_text()
    assert (plan.out / "table.md").read_text().count("| missing |") == 2


def test_pictures_show_fewest_labels_and_first_finished_seed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", seeds="1")
    finish(plan.cells["supervised", "4", 1], 40, 40)
    later = replace(plan, blocks=(*plan.blocks, Block(("supervised",), ("5",), (0,))))
    shown = shown_cells(later, read_results(later.cells.values()))
    assert {name: (cell.labeled, cell.seed) for name, cell in shown.items()} == {"supervised": ("4", 1)}


def test_val_replaces_missing_test_list(tiny_folder: Path, tmp_path: Path) -> None:
    (tiny_folder / "splits" / "test.txt").unlink()
    plan = make_plan(tmp_path / "out", methods=["supervised"], data=str(tiny_folder))
    finish(plan.current_cells[0], 40, 40)
    text = to_markdown(table_of(plan))
    assert plan.split == "val" and "| val mIoU, best on val |" in text and "on val (there is no test list)" in text


def test_published_figure_is_found_by_data_encoder_and_labels() -> None:
    found = published("voc2012", "resnet50", 183, "dual-teacher")
    assert found is not None and found.miou == 74.53 and "Dual Teacher" in found.source and "resnet50" in found.source
    assert (published("voc2012", "tu-resnet101.a1h_in1k", 92, "unimatch") or found).miou == 75.2
    assert (published("cityscapes", "resnet101", 744, "dual-teacher") or found).miou == 79.46
    for unpublished in (
        ("camvid", "resnet50", 183, "dual-teacher"),
        ("voc2012", "resnet50", 184, "dual-teacher"),
        ("voc2012", "tf_efficientnet_lite0", 183, "dual-teacher"),
        ("voc2012", "resnet50", 183, "unknown"),
        ("voc2012", "resnet101", 1464, "dual-student"),  # a shorter row
    ):
        assert published(*unpublished) is None, unpublished


def test_published_rows_are_percentages_and_fit_their_numbers_of_labels() -> None:
    for (_, _, numbers), table in TABLES.items():
        methods = [method for rows in table.values() for method in rows]
        assert len(set(methods)) == len(methods)
        rows = [figures for rows in table.values() for figures in rows.values()]
        assert all(1 <= len(row) <= len(numbers) and all(20 < figure < 100 for figure in row) for row in rows)


def test_published_figures_are_added_only_on_request(plan: Plan) -> None:
    assert "published" not in table_of(plan)["rows"][0]
    assert [row["published"] for row in table_of(plan, published=True)["rows"]] == [None] * 4

    def with_resnet(entry: Any) -> Any:
        return replace(entry, config=replace(entry.config, encoder="resnet50"))

    voc = replace(plan, entries={name: with_resnet(entry) for name, entry in plan.entries.items()})
    voc.dataset.name = "voc2012"
    for key, cell in voc.cells.items():
        voc.cells[key] = replace(cell, labeled_images=92)
    table = table_of(voc, published=True)
    assert columns(table)["published"] == ["44.03", "", "44.03", ""]
    assert "supervised at 92: table of Dual Teacher" in to_markdown(table)
    assert to_csv(table).splitlines()[0].endswith("published,published_source")
