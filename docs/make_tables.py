"""Write the tables of methods in README.md and docs/README.md, and of settings in docs/how-to/plan.md."""

from __future__ import annotations

import re
from pathlib import Path

from semiseg.methods import ALIASES, METHODS, VARIANT_PAPERS, VARIANTS
from semiseg.tools.planning.settings_table import LONG_STEPS, TIERS, Setting, length_settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"
PLAN = ROOT / "docs" / "how-to" / "plan.md"


def main() -> None:
    """Update the files."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """Return the text that each file should have."""
    return {path: replace(path.read_text(encoding="utf-8"), table) for path, table in tables().items()}


def tables() -> dict[Path, str]:
    """Return the generated table of each file."""
    rows = ["| `--method` | summary | paper |", "|---|---|---|"]
    for name, method in METHODS.items():
        aliases = "".join(f" (`{alias}`)" for alias, target in ALIASES.items() if target == name)
        rows.append(row(f"[`{name}`](docs/methods/{name}.md){aliases}", method.summary, method.papers))
    for name, (summary, papers) in VARIANT_PAPERS.items():
        rows.append(row(f"[`{name}`](docs/methods/{VARIANTS[name][0]}.md)", summary, papers))
    index = ["| method | |", "|---|---|"]
    index += [f"| [{name}](methods/{name}.md) | {method.summary} |" for name, method in METHODS.items()]
    return {README: "\n".join(rows), INDEX: "\n".join(index), PLAN: plan_table()}


def plan_table() -> str:
    """Return the settings of every tier of the plan, and those of Dual Teacher by length."""
    where: dict[str, list[str]] = {}
    for tier in TIERS:
        least = f" of {tier.gpu_gb:g} GB" if tier.gpu_gb else ""
        name = f"{tier.name}{least}{' and hub' if tier.hub else ''}"
        views = Setting({"crop_size": tier.crop_size, "batch_size": tier.batch_size}, tier.reason, tier.measured)
        for setting in (views, *tier.settings):
            where.setdefault(plan_row(setting), []).append(name)
    for name, steps in ((f"under {LONG_STEPS} steps", 1), (f"from {LONG_STEPS} steps", LONG_STEPS)):
        for setting in length_settings("dual-teacher", steps):
            where.setdefault(plan_row(setting), []).append(name)
    rows = [f"| {', '.join(names)} {row}" for row, names in where.items()]
    return "\n".join(["| where | settings | reason | from |", "|---|---|---|---|", *rows])


def plan_row(setting: Setting) -> str:
    """Return one row of the table of settings, without its first cell."""
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in setting.values.items())
    return f"| `{options}` | {setting.reason} | {setting.measured} |"


def row(name: str, summary: str, papers: dict[str, str]) -> str:
    """Return one row of the README's table."""
    return f"| {name} | {summary} | {', '.join(f'[{label}]({url})' for label, url in papers.items())} |"


def replace(text: str, table: str) -> str:
    """Replace everything between the markers ``<!-- NAME -->`` and ``<!-- /NAME -->`` by the table."""
    markers = r"(<!-- (\w+) -->\n).*(<!-- /\2 -->)"
    return re.sub(markers, lambda match: f"{match[1]}{table}\n{match[3]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
