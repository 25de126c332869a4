"""Access control in front of the application: host, token, origin and size of requests, and security headers."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from semiseg.tools.serving.uploads import MAX_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

COOKIE = "semiseg_token"


class Guard:
    """ASGI middleware that rejects unauthorized and oversized requests before their bodies are read.

    Args:
        app: The application.
        token: Required from every client, as ``Authorization: Bearer``, as the password of basic authentication, as a
            cookie, or once as ``/?token=``, which sets the cookie. None: no token, but the ``Host`` header must name a
            loopback address, so that other web sites cannot reach the page under a name of their own (DNS rebinding).
        page: The HTML page; its inline script and style are the only ones that browsers may run. Empty: no page.
    """

    def __init__(self, app: App, token: str | None, page: str) -> None:
        self.app, self.token = app, token
        self.headers = {
            "content-security-policy": content_security_policy(page),
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Reject the request or pass it to the application; add the security headers to every answer."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(key.encode(), value.encode()) for key, value in self.headers.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        response = self.respond(Request(scope))
        await (response or self.app)(scope, receive, send_with_headers)

    def respond(self, request: Request) -> Response | None:
        """Return the answer to a request that must not reach the application, else None."""
        given = request.query_params.get("token", "")
        if self.token and request.url.path == "/" and self._is_token(given):
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, self.token, httponly=True, samesite="lax")
            return response
        if refusal := self._refusal(request):
            return JSONResponse({"error": refusal[1]}, refusal[0])
        return None

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Return status and reason if the request is rejected."""
        headers = request.headers
        if self.token is None and not is_loopback(host_name(headers.get("host", ""))):
            return 403, "this page is for the machine it runs on: open it as 127.0.0.1"
        if self.token is not None and not self._has_token(request):
            return 401, "a token is needed: open the address that semiseg serve printed, or send it as a bearer token"
        if request.method in ("GET", "HEAD"):
            return None
        if headers.get("sec-fetch-site", "same-origin") == "cross-site":
            return 403, "pages of other sites may not send images here"
        length = headers.get("content-length", "")
        if not length.isdigit() or "transfer-encoding" in headers:  # the size of a chunked body is unknown
            return 411, "the length of the body is missing (Content-Length)"
        if int(length) > MAX_BYTES:
            return 413, f"the file has more than {MAX_BYTES // 2**20} MB: send a smaller one"
        return None

    def _has_token(self, request: Request) -> bool:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        basic = basic_password(request.headers.get("authorization", ""))
        return any(map(self._is_token, (bearer, basic, request.cookies.get(COOKIE, ""))))

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def content_security_policy(page: str) -> str:
    """Return a policy that allows only the inline script and style of the page, its images, and this server."""
    if not page:
        return "default-src 'none'; frame-ancestors 'none'"
    allowed = {}
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        allowed[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{allowed['script']}'; style-src 'sha256-{allowed['style']}'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def basic_password(header: str) -> str:
    """Return the password of an ``Authorization: Basic`` header, or an empty string."""
    try:
        content = base64.b64decode(header.removeprefix("Basic "), validate=True) if header.startswith("Basic ") else b""
        return content.decode().partition(":")[2]
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(header: str) -> str:
    """Return the host in a ``Host`` header, without port and brackets."""
    return re.sub(r":\d*$", "", header).strip("[]")
