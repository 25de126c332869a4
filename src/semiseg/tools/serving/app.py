"""The FastAPI application: the page at ``/``, what it needs to know, sample images, and ``POST /predict``."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from semiseg.errors import UserError
from semiseg.tools.serving.guard import Guard
from semiseg.tools.serving.served_models import Answer, Networks
from semiseg.tools.serving.uploads import MAX_BYTES, Refused, read_upload
from semiseg.visualization.mask_pictures import indexed_picture, to_picture

MAX_CONCURRENT = 4  # images in memory; the bodies of further requests stay in their sockets
UPLOAD_TIMEOUT = 60.0  # seconds in which an image has to arrive
PREVIEW_SIDE = 1024  # of the confidence shown on the page; masks have the size of the image
PAGE = Path(__file__).with_name("page.html")


def make_app(networks: Networks, token: str | None = None) -> Guard:
    """Return the ASGI application.

    ``POST /predict`` answers ``{"error": ...}`` with status 408 (too slow), 413 (too large), 415 (not a supported
    image) or 422 (unknown network).

    Args:
        networks: The networks to serve.
        token: See `Guard`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    slots = asyncio.Semaphore(MAX_CONCURRENT)
    page = PAGE.read_text(encoding="utf-8")

    @app.get("/")
    def show_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/networks")
    def list_networks() -> dict[str, Any]:
        names, defaults = list(networks.predictors), networks.defaults
        return {"networks": names, "defaults": defaults, "samples": networks.samples, "max_bytes": MAX_BYTES}

    @app.get("/samples/{name:path}")
    def read_sample(name: str) -> Response:
        try:
            image = to_picture(networks.read_sample(name))
        except UserError:  # the message may name a file of this machine
            return JSONResponse({"error": "this sample no longer exists"}, 422)
        return Response(encode(image, "PNG"), media_type="image/png")

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        try:
            async with slots:
                async with asyncio.timeout(UPLOAD_TIMEOUT):
                    data = await request.body()
                query = request.query_params
                answer = await run_in_threadpool(segment, networks, data, query.getlist("network"), "details" in query)
                return JSONResponse(answer)
        except Refused as refusal:
            status, reason = refusal.status, str(refusal)
        except TimeoutError:
            status, reason = 408, f"the image did not arrive within {UPLOAD_TIMEOUT:.0f} seconds: send it again"
        except ClientDisconnect:
            status, reason = 400, "disconnected"
        except UserError as error:  # from lookup: names only networks
            status, reason = 422, str(error)
        return JSONResponse({"error": reason}, status)

    return Guard(app, token, page)


def segment(networks: Networks, data: bytes, labels: Sequence[str], details: bool = False) -> dict[str, Any]:
    """Segment an uploaded image and return the JSON answer.

    Args:
        networks: The networks.
        data: The image file.
        labels: The networks to use; the default ones if empty.
        details: Add what the page shows.

    Returns:
        ``width``, ``height`` and ``networks``; for each network ``mask`` (indexed PNG, base64), ``shares`` of the
        pixels in [0, 1] by class, and ``mean_confidence``. With ``details`` also ``confidence`` (gray PNG, base64, at
        most ``PREVIEW_SIDE`` pixels) and ``colors`` by class.
    """
    answers = networks.segment(lambda format: read_upload(data, networks.peak_pixels, format), labels)
    height, width = answers[0].mask.shape
    return {
        "width": width,
        "height": height,
        "networks": {answer.label: to_json(answer, details) for answer in answers},
    }


def to_json(answer: Answer, details: bool) -> dict[str, Any]:
    """Return the answer of one network; see `segment`."""
    content: dict[str, Any] = {
        "mask": to_base64(indexed_picture(answer.mask, answer.palette)),
        "shares": answer.shares(),
        "mean_confidence": float(answer.confidence.mean()),
    }
    if details:
        gray = PIL.Image.fromarray((answer.confidence.numpy() * 255).round().astype(np.uint8))
        gray.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        content["confidence"] = to_base64(gray)
        content["colors"] = dict(zip(answer.classes, answer.palette, strict=True))
    return content


def to_base64(picture: PIL.Image.Image) -> str:
    """Return the picture as PNG in base64."""
    return base64.b64encode(encode(picture, "PNG")).decode()


def encode(picture: PIL.Image.Image, format: str) -> bytes:
    """Return the picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=format)
    return buffer.getvalue()
