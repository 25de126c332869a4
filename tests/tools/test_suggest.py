"""``semiseg suggest``: measurements, rankings, draft masks, and the whole command."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from semiseg.data import Shapes, open_dataset, write_folder
from semiseg.data.splits.hold_out import SHARE, hash_of
from semiseg.inference.formats.label_studio_results import encode_brush
from semiseg.networks import build
from semiseg.tools.suggestion.contact_sheet import panels
from semiseg.tools.suggestion.draft_masks import replace_black, write_cvat
from semiseg.tools.suggestion.ranking import choose, nearest, percentile
from semiseg.tools.suggestion.uncertainty import Measurements, entropy, jensen_shannon, rating_networks
from semiseg.tools.suggestion.write_suggestions import write_draft

pytestmark = pytest.mark.usefixtures("quick_module")

TINY = {
    "encoder": "test_resnet",
    "steps": 2,
    "batch_size": 2,
    "crop_size": 32,
    "weights": "none",
    "workers": 0,
    "val_every": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training images, four of them with masks, and three val images."""
    root = tmp_path_factory.mktemp("suggest") / "data"
    shapes = Shapes.from_text("images=10,val=3,test=2,size=48")
    write_folder(shapes, root)
    for id in shapes.split("train")[4:]:
        (root / "masks" / f"{id}.png").unlink()
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suggest") / "run"
    return semiseg.train(folder, "dual-teacher", out, **TINY)


def make_measures(**given: object) -> Measurements:
    n = len(next(iter(given.values())))  # type: ignore[arg-type]
    zero = np.zeros(n, np.float32)
    default = {"uncertainty": zero, "disagreement": zero, "features": np.eye(n, dtype=np.float32)}
    arrays = default | {key: np.array(value, np.float32) for key, value in given.items()}
    return Measurements(ids=tuple("abcdefgh"[:n]), shares=np.ones((n, 1), np.float32), **arrays)


def test_entropy_and_divergence_match_hand_computation() -> None:
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0]])[..., None, None]  # (2 images, 2 classes, 1, 1)
    assert torch.allclose(entropy(p).flatten(), torch.tensor([math.log(2), 0.0]))
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None, :, None, None]  # two networks, sure of different classes
    assert float(jensen_shannon(sure)) == pytest.approx(1)
    assert float(jensen_shannon(sure[:1].repeat(2, 1, 1, 1, 1))) == 0
    half = torch.stack([sure[0], torch.full_like(sure[0], 0.5)])
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - math.log(2) / 2
    assert float(jensen_shannon(half)) == pytest.approx(by_hand / math.log(2))


def test_rankings_by_one_measure_choose_largest() -> None:
    m = make_measures(uncertainty=[0.1, 0.9, 0.5], disagreement=[0.3, 0.1, 0.2])
    none = np.zeros((0, 3), np.float32)
    assert choose(m, none, 3, "uncertainty", 0).indices == [1, 2, 0]
    assert choose(m, none, 2, "disagreement", 0).indices == [0, 2]
    eight = make_measures(uncertainty=np.linspace(0, 1, 8))
    first, second = (choose(eight, none[:, :0], 9, "random", seed).indices for seed in (0, 1))
    assert first != second and sorted(first) == sorted(second) == list(range(8))


def test_diversity_chooses_farthest_from_annotated_and_chosen() -> None:
    angles = np.radians([0, 10, 90, 180])
    m = make_measures(features=np.stack([np.cos(angles), np.sin(angles)], 1))
    annotated = m.features[:1]
    choice = choose(m, annotated, 4, "diversity", 0)
    assert choice.indices == [3, 2, 1, 0]
    assert choice.distances == pytest.approx([2, 1, 1 - math.cos(math.radians(10)), 0], abs=1e-6)


def test_combined_does_not_choose_duplicates() -> None:
    # c is a copy of b: the two most uncertain are alike, so the second choice is a.
    m = make_measures(uncertainty=[0.5, 0.9, 0.9], disagreement=[0.5, 0.9, 0.9], features=[[1, 0], [0, 1], [0, 1]])
    none = np.zeros((0, 2), np.float32)
    assert choose(m, none, 2, "combined", 0).indices == [1, 0]
    assert choose(m, none, 2, "uncertainty", 0).indices == [1, 2]


def test_percentile_and_distance_without_others() -> None:
    assert percentile(np.array([3.0, 1.0, 3.0, 2.0], np.float32)).tolist() == [1, 0.25, 1, 0.5]
    assert nearest(np.eye(2, dtype=np.float32), np.zeros((0, 2), np.float32)).tolist() == [2, 2]


def test_brush_matches_hand_computation() -> None:
    # One pixel set: 4 bytes of 255. 32 bits: 4; 00111; 0010 0011 0111 1111; 1 00 011 11111111; filled up to 72 bits.
    bits = "".join(f"{byte:08b}" for byte in encode_brush(np.array([[True]])))
    assert bits == f"{4:032b}" + "00111" + "0010001101111111" + "1" + "00" + "011" + "1" * 8 + "0" * 5


def test_brush_splits_long_runs() -> None:
    region = np.ones((256, 128), bool)  # 131072 bytes: two runs of 65536
    bits = "".join(f"{byte:08b}" for byte in encode_brush(region))[53:]
    assert bits[: 2 * 27] == ("1" + "11" + "1" * 16 + "1" * 8) * 2


def test_cvat_archive_has_labels_list_and_colors(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [1, 255]], np.uint8)
    write_cvat(tmp_path / "a.zip", {"x": mask}, ["road", "sky"], [(0, 0, 0), (10, 20, 30)])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        labels = archive.read("labelmap.txt").decode().splitlines()
        assert labels[1:] == ["background:0,0,0::", "road:1,1,1::", "sky:10,20,30::"]
        assert archive.read("ImageSets/Segmentation/default.txt") == b"x\n"
        with archive.open("SegmentationClass/x.png") as file:
            colors = np.array(Image.open(file))
    assert colors.tolist() == [[[1, 1, 1], [10, 20, 30]], [[10, 20, 30], [0, 0, 0]]]


@pytest.mark.slow
def test_drafts_can_be_read_like_exports_of_annotation_tools(run: Path, tmp_path: Path) -> None:
    found = semiseg.suggest(run, 3, out=tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "s" / "cvat.zip") as archive:
        archive.extractall(tmp_path / "cvat")
    shutil.copytree(tmp_path / "s" / "images", tmp_path / "cvat" / "JPEGImages")
    (tmp_path / "studio").mkdir()
    shutil.copytree(tmp_path / "s" / "images", tmp_path / "studio" / "images")
    tasks = json.loads((tmp_path / "s" / "label-studio.json").read_text(encoding="utf-8"))
    for number, task in enumerate(tasks):  # as annotators accept them
        task["id"], task["annotations"] = number, [{"id": number} | task.pop("predictions")[0]]
    (tmp_path / "studio" / "project.json").write_text(json.dumps(tasks), encoding="utf-8")
    for form in ("cvat", "studio"):
        own = tmp_path / f"{form}-own"
        dataset = open_dataset(semiseg.import_data(tmp_path / form, own).out)
        classes = semiseg.load(run).classes
        for one in found.images:
            draft = np.array(Image.open(tmp_path / "s" / "masks" / f"{one.id}.png"))
            read = dataset.read_mask(one.id).numpy()
            assert [dataset.classes[value] for value in read.ravel()] == [classes[value] for value in draft.ravel()]


@pytest.mark.parametrize(
    ("names", "rating"),
    [
        (["student"], ["student", "mirrored"]),
        (["student", "teacher1"], ["student", "teacher1"]),
        (["student", "student2"], ["student", "student2"]),
        (["student", "teacher1", "teacher2"], ["teacher1", "teacher2"]),
    ],
)
def test_disagreement_is_between_teachers_or_all_networks_or_mirror_images(names: list[str], rating: list[str]) -> None:
    networks = {name: build("deeplabv3plus-separable", "test_resnet", 3, weights="none") for name in names}
    student, others = rating_networks(SimpleNamespace(networks=networks, network="student", path="run"))  # type: ignore
    assert student is networks["student"]
    found = [next((name for name in names if networks[name] is other), "mirrored") for other in others]
    assert found == rating


@pytest.mark.slow
def test_all_files_are_written(run: Path, folder: Path, tmp_path: Path) -> None:
    found = semiseg.suggest(run, 3, out=tmp_path / "s", format="labelme")
    unlabeled = set(open_dataset(folder).split("train")[4:])
    ids = [one.id for one in found.images]
    assert len(set(ids)) == 3 and set(ids) <= unlabeled
    assert (tmp_path / "s" / "suggestions.txt").read_text().split() == ids
    with open(tmp_path / "s" / "suggestions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ids
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("uncertainty", "disagreement"))
    model = semiseg.load(run)
    tasks = json.loads((tmp_path / "s" / "label-studio.json").read_text(encoding="utf-8"))
    for id, task in zip(ids, tasks, strict=True):
        image = tmp_path / "s" / "images" / f"{id}.png"
        mask = np.array(Image.open(tmp_path / "s" / "masks" / f"{id}.png"))
        assert (mask == model(image).mask.numpy()).all()
        assert task["data"]["image"].endswith(f"images/{id}.png")
        named = {label for brush in task["predictions"][0]["result"] for label in brush["value"]["brushlabels"]}
        assert named == {model.classes[index] for index in np.unique(mask)}
    imported = semiseg.import_data(tmp_path / "s" / "images", tmp_path / "own")
    assert imported.title == "a LabelMe export" and len(imported.checked.classes) >= len(model.classes)
    assert Image.open(tmp_path / "s" / "contact-sheet.png").size[0] > 1000
    assert found.images == semiseg.suggest(run, 3, out=tmp_path / "again").images


@pytest.mark.slow
@pytest.mark.parametrize("by", ["uncertainty", "diversity"])
def test_ranking_option_and_pool_are_used(by: str, run: Path, tmp_path: Path) -> None:
    found = semiseg.suggest(run, 2, out=tmp_path / "s", by=by, pool=4)
    assert len({one.id for one in found.images}) == 2


@pytest.mark.slow
def test_images_annotated_since_training_are_not_suggested(run: Path, folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    train = open_dataset(folder).split("train")
    shutil.copy(moved / "masks" / f"{train[0]}.png", moved / "masks" / f"{train[9]}.png")
    found = semiseg.suggest(run, 99, moved, tmp_path / "s")
    assert {one.id for one in found.images} == set(train[4:9])


@pytest.mark.slow
def test_images_of_other_data_are_suggested_except_unreadable_ones(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = Shapes.from_text("images=4,val=1,test=1,size=50,seed=5")
    other = write_folder(shapes, tmp_path / "other", shapes.split("train"))
    masks = sorted((other / "masks").iterdir())
    for path in masks[1:]:
        path.unlink()
    broken = other / "images" / masks[1].name
    broken.write_bytes(broken.read_bytes()[:100])
    found = semiseg.suggest(run, 9, other, tmp_path / "s")
    assert len(found.images) == 2
    assert f"Leaving out {broken}" in capsys.readouterr().err


@pytest.mark.slow
def test_images_added_after_training_are_suggested(run: Path, folder: Path, tmp_path: Path) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(folder, grown)
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(re.sub(r"^data: .*$", f"data: {grown}", config.read_text(), flags=re.MULTILINE))
    train = open_dataset(folder).split("train")
    shutil.copy(grown / "images" / f"{train[5]}.png", grown / "images" / "new one & more.png")
    found = semiseg.suggest(tmp_path / "run", 99, out=tmp_path / "s")
    assert {one.id for one in found.images} == {*train[4:], "new one & more"}
    tasks = (tmp_path / "s" / "label-studio.json").read_text()
    assert "?d=images/new%20one%20%26%20more.png" in tasks


def test_images_that_would_be_held_out_are_not_suggested(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "data"
    shutil.copytree(folder, moved)
    shutil.copytree(run, tmp_path / "run")
    (moved / "splits" / "val.txt").unlink()
    config = tmp_path / "run" / "config.yaml"
    config.write_text(re.sub(r"^data: .*$", f"data: {moved}", config.read_text(), flags=re.MULTILINE))
    found = semiseg.suggest(tmp_path / "run", 99, out=tmp_path / "s")
    unlabeled = open_dataset(folder).split("train")[4:]
    assert {one.id for one in found.images} == {id for id in unlabeled if hash_of(id) >= SHARE} != set(unlabeled)
    assert "would be held out for validation" in capsys.readouterr().err


@pytest.mark.slow
def test_suggest_fails_if_no_image_can_be_read(run: Path, tmp_path: Path) -> None:
    shapes = Shapes.from_text("images=2,val=1,test=1,size=48")
    other = write_folder(shapes, tmp_path / "other", shapes.split("train"))
    (other / "masks" / "train00001.png").unlink()
    (other / "images" / "train00001.png").write_bytes(b"no")
    with pytest.raises(semiseg.UserError, match="no image could be read"):
        semiseg.suggest(run, 9, other, tmp_path / "s")
    assert not list(tmp_path.glob("s*")) and not list(tmp_path.glob(".s*"))


@pytest.mark.slow
def test_suggest_fails_early_if_out_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(semiseg.UserError, match="cannot be written"):
        semiseg.suggest(run, 1, "nowhere", tmp_path / "file" / "s")


def test_height_of_contact_sheet_panels_is_limited() -> None:
    image, mask = torch.zeros(3, 5000, 10, dtype=torch.uint8), torch.zeros(5000, 10, dtype=torch.uint8)
    pictures = panels(image, mask, torch.ones(5000, 10), [(0, 0, 0)])
    assert {picture.size for picture in pictures} == {(240, 480)}


def test_labelmap_replaces_black_and_special_characters(tmp_path: Path) -> None:
    assert replace_black([(0, 0, 0), (1, 1, 1), (0, 0, 0)]) == [(1, 1, 2), (1, 1, 1), (1, 1, 3)]
    write_cvat(tmp_path / "a.zip", {}, ["#road: wet"], [(9, 9, 9)])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("labelmap.txt").decode().splitlines()[2] == "road_ wet:9,9,9::"


@pytest.mark.slow
def test_suggest_fails_for_invalid_arguments(run: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(semiseg.UserError, match="at least 1"):
        semiseg.suggest(run, 0)
    with pytest.raises(semiseg.UserError, match="did you mean diversity"):
        semiseg.suggest(run, by="diverse")
    with pytest.raises(semiseg.UserError, match="already exists"):
        semiseg.suggest(run, out=tmp_path)
    with pytest.raises(semiseg.UserError, match="not a run"):
        semiseg.suggest(folder)
    shapes = Shapes.from_text("images=3,val=1,test=1,size=48")
    full = write_folder(shapes, tmp_path / "full", shapes.split("train"))
    with pytest.raises(semiseg.UserError, match="no image without a mask"):
        semiseg.suggest(run, data=full)


@pytest.mark.parametrize("values", [(0, 255), (0, 65535), ()])
def test_drafts_have_the_values_of_the_mask_files(tmp_path: Path, values: tuple[int, ...]) -> None:
    mask = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.uint8)
    write_draft(tmp_path / "a.png", mask, ((0, 0, 0), (9, 9, 9)), values)
    with Image.open(tmp_path / "a.png") as draft:
        assert np.array_equal(np.array(draft), np.array(values or (0, 1))[mask.numpy()])
