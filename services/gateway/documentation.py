"""The documentation pages: the OpenAPI document and Swagger UI, whose files are shipped here so that nothing is fetched from elsewhere."""

import asyncio
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.gateway.exchange import etag_of

_FOLDER = Path(__file__).parent / "swagger_ui"
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES: Mapping[str, tuple[str, bytes]] = {
    "/docs": ("index.html", b"text/html; charset=utf-8"),
    "/docs/": ("index.html", b"text/html; charset=utf-8"),
    "/docs/start.js": ("start.js", b"text/javascript; charset=utf-8"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", b"text/javascript; charset=utf-8"),
    "/docs/swagger-ui.css": ("swagger-ui.css", b"text/css; charset=utf-8"),
    "/docs/favicon.png": ("favicon.png", b"image/png"),
}
OPENAPI_PATH = "/openapi.json"


@dataclass(frozen=True, slots=True)
class Page:
    """A page in both its encodings, with its entity tag and its content security policy."""

    content_type: bytes
    body: bytes
    compressed: bytes
    etag: bytes
    policy: bytes


class Pages:
    """The pages, each read and compressed when it is asked for the first time."""

    def __init__(self, openapi: bytes) -> None:
        self._openapi = openapi
        self._made: dict[str, Page] = {}

    async def find(self, path: str) -> Page | None:
        """The page at a path; None when there is none."""
        made = self._made.get(path)
        if made is None and (path in _FILES or path == OPENAPI_PATH):
            # Compressing the largest takes long enough to hold everybody else up.
            made = self._made[path] = await asyncio.to_thread(self._make, path)
        return made

    def _make(self, path: str) -> Page:
        if path == OPENAPI_PATH:
            return _page(b"application/json", self._openapi)
        name, content_type = _FILES[path]
        return _page(content_type, (_FOLDER / name).read_bytes())


def _page(content_type: bytes, body: bytes) -> Page:
    return Page(content_type, body, gzip.compress(body, mtime=0), etag_of(body), _POLICY)
