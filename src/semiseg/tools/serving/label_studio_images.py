"""Read the images of Label Studio's tasks, from the allowed directory, the allowed host or the task itself."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import parse_qs, unquote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from semiseg.errors import UserError, require_regular_file

MAX_BYTES = 200 * 2**20
TIMEOUT = 30.0  # seconds
LOCAL_FILES = "/data/local-files/"
DATA = "/data/"  # uploads: /data/upload/PROJECT/NAME


class ImageSource:
    """Finds the images that tasks name.

    Args:
        root: The directory of local files (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), or None.
        url: The address of Label Studio, from which images are loaded, or None. No other host is ever contacted.
        token: The legacy access token of a Label Studio user, or empty.
    """

    def __init__(self, root: Path | None = None, url: str | None = None, token: str = "") -> None:
        self.root = root.resolve() if root is not None else None
        self.url, self.token = url, token
        if root is not None and not root.is_dir():
            raise UserError("is not a directory", path=root, option="label-studio-root", fix="check the path")
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
            raise UserError(f"must be like http://localhost:8080, got {url!r}", option="label-studio-url")

    def open(self, reference: str) -> Path | IO[bytes]:
        """Return the file or the bytes of an image.

        Args:
            reference: A data URI, ``/data/local-files/?d=PATH``, a path below ``root``, or a URL or path of ``url``.

        Raises:
            UserError: The image is elsewhere, does not exist or cannot be loaded.
        """
        if reference.startswith("data:"):
            return _decode(reference)
        parts = urlsplit(reference)
        if parts.scheme or parts.netloc:
            if not self._is_ours(reference):
                where = f"{parts.scheme}://{parts.netloc}"
                raise UserError(f"is on {where}", path=_short(reference), fix="pass --label-studio-url if you trust it")
            if (path := self._local(parts.path, parts.query)) is not None:
                return path
            return self._load(reference)
        if (path := self._local(parts.path, parts.query)) is not None:
            return path
        if self.url is not None and reference.startswith("/"):
            return self._load(urljoin(self.url, reference))
        fix = "pass --label-studio-root or --label-studio-url"
        raise UserError("is not below --label-studio-root", path=_short(reference), fix=fix)

    def _local(self, path: str, query: str) -> Path | None:
        """Return the file below ``root`` that a path of Label Studio stands for, or None if there is none."""
        if self.root is None:
            return None
        if path.startswith(LOCAL_FILES):
            relative = parse_qs(query).get("d", [""])[0]
        else:
            relative = unquote(path.removeprefix(DATA))
        try:
            file = (self.root / relative.lstrip("/\\")).resolve()
            return require_regular_file(file) if file.is_relative_to(self.root) and file.is_file() else None
        except (OSError, ValueError):
            return None

    def _is_ours(self, url: str) -> bool:
        return self.url is not None and _origin(url) == _origin(self.url)

    def _load(self, url: str) -> IO[bytes]:
        request = Request(url, headers={"Authorization": f"Token {self.token}"} if self.token else {})
        try:
            with build_opener(_SameOrigin(self._is_ours)).open(request, timeout=TIMEOUT) as response:
                data = response.read(MAX_BYTES + 1)
        except (URLError, OSError, ValueError) as error:
            reason = str(getattr(error, "reason", error))[:100]
            raise UserError(f"cannot be loaded ({reason})", path=_short(url), fix="check the address") from None
        if len(data) > MAX_BYTES:
            raise UserError(f"has more than {MAX_BYTES // 2**20} MB", path=_short(url), fix="use a smaller image")
        return io.BytesIO(data)


class _SameOrigin(HTTPRedirectHandler):
    """Follows redirects to allowed addresses only."""

    def __init__(self, allowed: Any) -> None:
        self.allowed = allowed

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """Return the request after a redirect."""
        if not self.allowed(newurl):
            raise URLError(f"redirected to {urlsplit(newurl).netloc}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _decode(reference: str) -> IO[bytes]:
    header, _, content = reference.partition(",")
    try:
        if not header.endswith(";base64"):
            raise ValueError
        return io.BytesIO(base64.b64decode(content, validate=True))
    except (ValueError, binascii.Error):
        raise UserError("the data URI is not base64", path=_short(reference)) from None


def _short(reference: str) -> str:
    return reference if len(reference) <= 100 else f"{reference[:97]}..."
