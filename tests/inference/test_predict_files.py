"""``semiseg predict`` on the photographs that people have: trees, odd files, large images, further formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import semiseg
from semiseg.data.importers.shapes.polygons import brush_region
from semiseg.inference import bounded_predictor
from semiseg.inference.files import image_source

Call = Callable[..., tuple[int, str, str]]


def picture(path: Path, size: tuple[int, int] = (50, 40), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def tree(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_subfolders_are_searched_and_mirrored(run: Path, call: Call, tmp_path: Path) -> None:
    model = semiseg.load(run, accelerator="cpu")
    photos = [picture(tmp_path / "photos" / f"day {day}" / "IMG_0001.png", seed=day) for day in (1, 2)]
    out = tmp_path / "out"
    assert call(run, tmp_path / "photos", "--out", out, "--overlay") == (0, f"2 masks in {out}\n", "")
    names = ["day 1/IMG_0001.png", "day 2/IMG_0001.png"]
    assert tree(out) == names + [f"overlays/{name}" for name in names]
    for photo, name in zip(photos, names, strict=True):
        assert np.array_equal(mask(out / name), model(photo).mask)
    assert call(run, tmp_path / "photos", "--out", out, "--skip-existing")[:2] == (0, f"0 masks in {out}\n")


def test_unsupported_files_count_as_unreadable(run: Path, call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    status, printed, errors = call(run, tmp_path / "photos", "--out", tmp_path / "out")
    lines = errors.splitlines()
    assert (status, printed) == (2, "") and tree(tmp_path / "out") == ["a.png"]
    assert lines[0].startswith("skipped: 1 .mp4 (video: extract its frames)") and "clip.mp4" in lines[0]
    assert lines[1].startswith("skipped: ") and "broken.jpg: the image cannot be read" in lines[1]
    assert lines[2].startswith("semiseg: 2 of 3 images cannot be read, see above, and have no mask in ")


def test_the_first_page_is_predicted_and_the_number_of_pages_stated(run: Path, call: Call, tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="rgb")
    status, _, errors = call(run, tmp_path / "stack.tif", "--out", tmp_path / "out")
    assert (status, errors) == (0, f"note: {tmp_path}/stack.tif has 4 pages. Only the first is predicted\n")
    expected = semiseg.load(run, accelerator="cpu")(torch.from_numpy(pages[0]).permute(2, 0, 1)).mask
    assert np.array_equal(mask(tmp_path / "out" / "stack.png"), expected)


def test_deep_images_are_reported_for_a_model_of_8_bits(run: Path, call: Call, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", np.full((40, 50, 3), 1500, dtype=np.uint16), photometric="rgb")
    status, _, errors = call(run, tmp_path / "deep.tif", "--out", tmp_path / "out")
    assert status == 0 and f"warning: {tmp_path}/deep.tif is 16-bit, but the model was trained" in errors


def test_large_photographs_are_predicted_in_windows_and_the_others_at_once(
    run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_predictor, "ALWAYS_FITS", 50 * 40)
    monkeypatch.setattr(bounded_predictor, "available_memory", lambda device: 10**6)
    monkeypatch.setattr(image_source, "READ_AHEAD", 3000)
    small, large = picture(tmp_path / "p" / "small.png", (45, 40)), picture(tmp_path / "p" / "large.jpg", (400, 300))
    status, _, errors = call(run, tmp_path / "p", "--out", tmp_path / "out", "--overlay", "--confidence")
    assert status == 0 and errors.count("\n") == 1
    assert errors.startswith(
        f"note: {large}: 400 x 300 pixels do not fit into memory at once. Predicting such images in"
    )
    assert mask(tmp_path / "out" / "large.png").shape == mask(tmp_path / "out" / "confidence" / "large.png").shape
    model = semiseg.load(run, accelerator="cpu")
    assert np.array_equal(mask(tmp_path / "out" / "small.png"), model(small).mask)
    assert (mask(tmp_path / "out" / "large.png") == model(large).mask.numpy()).mean() > 0.8
    slide = call(run, large, "--out", tmp_path / "slide", "--mode", "slide", "--window", 48)
    assert slide[0] == 0 and slide[2] == ""
    assert np.array_equal(mask(tmp_path / "slide" / "large.png"), mask(tmp_path / "out" / "large.png"))
    assert call(run, large, "--out", tmp_path / "whole", "--mode", "whole")[0] == 0
    assert np.array_equal(mask(tmp_path / "whole" / "large.png"), model(large).mask)


def test_images_above_pillows_limit_are_read_up_to_a_limit_of_our_own(
    run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    picture(tmp_path / "a.png")  # 2000 pixels, four times the limit
    assert call(run, tmp_path / "a.png", "--out", tmp_path / "out")[0] == 0
    assert Image.MAX_IMAGE_PIXELS == 500
    monkeypatch.setattr(image_source, "LARGEST_IMAGE", 1999)
    monkeypatch.setattr(image_source, "READ_AHEAD", 0)
    status, _, errors = call(run, tmp_path / "a.png", "--out", tmp_path / "new")
    assert status == 2 and "a.png: 50 x 40 pixels are too many to decode at once. Convert it to TIFF" in errors


def test_pixels_of_low_confidence_become_unknown(run: Path, call: Call, tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png")
    expected, confidence = semiseg.load(run, accelerator="cpu")(photo)
    limit = float(confidence.median())
    assert call(run, photo, "--out", tmp_path / "out", "--min-confidence", limit)[0] == 0
    expected[confidence < limit] = 255
    assert 0 < (expected == 255).float().mean() < 1
    assert np.array_equal(mask(tmp_path / "out" / "a.png"), expected)
    assert call(run, photo, "--out", tmp_path / "new", "--min-confidence", 1.5)[2].startswith(
        "semiseg: --min-confidence: 1.5 is out of range. Choose a value in [0, 1]."
    )


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_probabilities_are_float16_arrays(run: Path, call: Call, tmp_path: Path, mode: str) -> None:
    photo = picture(tmp_path / "a.png")
    assert call(run, photo, "--out", tmp_path / "out", "--format", "probabilities", "--mode", mode)[0] == 0
    array = np.load(tmp_path / "out" / "probabilities" / "a.npy")
    assert array.dtype == np.float16 and array.shape == (7, 40, 50)
    np.testing.assert_allclose(array.sum(axis=0, dtype=np.float32), 1, atol=0.01)
    if mode == "whole":
        model = semiseg.load(run, accelerator="cpu")
        pixels = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)
        assert np.array_equal(array, model.predictor.probabilities(pixels).half().numpy())


def test_coco_contains_the_regions_of_every_mask(run: Path, call: Call, tmp_path: Path) -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    for day in (1, 2):
        picture(tmp_path / "photos" / f"day {day}" / "a.jpg", seed=day)
    out = tmp_path / "out"
    assert call(run, tmp_path / "photos", "--out", out, "--format", "coco")[0] == 0
    content = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["day 1/a.jpg", "day 2/a.jpg"]
    classes = {category["id"]: category["name"] for category in content["categories"]}
    assert classes == {2: "circle", 3: "square", 4: "triangle", 5: "star", 6: "cross", 7: "ring"}
    for image in content["images"]:
        rendered = np.zeros((40, 50), dtype=np.uint8)
        for annotation in (one for one in content["annotations"] if one["image_id"] == image["id"]):
            region = coco_mask.decode(annotation["segmentation"]).astype(bool)
            assert annotation["area"] == region.sum() > 0
            rendered[region] = annotation["category_id"] - 1
        assert np.array_equal(rendered, mask(out / f"day {image['id']}" / "a.png"))
    assert "coco.json: exists" in call(run, tmp_path / "photos", "--out", out, "--format", "coco")[2]
    (out / "day 2" / "a.png").unlink()
    assert call(run, tmp_path / "photos", "--out", out, "--format", "coco", "--skip-existing")[0] == 0
    assert json.loads((out / "coco.json").read_text()) == content


def test_label_studio_tasks_contain_the_masks_as_predictions(run: Path, call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "day 1" / "a b.jpg")
    out = tmp_path / "out"
    assert call(run, tmp_path / "photos", "--out", out, "--format", "label-studio")[0] == 0
    (task,) = json.loads((out / "label-studio.json").read_text())
    assert task["data"] == {"image": "/data/local-files/?d=photos/day%201/a%20b.jpg"}
    rendered = np.full((40, 50), 255, dtype=np.uint8)
    names = ["background", "circle", "square", "triangle", "star", "cross", "ring"]
    for result in task["predictions"][0]["result"]:
        assert result["type"] == "brushlabels" and (result["from_name"], result["to_name"]) == ("tag", "image")
        rendered[brush_region(result["value"]["rle"], 40, 50)] = names.index(result["value"]["brushlabels"][0])
    assert np.array_equal(rendered, mask(out / "day 1" / "a b.png"))
    assert '<Label value="ring"' in (out / "label-studio-labels.xml").read_text()


def test_geojson_polygons_are_in_pixels_for_photographs(run: Path, call: Call, tmp_path: Path) -> None:
    features = pytest.importorskip("rasterio.features")
    photo = picture(tmp_path / "a.png")
    assert call(run, photo, "--out", tmp_path / "out", "--format", "geojson")[0] == 0
    content = json.loads((tmp_path / "out" / "geojson" / "a.geojson").read_text())
    shapes = [(feature["geometry"], feature["properties"]["value"]) for feature in content["features"]]
    rendered = features.rasterize(shapes, (40, 50), fill=255, dtype=np.uint8)
    assert np.array_equal(rendered, mask(tmp_path / "out" / "a.png")) and "crs" not in content


def test_sliding_is_deprecated(run: Path, call: Call, tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png", (100, 100))
    with pytest.warns(FutureWarning, match="--sliding is deprecated. Pass --mode slide"):
        call(run, photo, "--out", tmp_path / "old", "--sliding")
    call(run, photo, "--out", tmp_path / "new", "--mode", "slide")
    assert (tmp_path / "old" / "a.png").read_bytes() == (tmp_path / "new" / "a.png").read_bytes()
