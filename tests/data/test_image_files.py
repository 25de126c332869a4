"""Image files: HEIC and AVIF, orientation, pages, and files that are not images."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps
from torch import Tensor

from semiseg.data.files.image_files import image_size, read_image_file
from semiseg.data.files.image_header import describe_unsupported, page_count
from semiseg.errors import UserError

HEIC_ENCODER = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif writes the HEIC files")
GRADIENT = np.stack(np.broadcast_arrays(*np.ogrid[20:220:40j, 20:220:64j], 90), axis=-1).astype(np.uint8)


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def save(path: Path, orientation: int = 1, **options: Any) -> Path:
    """Write the gradient, 64x40, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    if path.suffix == ".tif":
        options["tiffinfo"] = {274: orientation}
    else:
        options["exif"] = exif.tobytes()
    Image.fromarray(GRADIENT).save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "suffix", [".png", ".tif", pytest.param(".avif"), pytest.param(".heic", marks=HEIC_ENCODER), ".webp"]
)
def test_images_are_turned_upright_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = save(tmp_path / f"a{suffix}", orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    marked = Image.fromarray(GRADIENT)
    marked.info["exif"] = exif.tobytes()
    upright = np.array(ImageOps.exif_transpose(marked))
    image = read_image_file(path)
    assert image_size(path) == (upright.shape[1], upright.shape[0])
    assert image.shape == as_tensor(upright).shape
    assert (image.int() - as_tensor(upright).int()).abs().float().mean() < 3  # AVIF, HEIC and WebP are lossy


@HEIC_ENCODER
def test_heic_without_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.heic")
    for module in ("pi_heif", "pillow_heif"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"HEIC needs an extra.*pip install 'semiseg\[heic\]'"):
        read_image_file(path)


def test_link_to_a_missing_image_names_its_target(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone" / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg: .*it links to .*gone/a\.jpg\). Move that file back"):
        read_image_file(tmp_path / "a.jpg")


def test_pages_are_counted_without_previews(tmp_path: Path) -> None:
    frames = [Image.fromarray(GRADIENT // shade) for shade in (1, 2, 3)]
    for suffix in (".gif", ".png", ".webp", ".tif"):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        assert page_count(tmp_path / f"a{suffix}") == 3, suffix
    for suffix in (".gif", ".png", ".webp", ".tif", ".jpg", ".bmp", ".avif"):
        frames[0].save(tmp_path / f"b{suffix}")
        assert page_count(tmp_path / f"b{suffix}") == 1, suffix
    with tifffile.TiffWriter(tmp_path / "overview.tif") as file:
        file.write(GRADIENT, photometric="rgb")
        file.write(GRADIENT[::2, ::2], photometric="rgb", subfiletype=1)
    assert page_count(tmp_path / "overview.tif") == 1
    tifffile.imwrite(tmp_path / "channels.tif", np.zeros((4, 40, 64), np.uint16), imagej=True)
    assert page_count(tmp_path / "channels.tif") == 4
    frames[0].save(tmp_path / "preview.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert page_count(tmp_path / "preview.jpg") == 1


def test_first_page_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(GRADIENT // shade) for shade in (1, 2, 3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert torch.equal(read_image_file(tmp_path / "a.tif"), as_tensor(GRADIENT))


def test_unsupported_files_are_counted_with_a_way_out() -> None:
    text = describe_unsupported(["a.dcm", "b.DCM", "clip.mp4", "c.npy", "d.nef", "readme"])
    assert text == (
        "2 .dcm (DICOM: convert to PNG or TIFF), 1 .mp4 (video: extract its frames), "
        "1 .nef (camera raw: develop to PNG or TIFF), 1 .npy (array: convert to PNG or TIFF), 1 without suffix"
    )
