"""Write draft masks in the formats of annotation tools, for annotators to correct."""

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
    """Write an archive in CVAT's format "Segmentation mask 1.1", for *Upload annotations* in a task.

    ``labelmap.txt`` contains classes and colors, ``SegmentationClass/STEM.png`` the masks in color, and
    ``ImageSets/Segmentation/default.txt`` the stems.

    Args:
        path: The archive to write.
        masks: Class indices ``(H, W)`` by stem.
        classes: Class names.
        palette: One RGB color per class.
    """
    colors = replace_black(palette)
    lines = ["# label:color_rgb:parts:actions", *([] if BACKGROUND in classes else [f"{BACKGROUND}:0,0,0::"])]
    if BACKGROUND in classes:
        colors[classes.index(BACKGROUND)] = (0, 0, 0)
    # In labelmap.txt a colon ends a name and "#" begins a comment.
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


def replace_black(palette: Sequence[Color]) -> list[Color]:
    """Return the colors with unused, nearly black colors instead of black, which CVAT reads as background."""
    nearly_black = ((r, g, b) for r, g, b in product(range(1, 256), repeat=3) if (r, g, b) not in palette)
    return [color if any(color) else next(nearly_black) for color in palette]


def write_label_studio(
    folder: Path, images: Mapping[str, str], masks: Mapping[str, Mask], classes: Sequence[str], palette: Sequence[Color]
) -> None:
    """Write ``label-studio.json``, tasks with the masks as predictions, and ``label-studio-labels.xml``.

    Args:
        folder: Directory of the two files.
        images: Name of the image file by stem.
        masks: Class indices ``(H, W)`` by stem.
        classes: Class names.
        palette: One RGB color per class.
    """
    tasks = [
        {
            # Label Studio serves local files here (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT).
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
    """Encode a region ``(H, W)`` as a brush of Label Studio: run lengths of its RGBA bytes, 0 or 255, as bits.

    The format is that of thi.ng/rle-pack: the number of bytes (32 bits), their width minus 1 (5 bits), four sizes of
    run lengths minus 1 (4 bits each); then for every run a 1, the index of its size (2 bits), its length minus 1 in
    that size, and its byte.
    """
    sizes = (3, 4, 8, 16)
    flat = np.repeat(region.ravel(), 4)  # Red, green, blue and alpha are equal.
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges]) if len(flat) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.concatenate([starts, [len(flat)]]))
    bits = [f"{len(flat):032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{255 if flat[start] else 0:08b}"
        while length > 0:
            run = min(length, 1 << sizes[-1])
            index = next(index for index, size in enumerate(sizes) if run <= 1 << size)
            bits.append(f"1{index:02b}{run - 1:0{sizes[index]}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[index : index + 8], 2) for index in range(0, len(text), 8)]
