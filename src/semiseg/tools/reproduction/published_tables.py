"""The published tables that ``semiseg reproduce`` repeats, and the configuration of each of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig, read_yaml
from semiseg.errors import UserError, short_repr
from semiseg.methods import ALIASES
from semiseg.tools.comparison.comparison_request import read_file
from semiseg.tools.comparison.method_entries import make_entries
from semiseg.tools.comparison.published_figures import Published, published
from semiseg.training.resolve_config import resolve


@dataclass(frozen=True)
class PublishedTable:
    """A table of published figures.

    Attributes:
        title: Its data, in words.
        folder: Name of the data set, and of the folder of its configurations.
        classes: Number of classes.
        images: Number of training images, with and without labels.
        partitions: Number of labeled images by the value of ``--labeled``.
    """

    title: str
    folder: str
    classes: int
    images: int
    partitions: Mapping[str, int]


TABLES: dict[str, PublishedTable] = {
    "voc2012-highquality": PublishedTable(
        "Pascal VOC 2012, high-quality masks",
        *("voc2012", 21, 10582),
        {str(count): count for count in (92, 183, 366, 732, 1464)},
    ),
    "voc2012-blended": PublishedTable(
        "Pascal VOC 2012, blended masks", "voc2012", 21, 10582, {"1/16": 662, "1/8": 1323, "1/4": 2646}
    ),
    "cityscapes": PublishedTable(
        "Cityscapes", "cityscapes", 19, 2975, {"1/16": 186, "1/8": 372, "1/4": 744, "1/2": 1488}
    ),
    "ade20k": PublishedTable(
        "ADE20K", "ade20k", 150, 20210, {"1/64": 316, "1/32": 631, "1/16": 1263, "1/8": 2526, "1/4": 5052}
    ),
    "camvid": PublishedTable("CamVid at half size", "camvid", 11, 367, {"1/16": 23}),
}
FIRST = ("supervised", "dual-teacher", "mean-teacher", "pseudoseg", "pc2seg", "augseg", "unimatch")
"""Methods whose runs come first: those of Dual Teacher's Table 1 and Figure 4."""
TEACHERS = dict.fromkeys(("augseg", "unimatch-v2", "cutmix-seg", "gentle-teaching-assistant", "u2pl"), "teacher1")
"""The network whose figure is published, by method; for all others it is the student."""
EPOCHS_OF_CPS = {"voc2012": {"1/16": 32, "1/4": 40}, "cityscapes": {"1/8": 137, "1/4": 160, "1/2": 240}}

# CamVid's partition is not published. What docs/results.md reports is the reference.
CAMVID_SOURCE = "semiseg, docs/results.md: test, seed 0"
CAMVID = {
    **{"supervised": 42.09, "mean-teacher": 45.35, "dual-student": 44.17, "dual-teacher": 45.63, "pseudoseg": 42.87},
    **{"pc2seg": 42.01, "augseg": 45.64, "fixmatch": 41.12, "unimatch": 43.28, "unimatch-v2": 46.43},
    **{"gentle-teaching-assistant": 44.13, "cutmix-seg": 42.42, "classmix": 44.32},
}


@dataclass(frozen=True)
class Entry:
    """A configuration of a table.

    Attributes:
        name: The name of its file without suffix.
        method: Its method, or variant of one.
        encoder: Its encoder as published, also if the runs have a smaller one.
        config: The options of its runs.
        options: The options of the method.
        network: The network whose figure is published.
    """

    name: str
    method: str
    encoder: str
    config: TrainConfig
    options: Any

    @property
    def network(self) -> str:
        """The network whose figure is published."""
        return TEACHERS.get(self.method, "student")

    def expected(self, table: PublishedTable, labeled: str) -> Published | None:
        """Return the published figure for a partition, or None."""
        if table.folder == "camvid":
            return Published(CAMVID[self.method], CAMVID_SOURCE) if self.method in CAMVID else None
        return published(table.folder, self.encoder, table.partitions[labeled], self.method)

    def changes(self, table: PublishedTable, labeled: str) -> dict[str, Any]:
        """Return the options of the release that are particular to a partition."""
        if self.method == "dual-student":
            epochs = EPOCHS_OF_CPS.get(table.folder, {}).get(labeled)
            return {"epochs": epochs} if epochs else {}
        return {"extra_weak": False} if getattr(self.options, "extra_weak", False) and labeled != "92" else {}


def read_entries(table: PublishedTable, folder: Path, changes: Mapping[str, Any]) -> list[Entry]:
    """Return the configurations of a table, those of Dual Teacher's Table 1 first.

    Args:
        table: The table.
        folder: The directory ``configs``.
        changes: Options that replace those of the files.

    Raises:
        UserError: The directory has no configurations of the table, or a file is invalid.
    """
    paths = sorted((folder / table.folder).glob("*.yaml"), key=lambda path: path.stem)
    if not paths:
        fix = "pass --configs with the folder configs/ of the repository"
        raise UserError(f"has no configurations in {table.folder}/", path=folder, fix=fix)
    if table.folder == "camvid":
        return [*_compared(folder / "camvid" / "compare.yaml", changes)]
    entries = []
    for path in paths:
        values = read_yaml(path)
        encoder = str(values.get("encoder", TrainConfig.encoder))
        method = str(values.get("method", TrainConfig.method))
        config, options = resolve(dict(changes), file=str(path))
        entries.append(Entry(path.stem, ALIASES.get(method, method), encoder, config, options))
    order = {method: index for index, method in enumerate(FIRST)}
    return sorted(entries, key=lambda entry: ("resnet50" not in entry.encoder, order.get(entry.method, len(order))))


def _compared(file: Path, changes: Mapping[str, Any]) -> list[Entry]:
    """Return the methods of a configuration of ``semiseg compare``."""
    shared, lists = read_file(str(file))
    if "steps" in changes:
        shared.pop("epochs", None)
    methods, options = lists["methods"], shared | dict(changes)
    entries = make_entries(list(methods), methods, options, lists.get("preset"), str(file))
    encoder = shared.get("encoder", TrainConfig.encoder)
    return [Entry(name, name, encoder, entry.config, entry.options) for name, entry in entries.items()]


def config_folder(given: str | Path | None) -> Path:
    """Return the directory of the configurations: the given one, ``configs``, or that of the repository.

    Raises:
        UserError: There is none.
    """
    repository = Path(__file__).parents[4] / "configs"
    found = next((path for path in (Path("configs"), repository) if (path / "voc2012").is_dir()), None)
    folder = Path(given) if given else found
    if folder is None or not folder.is_dir():
        problem = f"{short_repr(str(given))} is not a directory" if given else "not found"
        raise UserError(problem, option="configs", fix="pass the folder configs/ of the repository")
    return folder
