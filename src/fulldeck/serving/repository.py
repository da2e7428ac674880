"""The protocol's repository extension: what is served, load it anew, unload it; for the administrator only.

Reference: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

from typing import Any

from fulldeck.errors import BadInput, RunFailed
from fulldeck.serving.app import App
from fulldeck.serving.http import Refusal, Request, Response
from fulldeck.serving.protocol import parse_json, refuse, to_json
from fulldeck.serving.served import Served


def add_repository(app: App, served: Served) -> None:
    """Give `app` the routes that list, load and unload its model."""
    repository = Repository(served)
    app.add("/v2/repository/index", "POST", repository.index, "repository", admin=True)
    for verb, handler in (("load", repository.load), ("unload", repository.unload)):
        app.add(f"/v2/repository/models/{served.name}/{verb}", "POST", handler, "repository", admin=True)


class Repository:
    """The repository of one model: the folder of its package."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def index(self, request: Request) -> Response:
        """What there is, and how it is; with `{"ready": true}` only if it is ready."""
        if _content(request).get("ready") is True and self._served.state != "READY":
            return Response(200, b"[]")
        entry = {"name": self._served.name, "version": "1", "state": self._served.state}
        if self._served.reason:
            entry["reason"] = self._served.reason
        return Response(200, b"[" + to_json(entry) + b"]")

    async def load(self, request: Request) -> Response:
        """Serve the package that is in the folder now; what was served before answers what it was asked."""
        if _content(request).get("parameters"):
            refuse("load takes no parameters: the package in the folder that is served is loaded")
        try:
            await self._served.load()
        except (BadInput, RunFailed, ConnectionError) as error:
            raise Refusal(400, f"{self._served.name} was not loaded: {error}") from None
        return Response(200, b"{}")

    async def unload(self, request: Request) -> Response:
        """Answer what has come, then serve nothing until it is loaded again."""
        _content(request)
        await self._served.unload()
        return Response(200, b"{}")


def _content(request: Request) -> dict[str, Any]:
    return parse_json(request.body) if request.body.strip() else {}
