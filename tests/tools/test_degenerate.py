"""Reports, comparisons and suggestions of nearly empty runs: no division by zero, no NaN in the text."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from semiseg.config import TrainConfig
from semiseg.tools.comparison.cells import Block
from semiseg.tools.comparison.comparison_page import write_page, write_tables
from semiseg.tools.comparison.comparison_plan import Plan
from semiseg.tools.comparison.comparison_table import make_table
from semiseg.tools.comparison.gallery import disagreement
from semiseg.tools.comparison.live_progress import RUNNING, WAITING, CellProgress, seconds_left, summary
from semiseg.tools.comparison.method_entries import MethodEntry
from semiseg.tools.comparison.seed_statistics import paired, summarize
from semiseg.tools.report.confusion_table import heat_table, largest_confusions
from semiseg.tools.report.html_page import render
from semiseg.tools.report.multi_run_page import multi_run_page
from semiseg.tools.report.run_files import RunFiles
from semiseg.tools.report.run_findings import findings
from semiseg.tools.report.run_page import run_page
from semiseg.tools.suggestion.ranking import RANKINGS, choose, percentile
from semiseg.tools.suggestion.uncertainty import Measurements, _mean_feature, entropy, jensen_shannon
from semiseg.training.find_method import find_method

pytestmark = pytest.mark.slow  # whole commands, trainings or exports

many_examples = settings(max_examples=100, deadline=None, derandomize=True)
few_examples = settings(many_examples, max_examples=4, phases=[Phase.generate])  # for tests that plot
FIGURES = st.sampled_from([None, math.nan, math.inf, -math.inf, 0.0, 1e-300, 50.0, 100.0])
COUNTS = st.sampled_from([0, 1, 2, 30])
NAMES = st.sampled_from(["student", "teacher1", "teacher2"])


@st.composite
def runs(draw: st.DrawFn) -> RunFiles:
    """Runs without any lines, or with figures that are missing, not finite or zero."""
    classes = draw(st.sampled_from([[], ["sky"], ["sky", "rose"]]))

    def line(step: int, *keys: str, **more: Any) -> dict[str, Any]:
        return {"step": step, **{key: draw(FIGURES) for key in keys}, **more}

    training = ("loss", "loss/supervised", "loss/unsupervised", "trusted_fraction", "images_per_s", "time_s")
    evaluated = ("miou", "pixel_accuracy", "disagreement", "parameter_distance", "time_s")

    def evaluation(step: int, **more: Any) -> dict[str, Any]:
        iou = {name: draw(FIGURES) for name in classes}
        return line(step, *evaluated, split="val", iou=iou, network=draw(NAMES), **more)

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


@many_examples
@given(run=runs())
def test_findings_of_nearly_empty_run_are_finite(run: RunFiles) -> None:
    for finding in findings(run):
        assert finding.text and "nan" not in finding.text and "inf " not in finding.text
    for table in (heat_table(run.confusion or {}), largest_confusions(run.confusion or {})):
        assert table is None or table.rows


@few_examples
@given(run=runs(), other=runs())
def test_pages_of_nearly_empty_runs_are_rendered(
    tmp_path_factory: pytest.TempPathFactory, run: RunFiles, other: RunFiles
) -> None:
    folder = tmp_path_factory.mktemp("report")
    object.__setattr__(run, "path", folder / "run")  # directory of the plots
    assert "<html" in render(run_page(run))
    assert "<html" in render(multi_run_page([run, other], folder, None))


METHODS = ("supervised", "mean-teacher")
MIOU = st.sampled_from([None, 0.0, 50.0, 100.0])


@st.composite
def results(draw: st.DrawFn) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Results of some cells of two methods and three seeds, without any figure or with times of zero."""
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


@many_examples
@given(found=results())
def test_table_of_nearly_empty_comparison_is_finite(
    tmp_path_factory: pytest.TempPathFactory, found: dict[tuple[str, str, int], dict[str, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "comparison"
    write_tables(folder, make_table(plan(folder), found, {}))
    for name in ("table.md", "table.csv", "table.json"):
        words = (folder / name).read_text().lower().replace("|", " ").replace(",", " ").split()
        assert not {"nan", "inf", "infinity"} & set(words), name


@few_examples
@given(found=results())
def test_page_of_nearly_empty_comparison_is_written(
    tmp_path_factory: pytest.TempPathFactory, found: dict[tuple[str, str, int], dict[str, Any]]
) -> None:
    made = plan(tmp_path_factory.getbasetemp() / "comparison")
    for key in found:
        made.cells[key].run.mkdir(parents=True, exist_ok=True)
        (made.cells[key].run / "metrics.jsonl").touch()
    assert write_page(made, make_table(made, found, {}), found, "not requested").is_file()


@many_examples
@given(each=st.dictionaries(st.integers(0, 9), st.floats(0, 100), min_size=1), others=st.sets(st.integers(0, 9)))
def test_statistics_of_one_seed_or_equal_values_are_finite(each: dict[int, float], others: set[int]) -> None:
    summary = summarize(each, with_interval=True) or {}
    assert math.isfinite(summary["mean"]) and (summary["std"] is None) == (len(each) == 1)
    assert all(math.isfinite(summary[key]) for key in ("low", "high") if summary["std"] is not None)
    assert paired(each, dict.fromkeys(others, 0.0)).keys() == each.keys() & others


@many_examples
@given(steps=st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0.0, 5.0])), max_size=3), jobs=st.just(1))
def test_estimated_time_of_comparison_is_finite(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float]], jobs: int
) -> None:
    cells = plan(tmp_path_factory.getbasetemp()).current_cells
    progress = [
        CellProgress(cell, RUNNING if step else WAITING, step, time, None, "")
        for cell, (step, time) in zip(cells, steps, strict=False)
    ]
    left = seconds_left(progress, jobs)
    assert (left is None) == (not any(step for step, _ in steps)) and math.isfinite(left or 0.0)
    assert "nan" not in summary(progress, jobs)


def test_disagreement_without_labeled_pixels_is_zero() -> None:
    unlabeled = torch.full((2, 2), 255)
    assert disagreement([unlabeled, unlabeled], unlabeled) == disagreement([unlabeled], unlabeled) == 0.0
    assert disagreement([], torch.zeros(0, 0)) == 0.0


@many_examples
@given(
    images=st.integers(0, 3),
    annotated=st.integers(0, 2),
    value=st.sampled_from([0.0, 1.0, 1e-30]),
    by=st.sampled_from(sorted(RANKINGS)),
)
def test_choice_among_identical_images_is_finite(images: int, annotated: int, value: float, by: str) -> None:
    ones = np.full(images, value, np.float32)
    features = np.zeros((images, 4), np.float32)
    measurements = Measurements(tuple("abc"[:images]), ones, ones, features, np.zeros((images, 1), np.float32))
    choice = choose(measurements, np.zeros((annotated, 4), np.float32), 5, by, 0)
    assert sorted(choice.indices) == list(range(images))
    assert np.isfinite([*choice.scores, *choice.distances]).all()
    assert np.isfinite(percentile(ones)).all()


@many_examples
@given(networks=st.integers(1, 3), classes=st.integers(1, 3), certain=st.booleans())
def test_measures_of_one_class_or_network_and_zero_features_are_finite(
    networks: int, classes: int, certain: bool
) -> None:
    several = torch.full((networks, 1, classes, 1, 1), 1 / classes)
    if certain:
        several = torch.eye(classes)[torch.arange(networks) % classes].view(networks, 1, classes, 1, 1)
    divergence = jensen_shannon(several)
    assert ((divergence >= 0) & (divergence <= 1)).all() and entropy(several[0]).isfinite().all()
    assert np.isfinite(_mean_feature([torch.zeros(1, 4, 1, 1)])).all()
