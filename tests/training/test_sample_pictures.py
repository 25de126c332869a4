"""Sample pictures of a run: choice of images, content, and unreadable images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import semiseg
from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.data.dataset import IGNORE
from semiseg.data.preview_selection import select_distinct
from semiseg.data.splits.dataset_split import Split
from semiseg.errors import UserError
from semiseg.inference.evaluation import image_miou
from semiseg.methods import METHODS, Progress
from semiseg.training.build import make_method
from semiseg.training.logging.sample_pictures import Samples, select_images
from semiseg.training.trainer import Trainer
from semiseg.visualization import prediction_panels as marks
from toy import Toy

DATA = "shapes:images=10,val=3,test=2,size=48"
OPTIONS = {"labeled": "4", "steps": 6, "val_every": 2, "batch_size": 2, "crop_size": 32, "weights": "none"}
OPTIONS |= {"encoder": "test_resnet"}
PALETTE = ((0, 0, 0), (200, 30, 30))


def pictures(run: Path) -> dict[str, bytes]:
    folder = run / "samples"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def no_report() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semiseg.workflows.train.report", lambda runs: None)
        yield


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = OPTIONS | {"shift_steps": 2, "workers": 0, "accelerator": "cpu"}
    return semiseg.train(DATA, "dual-teacher", tmp_path_factory.mktemp("runs") / "dual", **options)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = OPTIONS | {"steps": 2, "workers": 0, "accelerator": "cpu"}
    return semiseg.train(DATA, "supervised", tmp_path_factory.mktemp("runs") / "supervised", **options)


@pytest.mark.slow
def test_active_teacher_labels_fixed_unlabeled_images_at_every_validation(dual: Path) -> None:
    folders = sorted((dual / "samples" / "pseudo-labels").iterdir())
    unlabeled = (dual / "splits" / "unlabeled.txt").read_text().split()
    assert [folder.name[0] for folder in folders] == ["1", "2", "3"]
    assert {folder.name[2:] for folder in folders} <= set(unlabeled)
    names = ["0000002_teacher1.png", "0000004_teacher2.png", "0000006_teacher1.png", "image.png"]
    assert all(sorted(path.name for path in folder.iterdir()) == names for folder in folders)
    with PIL.Image.open(folders[0] / names[0]) as picture:
        assert 0 <= float(picture.info["trusted"]) <= 100


@pytest.mark.slow
def test_supervised_run_has_no_pseudo_labels(supervised: Path) -> None:
    assert not (supervised / "samples" / "pseudo-labels").exists()
    assert (supervised / "samples" / "val" / "best-1" / "wrong.png").exists()


@pytest.mark.slow
def test_prediction_files_have_id_and_miou(dual: Path) -> None:
    val = (dual / "splits" / "val.txt").read_text().split()
    figures = {}
    for group in ("best", "worst"):
        for number in (1, 2, 3):
            with PIL.Image.open(dual / "samples" / "val" / f"{group}-{number}" / "prediction.png") as picture:
                assert picture.info["id"] in val
                figures[group, number] = float(picture.info["miou"])
    assert figures["best", 1] >= figures["best", 2] >= figures["best", 3] == figures["worst", 1]
    assert figures["worst", 3] == figures["best", 1]
    content = json.loads((dual / "samples" / "classes.json").read_text())
    assert len(content["classes"]) == len(content["palette"])


@pytest.mark.slow
def test_resumed_run_writes_the_same_pictures(dual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Trainer.save

    def crash(trainer: Trainer, done: int, improved: bool) -> None:
        if done == 6:  # after the pictures, before the checkpoint
            raise KeyboardInterrupt
        save(trainer, done, improved)

    options = OPTIONS | {"shift_steps": 2, "workers": 0, "accelerator": "cpu"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", crash)
        semiseg.train(DATA, "dual-teacher", tmp_path / "run", **options)
    assert pictures(tmp_path / "run")
    for path in (tmp_path / "run" / "samples").rglob("0000006_*.png"):
        path.unlink()
    assert semiseg.train(resume=tmp_path / "run") == tmp_path / "run"
    assert pictures(tmp_path / "run") == pictures(dual)


def test_unreadable_unlabeled_image_only_loses_its_picture(tmp_path: Path) -> None:
    dataset = open_dataset(DATA)
    read = dataset.read_image
    broken = "train00001"

    def read_image(id: str) -> torch.Tensor:
        if id == broken:
            raise UserError(f"{id}: cannot be read")
        return read(id)

    dataset.read_image = read_image  # type: ignore[method-assign]
    config = TrainConfig(data=DATA, method="mean-teacher", weights="none")
    method = make_method(config, METHODS["mean-teacher"].Options(), dataset)
    split = Split(labeled=("train00000",), unlabeled=(broken, "train00002", "train00003"), val=(), test=())
    state = torch.random.get_rng_state()
    Samples(tmp_path, dataset, split, config, torch.device("cpu")).write_pseudo_labels(method, Progress(0, 4, 2))
    assert torch.equal(torch.random.get_rng_state(), state)  # the random state of training is unchanged
    assert sorted(path.name for path in (tmp_path / "pseudo-labels").iterdir()) == ["2_train00002", "3_train00003"]


@pytest.mark.parametrize("name", METHODS)
def test_labeler_is_a_predictor_of_the_method(name: str) -> None:
    method = METHODS[name](Toy, 3, METHODS[name].Options())
    labeler = method.labeler(Progress(0, 80, 10))
    assert (labeler in method.predictors) if method.uses_unlabeled else (labeler is None)
    assert name not in ("mean-teacher", "dual-teacher", "augseg") or labeler == "teacher1"


def test_labeler_of_dual_teacher_during_burn_in_is_teacher1() -> None:
    kind = METHODS["dual-teacher"]
    method = kind(Toy, 3, kind.Options(burn_in=0.25, shift_steps=10))
    names = [method.labeler(Progress(step, 80, 10)) for step in (0, 12, 19, 20, 29, 30, 40)]
    assert names == ["teacher1"] * 5 + ["teacher2", "teacher1"]


def test_image_miou_averages_classes_of_the_ground_truth() -> None:
    counts = torch.tensor([[6, 2, 0], [0, 4, 4], [0, 0, 0]])
    assert float(image_miou(counts)) == pytest.approx(100 * (6 / 8 + 4 / 10) / 2)
    assert math.isnan(float(image_miou(torch.zeros(3, 3, dtype=torch.int64))))


def test_selected_images_are_not_neighbors_and_have_a_miou() -> None:
    miou = {f"frame{i:02d}": float(i) for i in range(60)} | {"unknown": math.nan}
    groups = select_images(miou, seed=0)
    assert groups["best"] == ["frame59", "frame55", "frame51"]
    assert groups["worst"] == ["frame00", "frame04", "frame08"]
    assert "unknown" not in groups["random"] and len(groups["random"]) == 3
    assert select_images(miou, seed=0) == groups and select_images(miou, seed=1)["random"] != groups["random"]
    assert select_images({}, seed=0) == {"best": [], "worst": [], "random": []}
    assert select_distinct(["a", "b"], ["a", "b"]) == ["a", "b"]


def test_untrusted_pixels_are_faded_and_mistakes_red() -> None:
    mask = torch.tensor([[1, 1, 0]])
    colors = np.asarray(marks.trusted_labels(mask, torch.tensor([[True, False, False]]), PALETTE))
    assert tuple(colors[0, 0]) == PALETTE[1]
    assert all(colors[0, 1] > colors[0, 0])
    assert 150 < colors[0, 2, 0] < 255  # black fades, too
    truth = torch.tensor([[1, 0, IGNORE]])
    wrong = np.asarray(marks.error_picture(torch.zeros(3, 1, 3, dtype=torch.uint8), mask, truth))
    assert tuple(wrong[0, 1]) == marks.WRONG_COLOR and tuple(wrong[0, 0]) != marks.WRONG_COLOR
    assert tuple(wrong[0, 2]) != marks.WRONG_COLOR
    assert np.asarray(marks.confidence_picture(torch.tensor([[0.0, 1.0]])))[0, :, 0].tolist() == [0, 255]
