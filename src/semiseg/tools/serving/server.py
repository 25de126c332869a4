"""Page and endpoints behind one guard, on one port."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

from semiseg.errors import UserError
from semiseg.tools.serving.endpoints import add_endpoints
from semiseg.tools.serving.guard import Guard, is_loopback
from semiseg.tools.serving.served_models import Networks
from semiseg.tools.serving.web_page import STYLE, make_page, require_gradio

EVERYWHERE = "0.0.0.0"


def make_app(networks: Networks, token: str | None = None) -> Guard:
    """Return the ASGI application: the page at ``/``, and what ``add_endpoints`` adds."""
    gr = require_gradio()
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # its pages of documentation load from the internet

    add_endpoints(app, networks)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # the defaults are fetched from Google
    mounted = gr.mount_gradio_app(
        app,
        make_page(networks),
        "/",
        ssr_mode=False,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        theme=gr.themes.Base(**fonts),
        css=STYLE,
    )
    return Guard(mounted, token)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; raises UserError where it is taken or not this machine's."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{host}:{port}: cannot be listened on ({reason}): choose another --port or --host") from None


def serve(
    runs: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 7860,
    public: bool = False,
    checkpoint: str = "best",
    accelerator: str = "auto",
) -> None:
    """Serve the networks of some runs until interrupted; print where.

    Args:
        runs: run directories, checkpoint files, exports as safetensors.
        host: the address to listen on; any but this machine's own needs a token, which is made up and printed.
        port: 0 for any that is free.
        public: listen on every address of this machine.
        checkpoint: ``best`` or ``last``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        UserError: no such run, an extra that is missing, an address that cannot be listened on.
    """
    require_gradio()
    import uvicorn

    if public and host != "127.0.0.1":
        raise UserError(f"--public listens on every address: leave --host {host} out, or --public")
    host = EVERYWHERE if public else host
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    networks = Networks(runs, checkpoint, accelerator)
    with listen(host, port) as bound:
        name = socket.gethostname() if host in (EVERYWHERE, "::") else host
        shown = f"[{name}]" if ":" in name else name
        address = f"http://{shown}:{bound.getsockname()[1]}/"
        print(f"{address}{f'?token={token}' if token else ''}   (interrupt to end)", flush=True)
        config = uvicorn.Config(make_app(networks, token), log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[bound])
        raise KeyboardInterrupt  # it ends by that alone, and says nothing where the signal was ignored before
