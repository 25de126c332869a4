"""Write the list of configurations in configs/README.md: python docs/make_configs.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig, read_yaml
from semiseg.tools.comparison.published_figures import TABLES, published

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "configs" / "README.md"
FOLDERS = {"voc2012": "Pascal VOC 2012", "cityscapes": "Cityscapes", "ade20k": "ADE20K", "camvid": "CamVid"}
NETWORK = (
    *("architecture", "encoder", "network_version", "output_stride", "multi_grid", "low_level_channels", "aux_head"),
    *("align_corners", "head_dropout", "encoder_drop_path"),
)
LENGTH = ("steps", "epochs", "epoch_of", "lr_steps")
OPTIMIZER = ("optimizer", "lr", "encoder_lr_factor", "weight_decay", "weight_decay_on", "warmup_steps", "poly_power")
SHOWN = {*NETWORK, *LENGTH, *OPTIMIZER, "batch_size", "crop_size", "method", "methods", "data", "labeled", "seeds"}
MARKERS = "<!-- configs -->", "<!-- /configs -->"


def main() -> None:
    """Update the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the text that the page should have."""
    begin, end = MARKERS
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(f"{begin}.*{end}", lambda match: f"{begin}\n{listing()}\n{end}", text, flags=re.DOTALL)


def listing() -> str:
    """Return a table for each data set, with a row for each configuration."""
    parts = []
    for folder, title in FOLDERS.items():
        head = ("file", "settings from", "network", "length", "batch", "crop", "optimizer", "other options", "ours")
        lines = [head, ("---",) * len(head)]
        lines += [row(path) for path in sorted((ROOT / "configs" / folder).glob("*.yaml"), key=lambda path: path.stem)]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        parts.append(f"### {title}\n\n{table}")
    return "\n\n".join(parts)


def row(path: Path) -> tuple[str, ...]:
    """Return the cells of one configuration: its protocol, and where each part comes from."""
    text, values = path.read_text(encoding="utf-8"), read_yaml(path)
    found = re.search(r"^# Settings: (.*)\.$", text, re.MULTILINE)
    source = found[1] if found else "ours, chosen on val (docs/results.md)"
    comments = dict(re.findall(r"^(\w+): [^#\n]*# (.*)$", text, re.MULTILINE))
    own = [key for key, comment in comments.items() if re.search(r"\bours\b", comment)]
    options = {key: value for key, value in values.items() if key not in SHOWN}
    return (
        f"[{path.stem}]({path.parent.name}/{path.name})",
        source + figures(path.parent.name, values),
        phrase(values, NETWORK, bare=("architecture", "encoder")),
        phrase(values, LENGTH),
        str(values.get("batch_size", TrainConfig.batch_size)),
        str(values.get("crop_size", TrainConfig.crop_size)),
        phrase(values, OPTIMIZER, bare=("optimizer",)),
        phrase(options, tuple(options)),
        "all" if source.startswith("ours") else ", ".join(f"`{key}`" for key in own),
    )


def figures(folder: str, values: dict[str, Any]) -> str:
    """Return a phrase that names the source of the published figures for a configuration, if there are any."""
    encoder, method = str(values.get("encoder")), str(values.get("method"))
    counts = [count for data, _, counts in TABLES if data == folder for count in counts]
    known = [published(folder, encoder, count, method) for count in dict.fromkeys(counts)]
    sources = dict.fromkeys(figure.source.rpartition(", ")[0] for figure in known if figure)
    return f"; figures: {'; '.join(sources)}" if sources else ""


def phrase(values: dict[str, Any], keys: tuple[str, ...], bare: tuple[str, ...] = ()) -> str:
    """Return ``key value, ...`` for the keys that are set, without the keys in ``bare``."""
    parts = []
    for key in keys:
        if key in values:
            shown = "[" + ", ".join(map(str, values[key])) + "]" if isinstance(values[key], list) else str(values[key])
            name = "" if key in bare else key.replace("_", "-") + " "
            parts.append(name + (shown.lower() if isinstance(values[key], bool) else shown))
    return ", ".join(parts)


if __name__ == "__main__":
    main()
