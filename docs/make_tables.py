"""Write the method tables in README.md and docs/README.md: python docs/make_tables.py."""

from __future__ import annotations

import re
from pathlib import Path

from semiseg.methods import ALIASES, METHODS, VARIANT_PAPERS, VARIANTS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"


def main() -> None:
    """Update both files."""
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
    return {README: "\n".join(rows), INDEX: "\n".join(index)}


def row(name: str, summary: str, papers: dict[str, str]) -> str:
    """Return one row of the README's table."""
    return f"| {name} | {summary} | {', '.join(f'[{label}]({url})' for label, url in papers.items())} |"


def replace(text: str, table: str) -> str:
    """Replace everything between the markers by the table."""
    begin, end = "<!-- methods -->", "<!-- /methods -->"
    return re.sub(f"{begin}.*{end}", lambda match: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
