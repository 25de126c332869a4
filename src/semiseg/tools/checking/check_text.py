"""A check in words, for a terminal: a summary, the classes with bars, the findings, and what to do."""

from __future__ import annotations

import textwrap

from semiseg.errors import printable
from semiseg.tools.checking.examine import DataCheck
from semiseg.tools.checking.finding import SEVERITIES, Finding, counted

WIDTH = 100
BAR = 16  # characters of the most frequent class
MOST_CLASSES = 40


def in_words(checked: DataCheck, block: str = "█") -> str:
    """Return the whole check as text; ``block`` is what bars are made of."""
    parts = [_summary(checked), _classes(checked, block), _findings(checked), _to_do(checked)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def verdict(checked: DataCheck) -> str:
    """Return in a few words whether the data can be trained on."""
    problems, warnings, _ = (len(checked.of(severity)) for severity in SEVERITIES)
    word = "usable" if checked.usable else "not usable yet"
    counts = [counted(count, noun) for count, noun in ((problems, "problem"), (warnings, "warning")) if count]
    return f"{word}: {', '.join(counts) or 'nothing to complain of'}"


def facts(checked: DataCheck) -> dict[str, str]:
    """Return what there is, by a word each."""
    lists = ", ".join(f"{count} {name}" for name, count in checked.lists.items())
    sizes = [f"{width}x{height}" for width, height in checked.sizes]
    if sizes:
        one_size = sizes[0] == sizes[2]  # the smallest and the largest
        sizes = [f"all {sizes[0]}" if one_size else f"{sizes[0]} to {sizes[2]}, median {sizes[1]}"]
    found = {
        "images": f"{checked.images}, {counted(checked.masks, 'mask')}" if checked.images else "",
        "lists": lists,
        "sizes": sizes[0] if sizes else "",
        "classes": str(len(checked.classes)) if checked.classes else "",
        "annotated": "" if checked.known is None else f"{checked.known:.1%} of the pixels of labeled images",
    }
    return {name: text for name, text in found.items() if text}


def remedies(checked: DataCheck) -> list[str]:
    """Return what is to be done, each thing once, for the gravest findings first."""
    return list(dict.fromkeys(finding.remedy for finding in checked.findings if finding.remedy))


def mark(checked: DataCheck, finding: Finding) -> str:
    """Return the number that "What to do" has for a finding; a dash where nothing has to be done."""
    return str(remedies(checked).index(finding.remedy) + 1) if finding.remedy else "-"


def _summary(checked: DataCheck) -> list[str]:
    return [f"{printable(checked.name)} is {verdict(checked)}", *_columns(facts(checked))]


def _columns(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {text}" for name, text in rows.items()]


def _classes(checked: DataCheck, block: str) -> list[str]:
    """Return the class table, the most frequent first where not all have place."""
    if not checked.classes:
        return []
    shown = sorted(checked.classes, key=lambda one: -one.pixels)[:MOST_CLASSES]
    places = {one.name: place for place, one in enumerate(checked.classes)}
    if len(shown) == len(checked.classes):
        shown = list(checked.classes)
    name_width = min(32, max(len("class"), *(len(printable(one.name)) for one in shown)))
    most = max(one.share for one in shown) or 1.0
    lines = [f"{'':>3}  {'class':<{name_width}}  {'labeled pixels':<{BAR + 8}}  images: labeled     val    test"]
    for one in shown:
        bar = block * max(round(BAR * one.share / most), 1 if one.pixels else 0)
        images = " ".join(f"{one.images[role]:>7}" for role in ("labeled", "val", "test"))
        name = textwrap.shorten(printable(one.name), name_width, placeholder="…") or printable(one.name)[:name_width]
        lines.append(f"{places[one.name]:>3}  {name:<{name_width}}  {one.share:>7.2%} {bar:<{BAR}}          {images}")
    left = len(checked.classes) - len(shown)
    if left:
        lines.append(f"     and {counted(left, 'rarer class', 'rarer classes')} (--json and --html have all)")
    return lines


def _findings(checked: DataCheck) -> list[str]:
    lines: list[str] = []
    for severity in SEVERITIES:
        if found := checked.of(severity):
            lines += ["", f"{severity.capitalize()}s"] if lines else [f"{severity.capitalize()}s"]
            lines += [line for one in found for line in _item(mark(checked, one), one.text)]
    return lines


def _to_do(checked: DataCheck) -> list[str]:
    steps = remedies(checked)
    lines = [line for number, text in enumerate(steps, start=1) for line in _item(str(number), text)]
    if checked.command:
        lines.append(f"{len(steps) + 1:>3}  {checked.command}")  # in one line, to be copied
    return ["What to do", *lines] if lines else []


def _item(mark: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{mark:>3}  ",
        subsequent_indent=" " * 5,
        break_long_words=False,
        break_on_hyphens=False,
    )
