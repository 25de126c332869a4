"""The loop and what it leaves behind: files, figures, checkpoints, and a run that stops before it spoils anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import semiseg
from semiseg import cli
from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.errors import UserError
from semiseg.methods import METHODS, Batch, Progress, StepOutput
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.networks import build
from semiseg.ops.schedules import poly
from semiseg.training.build import make_method
from semiseg.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from semiseg.training.distributed.fabric_setup import make_fabric
from semiseg.training.logging.console import duration, show
from semiseg.training.logging.metrics_log import MetricsLog, read_metrics
from semiseg.training.logging.resource_log import write_resources
from semiseg.training.optimizer import make_optimizer, set_learning_rate
from semiseg.training.run_directory import RunDirectory
from semiseg.training.trainer import Loop, TrainingStopped

QUICK: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "labeled": "4", "steps": 4, "val_every": 2},
}
TIMES = ("time_s", "images_per_s", "data_wait_fraction")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at here is there before the report."""
    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)


def train(data: Path, out: Path, method: str = "dual-teacher", **options: Any) -> Path:
    return semiseg.train(data, method, out, **QUICK | options)


def metrics(run: Path, timed: bool = False) -> list[dict[str, Any]]:
    lines = read_metrics(run / "metrics.jsonl")
    return lines if timed else [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def training_lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(run) if "split" not in line]


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / f"{name}.pt")


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


# What a run leaves behind.


@pytest.fixture(scope="module")
def finished(_tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of Dual Teacher with the default network: six steps, three validations."""
    options = QUICK | {"encoder": "tf_efficientnet_lite0", "steps": 6, "burn_in": 0.2, "threshold_mode": "none"}
    out = tmp_path_factory.mktemp("runs") / "run"
    assert semiseg.train(_tiny_source, "dual-teacher", out, **options) == out
    return out


def test_a_run_directory_explains_itself(finished: Path) -> None:
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    expected = {"config.yaml", "environment.json", "metrics.jsonl", "log.txt", "report.html", "confusion.json"}
    expected |= {"resources.json", ".lock"}
    expected |= {f"checkpoints/{name}.pt" for name in ("last", "best")}
    expected |= {f"splits/{name}.txt" for name in ("labeled", "unlabeled", "val", "test")}
    assert expected <= files
    assert {file.split("/")[0] for file in files - expected} == {"samples", "plots"}
    samples = sorted(path.name for path in (finished / "samples").glob("*.png"))
    assert samples == [f"000000{step}_val0000{index}.png" for step in (2, 4, 6) for index in range(3)]
    assert all(path.suffix == ".png" for path in (finished / "plots").iterdir())
    assert not list(finished.parent.glob(".*"))  # no draft


def test_what_a_run_costs_is_kept(finished: Path) -> None:
    content = json.loads((finished / "resources.json").read_text())
    config, options = RunDirectory(finished).read_config()
    method = make_method(config, options, open_dataset(config.data))
    assert content["trainable_parameters"] == sum(p.numel() for p in method.student.parameters())
    assert metrics(finished, timed=True)[-1]["time_s"] <= content["training_s"] < 1e4
    assert content["device"] == "cpu" and 50 < content["peak_memory_mb"] < 1e5


def test_of_the_peaks_of_several_sittings_the_highest_is_kept(tmp_path: Path) -> None:
    path, network = tmp_path / "resources.json", nn.Linear(3, 2).requires_grad_(False)
    for before, kept in ((None, False), (1e9, True)):
        if before:
            path.write_text(json.dumps({"peak_memory_mb": before}))
        write_resources(path, network, torch.device("cpu"), 12.3456)
        content = json.loads(path.read_text())
        assert (content["peak_memory_mb"] == before) == kept
        assert (content["trainable_parameters"], content["training_s"]) == (0, 12.346)


def test_the_peak_is_that_of_the_process_not_of_the_one_that_started_it() -> None:
    """A launcher that has loaded much must not make its runs look greedy."""
    names = "import torch; from semiseg.training.logging.resource_log import _peak_memory_mb"
    code = f"{names}; print(_peak_memory_mb(torch.device('cpu')))"
    ballast = torch.ones(2**28)  # 1 GiB
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    del ballast
    assert 50 < float(out) < 1000


def test_the_environment_is_kept(finished: Path) -> None:
    content = json.loads((finished / "environment.json").read_text())
    assert content["packages"]["torch"] == torch.__version__.split("+")[0] or content["packages"]["torch"]
    assert content["packages"]["semiseg"] == semiseg.__version__
    assert {"command", "python", "platform", "cpus"} <= content.keys()


def test_a_line_of_metrics_is_what_the_contract_says(finished: Path) -> None:
    lines = metrics(finished, timed=True)
    training = [line for line in lines if "split" not in line]
    validation = [line for line in lines if "split" in line]
    assert [line["step"] for line in training] == [1, 2, 3, 4, 5, 6]  # every step of a short run
    for line in training:
        assert list(line) == [
            *("step", "epoch", "time_s", "loss", "loss/supervised", "loss/unsupervised", "loss/consistency"),
            *("loss/auxiliary", "loss/filled", "loss/tags"),
            *("lr", "trusted_fraction", "images_per_s", "data_wait_fraction"),
        ]
    assert training[0]["loss/unsupervised"] == training[0]["loss/consistency"] == 0  # burn-in
    assert all(line["loss/unsupervised"] > 0 and line["loss/consistency"] > 0 for line in training[1:])
    assert [line["epoch"] for line in training] == [0, 0, 0, 0, 1, 1]  # 8 unlabeled images, 2 a step
    networks = ["student", "teacher1", "teacher2", "teachers-average"]
    assert [(line["step"], line["network"]) for line in validation] == [(s, n) for s in (2, 4, 6) for n in networks]
    for line in validation:
        assert {"step", "epoch", "time_s", "split", "network", "miou", "pixel_accuracy", "iou"} <= line.keys()
        assert line["split"] == "val"
        assert list(line["iou"]) == ["background", "circle", "square", "triangle", "star", "cross", "ring"]
        assert None in line["iou"].values() or all(0 <= value <= 100 for value in line["iou"].values())
        coupled = line["network"].startswith("teacher") and line["network"] != "teachers-average"
        assert ("disagreement" in line) == ("parameter_distance" in line) == coupled
    times = [line["time_s"] for line in lines]
    assert times == sorted(times)
    assert all(0 <= line["data_wait_fraction"] <= 1 and line["images_per_s"] > 0 for line in training)


def test_best_is_the_best_validation_of_the_default_network(finished: Path) -> None:
    students = {line["step"]: line["miou"] for line in metrics(finished) if line.get("network") == "student"}
    last, best = checkpoint(finished), checkpoint(finished, "best")
    assert last["step"] == 6
    assert best["step"] == best["best"]["step"] == max(students, key=lambda step: students[step])
    assert best["best"]["miou"] == last["best"]["miou"] == max(students.values())
    assert "optimizer" in last and "optimizer" not in best
    confusion = json.loads((finished / "confusion.json").read_text())
    counts = torch.tensor(confusion["counts"])
    assert counts.sum() == 3 * 48 * 48
    assert 100 * counts.diagonal().sum() / counts.sum() == pytest.approx(
        next(
            line["pixel_accuracy"]
            for line in metrics(finished)
            if line["step"] == best["step"] and line.get("network") == "student"
        )
    )


def test_a_checkpoint_is_plain_and_knows_nothing_of_the_clock(finished: Path) -> None:
    def kinds(value: Any) -> set[type]:
        if isinstance(value, dict):
            return {type(key) for key in value}.union(*map(kinds, value.values()))
        if isinstance(value, list):
            return set().union(*map(kinds, value))
        return {type(value)}

    state = torch.load(finished / "checkpoints" / "last.pt", weights_only=True)
    assert kinds(state) <= {str, int, float, bool, Tensor, type(None), torch.Tensor}
    assert state["config"]["method"] == "dual-teacher" and state["config"]["threshold_mode"] == "none"
    assert len(state["classes"]) == len(state["palette"]) == 7


def test_a_finished_run_is_loaded_and_evaluated(finished: Path, _tiny_source: Path) -> None:
    model = semiseg.load(finished, checkpoint="last", network="teachers-average")
    image = open_dataset(_tiny_source).read_image("test00000")
    prediction = model(image)
    assert prediction.mask.shape == prediction.confidence.shape == (48, 48)
    result = semiseg.evaluate(finished, split="val", checkpoint="last")
    logged = {line["network"]: line for line in metrics(finished) if line["step"] == 6 and "split" in line}
    for name, figures in result["networks"].items():
        assert figures["miou"] == pytest.approx(logged[name]["miou"], abs=1e-6)


# The same again.


def test_two_runs_are_equal_to_the_bit(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        torch.manual_seed(ord(name))  # whatever happened before must not matter
        runs.append(train(_tiny_source, tmp_path / name))
    for file in ("last.pt", "best.pt"):
        assert (runs[0] / "checkpoints" / file).read_bytes() == (runs[1] / "checkpoints" / file).read_bytes()
    assert metrics(runs[0]) == metrics(runs[1])


def test_the_seed_matters(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    runs = [train(_tiny_source, tmp_path / str(seed), steps=1, val_every=1, seed=seed) for seed in (0, 1)]
    assert metrics(runs[0])[0]["loss"] != metrics(runs[1])[0]["loss"]


def as_bytes(run: Path, *but: str) -> bytes:
    """The run's last checkpoint as it would be written without some options in its configuration."""
    state = checkpoint(run)
    state["config"] = {key: value for key, value in state["config"].items() if key not in but}
    save_checkpoint(run / "compared.pt", state)
    return (run / "compared.pt").read_bytes()


def test_any_number_of_workers_gives_the_same_run(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    runs = [train(_tiny_source, tmp_path / str(n), workers=n) for n in (0, 1, 4)]
    assert len({as_bytes(run, "workers") for run in runs}) == 1
    assert metrics(runs[0]) == metrics(runs[1]) == metrics(runs[2])


def test_deterministic_changes_nothing_on_a_cpu_and_ends_with_the_run(
    no_report: None, _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    steps, step = [], Loop.step

    def watched(self: Loop, *arguments: Any) -> Any:
        steps.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return step(self, *arguments)

    monkeypatch.setattr(Loop, "step", watched)
    runs = [train(_tiny_source, tmp_path / str(asked), deterministic=asked) for asked in (False, True)]
    assert steps == [(False, None)] * 4 + [(True, ":4096:8")] * 4
    assert not torch.are_deterministic_algorithms_enabled()
    assert as_bytes(runs[0], "deterministic") == as_bytes(runs[1], "deterministic")
    assert metrics(runs[0]) == metrics(runs[1])


def test_resuming_a_finished_run_changes_nothing(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run")
    files = ("metrics.jsonl", "config.yaml", "confusion.json", "checkpoints/last.pt", "checkpoints/best.pt")
    before = {name: (run / name).read_bytes() for name in files}
    assert semiseg.train(resume=run) == run
    assert {name: (run / name).read_bytes() for name in files} == before


class Stop(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("method", METHODS)
def test_resume_is_exact_for_every_method(
    no_report: None, _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Interrupted one step after the first checkpoint; Dual Teacher before it, too."""
    options = {"workers": 0} if method == "supervised" else {"burn_in": 0.25}
    whole = train(_tiny_source, tmp_path / "whole", method, **options)
    kind = METHODS[method]
    after_step = kind.after_step

    for at in (1, 3) if method == "dual-teacher" else (3,):

        def interrupt(self: Any, progress: Progress, at: int = at) -> None:
            if progress.step == at:
                raise Stop
            after_step(self, progress)

        with monkeypatch.context() as patch:
            patch.setattr(kind, "after_step", interrupt)
            with pytest.raises(Stop):
                train(_tiny_source, tmp_path / f"cut-{at}", method, **options)
        cut = semiseg.train(resume=tmp_path / f"cut-{at}")
        for file in ("last.pt", "best.pt"):
            assert (whole / "checkpoints" / file).read_bytes() == (cut / "checkpoints" / file).read_bytes()
    assert metrics(whole) == metrics(cut)


def test_a_mask_that_has_gone_is_named_before_a_resumed_run_goes_on(
    no_report: None, tiny_folder: Path, tmp_path: Path
) -> None:
    run = train(tiny_folder, tmp_path / "run", "supervised", steps=2)
    for name in ("labeled", "val"):
        id = (run / "splits" / f"{name}.txt").read_text().split()[0]
        mask = next((tiny_folder / "masks").glob(f"{id}.*"))
        aside = mask.rename(tmp_path / mask.name)
        with pytest.raises(UserError, match=f"'{id}' of the run's lists has no mask any more: put it back"):
            semiseg.train(resume=run)
        aside.rename(mask)


# A run that goes wrong.


@pytest.mark.parametrize(("kind", "clip"), [("loss", 5.0), ("gradient", 5.0), ("gradient", 0.0), ("infinite", 5.0)])
def test_what_is_not_finite_stops_the_run_and_the_last_good_checkpoint_is_kept(
    no_report: None, _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, clip: float
) -> None:
    training_step, kept = DualTeacher.training_step, []

    def spoiled(self: DualTeacher, batch: Batch, progress: Progress) -> StepOutput:
        output = training_step(self, batch, progress)
        if progress.step == 2:
            kept.append((tmp_path / "run" / "checkpoints" / "last.pt").read_bytes())
            factor = {"loss": float("nan"), "infinite": float("inf"), "gradient": 1.0}[kind]
            output.loss = output.loss * factor
            if kind == "gradient":  # sqrt has a finite value and an infinite slope at 0
                parameter = next(self.student.parameters())
                output.loss = output.loss + (0 * parameter).square().sum().sqrt()
        return output

    monkeypatch.setattr(DualTeacher, "training_step", spoiled)
    with pytest.raises(TrainingStopped, match=r"not finite at step 3; .*last\.pt: start over with a smaller --lr"):
        train(_tiny_source, tmp_path / "run", clip_norm=clip)
    run = tmp_path / "run"
    assert (run / "checkpoints" / "last.pt").read_bytes() == kept[0]
    state = checkpoint(run)
    assert state["step"] == 2 and all(value.isfinite().all() for value in state["method"].values())
    assert [line["step"] for line in training_lines(run)] == [1, 2]
    monkeypatch.setattr(DualTeacher, "training_step", training_step)
    assert checkpoint(semiseg.train(resume=run))["step"] == 4


def test_the_command_line_says_so_in_one_line(
    _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoiled(self: DualTeacher, batch: Batch, progress: Progress) -> StepOutput:
        loss = self.student(batch.labeled_images.float()).sum() * float("nan")
        return StepOutput(loss, {"loss/supervised": loss.detach()})

    monkeypatch.setattr(DualTeacher, "training_step", spoiled)
    options = [item for key, value in QUICK.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    arguments = ["semiseg", "train", "--data", str(_tiny_source), "--out", str(tmp_path / "run"), *options]
    monkeypatch.setattr("sys.argv", arguments)
    assert cli.main() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "semiseg: loss or gradient is not finite at step 1; none was saved: start over with a smaller --lr"
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


# Schedules and optimizers.


def test_learning_rates_follow_the_schedule(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", steps=12, val_every="never", lr=0.01, warmup_steps=50)
    rates = [line["lr"] for line in training_lines(run)]
    assert rates == pytest.approx([0.01 * poly(step, 12, 0.9, warmup=1) for step in range(12)])
    groups = checkpoint(run)["optimizer"]["param_groups"]
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.3 * rates[-1], rates[-1]])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_optimizer_has_every_learning_parameter_once(optimizer: str) -> None:
    config = TrainConfig(optimizer=optimizer, lr=0.01, encoder_lr_factor=0.1, weight_decay=0.02)

    def make() -> nn.Module:
        return build("deeplabv3plus-separable", "test_resnet", 3, "none")

    for name in METHODS:
        method = METHODS[name](make, 3, METHODS[name].Options())
        built = make_optimizer(method, config)
        listed = [id(p) for group in built.param_groups for p in group["params"]]
        assert sorted(listed) == sorted(id(p) for p in method.parameters() if p.requires_grad)
        networks = [n for n in method.predictors.values() if all(p.requires_grad for p in n.parameters())]
        encoder = {id(p) for network in networks for p in network.encoder_parameters()}
        for group in built.param_groups:
            for p in group["params"]:
                assert group["lr"] == pytest.approx(0.001 if id(p) in encoder else 0.01)
                assert group["weight_decay"] == (0.02 if p.dim() > 1 else 0)
        assert set_learning_rate(built, config, 0, 1000) == pytest.approx(0.01 / 20)
        rates = {round(group["lr"], 9) for group in built.param_groups}
        assert rates == {0.01 / 20, 0.001 / 20}
    assert isinstance(built, torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW)


def test_every_method_starts_from_the_same_student(_tiny_source: Path) -> None:
    dataset = open_dataset(_tiny_source)
    config = TrainConfig(encoder="test_resnet", weights="none", seed=4)
    states = []
    for name in METHODS:
        method = make_method(replace(config, method=name), METHODS[name].Options(), dataset)
        states.append(method.student.state_dict())
    assert all(same(dict(states[0]), dict(state)) for state in states)
    other = make_method(replace(config, method="supervised", seed=5), METHODS["supervised"].Options(), dataset)
    assert not same(dict(states[0]), dict(other.student.state_dict()))


@pytest.mark.parametrize("batchnorm", ["train", "frozen-encoder"])
def test_frozen_means_frozen(no_report: None, _tiny_source: Path, tmp_path: Path, batchnorm: str) -> None:
    """Running statistics of every encoder stay as they were; scale and shift, and the decoder's statistics, learn."""
    run = train(_tiny_source, tmp_path / "run", batchnorm=batchnorm)
    state = checkpoint(run)["method"]
    networks = ("student.", "teachers.0.", "teachers.1.")
    means = {key: value for key, value in state.items() if key.endswith("running_mean")}
    assert {key.split("encoder")[0] for key in means if "encoder" in key} == set(networks)
    for key, value in means.items():
        moved = bool(value.any())  # they start at 0
        assert moved == ("decoder" in key or batchnorm == "train"), key
    biases = [value for key, value in state.items() if "encoder" in key and "bn1.bias" in key]
    assert biases and all(value.any() for value in biases)


def test_class_balance_reaches_the_loss(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    losses = {}
    for balance in (0.0, 1.0):
        run = train(_tiny_source, tmp_path / str(balance), class_balance=balance, steps=1, val_every=1)
        losses[balance] = metrics(run)[0]["loss/supervised"]
        weights = checkpoint(run)["method"]["class_weights"]
        assert (weights.unique().numel() > 1) == (balance > 0)
        assert weights.argmin() == 0 or balance == 0  # there is most background
    assert losses[0.0] != losses[1.0]


def test_hard_pixels_reach_the_loss(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    losses = []
    wishes: dict[str, dict[str, Any]] = {"ce": {}, "all": {"ohem_threshold": 1.0}, "one": {"ohem_threshold": 0.0}}
    for name, options in wishes.items():
        kind = "ce" if name == "ce" else "ohem"
        options |= {"ohem_min_kept": 1, "steps": 1, "val_every": 1}
        run = train(_tiny_source, tmp_path / name, supervised_loss=kind, **options)
        losses.append(metrics(run)[0]["loss/supervised"])
    assert losses[0] == pytest.approx(losses[1]) and losses[2] > 1.2 * losses[0]


# When to log, validate and save.


def loop(total_steps: int, val_every: Any = "auto") -> Any:
    return SimpleNamespace(total_steps=total_steps, config=SimpleNamespace(val_every=val_every))


def test_lines_of_training() -> None:
    assert [step for step in range(1, 200) if Loop.log_due(loop(199), step)] == list(range(1, 200))
    assert [step for step in range(1, 206) if Loop.log_due(loop(205), step)] == [*range(10, 201, 10), 205]


@pytest.mark.parametrize(
    ("total", "every", "expected"),
    [
        (100, "auto", list(range(10, 101, 10))),
        (25, "auto", [*range(2, 25, 2), 25]),
        (3, "auto", [1, 2, 3]),
        (10, 4, [4, 8, 10]),
        (20, "never", list(range(2, 21, 2))),  # nothing is evaluated, but a checkpoint is written where auto would
    ],
)
def test_validations(total: int, every: Any, expected: list[int]) -> None:
    assert [step for step in range(1, total + 1) if Loop.validation_due(loop(total, every), step)] == expected


def test_without_validation_best_is_last(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", val_every="never", steps=2)
    assert len(metrics(run)) == len(training_lines(run)) == 2
    assert same(checkpoint(run)["method"], checkpoint(run, "best")["method"])


def test_keep_the_last_checkpoints(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", val_every=1, keep=2)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step-0000003.pt", "step-0000004.pt"]
    assert checkpoint(run, "step-0000003")["step"] == 3
    assert semiseg.load(run / "checkpoints" / "step-0000003.pt").step == 3


def test_epochs_are_passes_over_the_unlabeled_list(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "a", "mean-teacher", steps=None, epochs=2, val_every="never")
    assert [line["epoch"] for line in metrics(run)] == [0] * 4 + [1] * 4  # 8 unlabeled, 2 a step
    run = train(_tiny_source, tmp_path / "b", "supervised", steps=None, epochs=2, val_every="never")
    assert [line["epoch"] for line in metrics(run)] == [0] * 2 + [1] * 2  # 4 labeled, 2 a step


def test_val_limit(no_report: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", val_limit=1, steps=1)
    assert sum(map(sum, json.loads((run / "confusion.json").read_text())["counts"])) == 48 * 48


def test_an_unreadable_unlabeled_image_is_named(no_report: None, tiny_folder: Path, tmp_path: Path) -> None:
    for path in (tiny_folder / "images").glob("train*.png"):
        if path.stem not in ("train00000", "train00001"):
            path.write_bytes(b"this is no picture")
    (tmp_path / "labels.txt").write_text("train00000\ntrain00001\n")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"train000\d\d\.png: the image cannot be read"):
            train(tiny_folder, tmp_path / f"run{workers}", labeled=str(tmp_path / "labels.txt"), workers=workers)


# Parts.


def test_precision_follows_the_device() -> None:
    assert make_fabric(TrainConfig(accelerator="cpu"))._precision.precision == "32-true"
    assert make_fabric(TrainConfig(accelerator="cpu", precision="bf16"))._precision.precision == "bf16-mixed"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_training_in_bf16(no_report: None, _tiny_source: Path, tmp_path: Path, temperature: float) -> None:
    options = {"threshold_mode": "none", "label_temperature": temperature}
    run = train(_tiny_source, tmp_path / "run", precision="bf16", steps=2, val_every="never", **options)
    assert all(line["loss"] > 0 and line["loss/consistency"] > 0 for line in metrics(run))
    assert all(value.dtype != torch.bfloat16 for value in checkpoint(run)["method"].values())


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    name = "".join(["stu", "dent"])  # equal to the literal, another object
    states = [{"student": torch.ones(3), "again": "student"}, {name: torch.ones(3), "again": "student"}]
    for index, state in enumerate(states):
        save_checkpoint(tmp_path / f"{index}.pt", state)
    assert (tmp_path / "0.pt").read_bytes() == (tmp_path / "1.pt").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in (1, 2, 3):
        log.write(step, 0, {"loss": float("nan") if step == 2 else float(step)})
    log.close()
    assert [line["loss"] for line in read_metrics(path)] == [1, None, 3]  # JSON has no NaN
    path.write_text(path.read_text() + '{"step": 4, "lo')  # cut short by a crash
    log = MetricsLog(path, 2)
    log.write(3, 0, {"loss": 33.0})
    log.close()
    lines = read_metrics(path)
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1), (2, None), (3, 33)]
    assert lines[2]["time_s"] >= lines[1]["time_s"]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_times_and_figures_in_words() -> None:
    assert [duration(s) for s in (20, 29, 200, 3600, 3900)] == ["20 s", "29 s", "3 min", "1 h 00 min", "1 h 05 min"]
    assert [show(value) for value in (None, 41.26)] == ["-", "41.3"]


def test_a_run_belongs_to_its_directory_not_to_where_it_was_made(
    no_report: None, _tiny_source: Path, tmp_path: Path
) -> None:
    run = train(_tiny_source, tmp_path / "a", "supervised", steps=1)
    moved = Path(shutil.move(run, tmp_path / "b"))
    assert semiseg.evaluate(moved, split="val")["step"] == 1
