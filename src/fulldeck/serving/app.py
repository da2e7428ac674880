"""The routes: the Open Inference Protocol, /predict, and who may use them."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, NamedTuple

import fulldeck
from fulldeck.errors import BadInput
from fulldeck.logs import tree
from fulldeck.serving.http import Refusal, Request, Respond, Response
from fulldeck.serving.metrics import INFERENCE, ServerMetrics
from fulldeck.serving.protocol import HEADER_LENGTH, to_json
from fulldeck.serving.served import Served
from fulldeck.serving.wire import Tensors

Handler = Callable[[Request], Awaitable[Response]]
OPEN = {"/", "/v2/health/live", "/v2/health/ready", "/ui"}
"""Paths that need no token: probes and a browser's first visit have none, and the answers tell nothing."""

log = tree.getChild("serving")


class Route(NamedTuple):
    """What answers a path; `label` is the route's name in the metrics."""

    method: str
    handler: Handler | None
    """None: an inference, which is answered without a task of its own."""
    label: str
    admin: bool = False
    """Whether it needs the administrator's token; it then may take its time, since to load a model takes long."""


class App:
    """Answers requests for one model. With `token`, all but the health of the server needs it."""

    def __init__(
        self,
        served: Served,
        metrics: ServerMetrics,
        *,
        token: str | None = None,
        admin_token: str | None = None,
    ) -> None:
        self._served = served
        self._metrics = metrics
        self._admin = f"Bearer {admin_token}".encode() if admin_token else None
        self._authorization = f"Bearer {token}".encode() if token else None
        self._model = served.name
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes: dict[str, Route] = {
            "/v2": Route("GET", self._server, "server"),
            "/v2/health/live": Route("GET", self._live, "live"),
            "/v2/health/ready": Route("GET", self._ready, "ready"),
            "/predict": Route("POST", self._predict, "predict"),
        }
        for base in (f"/v2/models/{self._model}", f"/v2/models/{self._model}/versions/1"):
            self.routes[base] = Route("GET", self._metadata, "metadata")
            self.routes[f"{base}/ready"] = Route("GET", self._model_ready, "model_ready")
            self.routes[f"{base}/infer"] = Route("POST", None, "infer")

    def add(self, path: str, method: str, handler: Handler, label: str, *, admin: bool = False) -> None:
        """One more route."""
        self.routes[path] = Route(method, handler, label, admin)

    # What the HTTP server asks.

    def admit(self, request: Request) -> None:
        """Refuse what needs no body to be refused: 401, 403, 404, 405, 429."""
        route = self.routes.get(request.path)
        self._authorize(request, route is not None and route.admin)
        if route is None:
            raise self._unknown(request.path)
        if request.method != route.method and (request.method, route.method) != ("HEAD", "GET"):
            raise Refusal(405, f"use {route.method} for {request.path[:200]}", ("allow", route.method))
        if route.label in INFERENCE:
            self._served.admit(request.client)
        request.route = route

    def refused(self, refusal: Refusal) -> None:
        """A request was answered before it was complete."""
        self._metrics.count(refusal.route, refusal.response.status)

    def answer(self, request: Request, respond: Respond) -> Callable[[], object] | None:
        """Answer in every case, and within the request's deadline unless the administrator asks."""
        if request.route.handler is None:
            try:
                return self._infer(request, respond)
            except Exception as error:
                self._end(request, respond, self._failed(request, error))
                return None
        task = asyncio.get_running_loop().create_task(self._run(request, request.route.handler, respond))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    # How it is answered.

    def _infer(self, request: Request, respond: Respond) -> Callable[[], object]:
        version = self._served.version
        wish = version.codec.decode(request.body, request.headers.get(HEADER_LENGTH))
        deadline = request.deadline
        if wish.timeout is not None:
            deadline = min(deadline, monotonic() + wish.timeout)

        def done(outcome: Tensors | Exception) -> None:
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                response = version.codec.encode(wish, outcome)
            except Exception as error:
                response = self._failed(request, error)
            self._end(request, respond, response)

        job = version.queue.submit(wish.inputs, deadline, done)
        return lambda: version.queue.give_up(job)

    async def _run(self, request: Request, handler: Handler, respond: Respond) -> None:
        seconds = None if request.route.admin else request.deadline - monotonic()
        try:
            async with asyncio.timeout(seconds):
                response = await handler(request)
        except Exception as error:
            response = self._failed(request, error)
        self._end(request, respond, response)

    def _end(self, request: Request, respond: Respond, response: Response) -> None:
        self._metrics.answered(request.route.label, response.status, monotonic() - request.began)
        respond(response)

    def _failed(self, request: Request, error: Exception) -> Response:
        if isinstance(error, Refusal):
            return error.response
        if isinstance(error, TimeoutError):
            return Refusal(504, "the deadline passed before the model answered").response
        if isinstance(error, BadInput):
            return Refusal(400, str(error)).response
        # The last line of defence: a fault of ours is logged and answered, not a dead socket.
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return Refusal(500, "internal error; the server's log has the details").response

    # Who may ask what.

    def _authorize(self, request: Request, admin: bool) -> None:
        given = request.headers.get(b"authorization", b"")
        if self._admin is not None and hmac.compare_digest(given, self._admin):
            return
        if admin and self._admin is None:
            raise Refusal(403, "this server has no administrator: set FULLDECK_ADMIN_TOKEN for it")
        if not admin and (self._authorization is None or request.path in OPEN):
            return
        if admin or not hmac.compare_digest(given, self._authorization or b""):
            whose = "administrator's" if admin else "server's"
            raise Refusal(
                401, f"send the {whose} token: Authorization: Bearer ...", ("www-authenticate", "Bearer")
            )

    def _unknown(self, path: str) -> Refusal:
        parts = path.split("/")
        for start, place in (("/v2/models/", 3), ("/v2/repository/models/", 4)):
            if path.startswith(start) and parts[place] != self._model:
                return Refusal(404, f'unknown model "{parts[place][:100]}"; this server has "{self._model}"')
        return Refusal(404, f"there is no {path[:200]}; there is {', '.join(self.routes)}")

    # The plain routes.

    async def _predict(self, request: Request) -> Response:
        return await self._served.version.prediction.answer(request)

    async def _server(self, request: Request) -> Response:
        extensions = ["binary_tensor_data", "model_repository"]
        return _json({"name": "fulldeck", "version": fulldeck.__version__, "extensions": extensions})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = self._served.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        ready = self._served.ready
        return _json({"name": self._model, "ready": ready}, 200 if ready else 503)

    async def _metadata(self, request: Request) -> Response:
        version = self._served.version
        return _json(version.codec.metadata(version.platform))


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(status, to_json(content))
