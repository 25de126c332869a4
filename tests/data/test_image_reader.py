"""Decoding at reduced size: similar views, the same geometry and the same errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semiseg.config import TrainConfig
from semiseg.data import FolderDataset, Split
from semiseg.data.files.image_files import decode, read_image_file
from semiseg.data.stream.image_reader import ImageReader
from semiseg.data.stream.weak_view import view_area, weak_view
from semiseg.errors import UserError
from semiseg.training.decode_plan import decode_factor, make_reader

FACTORS = (2, 4, 8)


def photograph(path: Path, width: int, height: int, mode: str = "RGB", orientation: int = 1) -> Path:
    """Write an image of slow waves that differ in every direction, so that any shift or rotation shows."""
    y, x = np.mgrid[:height, :width]
    waves = [x / width, y / height, 0.5 + 0.5 * np.sin(x / 23 + y / 41)]
    image = Image.fromarray((255 * np.stack(waves, axis=-1)).astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def differences(path: Path, factor: int, seed: int, image_scale: float) -> float:
    """Return the mean difference between the views of an image decoded at reduced and at full size."""
    whole, part = read_image_file(path), decode(path, "", factor)
    assert part.size == tuple(whole.shape[-2:])
    mask = (torch.arange(whole[0].numel()) % 251).to(torch.uint8).reshape(whole.shape[-2:])
    view, labels, valid = weak_view(whole, mask, 64, seed, image_scale)
    near = weak_view(part.pixels, mask, 64, seed, image_scale, whole=part.size, factor=part.factor)
    assert torch.equal(near[1], labels) and torch.equal(near[2], valid)
    assert view_area(part.size, seed, image_scale) == view_area(whole.shape[-2:], seed, image_scale)
    return (near[0].float() - view.float()).abs().mean().item()


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [(640, 480), (637, 471), (9, 8), (9, 7)])
def test_reduced_jpeg_gives_similar_views(tmp_path: Path, size: tuple[int, int], factor: int) -> None:
    path = photograph(tmp_path / "a.jpg", *size)
    part = decode(path, "", factor)
    assert part.factor == (factor if min(size) >= factor else 1)
    assert part.pixels.shape == (3, -(-size[1] // part.factor), -(-size[0] // part.factor))
    if min(size) > 9:
        assert max(differences(path, factor, seed, 0.5 / factor) for seed in range(6)) < 1.2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_rotated_jpeg_gives_similar_views(tmp_path: Path, orientation: int) -> None:
    path = photograph(tmp_path / "a.jpg", 320, 240, orientation=orientation)
    assert decode(path, "", 2).factor == 2
    assert differences(path, 2, 1, 0.25) < 1.2
    odd = photograph(tmp_path / "odd.jpg", 321, 240, orientation=orientation)
    assert decode(odd, "", 2).factor == (2 if orientation == 1 else 1)
    assert differences(odd, 2, 1, 0.25) < 1.2


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.png", "P"), ("a.png", "L"), ("a.jpg", "L")])
def test_reduced_decoding_supports_other_formats_and_modes(tmp_path: Path, name: str, mode: str) -> None:
    path = photograph(tmp_path / name, 321, 243, mode)
    assert decode(path, "", 2).pixels.shape == (3, 122, 161)
    assert differences(path, 2, 3, 0.25) < (
        4 if mode == "P" else 1.2  # the dithering noise of palettes averages differently
    )


def test_factor_1_decodes_full_image(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", 64, 48)
    assert torch.equal(decode(path, "").pixels, read_image_file(path)) and decode(path, "").factor == 1
    assert np.array_equal(read_image_file(path).permute(1, 2, 0).numpy(), np.array(Image.open(path).convert("RGB")))


def test_decode_factor_never_requires_enlarging() -> None:
    config = replace(TrainConfig(), decode="reduced")
    scales = {1.0: 1, 0.5: 1, 0.26: 1, 0.25: 2, 0.2: 2, 0.125: 4, 0.0625: 8, 0.01: 8}
    assert {scale: decode_factor(replace(config, image_scale=scale)) for scale in scales} == scales
    assert decode_factor(replace(config, image_scale=0.5, scale_max=1.0)) == 2
    assert decode_factor(replace(config, image_scale=0.1, decode="full")) == 1


def test_reduced_decoding_is_reported_and_checks_mask_size(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    photograph(tmp_path / "images" / "a.jpg", 64, 48)
    Image.new("L", (32, 24), 1).save(tmp_path / "masks" / "a.png")  # the size of the reduced image
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    dataset = FolderDataset(tmp_path)
    with pytest.raises(UserError, match=r"the mask is 32x24, its image .* is 64x48"):
        ImageReader(dataset, 2).sample("a")
    config, split = replace(TrainConfig(), decode="reduced"), Split(("a",), (), (), ())
    assert make_reader(replace(config, image_scale=0.25), dataset, split)[1] == ["decode: images at 1/2 of their size"]
    assert "has no effect" in make_reader(config, dataset, split)[1][0]


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", 640, 480)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"a\.jpg: the image cannot be read"):
        decode(path, str(path), 4)
