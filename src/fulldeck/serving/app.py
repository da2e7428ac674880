"""The routes: the Open Inference Protocol, /predict, and who may use them."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, NamedTuple

import fulldeck
from fulldeck.errors import BadInput
from fulldeck.logs import tree
from fulldeck.serving.http import Refusal, Request, Response
from fulldeck.serving.metrics import REFUSED, ServerMetrics
from fulldeck.serving.predict import Prediction
from fulldeck.serving.protocol import HEADER_LENGTH, InferenceCodec, to_json
from fulldeck.serving.queue import JobQueue
from fulldeck.serving.supervisor import Supervisor

Handler = Callable[[Request], Awaitable[Response]]
OPEN = {"/v2/health/live", "/v2/health/ready", "/ui"}
"""Paths that need no token: probes and a browser's first visit have none, and the answers tell nothing."""

log = tree.getChild("serving")


class Route(NamedTuple):
    """What answers a path; `label` is the route's name in the metrics."""

    method: str
    handler: Handler
    label: str


class App:
    """Answers requests for one packaged model. With `token`, all but the health of the server needs it."""

    def __init__(
        self,
        codec: InferenceCodec,
        prediction: Prediction,
        queue: JobQueue,
        supervisor: Supervisor,
        metrics: ServerMetrics,
        *,
        platform: str,
        token: str | None = None,
    ) -> None:
        self._codec = codec
        self._queue = queue
        self._supervisor = supervisor
        self._metrics = metrics
        self._platform = platform
        self._authorization = f"Bearer {token}".encode() if token else None
        self._model = codec.service.model
        self._routes: dict[str, Route] = {
            "/v2": Route("GET", self._server, "server"),
            "/v2/health/live": Route("GET", self._live, "live"),
            "/v2/health/ready": Route("GET", self._ready, "ready"),
            "/predict": Route("POST", prediction.answer, "predict"),
        }
        for base in (f"/v2/models/{self._model}", f"/v2/models/{self._model}/versions/1"):
            self._routes[base] = Route("GET", self._metadata, "metadata")
            self._routes[f"{base}/ready"] = Route("GET", self._model_ready, "model_ready")
            self._routes[f"{base}/infer"] = Route("POST", self._infer, "infer")

    def add(self, path: str, method: str, handler: Handler, label: str) -> None:
        """One more route."""
        self._routes[path] = Route(method, handler, label)

    def admit(self, request: Request) -> None:
        """Refuse what needs no body to be refused: 401, 404, 405."""
        if self._authorization is not None and request.path not in OPEN:
            given = request.headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):
                raise Refusal(
                    401, "send the server's token: Authorization: Bearer ...", ("www-authenticate", "Bearer")
                )
        method = self._route(request.path).method
        if request.method != method and (request.method, method) != ("HEAD", "GET"):
            raise Refusal(405, f"use {method} for {request.path[:200]}", ("allow", method))

    def refused(self, status: int) -> None:
        """A request was answered before it was complete."""
        self._metrics.count(REFUSED, status)

    async def answer(self, request: Request) -> Response:
        """Answer within the request's deadline, in every case."""
        began = perf_counter()
        route = self._route(request.path)
        response = await self._answer(request, route.handler)
        self._metrics.answered(route.label, response.status, perf_counter() - began)
        return response

    async def _answer(self, request: Request, handler: Handler) -> Response:
        try:
            async with asyncio.timeout_at(request.deadline):
                return await handler(request)
        except Refusal as refusal:
            return refusal.response
        except TimeoutError:
            return Refusal(504, "the deadline passed before the model answered").response
        except BadInput as error:
            return Refusal(400, str(error)).response
        except (
            Exception
        ):  # the last line of defence: a fault of ours is logged and answered, not a dead socket
            log.exception("%s %s failed", request.method, request.path)
            return Refusal(500, "internal error; the server's log has the details").response

    def _route(self, path: str) -> Route:
        route = self._routes.get(path)
        if route is None:
            if path.startswith("/v2/models/") and path.split("/")[3] != self._model:
                raise Refusal(
                    404, f'unknown model "{path.split("/")[3][:100]}"; this server has "{self._model}"'
                )
            raise Refusal(404, f"there is no {path[:200]}; there is {', '.join(self._routes)}")
        return route

    async def _server(self, request: Request) -> Response:
        return _json(
            {"name": "fulldeck", "version": fulldeck.__version__, "extensions": ["binary_tensor_data"]}
        )

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = self._supervisor.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        ready = self._supervisor.ready
        return _json({"name": self._model, "ready": ready}, 200 if ready else 503)

    async def _metadata(self, request: Request) -> Response:
        return _json(self._codec.metadata(self._platform))

    async def _infer(self, request: Request) -> Response:
        wish = self._codec.decode(request.body, request.header(HEADER_LENGTH))
        if wish.timeout is None:
            outputs = await self._queue.run(wish.inputs)
        else:
            async with asyncio.timeout(wish.timeout):
                outputs = await self._queue.run(wish.inputs)
        return self._codec.encode(wish, outputs)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(status, to_json(content))
