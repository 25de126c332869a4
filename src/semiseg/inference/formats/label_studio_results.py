"""Write masks in the JSON format of Label Studio: brush strokes as predictions of tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import Color

MODEL_VERSION = "semiseg"


def write_label_studio(
    path: Path,
    tasks: Iterable[tuple[str, str, NDArray[np.uint8]]],
    classes: Sequence[str],
    palette: Sequence[Color],
) -> None:
    """Write tasks with the masks as predictions, and ``label-studio-labels.xml`` in the same directory.

    Label Studio serves local files below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.

    Args:
        path: The file of the tasks.
        tasks: For each image its name, its path below that root, and its class indices ``(H, W)``.
        classes: Class names.
        palette: One RGB color per class.
    """
    content = [
        {
            "data": {"image": f"/data/local-files/?d={quote(path)}"},
            "predictions": [{"model_version": MODEL_VERSION, "result": brush_results(name, mask, classes)}],
        }
        for name, path, mask in tasks
    ]
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    path.with_name("label-studio-labels.xml").write_text(label_config(classes, palette), encoding="utf-8")


def label_config(classes: Sequence[str], palette: Sequence[Color]) -> str:
    """Return the labeling interface of a project: an image ``image`` and brush labels ``tag``."""
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="#{red:02x}{green:02x}{blue:02x}"/>'
        for name, (red, green, blue) in zip(classes, palette, strict=True)
    )
    image = '  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="tag" toName="image">'
    return f"<View>\n{image}\n{labels}\n  </BrushLabels>\n</View>\n"


def brush_results(
    id: str,
    mask: NDArray[np.uint8],
    labels: Sequence[str] | Mapping[int, str],
    controls: tuple[str, str] = ("tag", "image"),
) -> list[dict[str, Any]]:
    """Return one brush stroke for each class of a mask that has a label.

    Args:
        id: The beginning of the ids of the strokes.
        mask: Class indices ``(H, W)``; others are left out.
        labels: The label of each class.
        controls: The names of the control and of the image in the labeling interface.
    """
    height, width = mask.shape
    named = labels if isinstance(labels, Mapping) else dict(enumerate(labels))
    return [
        {
            "id": f"{id}-{index}",
            "type": "brushlabels",
            "from_name": controls[0],
            "to_name": controls[1],
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_brush(mask == index), "brushlabels": [named[index]]},
        }
        for index in np.unique(mask).tolist()
        if index in named
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
