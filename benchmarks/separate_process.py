"""Helpers of the benchmarks of large pools: hard links instead of files, and measuring in a separate process."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LINKS = 30_000  # per file; file systems allow about 65,000


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--json``, and the hidden option by which ``measured`` calls a script."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser


def measured(script: str, data: Path) -> dict[str, Any]:
    """Return the JSON that ``script --measure DATA`` prints."""
    command = [sys.executable, script, "--measure", data]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def write_linked(paths: Iterable[Path], content: bytes) -> None:
    """Write the same content to many files, as hard links to a few."""
    source = Path()
    for number, path in enumerate(paths):
        if number % LINKS:
            os.link(source, path)
        else:
            source = path
            path.write_bytes(content)
