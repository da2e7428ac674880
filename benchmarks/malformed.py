"""HTTP requests with random damage."""

from __future__ import annotations

import random

INSERTED = [
    *[b"[", b"]", b"{", b"}", b"null", b"-1", b"1e999", b"true", b'"', b",", b"\x00"],
    b"99999999999999999999",
]


def malformed(chance: random.Random, good: bytes) -> bytes:
    """A good request with damage: in its JSON (framed rightly), or anywhere in its head."""
    body = bytearray(good.partition(b"\r\n\r\n")[2])
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(body))
        match chance.randrange(4):
            case 0:
                body[place] = chance.randrange(256)
            case 1:
                del body[place : place + chance.randint(1, 10)]
            case 2:
                body[place:place] = chance.choice(INSERTED)
            case 3:
                body[place:place] = body[: chance.randint(1, 20)]
    path = chance.choice([good.split(b" ", 2)[1], b"/predict", b"/v2/repository/index"])
    kind = chance.choice([b"application/json", b"image/png", b"multipart/form-data; boundary=b", b""])
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\n" % (path, kind)
    request = bytearray(head + b"Content-Length: %d\r\n\r\n" % len(body) + bytes(body))
    if chance.random() < 0.3:
        for _ in range(chance.randint(1, 3)):
            # Not in the length, or the server rightly waits for more.
            request[chance.randrange(len(head))] = chance.randrange(256)
    return bytes(request)
