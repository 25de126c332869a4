"""What a finished, running or broken-off run left in its directory, read for the report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from semiseg.config import read_yaml
from semiseg.errors import UserError, printable

Line = dict[str, Any]
LISTS = ("labeled", "unlabeled", "val", "test")


@dataclass(frozen=True)
class Score:
    """One network's mIoU in percent, None where it was not measured.

    Attributes:
        network: its name.
        val: on val, at the checkpoint kept as best.
        highest: the highest on val of this network at any step, and ``highest_step``.
        last: on val, at the end.
        test: on test, at the checkpoint kept as best.
        test_last: on test, at the end.
    """

    network: str
    val: float | None
    highest: float | None
    highest_step: int | None
    last: float | None
    test: float | None
    test_last: float | None


@dataclass(frozen=True)
class RunFiles:
    """A run directory's content; what is missing is empty or None.

    Attributes:
        path: the directory.
        config: config.yaml.
        environment: environment.json.
        training: training lines of metrics.jsonl, by step.
        validations: lines of the evaluations on val while training, by step.
        finals: lines that evaluate a kept checkpoint (key ``checkpoint``: best or last).
        confusion: confusion.json: ``classes``, ``network``, ``split``, ``counts`` (rows are the truth).
        list_sizes: how many images are in each list of splits/.
        samples: pictures of the last step that has some.
        skipped: lines of unlabeled images that could not be read, by step: ``skipped``, the id, and ``reason``.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    training: list[Line]
    validations: list[Line]
    finals: list[Line]
    confusion: dict[str, Any] | None
    list_sizes: dict[str, int]
    samples: list[Path]
    skipped: list[Line]

    @property
    def name(self) -> str:
        """The directory's name."""
        return printable(self.path.resolve().name)

    @property
    def method(self) -> str:
        """The method's name, or the directory's where it is not known."""
        return str(self.config.get("method") or self.name).rpartition(":")[2]  # of file:Class the class

    @cached_property
    def networks(self) -> list[str]:
        """The networks that were evaluated, in the order of the files."""
        return list(dict.fromkeys(line["network"] for line in [*self.validations, *self.finals]))

    @property
    def default_network(self) -> str | None:
        """The network that the run is judged by."""
        known = [(self.confusion or {}).get("network"), "student", *self.networks]
        return next((name for name in known if name in self.networks), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, empty where nothing was evaluated."""
        lines = [*self.finals, *self.validations]
        return tuple(lines[-1].get("iou", {})) if lines else tuple((self.confusion or {}).get("classes", ()))

    def curve(self, network: str, key: str) -> tuple[list[int], list[float]]:
        """Return steps and values of ``key`` over the validations of one network, where it was measured."""
        return series([line for line in self.validations if line["network"] == network], key)

    @cached_property
    def best_step(self) -> int | None:
        """The step whose checkpoint was kept: where the default network's mIoU on val was highest, first if twice."""
        steps, values = self.curve(self.default_network or "", "miou")
        return steps[values.index(max(values))] if steps else None

    def lines_at(self, checkpoint: str, split: str) -> list[Line]:
        """Return each network's line for a kept checkpoint (best or last) and a list (val or test), if measured."""
        found = [line for line in self.finals if (line["checkpoint"], line["split"]) == (checkpoint, split)]
        if not self.validations:
            return found
        step = self.best_step if checkpoint == "best" else self.validations[-1]["step"]
        found = [line for line in found if line.get("step") == step]  # a run resumed since has another checkpoint
        if found or split != "val":
            return found
        return [line for line in self.validations if line["step"] == step]

    @cached_property
    def scores(self) -> list[Score]:
        """The figures of every network, the default one first."""
        at = {
            key: {line["network"]: line.get("miou") for line in self.lines_at(*key)}
            for key in (("best", "val"), ("last", "val"), ("best", "test"), ("last", "test"))
        }

        def score(network: str) -> Score:
            steps, values = self.curve(network, "miou")
            highest = max(values, default=None)
            step = steps[values.index(highest)] if highest is not None else None
            kept, last, test, test_last = (figures.get(network) for figures in at.values())
            return Score(network, kept, highest, step, last, test, test_last)

        return [score(name) for name in sorted(self.networks, key=lambda name: name != self.default_network)]


def series(lines: Sequence[Line], key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of ``key`` where it is a finite number."""
    found = [(line["step"], float(line[key])) for line in lines if isinstance(line.get(key), int | float)]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in found], [value for _, value in found]


def read_run(path: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        UserError: it is none, or its configuration cannot be read.
    """
    if not (path / "config.yaml").is_file() and not (path / "metrics.jsonl").is_file():
        raise UserError(f"{path}: not a run (neither config.yaml nor metrics.jsonl): give a directory made by training")
    config = _config(path / "config.yaml")
    lines = _lines(path / "metrics.jsonl")
    evaluations = [line for line in lines if _is_evaluation(line)]
    finals = [line for line in evaluations if "checkpoint" in line] + _later_evaluations(path, config)
    return RunFiles(
        path=path,
        config=config,
        environment=_json(path / "environment.json") or {},
        training=_once([line for line in lines if "loss" in line], "step"),
        validations=_once(
            [line for line in evaluations if "checkpoint" not in line and line["split"] == "val"], "step", "network"
        ),
        finals=_once(finals, "checkpoint", "split", "network"),
        confusion=_confusion(path / "confusion.json"),
        list_sizes={name: size for name in LISTS if (size := _list_size(path / "splits", name)) is not None},
        samples=_last_samples(path / "samples"),
        skipped=_once([line for line in lines if "skipped" in line], "skipped"),
    )


def _once(lines: list[Line], *keys: str) -> list[Line]:
    """Keep the last line of each kind (a resumed run may repeat steps), in the order of the steps."""
    kept = {tuple(line.get(key) for key in keys): line for line in lines if isinstance(line.get("step"), int)}
    return sorted(kept.values(), key=lambda line: line["step"])


def _later_evaluations(path: Path, config: dict[str, Any]) -> list[Line]:
    """Lines, one a network, from the evaluations of kept checkpoints on the run's own data after training.

    These are what ``semiseg evaluate`` was asked and, in the cell of a comparison, by what the cell was judged.
    """
    cell = _json(path / "evaluation.json") or {}
    found = [cell[name] for name in ("best", "last") if isinstance(cell.get(name), dict)]
    of_comparison = [entry | {"data": config.get("data")} for entry in found]
    return [
        {key: entry.get(key) for key in ("split", "checkpoint", "step")} | {"network": network} | figures
        for entry in [*_lines(path / "evaluations.jsonl"), *of_comparison]
        if entry.get("data") == config.get("data") and not entry.get("sliding")
        if entry.get("checkpoint") in ("best", "last")
        for network, figures in _json_object(entry.get("networks")).items()
        if isinstance(figures, dict) and _is_evaluation({"network": network, "split": entry.get("split")} | figures)
    ]


def _lines(path: Path) -> list[Line]:
    """Read a file of JSON lines; what is missing or cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _is_evaluation(line: Line) -> bool:
    """Tell whether a line has a network's figures, each of the kind that it should be: anybody may have edited it."""
    iou = line.get("iou", {})
    figures = [line.get("miou"), line.get("pixel_accuracy"), *(iou.values() if isinstance(iou, dict) else ("none",))]
    names = isinstance(line.get("network"), str) and isinstance(line.get("split"), str)
    return names and all(figure is None or isinstance(figure, int | float) for figure in figures)


def _confusion(path: Path) -> dict[str, Any] | None:
    """Read a confusion matrix; None where its counts are no numbers, or not those of its classes."""
    content = _json(path) or {}
    classes, counts = content.get("classes"), content.get("counts")
    if not isinstance(classes, list) or not isinstance(counts, list) or not all(isinstance(c, str) for c in classes):
        return None
    sound = len(counts) == len(classes) and all(isinstance(row, list) and len(row) == len(classes) for row in counts)
    return content if sound and all(isinstance(n, int | float) for row in counts for n in row) else None


def _json_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_yaml(path)


def _list_size(folder: Path, name: str) -> int | None:
    shards = _json(folder / "shards.json") if name == "unlabeled" else None
    if shards is not None:
        try:
            return sum(int(entry["nsamples"]) for entry in shards["shardlist"])
        except (KeyError, TypeError, ValueError):
            return None
    path = folder / f"{name}.txt"
    return sum(bool(line.strip()) for line in path.read_bytes().splitlines()) if path.is_file() else None


def _last_samples(folder: Path) -> list[Path]:
    """Return the pictures of the last step, by the number that their names begin with; all, where none has one."""
    files = sorted(folder.glob("*.png"))
    steps = {path: int(found.group()) for path in files if (found := re.match(r"\d+(?=_)", path.name))}
    return [path for path in files if steps.get(path) == max(steps.values())] if steps else files
