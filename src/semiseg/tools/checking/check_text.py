"""Format the result of a check for a terminal: summary, class table with bars, findings and remedies."""

from __future__ import annotations

import textwrap

from semiseg.errors import printable
from semiseg.tools.checking.data_check import DataCheck
from semiseg.tools.checking.finding import SEVERITIES, Finding, format_count

WIDTH = 100
BAR_WIDTH = 16  # characters of the most frequent class
MAX_CLASSES = 40


def format_check(result: DataCheck, block: str = "█") -> str:
    """Return the result of a check as text, with bars made of ``block``."""
    parts = [_summary(result), _classes(result, block), _findings(result), _remedies(result)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def verdict(result: DataCheck) -> str:
    """Return whether the data are usable, and the number of problems and warnings."""
    problems, warnings, _ = (len(result.with_severity(severity)) for severity in SEVERITIES)
    counts = [format_count(count, noun) for count, noun in ((problems, "problem"), (warnings, "warning")) if count]
    return f"{'usable' if result.usable else 'not usable yet'}: {', '.join(counts) or 'no problems or warnings'}"


def facts(result: DataCheck) -> dict[str, str]:
    """Return the size of the data set as labels and values."""
    sizes = [f"{width}x{height}" for width, height in result.sizes]
    if sizes:
        smallest, median, largest = sizes
        sizes = [f"all {median}" if smallest == largest else f"{smallest} to {largest}, median {median}"]
    values = {
        "images": f"{result.images}, {format_count(result.masks, 'mask')}" if result.images else "",
        "lists": ", ".join(f"{count} {name}" for name, count in result.lists.items()),
        "sizes": sizes[0] if sizes else "",
        "classes": str(len(result.classes)) if result.classes else "",
        "annotated": "" if result.known is None else f"{result.known:.1%} of the pixels of labeled images",
    }
    return {name: text for name, text in values.items() if text}


def remedies(result: DataCheck) -> list[str]:
    """Return the distinct remedies of the findings, most severe first."""
    return list(dict.fromkeys(finding.remedy for finding in result.findings if finding.remedy))


def remedy_number(result: DataCheck, finding: Finding) -> str:
    """Return the number of a finding's remedy under "What to do", or a dash if it has none."""
    return str(remedies(result).index(finding.remedy) + 1) if finding.remedy else "-"


def _summary(result: DataCheck) -> list[str]:
    rows = facts(result)
    width = max(map(len, rows), default=0)
    return [
        f"{printable(result.name)} is {verdict(result)}",
        *(f"  {name:<{width}}  {text}" for name, text in rows.items()),
    ]


def _classes(result: DataCheck, block: str) -> list[str]:
    """Return the class table; if there are too many classes, only the most frequent ones."""
    if not result.classes:
        return []
    shown = list(enumerate(result.classes))
    if len(shown) > MAX_CLASSES:
        shown = sorted(shown, key=lambda item: -item[1].pixels)[:MAX_CLASSES]
    name_width = min(32, max(len("class"), *(len(printable(entry.name)) for _, entry in shown)))
    largest = max(entry.share for _, entry in shown) or 1.0
    lines = [f"{'':>3}  {'class':<{name_width}}  {'labeled pixels':<{BAR_WIDTH + 8}}  images: labeled     val    test"]
    for index, entry in shown:
        bar = block * max(round(BAR_WIDTH * entry.share / largest), 1 if entry.pixels else 0)
        images = " ".join(f"{entry.images[role]:>7}" for role in ("labeled", "val", "test"))
        name = (
            textwrap.shorten(printable(entry.name), name_width, placeholder="…") or printable(entry.name)[:name_width]
        )
        lines.append(f"{index:>3}  {name:<{name_width}}  {entry.share:>7.2%} {bar:<{BAR_WIDTH}}          {images}")
    hidden = len(result.classes) - len(shown)
    if hidden:
        lines.append(f"     and {format_count(hidden, 'rarer class', 'rarer classes')} (--json and --html list all)")
    return lines


def _findings(result: DataCheck) -> list[str]:
    lines: list[str] = []
    for severity in SEVERITIES:
        if found := result.with_severity(severity):
            lines += ["", f"{severity.capitalize()}s"] if lines else [f"{severity.capitalize()}s"]
            lines += [line for entry in found for line in _item(remedy_number(result, entry), entry.text)]
    return lines


def _remedies(result: DataCheck) -> list[str]:
    steps = remedies(result)
    lines = [line for number, text in enumerate(steps, start=1) for line in _item(str(number), text)]
    if result.command:
        lines.append(f"{len(steps) + 1:>3}  {result.command}")  # one line, ready to copy
    return ["What to do", *lines] if lines else []


def _item(number: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{number:>3}  ",
        subsequent_indent=" " * 5,
        break_long_words=False,
        break_on_hyphens=False,
    )
