"""``semiseg demo``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Demo:
    """Train supervised and Dual Teacher on generated images, and compare: no data, no network, about five minutes."""

    out: str = "demo-out"
    """Directory to make."""
    seed: int = 0
    """Seed of everything."""
    json: bool = False
    """End with one line of JSON."""
    short: bool = False
    """Under a minute: shows that everything runs, and claims nothing."""


def demo(argv: Argv) -> None:
    """See it work on generated images, in about five minutes on two cores (with AVX-512; ten without)."""
    from semiseg.workflows.demo import run_demo

    a: Demo = parse(Demo, argv, "semiseg demo")
    result = run_demo(Path(a.out), seed=a.seed, short=a.short)
    if a.json:
        print(json.dumps(result))
        return
    label = "mIoU in percent on generated test images"
    print(f"\n{label}{' (--short: too few steps to mean anything)' if a.short else ''}")
    for name in ("supervised", "dual-teacher", "gain", "all-labels"):
        print(f"  {name:<14}{result[name]:6.1f}")
    print(f"report: {result['report']}")
