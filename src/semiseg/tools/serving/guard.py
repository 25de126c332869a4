"""What stands before the page: who may ask, how much may be sent, and what is never answered."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

from semiseg.tools.serving.uploads import MAX_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

COOKIE = "semiseg_token"
ASKED = ("/predict", "/show")  # all that anything may be sent to: what goes to Gradio's own routes is kept there
# Routes of Gradio's that give files by their place on the server, or hold sessions. The page has no need of them.
FILES = ("upload", "file", "proxy", "stream", "component_server", "deep_link")
SESSIONS = ("queue", "call", "run", "api", "heartbeat")
CLOSED = tuple(f"/gradio_api/{name}" for name in FILES + SESSIONS)
HEADERS = {
    # Nothing is loaded from or sent to anywhere else, whatever a library would like to.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "no-referrer",
}


class Guard:
    """An ASGI application before another.

    Args:
        app: the other.
        token: what everybody has to show, as ``Authorization: Bearer``, as cookie, or once as ``/?token=``, which sets
            the cookie. None: there is none, and only names of this machine are answered to, so that no page of a
            stranger's reaches this one under a name of its own (DNS rebinding).
    """

    def __init__(self, app: App, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or let the other answer."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if self.token and scope["path"] == "/" and self._is_token(query_token(scope)):
            cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            return await answer(send, 303, "welcome", {"location": "/", "set-cookie": cookie})
        if refusal := self._refusal(scope, headers):
            return await answer(send, *refusal)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self.app(scope, receive, send_guarded)

    def _refusal(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and reason where a request is not let through."""
        if self.token is None and not is_loopback(named(headers.get("host", ""))):
            return 403, "this page is for the machine that it runs on: open it as 127.0.0.1"
        if self.token is not None and not self._shows_token(headers):
            return 401, "a token is needed: open the address that semiseg serve printed, or send it as a bearer token"
        if headers.get("sec-fetch-site", "same-origin") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return 403, "another site's page may not send images here"
        sends = scope["method"] not in ("GET", "HEAD")
        if scope["path"].startswith(CLOSED) or (sends and scope["path"] not in ASKED):
            return 404, "not here"
        if sends:
            length = headers.get("content-length", "")
            if not length.isdigit() or "transfer-encoding" in headers:  # chunks would be counted by nobody
                return 411, "say how long the body is (Content-Length)"
            if int(length) > MAX_BYTES:
                return 413, f"the file has more than {MAX_BYTES // 2**20} MB: send a smaller one"
        return None

    def _shows_token(self, headers: dict[str, str]) -> bool:
        # Cookies of other programs on this host come along, in any shape: each is looked at by itself.
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        shown = [value for name, _, value in cookies if name == COOKIE]
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return self._is_token(bearer) or any(map(self._is_token, shown))

    def _is_token(self, shown: str) -> bool:
        return secrets.compare_digest(shown.encode(), (self.token or "").encode())


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def named(header: str) -> str:
    """Return the host that a ``Host`` header names, without port and brackets."""
    return re.sub(r":\d*$", "", header).strip("[]")


def query_token(scope: Message) -> str:
    """Return the token in a request's address, empty where there is none."""
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]


async def answer(send: Send, status: int, why: str, headers: dict[str, str] | None = None) -> None:
    """Send ``{"error": why}``."""
    body = json.dumps({"error": why}).encode()
    every = {"content-type": "application/json", "content-length": str(len(body))} | HEADERS | (headers or {})
    start = [(key.encode(), value.encode()) for key, value in every.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
