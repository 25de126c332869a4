"""What the benchmarks of large pools share: a million files from a few, and measuring in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LINKS = 30_000  # of one file: file systems allow some 65,000


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--json``, and with what ``measured`` calls a script by."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser


def measured(script: str, data: Path) -> dict[str, Any]:
    """Return the JSON that ``script --measure DATA`` prints."""
    command = [sys.executable, script, "--measure", data]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def write_linked(paths: Iterable[Path], content: bytes) -> None:
    """Write one content to many files, as hard links to a few."""
    source = Path()
    for number, path in enumerate(paths):
        if number % LINKS:
            os.link(source, path)
        else:
            source = path
            path.write_bytes(content)
