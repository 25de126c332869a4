"""Drafts of masks, in forms that annotation tools take in: what is right is left alone, what is wrong is corrected."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from semiseg.data.dataset import Color

Mask = NDArray[np.uint8]
BACKGROUND = "background"


def write_cvat(path: Path, masks: Mapping[str, Mask], classes: Sequence[str], palette: Sequence[Color]) -> None:
    """Write an archive in CVAT's form "Segmentation mask 1.1", which a task takes in by *Upload annotations*.

    ``labelmap.txt`` names classes and colors, ``SegmentationClass/STEM.png`` holds the colors, and
    ``ImageSets/Segmentation/default.txt`` lists the stems.

    Args:
        path: the archive to make.
        masks: by stem, class indices ``(H, W)``.
        classes: their names.
        palette: their colors.
    """
    colors = visible(palette)
    lines = ["# label:color_rgb:parts:actions", *([] if BACKGROUND in classes else [f"{BACKGROUND}:0,0,0::"])]
    if BACKGROUND in classes:
        colors[classes.index(BACKGROUND)] = (0, 0, 0)
    # A colon ends a name there and "#" begins a comment.
    named = [name.replace(":", "_").lstrip("#") for name in classes]
    lines += [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in zip(named, colors, strict=True)]
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labelmap.txt", "\n".join(lines) + "\n")
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{stem}\n" for stem in masks))
        for stem, mask in masks.items():
            file = io.BytesIO()
            PIL.Image.fromarray(table[mask]).save(file, format="PNG")
            archive.writestr(f"SegmentationClass/{stem}.png", file.getvalue())


def visible(palette: Sequence[Color]) -> list[Color]:
    """Return the colors, but for black, which is what CVAT takes for "nothing here": nearly black, and no other's."""
    nearly = ((r, g, b) for r, g, b in product(range(1, 256), repeat=3) if (r, g, b) not in palette)
    return [color if any(color) else next(nearly) for color in palette]


def write_label_studio(
    folder: Path, images: Mapping[str, str], masks: Mapping[str, Mask], classes: Sequence[str], palette: Sequence[Color]
) -> None:
    """Write ``label-studio.json``, tasks with a brush mask a class as their prediction, and the project's labels.

    Args:
        folder: where ``label-studio.json`` and ``label-studio-labels.xml`` go.
        images: by stem, the name of the image's file.
        masks: by stem, class indices ``(H, W)``.
        classes: their names.
        palette: their colors.
    """
    tasks = [
        {
            # Where Label Studio serves files of its own machine (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT).
            "data": {"image": f"/data/local-files/?d=images/{quote(images[stem])}"},
            "predictions": [{"model_version": "semiseg", "result": _brushes(stem, mask, classes)}],
        }
        for stem, mask in masks.items()
    ]
    (folder / "label-studio.json").write_text(json.dumps(tasks, ensure_ascii=False) + "\n", encoding="utf-8")
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="#{red:02x}{green:02x}{blue:02x}"/>'
        for name, (red, green, blue) in zip(classes, palette, strict=True)
    )
    (folder / "label-studio-labels.xml").write_text(
        f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="tag" toName="image">\n'
        f"{labels}\n  </BrushLabels>\n</View>\n",
        encoding="utf-8",
    )


def _brushes(stem: str, mask: Mask, classes: Sequence[str]) -> list[dict[str, Any]]:
    height, width = mask.shape
    return [
        {
            "id": f"{stem}-{index}",
            "type": "brushlabels",
            "from_name": "tag",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_brush(mask == index), "brushlabels": [classes[index]]},
        }
        for index in np.unique(mask).tolist()
        if index < len(classes)
    ]


def encode_brush(region: NDArray[np.bool_]) -> list[int]:
    """Encode a region ``(H, W)`` as Label Studio's brush: run lengths of its RGBA bytes, 0 or 255, packed into bits.

    The form is that of thi.ng/rle-pack, which Label Studio uses: the number of bytes (32 bits), their width minus 1
    (5 bits), four sizes of run lengths minus 1 (4 bits each); then for every run a 1, the number of its size (2 bits),
    its length minus 1 in that size, and its byte.
    """
    sizes = (3, 4, 8, 16)
    flat = np.repeat(region.ravel(), 4)  # red, green, blue and alpha of a pixel are equal
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges]) if len(flat) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.concatenate([starts, [len(flat)]]))
    bits = [f"{len(flat):032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{255 if flat[start] else 0:08b}"
        while length > 0:
            run = min(length, 1 << sizes[-1])
            which = next(index for index, size in enumerate(sizes) if run <= 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{sizes[which]}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[index : index + 8], 2) for index in range(0, len(text), 8)]
