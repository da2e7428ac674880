"""What a server says of itself: GET /openapi.json for programs, and a page at / to try the model in a browser."""

from __future__ import annotations

import asyncio
from functools import cache

from fulldeck.encoders.table import TableEncoder
from fulldeck.serving.app import App
from fulldeck.serving.http import Request, Response
from fulldeck.serving.openapi import document
from fulldeck.serving.protocol import to_json
from fulldeck.serving.served import Served


def show(app: App, served: Served, *, token: bool) -> None:
    """Give `app` these routes. The page itself tells nothing of the model but its name."""
    shown = Showing(served, token=token)
    app.add("/", "GET", shown.page, "page")
    app.add("/try", "GET", shown.form, "page")
    app.add("/openapi.json", "GET", shown.openapi, "openapi")


class Showing:
    """The answers."""

    def __init__(self, served: Served, *, token: bool) -> None:
        self._served = served
        self._token = token

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document of the version that is served."""
        package = self._served.version.package
        return Response(200, to_json(document(package.service, package.encoder(), token=self._token)))

    async def form(self, request: Request) -> Response:
        """What the page asks for: the kind of item, and an example of one."""
        encoder = self._served.version.package.encoder()
        example = encoder.example() if isinstance(encoder, TableEncoder) else None
        return Response(200, to_json({"kind": encoder.kind, "example": example}))

    async def page(self, request: Request) -> Response:
        """The page; drawn when it is first asked for."""
        return Response(200, await asyncio.to_thread(_page, self._served.name), "text/html; charset=utf-8")


@cache
def _page(name: str) -> bytes:
    from fulldeck.report.page import render

    return render("try.html", name=name).encode()
