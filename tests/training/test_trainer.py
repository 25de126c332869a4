"""The training loop: files of a run, metrics, checkpoints, exact resume, and non-finite losses."""

from __future__ import annotations

import json
import os
import shutil
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
from semiseg.data.splits.dataset_split import Split
from semiseg.errors import UserError
from semiseg.methods import METHODS, Batch, Progress, StepOutput
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.networks import build
from semiseg.ops.schedules import poly
from semiseg.training import validation
from semiseg.training.build import make_method, make_optimizer, set_learning_rate
from semiseg.training.checkpoint import load_checkpoint, save_checkpoint
from semiseg.training.distributed.fabric_setup import make_fabric
from semiseg.training.distributed.single_process import SingleProcess
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.run_directory import RunDirectory
from semiseg.training.trainer import Trainer, TrainingStopped

QUICK: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "labeled": "4", "steps": 4, "val_every": 2},
}
TIMES = ("time_s", "images_per_s", "data_wait_fraction")


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
    """Return whether two nested states are bit-identical."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


# Files of a run.


@pytest.fixture(scope="module")
def finished(_tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train Dual Teacher: six steps, three validations."""
    options = QUICK | {"steps": 6, "burn_in": 0.2, "threshold_mode": "none"}
    out = tmp_path_factory.mktemp("runs") / "run"
    assert semiseg.train(_tiny_source, "dual-teacher", out, **options) == out
    return out


@pytest.mark.slow
def test_run_directory_has_all_files(finished: Path) -> None:
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
    assert not list(finished.parent.glob(".*"))  # no temporary directory


@pytest.mark.slow
def test_resources_are_saved(finished: Path) -> None:
    content = json.loads((finished / "resources.json").read_text())
    config, options = RunDirectory(finished).read_config()
    method = make_method(config, options, open_dataset(config.data))
    assert content["trainable_parameters"] == sum(p.numel() for p in method.student.parameters())
    assert metrics(finished, timed=True)[-1]["time_s"] <= content["training_s"] < 1e4
    assert content["device"] == "cpu" and 50 < content["peak_memory_mb"] < 1e5


@pytest.mark.slow
def test_environment_is_saved(finished: Path) -> None:
    content = json.loads((finished / "environment.json").read_text())
    assert content["packages"]["torch"] == torch.__version__.split("+")[0] or content["packages"]["torch"]
    assert content["packages"]["semiseg"] == semiseg.__version__
    assert {"command", "python", "platform", "cpus"} <= content.keys()


@pytest.mark.slow
def test_metrics_lines_have_the_documented_keys(finished: Path) -> None:
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


@pytest.mark.slow
def test_best_checkpoint_is_the_best_validation_of_the_default_network(finished: Path) -> None:
    students = {line["step"]: line["miou"] for line in metrics(finished) if line.get("network") == "student"}
    last, best = checkpoint(finished), checkpoint(finished, "best")
    assert last["step"] == 6
    assert best["step"] == best["best"]["step"] == max(students, key=lambda step: students[step])
    assert best["best"]["miou"] == last["best"]["miou"] == max(students.values())
    assert "optimizer" in last and "optimizer" not in best
    confusion = json.loads((finished / "confusion.json").read_text())
    counts = torch.tensor(confusion["counts"])
    assert counts.sum() == 3 * 48 * 48
    lines = [line for line in metrics(finished) if line["step"] == best["step"] and line.get("network") == "student"]
    assert 100 * counts.diagonal().sum() / counts.sum() == pytest.approx(lines[0]["pixel_accuracy"])


@pytest.mark.slow
def test_checkpoint_has_plain_types_only(finished: Path) -> None:
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


@pytest.mark.slow
def test_finished_run_can_be_loaded_and_evaluated(finished: Path, _tiny_source: Path) -> None:
    model = semiseg.load(finished, checkpoint="last", network="teachers-average")
    image = open_dataset(_tiny_source).read_image("test00000")
    prediction = model(image)
    assert prediction.mask.shape == prediction.confidence.shape == (48, 48)
    result = semiseg.evaluate(finished, split="val", checkpoint="last")
    logged = {line["network"]: line for line in metrics(finished) if line["step"] == 6 and "split" in line}
    for name, figures in result["networks"].items():
        assert figures["miou"] == pytest.approx(logged[name]["miou"], abs=1e-6)


# Reproducibility and resume.


@pytest.mark.slow
def test_seed_changes_the_run(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    runs = [train(_tiny_source, tmp_path / str(seed), "supervised", steps=1, val_every=1, seed=seed) for seed in (0, 1)]
    assert metrics(runs[0])[0]["loss"] != metrics(runs[1])[0]["loss"]


def as_bytes(run: Path, *without: str, name: str = "last") -> bytes:
    """Return the bytes of a checkpoint without some options of its configuration."""
    state = checkpoint(run, name)
    state["config"] = {key: value for key, value in state["config"].items() if key not in without}
    save_checkpoint(run / "compared.pt", state)
    return (run / "compared.pt").read_bytes()


@pytest.mark.slow
def test_runs_are_bit_identical_for_any_number_of_workers(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    runs = []
    for workers in (0, 1, 4):
        torch.manual_seed(workers)  # the global random state must not matter
        runs.append(train(_tiny_source, tmp_path / str(workers), workers=workers))
    for name in ("last", "best"):
        assert len({as_bytes(run, "workers", name=name) for run in runs}) == 1
    assert metrics(runs[0]) == metrics(runs[1]) == metrics(runs[2])


@pytest.mark.slow
def test_deterministic_changes_nothing_on_cpu(
    quick: None, _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    steps, step = [], Trainer.step

    def record(self: Trainer, *arguments: Any) -> Any:
        steps.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", record)
    runs = [train(_tiny_source, tmp_path / str(on), "supervised", steps=2, deterministic=on) for on in (False, True)]
    assert steps == [(False, None)] * 2 + [(True, ":4096:8")] * 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert as_bytes(runs[0], "deterministic") == as_bytes(runs[1], "deterministic")
    assert metrics(runs[0]) == metrics(runs[1])


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "mean-teacher")
    files = ("metrics.jsonl", "config.yaml", "confusion.json", "checkpoints/last.pt", "checkpoints/best.pt")
    before = {name: (run / name).read_bytes() for name in files}
    assert semiseg.train(resume=run) == run
    assert {name: (run / name).read_bytes() for name in files} == before


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_resume_is_exact_for_every_method(
    quick: None, _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Resume from the files that a crash leaves one step after the first checkpoint; Dual Teacher also before it."""
    options: dict[str, Any] = {"val_limit": 1} if method == "supervised" else {"val_limit": 1, "burn_in": 0.25}
    kind, out = METHODS[method], tmp_path / "whole"
    after_step = kind.after_step

    def copy(self: Any, progress: Progress) -> None:
        if progress.step in ((1, 3) if method == "dual-teacher" else (3,)):
            shutil.copytree(out, tmp_path / f"cut-{progress.step}")
        after_step(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "after_step", copy)
        whole = train(_tiny_source, out, method, **options)
    cuts = sorted(tmp_path.glob("cut-*"))
    assert len(cuts) == (2 if method == "dual-teacher" else 1)
    for path in cuts:
        assert (path / "checkpoints" / "last.pt").exists() == (path.name == "cut-3")
        cut = semiseg.train(resume=path)
        for file in ("last.pt", "best.pt"):
            assert (whole / "checkpoints" / file).read_bytes() == (cut / "checkpoints" / file).read_bytes()
        assert metrics(whole) == metrics(cut)


@pytest.mark.slow
def test_resume_fails_if_a_mask_is_missing(quick: None, tiny_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_folder, tmp_path / "run", "supervised", steps=2)
    for name in ("labeled", "val"):
        id = (run / "splits" / f"{name}.txt").read_text().split()[0]
        mask = next((tiny_folder / "masks").glob(f"{id}.*"))
        aside = mask.rename(tmp_path / mask.name)
        with pytest.raises(UserError, match=f"'{id}' is in the lists of the run but has no mask. Restore it"):
            semiseg.train(resume=run)
        aside.rename(mask)


# Non-finite losses.


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "clip"), [("loss", 5.0), ("gradient", 5.0), ("gradient", 0.0), ("infinite", 5.0)])
def test_training_stops_at_non_finite_loss_or_gradient(
    quick: None, _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, clip: float
) -> None:
    training_step, kept = DualTeacher.training_step, []

    def diverging(self: DualTeacher, batch: Batch, progress: Progress) -> StepOutput:
        output = training_step(self, batch, progress)
        if progress.step == 2:
            kept.append((tmp_path / "run" / "checkpoints" / "last.pt").read_bytes())
            factor = {"loss": float("nan"), "infinite": float("inf"), "gradient": 1.0}[kind]
            output.loss = output.loss * factor
            if kind == "gradient":  # sqrt is finite and its derivative infinite at 0
                parameter = next(self.student.parameters())
                output.loss = output.loss + (0 * parameter).square().sum().sqrt()
        return output

    monkeypatch.setattr(DualTeacher, "training_step", diverging)
    with pytest.raises(TrainingStopped, match=r"not finite at step 3. The last checkpoint is .*last\.pt"):
        train(_tiny_source, tmp_path / "run", clip_norm=clip)
    run = tmp_path / "run"
    assert (run / "checkpoints" / "last.pt").read_bytes() == kept[0]
    state = checkpoint(run)
    assert state["step"] == 2 and all(value.isfinite().all() for value in state["method"].values())
    assert [line["step"] for line in training_lines(run)] == [1, 2]
    if kind == "loss":
        monkeypatch.setattr(DualTeacher, "training_step", training_step)
        assert checkpoint(semiseg.train(resume=run))["step"] == 4


@pytest.mark.slow
def test_non_finite_loss_is_one_line_on_the_command_line(
    _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverging(self: DualTeacher, batch: Batch, progress: Progress) -> StepOutput:
        loss = self.student(batch.labeled_images.float()).sum() * float("nan")
        return StepOutput(loss, {"loss/supervised": loss.detach()})

    monkeypatch.setattr(DualTeacher, "training_step", diverging)
    options = [item for key, value in QUICK.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    arguments = ["semiseg", "train", "--data", str(_tiny_source), "--out", str(tmp_path / "run"), *options]
    monkeypatch.setattr("sys.argv", arguments)
    assert cli.main() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "semiseg: loss or gradient is not finite at step 1. No checkpoint was saved. Start over with a smaller --lr."
    )
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


# Schedules, optimizers and losses.


@pytest.mark.slow
def test_learning_rates_follow_the_schedule(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", steps=12, val_every="never", lr=0.01, warmup_steps=50)
    rates = [line["lr"] for line in training_lines(run)]
    assert rates == pytest.approx([0.01 * poly(step, 12, 0.9, warmup=1) for step in range(12)])
    groups = checkpoint(run)["optimizer"]["param_groups"]
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.3 * rates[-1], rates[-1]])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_optimizer_has_every_trainable_parameter_once(optimizer: str) -> None:
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
    everything = make_optimizer(method, replace(config, weight_decay_on="all"))
    assert {group["weight_decay"] for group in everything.param_groups} == {0.02}


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


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", ["train", "frozen-encoder"])
def test_frozen_encoder_batchnorm_keeps_running_statistics(
    quick: None, _tiny_source: Path, tmp_path: Path, batchnorm: str
) -> None:
    """Scale and shift, and the statistics of the decoder, still change."""
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


@pytest.mark.slow
def test_class_balance_changes_the_loss(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    losses = {}
    for balance in (0.0, 1.0):
        run = train(_tiny_source, tmp_path / str(balance), "supervised", class_balance=balance, steps=1, val_every=1)
        losses[balance] = metrics(run)[0]["loss/supervised"]
        weights = checkpoint(run)["method"]["class_weights"]
        assert (weights.unique().numel() > 1) == (balance > 0)
        assert weights.argmin() == 0 or balance == 0  # background is the most frequent class
    assert losses[0.0] != losses[1.0]


@pytest.mark.slow
def test_ohem_changes_the_loss(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    losses = []
    variants: dict[str, dict[str, Any]] = {"ce": {}, "all": {"ohem_threshold": 1.0}, "one": {"ohem_threshold": 0.0}}
    for name, options in variants.items():
        kind = "ce" if name == "ce" else "ohem"
        options |= {"ohem_min_kept": 1, "steps": 1, "val_every": 1}
        run = train(_tiny_source, tmp_path / name, "supervised", supervised_loss=kind, **options)
        losses.append(metrics(run)[0]["loss/supervised"])
    assert losses[0] == pytest.approx(losses[1]) and losses[2] > 1.2 * losses[0]


# Logging, validation and checkpoints.


def trainer(total_steps: int, val_every: Any = "auto") -> Any:
    config = TrainConfig(method="supervised", batch_size=4, val_every=val_every)
    run = SimpleNamespace(split=Split(tuple("abcdefghij"), (), (), ()))  # an epoch of 3 steps
    return SimpleNamespace(total_steps=total_steps, config=config, run=run, safeguard=None)


def test_steps_that_are_logged() -> None:
    assert [step for step in range(1, 200) if Trainer.should_log(trainer(199), step)] == list(range(1, 200))
    assert [step for step in range(1, 206) if Trainer.should_log(trainer(205), step)] == [*range(10, 201, 10), 205]


@pytest.mark.parametrize(
    ("total", "every", "expected"),
    [
        (100, "auto", list(range(10, 101, 10))),
        (25, "auto", [*range(2, 25, 2), 25]),
        (3, "auto", [1, 2, 3]),
        (10, 4, [4, 8, 10]),
        (10, "epoch", [3, 6, 9, 10]),
        (20, "never", list(range(2, 21, 2))),  # no evaluation, but the checkpoints of auto
    ],
)
def test_steps_that_are_validated(total: int, every: Any, expected: list[int]) -> None:
    assert [step for step in range(1, total + 1) if Trainer.should_validate(trainer(total, every), step)] == expected


@pytest.mark.slow
def test_best_is_last_without_validation(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", val_every="never", steps=2)
    assert len(metrics(run)) == len(training_lines(run)) == 2
    assert same(checkpoint(run)["method"], checkpoint(run, "best")["method"])


@pytest.mark.slow
def test_keep_option_keeps_checkpoints(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", val_every=1, keep=2)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step-0000003.pt", "step-0000004.pt"]
    assert checkpoint(run, "step-0000003")["step"] == 3
    assert semiseg.load(run / "checkpoints" / "step-0000003.pt").step == 3


@pytest.mark.slow
def test_epochs_are_passes_over_the_unlabeled_list(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "a", "mean-teacher", steps=None, epochs=2, val_every="never")
    assert [line["epoch"] for line in metrics(run)] == [0] * 4 + [1] * 4  # 8 unlabeled, 2 a step
    run = train(_tiny_source, tmp_path / "b", "supervised", steps=None, epochs=2, val_every="never")
    assert [line["epoch"] for line in metrics(run)] == [0] * 2 + [1] * 2  # 4 labeled, 2 a step
    options: dict[str, Any] = {"steps": None, "val_every": "never", "lr_steps": 100, "warmup_steps": 0}
    run = train(_tiny_source, tmp_path / "c", "dual-teacher", epochs=16, epoch_of="labeled", **options)
    assert [line["epoch"] for line in metrics(run)] == [step // 2 for step in range(32)]
    assert metrics(run)[-1]["lr"] == pytest.approx(TrainConfig.lr * (1 - 31 / 100) ** 0.9)


@pytest.mark.slow
def test_val_limit_limits_validation_images(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "run", "supervised", val_limit=1, steps=1)
    assert sum(map(sum, json.loads((run / "confusion.json").read_text())["counts"])) == 48 * 48


def test_best_checkpoint_can_be_chosen_by_sliding_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    empty = SimpleNamespace(matrices={})
    monkeypatch.setattr(validation, "evaluate_networks", lambda *_, **options: given.update(options) or empty)
    method: Any = SimpleNamespace(predictors={})
    run: Any = SimpleNamespace(dataset=None, split=SimpleNamespace(val=()))
    fabric: Any = SimpleNamespace(device="cpu", global_rank=0, world_size=1)
    validation.evaluate_on_val(method, run, TrainConfig(val_mode="slide", crop_size=321), fabric)
    assert (given["mode"], given["crop_size"], given["limit"]) == ("slide", 321, None)


@pytest.mark.slow
def test_unreadable_images_stop_the_run_if_none_can_be_read(quick: None, tiny_folder: Path, tmp_path: Path) -> None:
    for path in (tiny_folder / "images").glob("train*.png"):
        if path.stem not in ("train00000", "train00001"):
            path.write_bytes(b"not an image")
    (tmp_path / "labels.txt").write_text("train00000\ntrain00001\n")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"train000\d\d\.png: the image cannot be read"):
            train(tiny_folder, tmp_path / f"run{workers}", labeled=str(tmp_path / "labels.txt"), workers=workers)


# Precision.


def test_precision_depends_on_the_device() -> None:
    assert isinstance(make_fabric(TrainConfig(accelerator="cpu")), SingleProcess)  # fp32
    assert make_fabric(TrainConfig(accelerator="cpu", devices=2))._precision.precision == "32-true"
    assert make_fabric(TrainConfig(accelerator="cpu", precision="bf16"))._precision.precision == "bf16-mixed"


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_training_in_bf16(quick: None, _tiny_source: Path, tmp_path: Path, temperature: float) -> None:
    options = {"threshold_mode": "none", "label_temperature": temperature}
    run = train(_tiny_source, tmp_path / "run", precision="bf16", steps=2, val_every="never", **options)
    assert all(line["loss"] > 0 and line["loss/consistency"] > 0 for line in metrics(run))
    assert all(value.dtype != torch.bfloat16 for value in checkpoint(run)["method"].values())


@pytest.mark.slow
def test_run_directory_can_be_moved(quick: None, _tiny_source: Path, tmp_path: Path) -> None:
    run = train(_tiny_source, tmp_path / "a", "supervised", steps=1)
    moved = Path(shutil.move(run, tmp_path / "b"))
    assert semiseg.evaluate(moved, split="val")["step"] == 1
