"""Tests of the plan of a run: pretended data, devices and step times, and the commands that use it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import semiseg
from semiseg import cli
from semiseg.config import TrainConfig
from semiseg.data import Shapes
from semiseg.errors import UserError
from semiseg.tools.planning.device_facts import Device
from semiseg.tools.planning.fingerprint import Fingerprint, read_fingerprint
from semiseg.tools.planning.make_plan import image_scale, make_plan
from semiseg.tools.planning.plan_text import format_plan, parse_time
from semiseg.tools.planning.plan_training import plan_training
from semiseg.tools.planning.planner import Plan
from semiseg.tools.planning.trial_steps import Speed, time_steps
from semiseg.training.logging.metrics_log import read_metrics

LAPTOP = Device("cpu", cores=8, memory_gb=16)
TWO_CORES = Device("cpu", cores=2, memory_gb=4)
SMALL_GPU = Device("cuda", cores=8, memory_gb=32, name="RTX 2060", gpu_gb=6)
H200 = Device("cuda", cores=16, memory_gb=128, name="H200", gpu_gb=139, hub=True)
DATA = Fingerprint(labeled=44, unlabeled=1000, val=100, test=0, classes=10, sizes=((400, 300),) * 3, rarest=2000)
TINY = (*("--encoder", "test_resnet", "--weights", "none", "--workers", "0"), "--accelerator", "cpu")
Call = Callable[..., tuple[int, str, str]]


def timer(config: TrainConfig, options: Any, threads: int) -> Speed | None:
    """Steps cost time by pixels and threads; a GPU of 6 GB holds 4 crops of 321."""
    step = 0.6 * config.batch * config.crop_size**2 / (6 * 128**2) / threads
    return Speed(step, 0.4 * step, 0.05)


def never(config: TrainConfig, options: Any, threads: int) -> Speed:
    raise AssertionError("steps were timed")


def plan(device: Device = LAPTOP, data: Fingerprint = DATA, minutes: float | None = 20, **given: Any) -> Plan:
    return make_plan({"data": "x"} | given, data, device, minutes and 60 * minutes, timer)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process with pretended step times: exit status, stdout, stderr."""
    monkeypatch.setattr("semiseg.tools.planning.plan_training.time_steps", lambda *_: Speed(10.0, 4.0, 0.1))

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", *map(str, argv)])
        capsys.readouterr()
        status = cli.main()
        return (status, *capsys.readouterr())

    return run


def test_a_laptop_gets_the_settings_measured_on_a_cpu() -> None:
    values = plan().values
    assert (values["encoder"], values["image_scale"], values["crop_size"]) == ("tf_efficientnet_lite0", 0.5, 128)
    assert (values["batch_size"], values["batchnorm"], values["class_balance"]) == (6, "frozen-encoder", 0.5)
    # 20 minutes, less 5 % and 10 validations of 100 images, at 0.92 * 0.075 + 0.08 * 0.03 s per step: 15,284.
    assert (values["steps"], values["val_every"]) == (10_000, 1000)
    assert (values["label_temperature"], values["threshold_mode"], values["burn_in"]) == (0.0, "pixel", 0.08)


def test_two_cores_get_fewer_steps_and_soft_labels() -> None:
    values = plan(TWO_CORES, minutes=8).values
    # 480 s, less 24 and 50, at 0.7 * 0.3 + 0.3 * 0.12 s per step: 1650.
    assert (values["steps"], values["val_every"], values["workers"]) == (1600, 160, 1)
    assert (values["label_temperature"], values["threshold_mode"], values["burn_in"]) == (1.0, "none", 0.3)


def test_a_gpu_of_6_gb_trains_larger_crops_without_the_hub() -> None:
    values = plan(replace(SMALL_GPU, hub=True)).values
    assert (values["encoder"], values["crop_size"], values["batch_size"]) == ("tf_efficientnet_lite0", 288, 8)
    assert values["image_scale"] == 1


def test_batches_that_do_not_fit_into_memory_are_halved() -> None:
    tried = []

    def small_memory(config: TrainConfig, options: Any, threads: int) -> Speed | None:
        tried.append(config.batch)
        return None if config.batch > 3 else timer(config, options, threads)

    made = make_plan({"data": "x"}, DATA, SMALL_GPU, 600, small_memory)
    assert (tried, made.values["batch_size"]) == ([8, 4, 2], 2)
    assert "--batch-size 2                        4 do not fit" in "\n".join(format_plan(made.to_json()))
    with pytest.raises(UserError, match="--batch-size: a step does not fit"):
        make_plan({"data": "x", "batch_size": 8}, DATA, SMALL_GPU, 600, small_memory)


def test_an_h200_takes_dinov2_if_the_hub_is_reachable() -> None:
    large = replace(DATA, sizes=((1000, 600),) * 3)
    made = plan(H200, large)
    network = made.values["architecture"], made.values["encoder"]
    assert network == ("dpt", "vit_small_patch14_dinov2")
    assert (made.values["crop_size"], made.values["batch_size"], made.values["lr"]) == (532, 16, 2e-4)
    assert "DINOv2-S from the model hub" in "\n".join(format_plan(made.to_json()))
    offline = plan(replace(H200, hub=False), large).values
    assert (offline["architecture"], offline["encoder"]) == ("deeplabv3plus-separable", "tf_efficientnet_lite0")
    own = plan(H200, large, encoder="resnet50").values
    assert own["architecture"] == "deeplabv3plus-separable" and "encoder" not in own


def test_a_cpu_never_contacts_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semiseg.networks.encoder_weights.weights_available", never)
    assert plan_training({"data": "shapes:images=4,val=1,test=1,size=48", "accelerator": "cpu", "steps": 9}).values


def test_the_fallback_without_a_hub_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from semiseg.networks import encoder_weights

    class Unreachable:
        def head(self, url: str, timeout: float) -> None:
            assert timeout <= 5
            raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Unreachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not encoder_weights.weights_available("vit_small_patch14_dinov2")


@pytest.mark.parametrize("labels", [3, 12])
def test_few_labels_get_batches_that_repeat_few_images(labels: int) -> None:
    assert plan(data=replace(DATA, labeled=labels)).values["batch_size"] == (4 if labels == 3 else 6)


@pytest.mark.parametrize("classes", [2, 150])
def test_any_number_of_classes(classes: int) -> None:
    made = plan(data=replace(DATA, classes=classes))
    assert f"{classes} classes" in format_plan(made.to_json())[0]
    assert made.values["class_balance"] == 0.5


@pytest.mark.parametrize(
    ("side", "rarest", "scale", "crop"),
    [(64, 500, 1.0, 64), (10_000, 10**6, 1 / 64, 128), (10_000, 10_000, 1 / 16, 128)],
)
def test_image_sizes(side: int, rarest: float, scale: float, crop: int) -> None:
    data = replace(DATA, sizes=((side, side),) * 3, rarest=rarest)
    values = plan(data=data).values
    assert (values["image_scale"], values["crop_size"]) == (scale, crop)


def test_small_classes_keep_images_large() -> None:
    scale, reason = image_scale(1000, 128, rarest=100)
    assert scale == 0.5 and reason.startswith("the smallest class has 100 pixels")


def test_without_unlabeled_images_the_plan_is_supervised() -> None:
    made = plan(data=replace(DATA, unlabeled=0))
    assert made.lines[0].values == {"method": "supervised"} and "no unlabeled images" in made.lines[0].reason
    assert not made.values.keys() & {"burn_in", "label_temperature"}
    assert "method" not in plan(data=replace(DATA, unlabeled=0), method="dual-teacher").values


def test_held_out_images_are_named() -> None:
    made = plan(data=replace(DATA, labeled=2, val=1, held_out=("b",)))
    held_out, few = made.notes
    assert held_out == "no val list: 1 of 3 labeled images are held out (b)"
    assert few.startswith("warning: only 1 val image: differences of a few points of mIoU are chance")


def test_given_options_win_over_every_line() -> None:
    given = {"crop_size": 64, "burn_in": 0.5, "steps": 100, "val_every": 7, "encoder": "resnet50", "lr": 1e-4}
    made = make_plan({"data": "x"} | given, DATA, LAPTOP, None, never)
    assert not made.values.keys() & given.keys() and made.given.items() <= given.items()
    assert made.values["architecture"] == "deeplabv3plus-separable" and made.time_s is None
    assert "--crop-size 64" in "\n".join(format_plan(made.to_json()))


@pytest.mark.parametrize(("text", "seconds"), [("20m", 1200), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800), (60, 60)])
def test_parse_time(text: str | float, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["20", "m", "20 m", "-5m", "0s", "20min"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        parse_time(text)


def test_many_val_images_are_limited() -> None:
    values = plan(data=replace(DATA, val=5000), minutes=10).values
    assert values["val_limit"] == int(0.15 * 600 / (10 * 0.05))


def test_the_budget_depends_on_the_device() -> None:
    assert plan(minutes=None).time_s == 1200 and plan(SMALL_GPU, minutes=None).time_s == 3600


def test_fingerprint_of_a_folder(tiny_folder: Path) -> None:
    from semiseg.data import open_dataset
    from semiseg.data.splits.dataset_split import resolve_split

    dataset = open_dataset(str(tiny_folder))
    found = read_fingerprint(dataset, resolve_split(dataset, "4", 0))
    assert (found.labeled, found.unlabeled, found.val, found.test, found.classes) == (4, 8, 3, 3, 7)
    assert found.sizes == ((48, 48),) * 3 and found.held_out == () and found.short_side == 48
    assert sum(found.areas) == pytest.approx(1) and 0 < found.rarest < 48 * 48
    generated = Shapes(images=6, val=1, test=1, size=64)
    assert read_fingerprint(generated, resolve_split(generated, "2", 0)).sizes == ((64, 64),) * 3


def test_trial_steps_measure_times() -> None:
    given = {"data": "shapes:images=6,val=2,test=1,size=48", "labeled": "2", "accelerator": "cpu"}
    small = {"crop_size": 32, "batch_size": 2, "encoder": "test_resnet", "weights": "none", "workers": 0}
    made = plan_training(given | small, time_s=60, timer=time_steps)
    assert made.speed is not None and 0 < made.speed.burn_in_s <= made.speed.step_s < 60 and made.speed.image_s > 0


# Commands.


def test_plan_only_prints_the_plan_and_creates_nothing(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, text, err = call("train", "--data", tiny_folder, "--labeled", 4, *TINY, "--plan-only", "--out", out)
    assert status == 0 and err == "" and not out.exists()
    assert text.startswith("plan for 4 labeled, 8 unlabeled and 3 val images of about 48 x 48 pixels, 7 classes\n")
    assert "--crop-size 32" in text and "given: --encoder test_resnet --workers 0" in text


@pytest.mark.usefixtures("quick")
def test_a_planned_run_keeps_its_plan_and_its_config_reproduces_it(
    call: Call, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    given = ("--data", tiny_folder, "--labeled", 4, *TINY, "--batch-size", 2)
    status, _, err = call("train", *given, "--time", "30s", "--out", out)
    content, config = json.loads((out / "plan.json").read_text()), yaml.safe_load((out / "config.yaml").read_text())
    # 30 s, less 5 % and 10 validations of 3 images at 0.1 s, at 0.7 * 10 + 0.3 * 4 s per step.
    assert status == 0 and config["steps"] == 3 == content["lines"][-3]["values"]["steps"]
    assert (config["crop_size"], config["batch_size"], config["burn_in"]) == (32, 2, 0.3)
    assert "warning: 3 steps are few" in err and "--crop-size 32" in (out / "log.txt").read_text()

    monkeypatch.setattr("semiseg.tools.planning.plan_training.time_steps", never)
    before = (out / "plan.json").read_bytes()
    assert call("train", "--resume", out)[0] == 0 and (out / "plan.json").read_bytes() == before
    assert call("train", "--config", out / "config.yaml", "--out", again)[0] == 0
    losses = [[line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line] for run in (out, again)]
    assert losses[0] == losses[1] and len(losses[0]) == 3 and not (again / "plan.json").exists()


@pytest.mark.usefixtures("quick")
def test_given_steps_are_not_timed(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ("--data", tiny_folder, "--labeled", 4, *TINY, "--batch-size", 2, "--steps", 2)
    status, *_ = call("train", *given, "--preset", "small", "--out", out)
    assert status == 0 and json.loads((out / "plan.json").read_text())["speed"] is None
    assert call("train", *given, "--time", "5m", "--out", tmp_path / "b")[2].endswith(
        "--time: cannot be combined with --steps. Pass one of them.\n"
    )


def test_a_file_with_a_length_is_complete_but_time_replaces_it(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 5\ncrop_size: 48\nbatch_size: 2\n")
    given = ("--data", tiny_folder, "--labeled", 4, *TINY, "--config", file, "--plan-only")
    assert "--steps 5" in call("train", *given)[1]
    text = call("train", *given, "--time", "100s")[1]
    assert "--steps 11 " in text and "--crop-size 48" in text


def test_python_plans_only_with_a_time(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[TrainConfig] = []

    def remember(path: Path, config: TrainConfig, *_: Any, **__: Any) -> Path:
        trained.append(config)
        return path

    monkeypatch.setattr("semiseg.workflows.train.train_on_all_ranks", remember)
    monkeypatch.setattr("semiseg.tools.planning.plan_training.time_steps", lambda *_: Speed(10.0, 4.0, 0.1))
    semiseg.train(tiny_folder, out=tmp_path / "a", labeled="4", accelerator="cpu")
    semiseg.train(tiny_folder, out=tmp_path / "b", labeled="4", accelerator="cpu", time="5m", lr=0.1)
    defaults, planned = trained
    assert (defaults.steps, defaults.crop_size) == (None, TrainConfig.crop_size)
    assert (planned.steps, planned.crop_size, planned.lr) == (34, 32, 0.1)


def test_no_plan_under_a_launcher(monkeypatch: pytest.MonkeyPatch, call: Call, tiny_folder: Path) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "0" if name == "RANK" else "1")
    status, _, err = call("train", "--data", tiny_folder, *TINY, "--time", "5m")
    assert status == 2 and "--time: a plan is made by one process" in err
