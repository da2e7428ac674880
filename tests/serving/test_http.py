import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from fulldeck.serving.connection import HEAD_SECONDS

from .packages import sum_package
from .servers import Server, eventually, running

MAX_BODY = 1 << 20
BODY = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}'
POST = b"POST /v2/models/sums/infer HTTP/1.1\r\nHost: x\r\n"
GOOD = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    package = sum_package(
        tmp_path_factory.mktemp("sums") / "package", max_body_bytes=MAX_BODY, deadline_ms=1000
    )
    with running(package) as server:
        yield server


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    """All that still comes."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def exchange(server: Server, request: bytes) -> bytes:
    """What a request with `Connection: close` gets."""
    with connected(server) as connection:
        connection.sendall(request)
        return until_closed(connection)


def status(received: bytes) -> int:
    return int(received[9:12])


def test_requests_in_one_packet_are_answered_in_order(server: Server) -> None:
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = exchange(server, GOOD * 5 + last)
    assert received.count(b"HTTP/1.1 200 OK") == 6
    assert received.endswith(b'{"live":true}')
    assert received.count(b"connection: close") == 1


def test_a_request_in_single_bytes(server: Server) -> None:
    with connected(server) as connection:
        for place in range(len(GOOD)):
            connection.sendall(GOOD[place : place + 1])
        assert status(connection.recv(1000)) == 200


def test_a_chunked_body_http_1_0_and_head(server: Server) -> None:
    chunks = b"".join(b"%x;note=1\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:]))
    request = (
        POST
        + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        + chunks
        + b"0\r\nTrailer: x\r\n\r\n"
    )
    assert status(exchange(server, request)) == 200
    assert exchange(server, GOOD.replace(b"HTTP/1.1", b"HTTP/1.0")).endswith(b"[6.0]}]}")
    head = exchange(server, b"HEAD /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert status(head) == 200
    assert head.endswith(b"\r\n\r\n")


def test_expect_100_continue(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert status(connection.recv(1000)) == 200
    with connected(server) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1))
        assert status(connection.recv(1000)) == 413


def test_a_huge_body_is_refused_before_it_is_read(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(POST + b"Content-Length: 1000000000000\r\n\r\n")
        received = connection.recv(1000)  # nothing of the body has been sent
    assert status(received) == 413
    assert b"over 1048576 bytes" in received


@pytest.mark.parametrize("chunked", [True, False])
def test_a_huge_body_does_not_grow_the_memory(server: Server, chunked: bool) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    block = b"1" * (1 << 20)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000000"
    most = 0
    with connected(server) as connection, suppress(ConnectionError):
        connection.sendall(POST + framing + b"\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"100000\r\n" + block + b"\r\n" if chunked else block)
            most = max(most, process.memory_info().rss)
        assert status(until_closed(connection)) == 413
    assert most - before < 20 * MAX_BODY
    assert server.infer("sums", [1, 2, 3])[0] == 200


@pytest.mark.parametrize("part", [b"X-Long: " + b"a" * 1_000_000, b"GET /" + b"a" * 1_000_000])
def test_an_endless_head_is_refused(server: Server, part: bytes) -> None:
    request = part if part.startswith(b"GET") else POST + part
    with connected(server) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
        received = until_closed(connection)
    assert received == b"" or status(received) == 431


def test_slow_clients_are_cut_off(server: Server) -> None:
    begin = time.monotonic()
    with connected(server) as silent, connected(server) as head, connected(server) as body:
        head.sendall(POST)
        body.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        received = b""
        while not received:  # one byte at a time must not help
            body.sendall(b"1")
            body.settimeout(0.1)
            with suppress(TimeoutError):
                received = body.recv(1000)
        assert status(received) == 408
        assert until_closed(head) == until_closed(silent) == b""
    assert time.monotonic() - begin > HEAD_SECONDS / 2


def test_one_that_begins_behind_another_request_has_no_more_time(server: Server) -> None:
    with connected(server) as head, connected(server) as body:
        head.sendall(GOOD + POST)
        body.sendall(GOOD + POST + b"Content-Length: 1000\r\n\r\n1")
        first, *second = until_closed(head).split(b"HTTP/1.1 ")[1:]
        assert (first[:3], second) == (b"200", [])
        first, second = until_closed(body).split(b"HTTP/1.1 ")[1:]
        assert (first[:3], second[:3]) == (b"200", b"408")


def test_a_client_that_leaves_frees_its_place(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    with server.stopped():
        for _ in range(20):
            with connected(server) as connection:
                connection.sendall(GOOD)
        eventually(lambda: len(process.net_connections()) == 1)
    assert server.infer("sums", [1, 2, 3])[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        POST + b"Content-Length: -3\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + b"Header with space: 1\r\n\r\n",
    ],
)
def test_malformed_http_gets_400_and_is_closed(server: Server, request_bytes: bytes) -> None:
    received = exchange(server, request_bytes)
    assert 400 <= status(received) < 500
    assert b'{"error": ' in received


def test_a_thousand_malformed_requests_give_no_5xx(server: Server) -> None:
    generator = random.Random(0)
    statuses = set()
    for _ in range(1000):
        with connected(server) as connection, suppress(ConnectionError):
            connection.sendall(malformed(generator))
            statuses.add(status(connection.recv(1 << 16)))
    assert statuses <= {200, 400, 401, 404, 405, 408, 411, 413, 415, 422, 431}
    assert 400 in statuses
    assert server.infer("sums", [1, 2, 3])[0] == 200


def malformed(generator: random.Random) -> bytes:
    """A good request with damage: in its JSON (framed rightly), or anywhere."""
    body = bytearray(BODY)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(body))
        match generator.randrange(4):
            case 0:
                body[place] = generator.randrange(256)
            case 1:
                del body[place : place + generator.randint(1, 10)]
            case 2:
                body[place:place] = generator.choice(
                    [
                        b"[",
                        b"]",
                        b"{",
                        b"}",
                        b"null",
                        b"-1",
                        b"1e999",
                        b"true",
                        b'"',
                        b",",
                        b"\x00",
                        b"99999999999999999999",
                    ]
                )
            case 3:
                body[place:place] = body[: generator.randint(1, 20)]
    path = generator.choice([b"/v2/models/sums/infer", b"/predict"])
    kind = generator.choice([b"application/json", b"image/png", b"multipart/form-data; boundary=b", b""])
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\n" % (path, kind)
    request = bytearray(head + b"Content-Length: %d\r\n\r\n" % len(body) + bytes(body))
    if generator.random() < 0.3:
        for _ in range(generator.randint(1, 3)):
            # Not in the length, or the server rightly waits for more.
            request[generator.randrange(len(head))] = generator.randrange(256)
    return bytes(request)
