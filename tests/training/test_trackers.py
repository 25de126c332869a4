"""Trackers: logged values and pictures, resumed experiments, missing packages."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import semiseg
from semiseg.config import TrainConfig
from semiseg.training.logging import trackers
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.trainer import Trainer

SHAPES = "shapes:images=10,val=3,test=2,size=48"
OPTIONS: dict[str, Any] = {
    **{"labeled": "4", "encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2},
    **{"steps": 4, "val_every": 2, "workers": 0, "accelerator": "cpu"},
}


class Fake:
    """Replaces wandb or trackio and records the calls."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> None:
        self.started.append(arguments)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def Image(self, path: str) -> Any:
        assert Path(path).is_file()
        return SimpleNamespace(path=path)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the report, which has its own tests."""
    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)


@pytest.fixture(params=["wandb", "trackio"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def fake(kind: str, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.delenv(f"{kind.upper()}_PROJECT", raising=False)
    module = Fake()
    monkeypatch.setitem(sys.modules, kind, module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wandb"], indirect=True)
def test_tracker_receives_metrics_pictures_and_configuration(kind: str, fake: Fake, tmp_path: Path) -> None:
    run = semiseg.train(SHAPES, "mean-teacher", tmp_path / "run", tracker=kind, **OPTIONS)
    (started,) = fake.started
    assert started["project"] == "semiseg" and started["name"].startswith("run-")
    assert started["config"]["method"] == "mean-teacher" and started["config"]["ema_decay"] > 0
    assert fake.finished == 1
    logged: dict[int, dict[str, Any]] = {}
    for step, values in fake.logged:
        logged.setdefault(step, {}).update(values)
    assert list(logged) == [1, 2, 3, 4]
    for line in read_metrics(run / "metrics.jsonl"):
        values = logged[line["step"]]
        if "split" in line:
            assert values[f"val/{line['network']}/miou"] == line["miou"]
            assert all(values[f"val/{line['network']}/iou/{k}"] == v for k, v in line["iou"].items() if v is not None)
        else:
            assert values["loss"] == line["loss"] and values["lr"] == line["lr"]
    pictures = {name: picture.path for name, picture in logged[4].items() if name.startswith("samples/")}
    assert pictures == {f"samples/{name}": str(run / "samples" / f"0000004_{name}.png") for name in val_names(run)}


def val_names(run: Path) -> list[str]:
    return (run / "splits" / "val.txt").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trackio"], indirect=True)
def test_resumed_run_continues_the_same_experiment(
    kind: str, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def stop(self: Trainer, batch: Any, progress: Any) -> Any:
        if progress.step == 3:
            raise KeyboardInterrupt
        return step(self, batch, progress)

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(Trainer, "step", stop)
        semiseg.train(SHAPES, "mean-teacher", tmp_path / "run", tracker=kind, **OPTIONS)
    semiseg.train(resume=tmp_path / "run")
    first, second = fake.started
    assert first == second and second["resume"] == "allow"
    assert [s for s, values in fake.logged if "loss" in values] == [1, 2, 3, 3, 4]
    other = tmp_path / "other" / "run"
    other.mkdir(parents=True)
    trackers.Experiment(kind, other, {})
    assert fake.started[2]["name"] != first["name"] and (other / "tracker-id.txt").is_file()


def test_project_can_be_set_by_environment_variable(
    kind: str, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{kind.upper()}_PROJECT", "mine")
    trackers.open_trackers(TrainConfig(tracker=kind), TrainConfig(), tmp_path, 0)  # type: ignore[arg-type]
    assert fake.started[0]["project"] == "mine"
    assert fake.started[0].get("dir") == (str(tmp_path) if kind == "wandb" else None)


def test_failed_login_is_one_line(kind: str, fake: Fake, tmp_path: Path) -> None:
    def refuse(**arguments: Any) -> None:
        raise RuntimeError("no API key\nconfigured")

    fake.init = refuse  # type: ignore[method-assign]
    with pytest.raises(semiseg.UserError, match=rf"--tracker: {kind} cannot start \(no API key configured\)"):
        trackers.Experiment(kind, tmp_path, {})


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_missing_package_is_reported_before_the_run_is_created(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, trackers.TRACKERS[name].module, None)
    with pytest.raises(
        semiseg.UserError, match=rf"--tracker: {name} is not installed. Run pip install 'semiseg\[{name}\]'"
    ):
        semiseg.train(SHAPES, "supervised", tmp_path / "run", tracker=name, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_deprecated_tensorboard_option_adds_to_other_trackers(kind: str) -> None:
    assert trackers.tracker_names(TrainConfig()) == []
    assert trackers.tracker_names(TrainConfig(tensorboard=True)) == ["tensorboard"]
    assert trackers.tracker_names(TrainConfig(tracker="tensorboard", tensorboard=True)) == ["tensorboard"]
    both = TrainConfig(tracker=kind, tensorboard=True)  # type: ignore[arg-type]
    assert trackers.tracker_names(both) == [kind, "tensorboard"]


@pytest.mark.slow
def test_tensorboard_has_metrics_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = semiseg.train(SHAPES, "supervised", tmp_path / "run", tracker="tensorboard", **OPTIONS)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
    scalars = [(event.step, event.value) for event in events.Scalars("loss")]
    assert scalars == [(line["step"], pytest.approx(line["loss"], rel=1e-5)) for line in lines]
    assert [event.step for event in events.Images(f"samples/{val_names(run)[0]}")] == [2, 4]


# The packages themselves, if they are installed, in a process without network or account.


def train_by_command(run: Path, kind: str, **environment: str) -> None:
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f"the extra {kind} is not installed")
    options = [f"--{key.replace('_', '-')}={value}" for key, value in OPTIONS.items()]
    command = [sys.executable, "-m", "semiseg.cli", "train", "--data", SHAPES, "--method", "supervised"]
    for more in (["--out", str(run), "--tracker", kind, *options], None):
        arguments = [*command, *more] if more else [*command[:4], "--resume", str(run)]
        done = subprocess.run(arguments, env=os.environ | environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        (run / "checkpoints" / "last.pt").unlink()  # the second command resumes from the start and logs all steps again


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path: Path) -> None:
    train_by_command(tmp_path / "run", "wandb", WANDB_MODE="offline")
    id = (tmp_path / "run" / "tracker-id.txt").read_text()
    offline = [path for path in (tmp_path / "run" / "wandb").iterdir() if path.name.startswith("offline-run-")]
    assert len(offline) == 2 and all(path.name.endswith(id) for path in offline)
    assert all((path / f"run-{id}.wandb").stat().st_size > 0 for path in offline)
    assert any(path.glob("files/media/images/samples/*.png") for path in offline)


@pytest.mark.slow
def test_trackio_offline(tmp_path: Path) -> None:
    train_by_command(tmp_path / "run", "trackio", TRACKIO_DIR=str(tmp_path / "store"), HF_HUB_OFFLINE="1")
    read = "import json, trackio; runs = list(trackio.Api().runs('semiseg')); print(json.dumps([r.name for r in runs]))"
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "store")}
    done = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [f"run-{(tmp_path / 'run' / 'tracker-id.txt').read_text()}"]
