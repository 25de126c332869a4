"""Write the model card: README.md with front matter for model hubs."""

from __future__ import annotations

import json

from semiseg.data.dataset import Color
from semiseg.tools.exporting.export_config import Description
from semiseg.tools.report.run_files import Line, RunFiles

USAGE = {
    "safetensors": """```python
import semiseg

model = semiseg.load("path/to/this/folder")
mask, confidence = model("photo.jpg")  # uint8 (H, W), and float (H, W) in [0, 1], at the size of the photo
```""",
    "torch": """```python
import torch

network = torch.export.load("model.pt2").module()
logits = network(images)  # (N, {classes}, H, W)
```

`images` is float32 `(N, {channels}, H, W)` in [0, 1], {pixels}; normalization is part of the network. {sizes}""",
    "onnx": """```sh
pip install onnxruntime numpy pillow{tifffile}
python inference.py photo.jpg mask.png  # an indexed PNG: values are classes
```

`model.onnx` takes `images`, float32 `(N, {channels}, H, W)` in [0, 1], {pixels}, and returns `logits`,
`(N, {classes}, H, W)`; normalization is part of the network. {sizes} `inference.py` shows how.""",
}
LICENSE = (
    "**License: not chosen yet.** Before publishing this model, fill in `license:` above and remove this sentence."
)


def model_card(description: Description, format: str, run: RunFiles | None) -> str:
    """Return the model card of an export.

    Args:
        description: The network.
        format: A key of ``FORMATS``.
        run: The files of the run, for its figures; None without a run.
    """
    front = [
        "---",
        "license:  # fill in before publishing, e.g. apache-2.0",
        "library_name: semiseg",
        "pipeline_tag: image-segmentation",
        "tags:",
        *(f"- {tag}" for tag in tags(description, format)),
        "---",
    ]
    trained = [
        f"# {description.architecture} over {description.encoder}, trained by {description.method}",
        LICENSE,
        trained_on(description, run),
        f"This is the network `{description.network}`, checkpoint `{description.checkpoint}`, step {description.step}.",
        "## Usage",
        usage(description, format),
        "## Classes",
        class_table(description.classes, description.palette),
        "## Figures",
        figures(description, run),
        "## How it was trained",
        "```json\n" + json.dumps(description.training, indent=2, ensure_ascii=False) + "\n```",
    ]
    return "\n".join(front) + "\n\n" + "\n\n".join(trained) + "\n"


def tags(description: Description, format: str) -> list[str]:
    """Return the tags under which hubs list the model."""
    form = {"torch": "torch-export"}.get(format, format)
    return ["semantic-segmentation", "semi-supervised-learning", description.method, description.architecture, form]


def trained_on(description: Description, run: RunFiles | None) -> str:
    """Return a sentence on the training data, with the numbers of images if the lists of the run exist."""
    counts = run.list_sizes if run else {}
    images = ", ".join(f"{counts[name]} {name}" for name in ("labeled", "unlabeled", "val", "test") if name in counts)
    return f"Trained on `{description.training['data']}`{f' ({images} images)' if images else ''} by semiseg."


def usage(description: Description, format: str) -> str:
    """Return how to use the export."""
    return USAGE[format].format(
        classes=len(description.classes),
        channels=len(description.mean),
        pixels=pixels(description),
        tifffile=" tifffile" if description.bands or description.white else "",
        sizes=sizes(description),
    )


def pixels(description: Description) -> str:
    """Return in words what the channels are and which value is 1."""
    bands = f"bands {', '.join(map(str, description.bands))}" if description.bands else "RGB"
    white = f" ({description.white:g} is 1 in images of more than 8 bits)" if description.white else ""
    return bands + white


def sizes(description: Description) -> str:
    """Return a sentence on the image sizes that a graph accepts."""
    scale = f" Images are resized by {description.image_scale:g} first." if description.image_scale != 1 else ""
    return (
        f"H and W must be multiples of {description.size_multiple} and at least {description.least_side}: pad images on"
        f" the right and bottom with their last column and row, and crop the logits.{scale}"
    )


def class_table(classes: tuple[str, ...], palette: tuple[Color, ...]) -> str:
    """Return a table of values, names and colors."""
    rows = [
        f"| {value} | {name} | {' '.join(map(str, color))} |"
        for value, (name, color) in enumerate(zip(classes, palette, strict=True))
    ]
    return "\n".join(["| value | class | RGB |", "|---|---|---|", *rows])


def figures(description: Description, run: RunFiles | None) -> str:
    """Return a table of the measured figures of this network and checkpoint, one column per list of images."""
    wanted = (description.network, description.step)
    found: dict[str, Line] = {}
    for split in ("val", "test") if run else ():
        for line in run.lines_at(description.checkpoint, split) if run else ():
            if (line["network"], line["step"]) == wanted:
                found[split] = line
    if not found:
        return "None: the run has not been evaluated with this network and checkpoint (`semiseg evaluate`)."
    rows = [
        ("mIoU", [line["miou"] for line in found.values()]),
        ("pixel accuracy", [line["pixel_accuracy"] for line in found.values()]),
    ]
    rows += [(f"IoU of {name}", [line["iou"].get(name) for line in found.values()]) for name in description.classes]
    cells = [
        f"| {name} | " + " | ".join("-" if v is None else f"{v:.2f}" for v in values) + " |" for name, values in rows
    ]
    head = [f"| in percent | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    notes = []
    if description.checkpoint == "best":
        notes.append("The best checkpoint was chosen on val.")
    limit = description.training.get("val_limit")
    if limit and "val" in found and "checkpoint" not in found["val"]:
        notes.append(f"val was measured during training, on at most {limit} of its images.")
    return "\n".join([*head, *cells]) + "\n\n" * bool(notes) + " ".join(notes)
