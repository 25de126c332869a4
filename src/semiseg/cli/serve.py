"""``semiseg serve``: a page on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Serve:
    """Serve a page that segments images, and the same as JSON by POST /predict (extra: serve)."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, checkpoint files or exports: side by side."""
    host: str = "127.0.0.1"
    """Address to listen on; for any but this machine's own a token is made and printed."""
    port: int = 7860
    """Port; 0: any that is free."""
    public: bool = False
    """Listen on every address of this machine (--host 0.0.0.0)."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the runs."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""


def serve(argv: Argv) -> None:
    """Open a page that segments images with trained models."""
    from semiseg.errors import UserError

    a: Serve = parse(Serve, argv, "semiseg serve")
    if not a.runs:
        raise UserError("semiseg serve needs a run: give one or more directories made by semiseg train")
    from semiseg.tools import serving

    serving.serve(a.runs, a.host, a.port, a.public, a.checkpoint, a.accelerator)
