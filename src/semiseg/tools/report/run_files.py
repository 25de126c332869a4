"""Read the files of a run directory for its report; the run may be finished, running or interrupted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from semiseg.config import read_train_config, read_yaml
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError, printable

Line = dict[str, Any]
LISTS = ("labeled", "unlabeled", "val", "test")
FIGURES_BY_CLASS = ("iou", "dice", "precision", "recall", "boundary_iou")
FIGURES = ("miou", "pixel_accuracy", *(f"mean_{name}" for name in FIGURES_BY_CLASS[1:]))


@dataclass(frozen=True)
class Score:
    """The mIoU of one network in percent; None if it was not measured.

    Attributes:
        network: Name of the network.
        val: On val, at the best checkpoint.
        highest: Highest on val at any step.
        highest_step: The step of ``highest``.
        last: On val, at the last step.
        test: On test, at the best checkpoint.
        test_last: On test, at the last step.
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
    """The content of a run directory; missing files are empty or None.

    Attributes:
        path: The directory.
        config: Content of config.yaml.
        environment: Content of environment.json.
        training: Training lines of metrics.jsonl, by step.
        validations: Lines of the evaluations on val during training, by step.
        finals: Lines that evaluate a saved checkpoint; their key ``checkpoint`` is best or last.
        confusion: Content of confusion.json: ``classes``, ``network``, ``split``, ``counts`` (rows are the truth).
        list_sizes: Number of images in each list of splits/.
        samples: Sample pictures of the last step that has any.
        skipped: Lines about unlabeled images that could not be read, by step: ``skipped`` (the id) and ``reason``.
        evaluated: The images of the val and test list that figures refer to.
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
    evaluated: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The directory's name."""
        return printable(self.path.resolve().name)

    @property
    def method(self) -> str:
        """The method's name (the class of ``file:Class``), or the directory's name if the method is unknown."""
        return str(self.config.get("method") or self.name).rpartition(":")[2]

    @cached_property
    def networks(self) -> list[str]:
        """The evaluated networks, in the order of the files."""
        return list(dict.fromkeys(line["network"] for line in [*self.validations, *self.finals]))

    @property
    def default_network(self) -> str | None:
        """The network whose mIoU is the run's result."""
        candidates = [(self.confusion or {}).get("network"), "student", *self.networks]
        return next((name for name in candidates if name in self.networks), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; empty before the first evaluation."""
        lines = [*self.finals, *self.validations]
        return tuple(lines[-1].get("iou", {})) if lines else tuple((self.confusion or {}).get("classes", ()))

    def curve(self, network: str | None, key: str) -> tuple[list[int], list[float]]:
        """Return the steps and values of ``key`` over the validations of one network."""
        return series([line for line in self.validations if line["network"] == network], key)

    @cached_property
    def best_step(self) -> int | None:
        """The step of the best checkpoint: the first with the default network's highest mIoU on val."""
        steps, values = self.curve(self.default_network, "miou")
        return steps[values.index(max(values))] if steps else None

    def lines_at(self, checkpoint: str, split: str) -> list[Line]:
        """Return one line per network for a checkpoint (best or last) and a list (val or test), if evaluated."""
        found = [line for line in self.finals if (line["checkpoint"], line["split"]) == (checkpoint, split)]
        if not self.validations:
            return found
        step = self.best_step if checkpoint == "best" else self.validations[-1]["step"]
        found = [line for line in found if line.get("step") == step]  # After a resume the checkpoint is another one.
        if found or split != "val":
            return found
        return [line for line in self.validations if line["step"] == step]

    @cached_property
    def scores(self) -> list[Score]:
        """The mIoU of every network, the default network first."""
        at = {
            key: {line["network"]: line.get("miou") for line in self.lines_at(*key)}
            for key in (("best", "val"), ("last", "val"), ("best", "test"), ("last", "test"))
        }

        def score(network: str) -> Score:
            steps, values = self.curve(network, "miou")
            highest = max(values, default=None)
            step = steps[values.index(highest)] if highest is not None else None
            best, last, test, test_last = (values_at.get(network) for values_at in at.values())
            return Score(network, best, highest, step, last, test, test_last)

        return [score(name) for name in sorted(self.networks, key=lambda name: name != self.default_network)]


def series(lines: Sequence[Line], key: str) -> tuple[list[int], list[float]]:
    """Return the steps and values of ``key`` in the lines where it is a finite number."""
    found = [(line["step"], float(line[key])) for line in lines if isinstance(line.get(key), int | float)]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in found], [value for _, value in found]


def result_line(path: Path) -> str:
    """Return the run's mIoU on val as one line; empty if the run was never validated."""
    run = read_run(path)
    score = run.scores[0] if run.scores else None
    if score is None or score.val is None:
        return ""
    last = "" if score.last is None else f", {score.last:.1f} at the end"
    return f"{score.network}: mIoU {score.val:.1f} on val at step {run.best_step}{last}"


def read_run(path: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        UserError: It is not a run, or its configuration cannot be read.
    """
    config = path / "config.yaml"
    if not config.is_file() and not (path / "metrics.jsonl").is_file():
        raise UserError(
            "not a run (neither config.yaml nor metrics.jsonl)", path=path, fix="give a directory made by training"
        )
    values = read_yaml(config) if config.is_file() else {}
    if config.is_file():
        read_train_config(values, str(config))
    lines = _read_lines(path / "metrics.jsonl")
    evaluations = [line for line in lines if _is_evaluation(line)]
    during = [line for line in evaluations if "checkpoint" not in line and line["split"] == "val"]
    finals = [line for line in evaluations if "checkpoint" in line] + _later_evaluations(path, values)
    return RunFiles(
        path=path,
        config=values,
        environment=_read_json(path / "environment.json"),
        training=_latest([line for line in lines if "loss" in line], "step"),
        validations=_latest(during, "step", "network"),
        finals=_latest(finals, "checkpoint", "split", "network"),
        confusion=_read_confusion(path / "confusion.json"),
        list_sizes={name: size for name in LISTS if (size := _list_size(path / "splits", name)) is not None},
        samples=_last_samples(path / "samples"),
        skipped=_latest([line for line in lines if "skipped" in line], "skipped"),
        evaluated={
            "val": frozenset(evenly_spaced(_list(path / "splits", "val"), values.get("val_limit"))),
            "test": frozenset(_list(path / "splits", "test")),
        },
    )


def _latest(lines: list[Line], *keys: str) -> list[Line]:
    """Keep the last line for each value of ``keys`` (a resumed run may repeat steps), sorted by step."""
    kept = {tuple(line.get(key) for key in keys): line for line in lines if isinstance(line.get("step"), int)}
    return sorted(kept.values(), key=lambda line: line["step"])


def _later_evaluations(path: Path, config: dict[str, Any]) -> list[Line]:
    """Return one line per network from evaluations of the checkpoints after training, on the run's own data.

    They come from ``semiseg evaluate`` (evaluations.jsonl) and ``semiseg compare`` (evaluation.json).
    """
    cell = _read_json(path / "evaluation.json")
    of_comparison = [cell[name] | {"data": config.get("data")} for name in ("best", "last") if _is_dict(cell.get(name))]
    return [
        {key: entry.get(key) for key in ("split", "checkpoint", "step")} | {"network": network} | figures
        for entry in [*_read_lines(path / "evaluations.jsonl"), *of_comparison]
        if entry.get("own", entry.get("data") == config.get("data")) and not entry.get("sliding")
        if entry.get("checkpoint") in ("best", "last") and _is_dict(entry.get("networks"))
        for network, figures in entry["networks"].items()
        if _is_dict(figures) and _is_evaluation({"network": network, "split": entry.get("split")} | figures)
    ]


def _read_lines(path: Path) -> list[Line]:
    """Read a file of JSON lines; skip malformed lines."""
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
    """Return whether a line has a network's figures, each of the right type: the file may have been edited."""
    figures = [line.get(key) for key in FIGURES]
    for by_class in (line.get(key, {}) for key in FIGURES_BY_CLASS):
        figures += by_class.values() if isinstance(by_class, dict) else ["none"]
    named = isinstance(line.get("network"), str) and isinstance(line.get("split"), str)
    return named and all(figure is None or isinstance(figure, int | float) for figure in figures)


def _read_confusion(path: Path) -> dict[str, Any] | None:
    """Read a confusion matrix; None if its counts are not numbers or do not match its classes."""
    content = _read_json(path)
    classes, counts = content.get("classes"), content.get("counts")
    if not isinstance(classes, list) or not isinstance(counts, list) or not all(isinstance(c, str) for c in classes):
        return None
    square = len(counts) == len(classes) and all(isinstance(row, list) and len(row) == len(classes) for row in counts)
    return content if square and all(isinstance(n, int | float) for row in counts for n in row) else None


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing, malformed or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _list_size(folder: Path, name: str) -> int | None:
    """Return the number of images in a list, or in the shards; None if the file is missing or malformed."""
    if name == "unlabeled" and (shards := _read_json(folder / "shards.json")):
        try:
            return sum(int(entry["nsamples"]) for entry in shards["shardlist"])
        except (KeyError, TypeError, ValueError):
            return None
    path = folder / f"{name}.txt"
    return sum(bool(line.strip()) for line in path.read_bytes().splitlines()) if path.is_file() else None


def _list(folder: Path, name: str) -> list[str]:
    """Return the images in a list of the run; empty if the file is missing."""
    path = folder / f"{name}.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def _last_samples(folder: Path) -> list[Path]:
    """Return the pictures of the last step, which begins their names; all pictures if no name begins with a step."""
    files = sorted(folder.glob("*.png"))
    steps = {path: int(found.group()) for path in files if (found := re.match(r"\d+(?=_)", path.name))}
    return [path for path in files if steps.get(path) == max(steps.values())] if steps else files
