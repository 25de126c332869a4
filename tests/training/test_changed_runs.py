"""Runs that were moved or get more steps, and runs that start from another run."""

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
import yaml

import semiseg
from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.training import initial_network
from semiseg.training.build import learning_rate
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.initial_network import pixel_options
from semiseg.training.run_directory import RunDirectory
from trees import refused, write_lines, write_mask

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_module")]  # whole trainings

OPTIONS: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "steps": 2, "warmup_steps": 0},
}


def train(data: Path, out: Path, **options: Any) -> Path:
    return semiseg.train(data, out=out, **({"method": "supervised"} | OPTIONS | options))


@pytest.fixture(scope="module")
def home(_tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data ``tiny`` and the run ``runs/base``, trained there by relative paths."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(_tiny_source, home / "tiny")
    for name in ("train", "val", "test"):
        (home / "tiny/splits" / f"{name}.txt").unlink()
    before = os.getcwd()
    os.chdir(home)
    try:
        train(Path("tiny"), Path("runs/base"))
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def moved(home: Path, tmp_path: Path) -> Path:
    """The run in another place, without its data there or at the recorded path."""
    run = Path(shutil.copytree(home / "runs/base", tmp_path / "base"))
    rewrite(run, data_path=str(tmp_path / "old/tiny"), data="tiny")
    return run


def rewrite(run: Path, **values: Any) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text()) | values
    (run / "config.yaml").write_text(yaml.safe_dump(content))


# Moved data.


def test_config_holds_what_was_typed_and_the_absolute_path(home: Path) -> None:
    content = yaml.safe_load((home / "runs/base/config.yaml").read_text())
    assert content["data"] == "tiny" and content["data_path"] == str(home / "tiny")


def test_run_is_used_from_any_working_directory(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(home / "runs/base", tmp_path / "base")
    assert semiseg.evaluate(run, split="val")["split"] == "val"
    semiseg.report([run])
    semiseg.train(resume=run)


def test_missing_data_are_named_with_the_way_out(moved: Path, tmp_path: Path) -> None:
    for path in (moved, moved / "checkpoints/best.pt"):
        with refused(str(path), f"its data {tmp_path / 'old/tiny'} is missing", "Pass --data NEW if it moved"):
            semiseg.evaluate(path, split="val")
    with refused("is missing", "Pass --data NEW if it moved"):
        semiseg.train(resume=moved)
    with refused("is missing", "Pass --data NEW"):
        semiseg.suggest(moved, n=1, out=tmp_path / "suggestions")


def test_lists_of_the_run_apply_to_data_that_moved(moved: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = semiseg.evaluate(moved, data=home / "tiny")
    assert result["split"] == "val" and "using its own val list" in capsys.readouterr().err
    expected = semiseg.evaluate(home / "runs/base", split="val")
    assert result["miou"] == expected["miou"]
    line = json.loads((moved / "evaluations.jsonl").read_text().splitlines()[-1])
    assert line["own"] is True and line["data"] == str(home / "tiny")
    semiseg.report([moved], data=home / "tiny")
    assert "student" in (moved / "report.html").read_text()


def test_list_can_still_be_chosen(moved: Path, home: Path) -> None:
    labeled = semiseg.evaluate(moved, data=home / "tiny", split="labeled")
    assert labeled["split"] == "labeled"
    with refused("no test list"):
        semiseg.evaluate(moved, data=home / "tiny", split="test")


def test_resume_with_new_data_is_remembered(moved: Path, home: Path) -> None:
    semiseg.train(resume=moved, data=home / "tiny")
    config, _ = RunDirectory.open(moved).read_config()
    assert config.data == str(home / "tiny")
    assert semiseg.evaluate(moved, split="val")["split"] == "val"
    assert f"--data: {home / 'tiny'}" in (moved / "log.txt").read_text()


def test_resume_refuses_other_data(moved: Path, tiny_folder: Path) -> None:
    before = (moved / "config.yaml").read_text()
    (tiny_folder / "images/train00001.png").unlink()
    (tiny_folder / "masks/train00001.png").unlink()
    with refused("'train00001' is not an image"):
        semiseg.train(resume=moved, data=tiny_folder)
    assert (moved / "config.yaml").read_text() == before


def test_edited_path_of_a_run_is_used(moved: Path, home: Path) -> None:
    rewrite(moved, data=str(home / "tiny"))
    assert semiseg.evaluate(moved, split="val")["split"] == "val"


def test_checkpoint_alone_needs_lists_of_the_data(moved: Path, tiny_folder: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(moved / "checkpoints/best.pt", tmp_path / "sent.pt"))
    assert semiseg.evaluate(alone, data=tiny_folder)["split"] == "test"


def test_config_of_a_run_is_a_config_file(home: Path, tmp_path: Path) -> None:
    run = semiseg.train(config=str(home / "runs/base/config.yaml"), data=home / "tiny", out=tmp_path / "again")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == str(home / "tiny")


# More steps.


def test_finished_run_is_extended(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(home / "runs/base", tmp_path / "longer"))
    before = load_checkpoint(run / "checkpoints/last.pt")
    semiseg.train(resume=run, steps=4)
    state = load_checkpoint(run / "checkpoints/last.pt")
    assert (before["step"], state["step"], state["config"]["steps"]) == (2, 4, 4)
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 4
    log = (run / "log.txt").read_text()
    assert "--steps: 4 instead of 2" in log and "from step 2 on, schedules are those of 4 steps" in log
    assert "the learning rate is 0.000536 instead of 0" in capsys.readouterr().err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    config, _ = RunDirectory.open(run).read_config()
    logged = {line["step"]: line["lr"] for line in lines if "lr" in line}
    assert logged[3] == pytest.approx(learning_rate(config, 2, 4)) and logged[4] < logged[3]


def test_extension_equals_a_resumed_longer_run(home: Path, tmp_path: Path) -> None:
    """The weights depend only on the checkpoint and the new number of steps."""
    runs = [Path(shutil.copytree(home / "runs/base", tmp_path / name)) for name in ("one", "two")]
    semiseg.train(resume=runs[0], steps=4)
    rewrite(runs[1], steps=4)
    semiseg.train(resume=runs[1])
    one, two = (load_checkpoint(run / "checkpoints/last.pt")["method"] for run in runs)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_fewer_steps_are_refused(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "runs/base", tmp_path / "run"))
    with refused("--steps: 1 is less than the 2 steps", "--init"):
        semiseg.train(resume=run, steps=1)
    rewrite(run, steps=1)
    with refused("has 1 steps, fewer than the 2 of its checkpoint", "Restore steps: 2"):
        semiseg.train(resume=run)


def test_other_options_are_refused_with_the_way_out(home: Path) -> None:
    with refused("--resume: takes all arguments except devices, nodes, steps, data, unlabeled from the run"):
        semiseg.train(resume=home / "runs/base", lr=0.1)


# A trained network.


def test_init_loads_encoder_and_decoder(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = home / "runs/base"
    still: dict[str, Any] = {"lr": 1e-12, "labeled": "8", "method": "mean-teacher"}
    run = train(home / "tiny", tmp_path / "run", init=str(base), **still)
    err = capsys.readouterr().err
    assert f"init: encoder and decoder of the student of {base}" in err and "0 of 8 labeled images are new" in err
    before = load_checkpoint(base / "checkpoints/best.pt")["method"]
    after = load_checkpoint(run / "checkpoints/last.pt")["method"]
    weights = [key for key in before if key.startswith("student.") and key.endswith("weight")]
    assert {key.split(".")[1] for key in weights} == {"encoder", "decoder", "head"}
    for key in weights:
        for network in ("student", "teacher"):
            assert torch.allclose(before[key], after[key.replace("student", network, 1)], atol=1e-6), (network, key)


def test_init_with_other_classes_has_a_new_classifier(
    home: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_folder / "classes.json").unlink()
    write_lines(tiny_folder / "classes.txt", *"abcdefghi")
    run = train(tiny_folder, tmp_path / "run", init=str(home / "runs/base"), lr=1e-12)
    assert "init: 9 classes instead of 7: new classifier" in capsys.readouterr().err
    before = load_checkpoint(home / "runs/base/checkpoints/best.pt")["method"]
    after = load_checkpoint(run / "checkpoints/last.pt")["method"]
    assert len(after["student.head.weight"]) == 9
    weights = [key for key in before if key.startswith("student.decoder.") and key.endswith("weight")]
    assert weights and all(torch.allclose(before[key], after[key], atol=1e-6) for key in weights)


def test_init_keeps_bands_and_white_unless_the_data_or_options_give_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = SimpleNamespace(config=TrainConfig(bands=(4, 3, 2), white=1200.0))
    monkeypatch.setattr(initial_network, "read_initial_network", lambda source: trained)
    config = TrainConfig(init="run")
    assert pixel_options(config, tmp_path) == ((4, 3, 2), 1200.0)
    assert pixel_options(replace(config, white=900.0), tmp_path) == ((4, 3, 2), 900.0)
    (tmp_path / "classes.json").write_text('{"bands": [1, 2, 3]}')
    assert pixel_options(config, tmp_path) == (None, 1200.0)  # classes.json decides
    assert pixel_options(TrainConfig(), tmp_path) == (None, None)


def test_init_refuses_another_architecture(home: Path, tmp_path: Path) -> None:
    with refused(
        "its network is deeplabv3plus-separable with test_resnet, that of this run deeplabv3plus with test_resnet",
        "Pass --architecture deeplabv3plus-separable --encoder test_resnet",
    ):
        train(home / "tiny", tmp_path / "run", init=str(home / "runs/base"), architecture="deeplabv3plus")
    assert not (tmp_path / "run").exists()


def test_init_counts_new_labels_and_warns_of_leaks(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(home / "tiny", tmp_path / "data"))
    listed = (home / "runs/base/splits/labeled.txt").read_text().split()
    val = (home / "runs/base/splits/val.txt").read_text().split()
    write_lines(data / "splits/train.txt", *val, *listed[2:])
    write_lines(data / "splits/val.txt", *listed[:2])
    train(data, tmp_path / "run", init=str(home / "runs/base"))
    err = capsys.readouterr().err
    assert f"init: {len(val)} of {len(val) + len(listed) - 2} labeled images are new" in err
    assert "warning: 2 val or test images were labeled images of" in err


def test_weights_of_a_run_name_the_network_and_init(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = home / "runs/base/checkpoints/best.pt"
    train(home / "tiny", tmp_path / "run", weights=str(best))
    assert f"weights: the encoder of the student of {best}. --init {best} takes the decoder" in capsys.readouterr().err
    with refused("is a run", f"Pass --init {home / 'runs/base'}"):
        train(home / "tiny", tmp_path / "other", weights=str(home / "runs/base"))


def test_resume_says_that_masks_were_added(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(shutil.copytree(home / "tiny", tmp_path / "data"))
    for id in ("train00001", "train00002"):
        (data / "masks" / f"{id}.png").unlink()
    run = train(data, tmp_path / "run")
    before = (run / "splits/labeled.txt").read_text()
    write_mask(data / "masks/train00001.png", (0, 1))
    semiseg.train(resume=run, steps=3)
    assert "The data has changed: 1 images have new masks, but the run keeps its lists" in capsys.readouterr().err
    assert (run / "splits/labeled.txt").read_text() == before


# A folder of photographs.


def photographs(home: Path, folder: Path) -> Path:
    """Copy the photographs train00000 to train00003 of the data as ``2024/...``."""
    (folder / "2024").mkdir(parents=True)
    for index in range(4):
        name = f"train{index:05d}.png"
        shutil.copy(home / "tiny/images" / name, folder / "2024" / name)
    return folder


def test_photographs_of_a_folder_are_unlabeled(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photographs(home, tmp_path / "photos")
    run = train(home / "tiny", tmp_path / "run", unlabeled=str(folder), method="mean-teacher", labeled="4")
    assert "unlabeled: 4 photographs of" in capsys.readouterr().err
    ids = (run / "splits/unlabeled.txt").read_text().split()
    assert ids == [f"@unlabeled/2024/train{index:05d}" for index in range(4)]
    semiseg.train(resume=run, steps=3)
    semiseg.report([run])
    assert semiseg.evaluate(run, split="val")["split"] == "val"
    found = semiseg.suggest(run, n=2, out=tmp_path / "suggestions")
    assert (found.folder / "images" / f"{found.images[0].id}.png").is_file()
    assert (found.folder / "masks" / f"{found.images[0].id}.png").is_file()
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    with refused(f"its folder of unlabeled images {folder} is missing", "Pass --unlabeled NEW if it moved"):
        semiseg.train(resume=run, steps=4)
    assert semiseg.evaluate(run, split="val")["split"] == "val"
    semiseg.train(resume=run, steps=4, unlabeled=moved)
    assert load_checkpoint(run / "checkpoints/last.pt")["step"] == 4


def test_annotated_photograph_replaces_that_of_the_folder(home: Path, tmp_path: Path) -> None:
    """Suggestions are copied into the data with their names."""
    folder = photographs(home, tmp_path / "photos")
    data = Path(shutil.copytree(home / "tiny", tmp_path / "data"))
    (data / "images/@unlabeled/2024").mkdir(parents=True)
    shutil.copy(folder / "2024/train00001.png", data / "images/@unlabeled/2024")
    write_mask(data / "masks/@unlabeled/2024/train00001.png", (0, 1))
    run = train(data, tmp_path / "run", unlabeled=str(folder), method="mean-teacher")
    lists = {name: (run / f"splits/{name}.txt").read_text().split() for name in ("labeled", "val", "unlabeled")}
    assert "@unlabeled/2024/train00001" in (*lists["labeled"], *lists["val"]) and len(lists["unlabeled"]) == 3


def test_unsuitable_folders_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in (
        (tmp_path / "empty", "holds neither images nor shards"),
        (home / "tiny", "which are used already"),
        (home / "tiny/images", "which are used already"),
    ):
        with refused("--unlabeled", words):
            train(home / "tiny", tmp_path / "run", unlabeled=str(folder), method="mean-teacher")
    with refused("a folder needs data in files"):
        semiseg.train("shapes:images=4,val=1,test=1,size=48", out=tmp_path / "run", unlabeled=str(home / "tiny"))
    assert open_dataset(home / "tiny").ids


# Subfolders.


def test_run_on_subfolders_is_evaluated_reported_and_suggests(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "nested"
    for path in sorted((home / "tiny").rglob("*.png")):
        index = int(path.stem[-5:])
        unmasked = path.parent.name == "masks" and index % 4 == 0
        target = data / path.parent.name / ("even" if index % 2 == 0 else "odd") / "site a" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not unmasked:
            shutil.copy(path, target)
    shutil.copy(home / "tiny/classes.json", data)
    run = train(data, tmp_path / "run", method="mean-teacher")
    assert all("/site a/" in line for line in (run / "splits/val.txt").read_text().splitlines())
    assert semiseg.evaluate(run, split="val")["split"] == "val"
    found = semiseg.suggest(run, n=2, out=tmp_path / "suggestions")
    id = found.images[0].id
    assert id.startswith("even/site a/") and (found.folder / "masks" / f"{id}.png").is_file()
    shutil.copytree(found.folder / "masks", data / "masks", dirs_exist_ok=True)
    assert open_dataset(data).has_mask(id)
    semiseg.predict(run, [data / "images/even/site a"], out=tmp_path / "predicted")
