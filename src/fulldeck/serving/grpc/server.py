"""The gRPC server: its methods, who may call them, and how a refusal is told."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

import fulldeck
from fulldeck.errors import BadInput
from fulldeck.logs import tree
from fulldeck.serving.grpc import open_inference_pb2 as messages
from fulldeck.serving.grpc.codec import decode, encode
from fulldeck.serving.http import Refusal
from fulldeck.serving.metrics import ServerMetrics
from fulldeck.serving.rate_limit import OverRate
from fulldeck.serving.served import Served

SERVICE = "inference.GRPCInferenceService"
OPEN = {"ServerLive", "ServerReady"}
"""Methods that need no token, as the health of the REST server needs none."""
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What the REST server answers to what gRPC calls it; everything else is INTERNAL."""
ROUTE = "infer"
"""Inferences count as those over REST do: the same panels and alerts show them."""

log = tree.getChild("serving")

Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered", bound=Message)


class GrpcServer:
    """Answers for one model on a port of its own.

    `tokens` are the clients' and the administrator's; with the first, all but the server's health needs one of them.

    A message may have `max_body` bytes, a request `deadline` seconds, or fewer if the client says so.
    """

    def __init__(
        self,
        served: Served,
        metrics: ServerMetrics,
        *,
        tokens: tuple[str | None, ...],
        max_body: int,
        deadline: float,
    ) -> None:
        self._served = served
        self._metrics = metrics
        # The first is the clients'; without it there is nothing to prove.
        self._authorizations = [f"Bearer {token}".encode() for token in tokens if token and tokens[0]]
        self._deadline = deadline
        # Without this option a second server could listen on the same port, and take half of the requests.
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", max_body)]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        "ServerLive": self._method(self._live, messages.ServerLiveRequest),
                        "ServerReady": self._method(self._ready, messages.ServerReadyRequest),
                        "ServerMetadata": self._method(self._about, messages.ServerMetadataRequest),
                        "ModelReady": self._method(self._model_ready, messages.ModelReadyRequest),
                        "ModelMetadata": self._method(self._metadata, messages.ModelMetadataRequest),
                        "ModelInfer": self._method(self._infer, messages.ModelInferRequest),
                    },
                ),
            )
        )

    async def start(self, host: str, port: int) -> str:
        """Listen; `port` 0 takes any free one. Returns host:port. Raises BadInput if the port is taken."""
        name = f"[{host}]" if ":" in host else host
        try:
            port = self._server.add_insecure_port(f"{name}:{port}")
        except RuntimeError:
            raise BadInput(
                f"cannot listen on {host} port {port} for gRPC; use another --grpc-port, or 0 for any free"
            ) from None
        await self._server.start()
        return f"{name}:{port}"

    async def drain(self) -> None:
        """Take no more requests, and answer those that have come."""
        await self._server.stop(self._deadline)

    # How a method is called.

    def _method(
        self, answer: Callable[[Asked, Any], Awaitable[Answered]], asked: type[Asked]
    ) -> grpc.RpcMethodHandler:
        name = asked.__name__.removesuffix("Request")

        async def call(request: Asked, context: Any) -> Answered:
            began = monotonic()
            answered, status, words, route = None, 200, "", ROUTE
            try:
                if name not in OPEN:
                    self._authorize(context)
                answered = await answer(request, context)
            except Refusal as refusal:
                status, words = refusal.response.status, str(refusal)
                if isinstance(refusal, OverRate):
                    route = refusal.route
            except Exception as error:
                # The last line of defence: a fault of ours is logged and answered, not a broken stream.
                log.error("gRPC %s failed", name, exc_info=error)
                status, words = 500, "internal error; the server's log has the details"
            if name == "ModelInfer":
                self._metrics.answered(route, status, monotonic() - began)
            if answered is not None:
                return answered
            await context.abort(CODES.get(status, grpc.StatusCode.INTERNAL), words)
            raise AssertionError("abort always raises")

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=asked.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _authorize(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization", "").encode()
        accepted = [hmac.compare_digest(given, wanted) for wanted in self._authorizations]
        if accepted and not any(accepted):
            raise Refusal(401, "send the server's token as metadata: authorization: Bearer ...")

    def _check_model(self, name: str, version: str) -> None:
        if name != self._served.name or version not in ("", "1"):
            asked = f"{name[:100]} {version[:20]}".rstrip()
            raise Refusal(404, f'unknown model "{asked}"; this server has "{self._served.name}"')

    # The methods.

    async def _live(self, request: messages.ServerLiveRequest, context: Any) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    async def _ready(
        self, request: messages.ServerReadyRequest, context: Any
    ) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=self._served.ready)

    async def _about(
        self, request: messages.ServerMetadataRequest, context: Any
    ) -> messages.ServerMetadataResponse:
        return messages.ServerMetadataResponse(name="fulldeck", version=fulldeck.__version__)

    async def _model_ready(
        self, request: messages.ModelReadyRequest, context: Any
    ) -> messages.ModelReadyResponse:
        self._check_model(request.name, request.version)
        return messages.ModelReadyResponse(ready=self._served.ready)

    async def _metadata(
        self, request: messages.ModelMetadataRequest, context: Any
    ) -> messages.ModelMetadataResponse:
        self._check_model(request.name, request.version)
        version = self._served.version
        return messages.ModelMetadataResponse(**version.codec.metadata(version.platform))

    async def _infer(self, request: messages.ModelInferRequest, context: Any) -> messages.ModelInferResponse:
        self._check_model(request.model_name, request.model_version)
        self._served.admit(context.peer().rpartition(":")[0])
        version = self._served.version
        wish = decode(request, version.codec)
        allowed = [self._deadline, wish.timeout, context.time_remaining()]
        deadline = monotonic() + min(seconds for seconds in allowed if seconds is not None)
        return encode(wish, await version.queue.run(wish.inputs, deadline), version.codec.service.model)
