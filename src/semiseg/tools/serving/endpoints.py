"""``POST /predict`` for programs, ``POST /show`` for the page: an image's bytes in, JSON or HTML out, nothing kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from semiseg.errors import UserError
from semiseg.tools.serving.render_answer import as_html, as_json
from semiseg.tools.serving.served_models import Networks
from semiseg.tools.serving.uploads import Refused, read_upload

AT_ONCE = 4  # images in memory; whoever else asks waits, and what they send stays with them
PATIENCE = 60.0  # seconds in which an image has to arrive, so that who sends nothing is not waited for
Question = Callable[[bytes, Any], Any]
"""Makes an answer of a body and the query's parameters (Starlette's ``QueryParams``)."""


def add_endpoints(app: Any, networks: Networks) -> None:
    """Let a FastAPI application answer to both.

    What is wrong comes back as ``{"error": ...}`` with status 408 (too slow), 413 (too large), 415 (no image that is
    taken) or 422 (no such network or sample).
    """
    from fastapi.responses import HTMLResponse, JSONResponse

    def predict(data: bytes, query: Any) -> Any:
        image = read_upload(data, networks.pixels)
        return JSONResponse(as_json(networks.segment(image, query.getlist("network"))))

    def show(data: bytes, query: Any) -> Any:
        name, sample = query.get("name", ""), query.get("sample", "")
        return HTMLResponse(shown(networks, data, name, sample, query.getlist("network")))

    slots = asyncio.Semaphore(AT_ONCE)
    for path, question in (("/predict", predict), ("/show", show)):
        app.post(path)(make_endpoint(question, slots))


def make_endpoint(question: Question, slots: asyncio.Semaphore) -> Callable[..., Any]:
    """Return what FastAPI calls: it reads the body and answers, or says why not, while it has one of the slots."""
    from fastapi import Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import JSONResponse
    from starlette.requests import ClientDisconnect

    async def endpoint(request: Any) -> Any:
        try:
            async with slots:
                async with asyncio.timeout(PATIENCE):
                    data = await request.body()
                return await run_in_threadpool(question, data, request.query_params)
        except Refused as refusal:
            status, why = refusal.status, str(refusal)
        except TimeoutError:
            status, why = 408, f"the image has not arrived within {PATIENCE:.0f} seconds: send it again"
        except ClientDisconnect:
            status, why = 400, "gone"  # nobody is there to read it
        except UserError as error:  # of lookup: it names labels only
            status, why = 422, str(error)
        return JSONResponse({"error": why}, status)

    endpoint.__annotations__["request"] = Request  # FastAPI reads it; the import is local, so the text would not do
    return endpoint


def shown(networks: Networks, data: bytes, name: str, sample: str, labels: list[str]) -> str:
    """Return the HTML for a sample, or where none is named for an image file called ``name``.

    Raises:
        Refused: the file is not taken, or the sample or a network is not there.
    """
    try:
        image = networks.read_sample(sample) if sample else read_upload(data, networks.pixels)
        return as_html(image, networks.segment(image, labels), PurePath(sample or name).stem or "image")
    except UserError:  # its words may name a file of the server: they are for the terminal
        raise Refused(422, "this image or network is no longer there") from None
