"""The page at ``/`` for people with a browser: files of the package, and what they may do there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.refusal import Refused, quoted

_FOLDER: Final = Path(__file__).parent / "page"

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",  # a licence
}

#: Nothing from elsewhere, nothing written into the page, nothing around it: what a worker calls
#: itself, or a model says, stays text even if the page should once fail to treat it so.
_POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: dict[str, str]


class Page:
    """Answers ``/`` and ``/page/…``."""

    def routes(self) -> list[Route]:
        """The paths."""
        return [
            Route("/", self.file, methods=["GET"]),
            Route("/page/{path:path}", self.file, methods=["GET"]),
        ]

    async def file(self, request: Request) -> Response:
        """One file; 304 to who has it already, 404 for any that is not the page's."""
        path = request.path_params.get("path", "index.html")
        found = _files().get(path)
        if found is None:
            raise Refused(404, f"the page has no file {quoted(path)}")
        if found.headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=found.headers)
        return Response(found.content, headers=found.headers)


@cache
def _files() -> dict[str, _File]:
    """By path below ``/page``; read once a process, so that no request reaches for the disk."""
    return {
        path.relative_to(_FOLDER).as_posix(): _file(path)
        for path in _FOLDER.rglob("*")
        if path.is_file()
    }


def _file(path: Path) -> _File:
    content = path.read_bytes()
    headers = {
        "content-type": _TYPES[path.suffix],
        # Asked for again each time, sent again only after an update of the package.
        "cache-control": "no-cache",
        "etag": f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"',
        "content-security-policy": _POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return _File(content, headers)
