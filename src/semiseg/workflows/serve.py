"""Serve trained networks as a web page and a JSON endpoint."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from semiseg.errors import UserError
from semiseg.option_ranges import Range, range_error
from semiseg.tools.models.trained_model import load
from semiseg.tools.serving.served_models import Networks

if TYPE_CHECKING:
    from semiseg.tools.serving.guard import Guard

ALL_ADDRESSES = "0.0.0.0"
LOOPBACK = "127.0.0.1"
PORTS = Range(0, 2**16 - 1)


def serve(
    runs: Sequence[str | Path],
    host: str = LOOPBACK,
    port: int = 7860,
    public: bool = False,
    checkpoint: str = "best",
    accelerator: str = "auto",
    *,
    label_studio: bool = False,
    label_studio_root: str | Path | None = None,
    label_studio_url: str | None = None,
    data: str | Path | None = None,
) -> None:
    """Serve the networks of one or several runs until interrupted; print the address.

    Args:
        runs: Run directories, checkpoint files, or exports as safetensors.
        host: The address to listen on; any other than loopback requires a token, which is generated and printed.
        port: 0 for any free port.
        public: Listen on all addresses of this machine.
        checkpoint: ``best`` or ``last``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        label_studio: Serve the default network of one run as a machine learning backend of Label Studio instead.
        label_studio_root: The directory of Label Studio's local files.
        label_studio_url: The address of Label Studio, from which images may be loaded.
        data: The data of the first run, if they are elsewhere now, for sample images.

    Raises:
        UserError: A run does not exist, the extra is not installed, or the address is not available.
    """
    require_fastapi()
    import uvicorn

    from semiseg.tools.serving.app import make_app
    from semiseg.tools.serving.guard import is_loopback

    if public and host != LOOPBACK:
        raise UserError("cannot be combined with --host", option="public", fix="pass one of them")
    if port not in PORTS:
        raise range_error("port", port, PORTS)
    host = ALL_ADDRESSES if public else host
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    app = (
        make_app(
            Networks([str(run) for run in runs], checkpoint, accelerator, None if data is None else str(data)), token
        )
        if not label_studio
        else (label_studio_app(runs, checkpoint, accelerator, token, label_studio_root, label_studio_url))
    )
    with listen(host, port) as listener:
        name = socket.gethostname() if host in (ALL_ADDRESSES, "::") else host
        shown = f"[{name}]" if ":" in name else name
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        print(f"{address}{f'?token={token}' if token else ''}   (press Ctrl+C to stop)", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])
        raise KeyboardInterrupt  # uvicorn swallows the signal


def label_studio_app(
    runs: Sequence[str | Path],
    checkpoint: str,
    accelerator: str,
    token: str | None,
    root: str | Path | None,
    url: str | None,
) -> Guard:
    """Return the application of the backend of Label Studio, see `serve`."""
    from semiseg.tools.serving.label_studio_app import LabelStudioBackend, make_label_studio_app
    from semiseg.tools.serving.label_studio_images import ImageSource

    if len(runs) != 1:
        raise UserError("serves exactly one run", option="label-studio", fix="pass one run")
    images = ImageSource(None if root is None else Path(root), url, os.environ.get("LABEL_STUDIO_API_KEY", ""))
    return make_label_studio_app(LabelStudioBackend(load(runs[0], None, checkpoint, accelerator), images), token)


def require_fastapi() -> None:
    """Raise UserError if the extra is not installed."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise UserError("semiseg serve needs an extra", fix="run pip install 'semiseg[serve]'")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; raise UserError if the address is not available."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {host}:{port} ({reason})", fix="pass another --port or --host") from None
