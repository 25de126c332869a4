"""Findings of a check, and helpers that create and word them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semiseg.data.dataset import SegmentationDataset
from semiseg.errors import UserError, printable

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")
MAX_NAMES = 5  # names that a line lists in full
PREVIEW_NAMES = 3  # names that it lists if there are more


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    Attributes:
        severity: ``problem``: the data cannot be trained on. ``warning``: training works, but the result may be worse.
            ``note``: information.
        kind: A stable identifier for scripts.
        text: What is wrong, in one line, with the first files.
        remedy: What to do; empty if nothing has to be done.
        files: All files concerned, relative to the data. Ids of images for generated data.
    """

    severity: Severity
    kind: str
    text: str
    remedy: str = ""
    files: tuple[str, ...] = ()


def format_names(names: Sequence[str]) -> str:
    """Return ``a, b, c and 4 more``; up to ``MAX_NAMES`` names are listed in full."""
    shown = [printable(name) for name in names]
    if len(shown) <= MAX_NAMES:
        return ", ".join(shown)
    return f"{', '.join(shown[:PREVIEW_NAMES])} and {len(shown) - PREVIEW_NAMES} more"


def format_count(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 image`` or ``5 images``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def relative(path: Path, root: Path | None) -> str:
    """Return a path relative to the data if it lies below them."""
    if root is not None and path != root and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return str(path)


def image_names(dataset: SegmentationDataset, ids: Sequence[str]) -> tuple[str, ...]:
    """Return the image files of ``ids``, relative to the data. Generated images keep their ids."""
    return tuple(relative(path, dataset.root) if (path := dataset.image_path(id)) else id for id in ids)


def mask_names(dataset: SegmentationDataset, ids: Sequence[str]) -> tuple[str, ...]:
    """Return the mask files of ``ids``, relative to the data. Generated masks keep their ids."""
    return tuple(relative(path, dataset.root) if (path := dataset.mask_path(id)) else id for id in ids)


def from_errors(
    errors: Iterable[UserError], kind: str, root: Path | None, severity: Severity = "problem"
) -> list[Finding]:
    """Return one finding for each group of errors with the same problem.

    Problems are the same if they differ only in numbers and in the name of the file itself.
    """
    groups: dict[str, list[UserError]] = {}
    for error in errors:
        groups.setdefault(_group_key(error), []).append(error)
    return [_merge(group, kind, root, severity) for group in groups.values()]


def from_file_errors(
    errors: Mapping[str, UserError], used: Collection[str], kind: str, root: Path | None
) -> list[Finding]:
    """Return findings for errors by image id: problems for ``used`` images and warnings for the others."""
    of_used = [error for id, error in errors.items() if id in used]
    of_others = [error for id, error in errors.items() if id not in used]
    return [*from_errors(of_used, kind, root), *from_errors(of_others, kind, root, "warning")]


def _group_key(error: UserError) -> str:
    """Return the problem without numbers and without the file's own name (``b.png`` in an error of ``a/b.jpg``)."""
    problem = error.problem
    if error.path is not None:
        problem = re.sub(rf"(?<![\w.-]){re.escape(error.path.stem)}\.", "*.", problem)
    return re.sub(r"\d+", "#", problem)


def _merge(errors: Sequence[UserError], kind: str, root: Path | None, severity: Severity) -> Finding:
    """Return the finding for errors with the same problem, worded after the first of them."""
    paths = [error.path for error in errors if error.path is not None]
    names = [relative(path, root) for path in paths] or [error.option for error in errors if error.option]
    problem, remedy = errors[0].problem, errors[0].fix or ""
    if root is not None:
        path_below_root = re.compile(rf"(?<![^\s'\"(]){re.escape(str(root))}/")
        problem, remedy = (path_below_root.sub("", text) for text in (problem, remedy))
    text = f"{format_names(names)}: {printable(problem)}" if names else printable(problem)
    if len({error.problem for error in errors}) > 1:
        text += " (in the first file)"
    return Finding(
        severity, kind, text, printable(remedy), tuple(relative(path, root) for path in paths if path.exists())
    )
