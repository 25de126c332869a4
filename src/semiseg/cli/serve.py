"""``semiseg serve``: a web page and a JSON endpoint on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Serve:
    """Serve a web page that segments images, and the same as JSON by POST /predict (extra: serve)."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, checkpoint files or exports, shown side by side."""
    host: str = "127.0.0.1"
    """Address to listen on; addresses other than loopback require a token, which is generated and printed."""
    port: int = 7860
    """Port; 0: any free port."""
    public: bool = False
    """Listen on all addresses of this machine (--host 0.0.0.0)."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the runs."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    label_studio: bool = False
    """Be a machine learning backend of Label Studio instead: GET /health, POST /setup, POST /predict."""
    label_studio_root: str | None = None
    """Directory of Label Studio's local files (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT) or uploads."""
    label_studio_url: str | None = None
    """Address of Label Studio, from which images may be loaded, with the token in LABEL_STUDIO_API_KEY."""
    data: str | None = None
    """Data set of the first run if it has moved, for sample images."""


def serve(argv: Argv) -> None:
    """Serve a web page that segments images with trained models."""
    from semiseg.errors import UserError

    args: Serve = parse(Serve, argv, "semiseg serve")
    if not args.runs:
        raise UserError("semiseg serve needs at least one run", fix="pass directories made by semiseg train")
    from semiseg.workflows.serve import serve as run

    run(**vars(args))
