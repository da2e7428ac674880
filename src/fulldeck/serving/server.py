"""From a package to a running server, in the foreground, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple

import uvloop

from fulldeck.errors import BadInput, extra
from fulldeck.logs import tree
from fulldeck.monitoring.scaling import CARRIED, Scaling
from fulldeck.package import Package
from fulldeck.package.signing import verify_signature
from fulldeck.service import Serving
from fulldeck.serving.app import App
from fulldeck.serving.engine_worker import EngineWorker
from fulldeck.serving.http import HttpServer
from fulldeck.serving.metrics import ServerMetrics
from fulldeck.serving.repository import add_repository
from fulldeck.serving.served import Served
from fulldeck.serving.showing import show
from fulldeck.serving.version import Version, threads_each
from fulldeck.serving.watching import traffic, watch
from fulldeck.serving.worker_process import WorkerProcess

TOKEN = "FULLDECK_TOKEN"
"""Environment variable with the token that clients must send; mandatory off loopback."""
ADMIN_TOKEN = "FULLDECK_ADMIN_TOKEN"
"""Environment variable with the token of who may load and unload the model; without it nobody may."""
On = Literal["local", "ray"]
"""Where engines run."""
MAX_CONNECTIONS = 8192
BACKLOG = 4096
"""Connections that may wait to be accepted. Event loops set 100, and of a burst beyond that the system answers some
only after seconds and cuts others off. It allows no more than its own limit."""
RESERVED_DESCRIPTORS = 64
"""Descriptors that are not left to connections: files, engine processes."""
AGAIN_SECONDS = 1.0
"""Until a task of the server that failed begins again."""

log = tree.getChild("serving")


class Addresses(NamedTuple):
    """Where a server is reached."""

    url: str
    grpc: str | None
    """host:port, or None where it does not speak gRPC."""


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    grpc_port: int | None = None,
    serving: Serving | None = None,
    scaling: Scaling | None = None,
    public_key: Path | None = None,
    on: On = "local",
    on_ready: Callable[[Addresses], None] | None = None,
) -> None:
    """Serve the package in `folder` until SIGINT or SIGTERM; must run in the main thread.

    `port` 0 takes any free one; with `grpc_port` the model is served over gRPC, too. `serving` and `scaling`
    replace the package's own settings; without any scaling the number of engine processes stays as it is.
    `on_ready` gets the server's addresses as soon as the model is loaded. The first signal lets running requests
    finish, a second one does not. No process is left when this returns. SIGHUP loads the package that is in
    `folder` by then, without a request lost.

    `on` says where the engines run: in child processes of this one, or in actors of a cluster of Ray, which must see
    `folder` at the same place (see `fulldeck.serving.ray_worker`).

    With `public_key` no package is served that was not signed with its private key.

    Raises BadInput for a package that is none or was changed, a port that is taken, an empty FULLDECK_TOKEN, a host
    off loopback without a token in it, and gRPC or Ray without its extra; RunFailed if the engine dies while it loads
    the model, or there is no cluster.
    """

    def read() -> Package:
        # Resolved each time: runs/latest may be another run by then.
        package = Package.open(folder.resolve())
        if public_key is not None:
            verify_signature(package.folder, public_key)
        return package

    package = read()
    token = os.environ.get(TOKEN)
    if token is not None and not token.strip():
        raise BadInput(f"{TOKEN} is set and empty, which protects nothing: give it a secret, or unset it")
    if not token and not is_loopback(host):
        raise BadInput(
            f"{host} is reachable from elsewhere: set {TOKEN} to a secret, or use --host 127.0.0.1"
        )
    if scaling is None and CARRIED in package.service.carried:
        scaling = Scaling(**package.service.carried[CARRIED])
    own = serving or package.service.serving
    with (
        _engines(on, own, _most(own, scaling)) as make,
        listening(host, port) as listener,
        contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(
            _serve(package, read, make, listener, (host, grpc_port), serving, scaling, token, on_ready)
        )


async def _serve(
    package: Package,
    read: Callable[[], Package],
    make: Callable[..., EngineWorker],
    listener: socket.socket,
    grpc_place: tuple[str, int | None],
    given: Serving | None,
    scaling: Scaling | None,
    token: str | None,
    on_ready: Callable[[Addresses], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    serving = given or package.service.serving
    metrics = ServerMetrics(package.service.model)
    most = _most(serving, scaling)

    def version(package: Package, replicas: int) -> Version:
        own = given or package.service.serving
        return Version(
            package, own, metrics, replicas=replicas, most=most, changed=served.load_soon, make=make
        )

    served = Served(
        package,
        read,
        version,
        serving.workers if scaling is None else scaling.bounded(serving.workers),
    )
    admin_token = os.environ.get(ADMIN_TOKEN)
    app = App(served, metrics, token=token, admin_token=admin_token)
    add_repository(app, served)
    show(app, served, token=bool(token))
    deadline = serving.deadline_ms / 1000
    http = HttpServer(app, max_body=serving.max_body_bytes, deadline=deadline, max_connections=_descriptors())
    host, grpc_port = grpc_place
    over_grpc = None
    if grpc_port is not None:
        extra("grpc", "grpc")
        from fulldeck.serving.grpc.server import GrpcServer

        over_grpc = GrpcServer(
            served, metrics, tokens=(token, admin_token), max_body=serving.max_body_bytes, deadline=deadline
        )
    grpc_address = None if over_grpc is None else await over_grpc.start(host, grpc_port or 0)
    stopping = _on_signals(loop)
    loop.add_signal_handler(signal.SIGHUP, served.load_soon)
    server = await loop.create_server(http.connection, sock=listener, backlog=BACKLOG)
    moved = traffic(package, package.model(serving.engine))
    background = [
        loop.create_task(unfailing(run))
        for run in (http.sweep, *watch(app, metrics, served, served, moved, scaling, bool(token)))
    ]
    try:
        loading = loop.create_task(served.load())
        await asyncio.wait(
            [loading, stopping_task := loop.create_task(stopping.wait())], return_when="FIRST_COMPLETED"
        )
        if loading.done():
            loading.result()
            if on_ready is not None:
                on_ready(Addresses(_url(listener), grpc_address))
            await stopping_task
        else:
            loading.cancel()
            await asyncio.wait([loading])
        server.close()
        await asyncio.gather(http.drain(), *([over_grpc.drain()] if over_grpc is not None else []))
    finally:
        server.close()
        for task in background:
            task.cancel()
        await served.stop()


@contextlib.contextmanager
def _engines(on: On, serving: Serving, most: int) -> Iterator[Callable[..., EngineWorker]]:
    """What makes an engine there."""
    if on == "local":
        yield WorkerProcess
        return
    from fulldeck.serving.ray_worker import RayWorker, cluster

    with cluster(most * threads_each(serving, most)):
        yield RayWorker


def _most(serving: Serving, scaling: Scaling | None) -> int:
    """Engine processes at most."""
    return serving.workers if scaling is None else scaling.max_replicas


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def unfailing(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Begin `run` again whenever it fails, until cancelled: what watches a server must not end, nor end the server."""
    while True:
        try:
            await run()
        except Exception:
            log.exception("%s failed; it goes on", getattr(run, "__qualname__", run))
            await asyncio.sleep(AGAIN_SECONDS)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`. Raises BadInput if it cannot."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][
            0
        ]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadInput(
                f"port {port} on {host} is taken; use another --port, or --port 0 for any free"
            ) from error
        raise BadInput(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def _on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that the first SIGINT or SIGTERM sets; the next one cancels the task that called this."""
    stopping = asyncio.Event()
    task = asyncio.current_task(loop)
    assert task is not None

    def stop() -> None:
        if stopping.is_set():
            task.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return stopping


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _descriptors() -> int:
    """As many connections as the limit of open files allows."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(MAX_CONNECTIONS, allowed - RESERVED_DESCRIPTORS))
