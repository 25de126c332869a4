"""A finding: how grave, what is wrong in one line, what to do, and the files; and how names are put into words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semiseg.data.dataset import SegmentationDataset
from semiseg.errors import printable

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")
NAMED = 3  # names in a line; up to two more are named rather than counted


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: ``problem``: the data cannot be trained on; ``warning``: they can, to less than they might be worth;
            ``note``: good to know.
        kind: what it is about, a short name that scripts may rely on.
        text: what is wrong, in one line, with the first few files.
        remedy: what to do; empty where nothing has to be done.
        files: every file (or image, where it is generated) that it is about, relative to the data.
    """

    severity: Severity
    kind: str
    text: str
    remedy: str = ""
    files: tuple[str, ...] = ()


def listed(names: Sequence[str]) -> str:
    """Return ``a, b, c and 4 more``; up to five names are all given."""
    shown = [printable(name) for name in names]
    if len(shown) <= NAMED + 2:
        return ", ".join(shown)
    return f"{', '.join(shown[:NAMED])} and {len(shown) - NAMED} more"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 image`` or ``5 images``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def relative(path: Path, root: Path | None) -> str:
    """Return a file's name for a person: relative to the data where it lies below them."""
    if root is not None and path != root and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return str(path)


def image_names(dataset: SegmentationDataset, ids: Sequence[str]) -> tuple[str, ...]:
    """Return the images' files, relative to the data; their ids where they are generated."""
    return tuple(relative(path, dataset.root) if (path := dataset.image_path(id)) else id for id in ids)


def mask_names(dataset: SegmentationDataset, ids: Sequence[str]) -> tuple[str, ...]:
    """Return the masks' files, relative to the data; their ids where they are generated."""
    return tuple(relative(path, dataset.root) if (path := dataset.mask_path(id)) else id for id in ids)


def from_messages(
    messages: Iterable[str], kind: str, root: Path | None, severity: Severity = "problem"
) -> list[Finding]:
    """Turn what UserErrors say (``file: what is wrong; what to do``) into findings, one for all files of one fault.

    Messages are of one fault if they differ in nothing but numbers and the file's name.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for message in messages:
        head, _, rest = message.partition(": ")
        alike = re.sub(rf"(?<![\w.-]){re.escape(Path(head).stem)}\.", "#.", rest)
        groups.setdefault(re.sub(r"\d+", "#", alike), []).append((head, rest))
    return [_of_group(group, kind, root, severity) for group in groups.values()]


def faults(found: Mapping[str, str], used: Collection[str], kind: str, root: Path | None) -> list[Finding]:
    """Return what is wrong with files, by image: a problem with those that are ``used``, else a warning."""
    needed = [fault for id, fault in found.items() if id in used]
    others = [fault for id, fault in found.items() if id not in used]
    return [*from_messages(needed, kind, root), *from_messages(others, kind, root, "warning")]


def _of_group(group: Sequence[tuple[str, str]], kind: str, root: Path | None, severity: Severity) -> Finding:
    heads = [relative(Path(head), root) for head, _ in group]
    paths = [Path(re.sub(r", line \d+$", "", head)) for head, _ in group]
    files = tuple(relative(path, root) for path in paths if path.exists())
    fault, found, remedy = group[0][1].partition("; ")
    if not found:  # 'X' is no class: did you mean Y?
        fault, _, remedy = fault.partition(": ")
    if root is not None:
        own = re.compile(rf"(?<![^\s'\"(]){re.escape(str(root))}/")  # where a path begins, not inside one
        fault, remedy = (own.sub("", part) for part in (fault, remedy))
    differ = len({rest for _, rest in group}) > 1
    text = f"{listed(heads)}: {printable(fault)}{' (the first of these)' if differ else ''}"
    return Finding(severity, kind, text, printable(remedy), files)
