"""No division by nothing where figures become words: report, comparison and suggestion of runs that hold little."""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from semiseg.config import TrainConfig
from semiseg.errors import UserError
from semiseg.tools.comparison.cells import Block
from semiseg.tools.comparison.comparison_page import write_page, write_tables
from semiseg.tools.comparison.comparison_plan import Plan
from semiseg.tools.comparison.comparison_table import make_table
from semiseg.tools.comparison.gallery import disagreement
from semiseg.tools.comparison.live_progress import RUNNING, WAITING, CellProgress, seconds_left, summary
from semiseg.tools.comparison.method_entries import MethodEntry
from semiseg.tools.comparison.seed_statistics import SeedValues, paired
from semiseg.tools.report import confusion_table as confusion
from semiseg.tools.report.html_page import render
from semiseg.tools.report.multi_run_page import multi_run_page
from semiseg.tools.report.run_files import RunFiles
from semiseg.tools.report.run_findings import findings
from semiseg.tools.report.run_page import run_page
from semiseg.tools.suggestion.ranking import RANKINGS, choose, percentile
from semiseg.tools.suggestion.uncertainty import Measures, _feature, entropy, jensen_shannon
from semiseg.training.find_method import find_method

few = settings(max_examples=100, deadline=None, derandomize=True)
slow = settings(few, max_examples=4, phases=[Phase.generate])  # they draw figures
FIGURES = st.sampled_from([None, math.nan, math.inf, -math.inf, 0.0, 1e-300, 50.0, 100.0])
COUNTS = st.sampled_from([0, 1, 2, 30])
NAMES = st.sampled_from(["student", "teacher1", "teacher2"])


@st.composite
def runs(draw: st.DrawFn) -> RunFiles:
    """What a run may have left: nothing, or lines whose figures are missing, not finite or zero."""
    classes = draw(st.sampled_from([[], ["sky"], ["sky", "rose"]]))

    def line(step: int, *keys: str, **more: Any) -> dict[str, Any]:
        return {"step": step, **{key: draw(FIGURES) for key in keys}, **more}

    training = ("loss", "loss/supervised", "loss/unsupervised", "trusted_fraction", "images_per_s", "time_s")
    judged = ("miou", "pixel_accuracy", "disagreement", "parameter_distance", "time_s")

    def evaluation(step: int, **more: Any) -> dict[str, Any]:
        iou = {name: draw(FIGURES) for name in classes}
        return line(step, *judged, split="val", iou=iou, network=draw(NAMES), **more)

    steps = range(draw(st.sampled_from([0, 1, 2, 5])))
    counts = draw(st.lists(st.lists(COUNTS, min_size=len(classes), max_size=len(classes)), max_size=2))
    return RunFiles(
        path=Path(tempfile.gettempdir()) / "no-such-folder" / "run",
        config={"method": draw(st.sampled_from(["supervised", "mean-teacher"])), "threshold": 0.95},
        environment={},
        training=[line(step, *training, "data_wait_fraction") for step in steps],
        validations=[evaluation(step) for step in steps],
        finals=[evaluation(step, checkpoint=draw(st.sampled_from(["best", "last"]))) for step in steps[:2]],
        confusion=draw(st.sampled_from([None, {}, {"classes": classes, "counts": counts}])),
        list_sizes=draw(st.dictionaries(st.sampled_from(["labeled", "unlabeled", "val", "test"]), COUNTS)),
        samples=[],
        skipped=draw(st.sampled_from([[], [{"step": 0, "skipped": "a", "reason": ""}]])),
    )


@few
@given(run=runs())
def test_findings_have_words_for_a_run_that_holds_little(run: RunFiles) -> None:
    for finding in findings(run):
        assert finding.text and "nan" not in finding.text and "inf " not in finding.text
    for table in (confusion.heat_table(run.confusion or {}), confusion.largest_confusions(run.confusion or {})):
        assert table is None or table.rows


@slow
@given(run=runs(), other=runs())
def test_the_pages_of_runs_that_hold_little_are_made(
    tmp_path_factory: pytest.TempPathFactory, run: RunFiles, other: RunFiles
) -> None:
    folder = tmp_path_factory.mktemp("report")
    object.__setattr__(run, "path", folder / "run")  # plots are saved there
    assert "<html" in render(run_page(run))
    with suppress(UserError):  # they have other classes
        assert "<html" in render(multi_run_page([run, other], folder, None))


METHODS = ("supervised", "mean-teacher")
MIOU = st.sampled_from([None, 0.0, 50.0, 100.0])


@st.composite
def results(draw: st.DrawFn) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Of some of the cells of two methods and three seeds: evaluations without any figure, times of zero."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for name in METHODS:
        for seed in draw(st.sets(st.sampled_from([0, 1, 2]))):
            figures = {"pixel_accuracy": draw(MIOU), "iou": {"sky": draw(MIOU)}}
            at = figures | {"networks": {"student": {"miou": draw(MIOU)}}, "network": "student"}
            content: dict[str, Any] = {"best": at | {"miou": draw(MIOU)}, "last": at | {"miou": draw(MIOU)}}
            content["val"] = draw(MIOU)
            if draw(st.booleans()):
                content |= {"training_s": 0.0, "trainable_parameters": 0, "device": "cpu", "peak_memory_mb": None}
            found[name, "2", seed] = content
    return found


def plan(out: Path) -> Plan:
    data = "shapes:images=6,val=2,test=1,size=48"
    configs = {name: TrainConfig(data=data, method=name, steps=1, encoder="test_resnet") for name in METHODS}
    entries = {name: MethodEntry(name, config, find_method(name).Options()) for name, config in configs.items()}
    return Plan(out, entries, [Block(METHODS, ("2",), (0, 1, 2))])


@few
@given(found=results())
def test_the_table_of_a_comparison_that_holds_little_is_finite(
    tmp_path_factory: pytest.TempPathFactory, found: dict[tuple[str, str, int], dict[str, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "comparison"
    write_tables(folder, make_table(plan(folder), found, {}))
    for name in ("table.md", "table.csv", "table.json"):
        words = (folder / name).read_text().lower().replace("|", " ").replace(",", " ").split()
        assert not {"nan", "inf", "infinity"} & set(words), name


@slow
@given(found=results())
def test_the_page_of_a_comparison_that_holds_little_is_made(
    tmp_path_factory: pytest.TempPathFactory, found: dict[tuple[str, str, int], dict[str, Any]]
) -> None:
    made = plan(tmp_path_factory.getbasetemp() / "comparison")
    for key in found:
        made.cells[key].run.mkdir(parents=True, exist_ok=True)
        (made.cells[key].run / "metrics.jsonl").touch()
    assert write_page(made, make_table(made, found, {}), found, "none here").is_file()


@few
@given(each=st.dictionaries(st.integers(0, 9), st.floats(0, 100), min_size=1), others=st.sets(st.integers(0, 9)))
def test_spreads_of_one_seed_or_of_equal_ones_are_finite(each: dict[int, float], others: set[int]) -> None:
    spread = SeedValues(each)
    assert math.isfinite(spread.mean) and (spread.std is None) == (len(each) == 1)
    assert spread.interval() is None or all(map(math.isfinite, spread.interval() or ()))
    assert paired(each, dict.fromkeys(others, 0.0)).keys() == each.keys() & others


@few
@given(steps=st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0.0, 5.0])), max_size=3), jobs=st.just(1))
def test_what_is_left_of_a_comparison_is_finite(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float]], jobs: int
) -> None:
    cells = plan(tmp_path_factory.getbasetemp()).current_cells
    standings = [
        CellProgress(cell, RUNNING if step else WAITING, step, time, None, "")
        for cell, (step, time) in zip(cells, steps, strict=False)
    ]
    left = seconds_left(standings, jobs)
    assert (left is None) == (not any(step for step, _ in steps)) and math.isfinite(left or 0.0)
    assert "nan" not in summary(standings, jobs)


def test_networks_agree_where_no_pixel_is_known() -> None:
    nothing = torch.full((2, 2), 255)
    assert disagreement([nothing, nothing], nothing) == disagreement([nothing], nothing) == 0.0
    assert disagreement([], torch.zeros(0, 0)) == 0.0


@few
@given(
    images=st.integers(0, 3),
    annotated=st.integers(0, 2),
    value=st.sampled_from([0.0, 1.0, 1e-30]),
    by=st.sampled_from(sorted(RANKINGS)),
)
def test_a_choice_among_images_without_features_or_differences_is_finite(
    images: int, annotated: int, value: float, by: str
) -> None:
    ones = np.full(images, value, np.float32)
    features = np.zeros((images, 4), np.float32)
    measures = Measures(tuple("abc"[:images]), ones, ones, features, np.zeros((images, 1), np.float32))
    choice = choose(measures, np.zeros((annotated, 4), np.float32), 5, by, 0)
    assert sorted(choice.indices) == list(range(images))
    assert np.isfinite([*choice.scores, *choice.distances]).all()
    assert np.isfinite(percentile(ones)).all()


@few
@given(networks=st.integers(1, 3), classes=st.integers(1, 3), sure=st.booleans())
def test_measures_of_one_class_one_network_and_of_features_of_zero_are_finite(
    networks: int, classes: int, sure: bool
) -> None:
    several = torch.full((networks, 1, classes, 1, 1), 1 / classes)
    if sure:
        several = torch.eye(classes)[torch.arange(networks) % classes].view(networks, 1, classes, 1, 1)
    divergence = jensen_shannon(several)
    assert ((divergence >= 0) & (divergence <= 1)).all() and entropy(several[0]).isfinite().all()
    assert np.isfinite(_feature([torch.zeros(1, 4, 1, 1)])).all()
