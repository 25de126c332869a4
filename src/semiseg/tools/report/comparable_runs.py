"""Group runs whose figures compare: those with the same classes, evaluated on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semiseg.tools.report.run_files import RunFiles

Runs = Mapping[str, RunFiles]


def comparable_groups(runs: Runs) -> list[dict[str, RunFiles]]:
    """Divide runs, by name, into groups with the same classes, val images and test images, as far as known."""
    groups: list[dict[str, RunFiles]] = []
    for name, run in runs.items():
        fitting = (group for group in groups if not any(differences(run, other) for other in group.values()))
        group = next(fitting, None)
        if group is None:
            groups.append({name: run})
        else:
            group[name] = run
    return groups


def differences(one: RunFiles, other: RunFiles) -> list[str]:
    """Return why the figures of two runs do not compare."""
    found = []
    if one.classes and other.classes and one.classes != other.classes:
        found.append(f"different classes ({_preview(one.classes)}; {_preview(other.classes)})")
    for name in ("val", "test"):
        first, second = one.evaluated.get(name), other.evaluated.get(name)
        if first and second and first != second:
            common = len(first & second)
            found.append(f"different {name} images ({len(first)} and {len(second)}, {common} in common)")
    return found


def describe_differences(groups: Sequence[Runs]) -> str:
    """Return a note on the runs that do not compare with those of the first group; empty for a single group."""
    if len(groups) == 1:
        return ""
    lines = []
    for group in groups[1:]:
        name, other = next(iter(group.items()))
        pairs = ((first, differences(run, other)) for first, run in groups[0].items())
        first, reasons = next((first, found) for first, found in pairs if found)
        lines.append(f"{first} and {name} have {' and '.join(reasons)}")
    return f"Not all of these runs compare: {'; '.join(lines)}. Each table holds runs that do."


def _preview(classes: Sequence[str]) -> str:
    return ", ".join(classes[:6]) + (f" and {len(classes) - 6} more" if len(classes) > 6 else "")
