"""Faults and bad input at a real server: nothing may hang, crash, leak or be let through.

    python benchmarks/torture_serving.py [--sample] [--minutes 15] [--only NAME ...] [--output FILE]

kills: engine processes are killed at random moments under load. reload: the package is loaded anew and the server
drained while requests come. malformed: requests with random damage. loris: connections that send a byte now and then.
body: a gigabyte. overload: ten times what can be answered. packages: flipped bits and cut files. pickle: files that
would run code. archives: packed folders with paths that lead outside, links and bombs. soak: memory and descriptors
over minutes of load. --sample does a little of each, in about a minute. Exit code 1 if a goal is missed; what was seen
goes to results/torture-serving.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import pickle
import random
import shutil
import signal
import socket
import statistics
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import describe, write_result
from malformed import malformed
from serving_models import MODELS

from fulldeck.errors import BadInput
from fulldeck.files import write_json
from fulldeck.package import Package, seal
from fulldeck.serving.load_generator import Connections, closed_loop, open_loop, summary
from fulldeck.serving.process import inferences, port_of, server

ADMIN = "torture"
Findings = dict[str, Any]


@dataclass
class Size:
    """How much of each."""

    kills: int = 200
    requests: int = 10_000
    malformed: int = 100_000
    loris: int = 100
    body_mb: int = 1000
    packages: int = 10_000
    soak_s: float = 900.0


SAMPLE = Size(kills=4, requests=600, malformed=600, loris=20, body_mb=50, packages=60, soak_s=4.0)


@dataclass
class Asked:
    """What clients saw: statuses, and how long the slowest answer took."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    lost: int = 0

    def seen(self, status: int, seconds: float) -> None:
        """One answer."""
        self.statuses[status] += 1
        self.slowest = max(self.slowest, seconds)


@contextmanager
def served(model: str, folder: Path, **settings: Any) -> Iterator[tuple[Path, int, psutil.Process]]:
    """A server of a package: its folder, its port and its process."""
    package = MODELS[model](folder / "package", **settings)
    os.environ["FULLDECK_ADMIN_TOKEN"] = ADMIN
    with server(package) as (url, number):
        yield package, port_of(url), psutil.Process(number)


def request_of(package: Path) -> bytes:
    """One good inference."""
    opened = Package.open(package)
    (spec,) = opened.service.inputs
    return inferences(opened, {spec.name: np.zeros((1, *spec.shape[1:]), np.float32)})[0]


def ask(port: int, request: bytes, timeout: float = 30) -> int:
    """The status of one request on a connection of its own; 0 if it is cut off."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
        return status_of(connection)


def status_of(connection: socket.socket) -> int:
    """The status of the answer that comes; 0 if none does."""
    with suppress(ConnectionError):
        head = connection.recv(1 << 16)
        return int(head[9:12]) if head else 0
    return 0


@contextmanager
def clients(port: int, request: bytes, count: int) -> Iterator[Asked]:
    """`count` clients that ask again and again while the block lasts."""
    asked, over = Asked(), threading.Event()

    def client() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            try:
                asked.seen(ask(port, request), time.perf_counter() - begun)
            except OSError:
                asked.lost += 1

    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        over.set()
        for thread in threads:
            thread.join()


def kills(size: Size, folder: Path) -> Findings:
    """Engine processes killed at random moments: every request is answered, 200 or 503, and a new one comes."""
    chance, back = random.Random(0), []
    with served("tiny", folder) as (package, port, process):
        request = request_of(package)
        with clients(port, request, 4) as asked:
            for _ in range(size.kills):
                time.sleep(chance.uniform(0.02, 0.3))
                for child in process.children():
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                begun = time.perf_counter()
                while ask(port, request) != 200:
                    time.sleep(0.01)
                back.append(time.perf_counter() - begun)
        found = {"kills": size.kills, "statuses": dict(asked.statuses), "lost": asked.lost}
        found |= {"slowest_answer_s": asked.slowest, "longest_until_back_s": max(back)}
        good = set(asked.statuses) <= {200, 503} and not asked.lost
        return found | {"good": good and asked.slowest < 5 and max(back) < 5}


def reload(size: Size, folder: Path) -> Findings:
    """The package is loaded anew, again and again, and the server drained at last: no request fails."""
    reloads = 0
    with served("tiny", folder) as (package, port, process):
        request = request_of(package)
        with clients(port, request, 4) as asked:
            while sum(asked.statuses.values()) < size.requests:
                assert admin(port, "load") == 200
                reloads += 1
                time.sleep(0.05)
        idle = Connections(port, 8)
        for connection in idle.sockets.values():
            connection.sendall(request)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        drained = sum(status_of(connection) == 200 for connection in idle.sockets.values())
        idle.close()
    found = {"requests": sum(asked.statuses.values()), "reloads": reloads, "statuses": dict(asked.statuses)}
    good = set(asked.statuses) == {200} and not asked.lost and drained == 8
    return found | {"lost": asked.lost, "drained": drained, "good": good}


def admin(port: int, verb: str) -> int:
    """The status of loading or unloading the tiny model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    path = f"/v2/repository/models/tiny/{verb}"
    connection.request("POST", path, headers={"Authorization": f"Bearer {ADMIN}"})
    status = connection.getresponse().status
    connection.close()
    return status


def malformed_requests(size: Size, folder: Path) -> Findings:
    """Requests with random damage in their JSON, their head or anywhere: 4xx or 200, never 5xx, never a crash."""
    chance, statuses = random.Random(0), Counter[int]()
    with served("tiny", folder) as (package, port, process):
        good = request_of(package)
        workers = [child.pid for child in process.children()]
        for _ in range(size.malformed):
            with suppress(ConnectionError, TimeoutError):
                statuses[ask(port, malformed(chance, good), timeout=10)] += 1
        alive = workers == [child.pid for child in process.children()] and ask(port, good) == 200
    found = {"requests": size.malformed, "statuses": dict(sorted(statuses.items())), "alive": alive}
    return found | {"good": alive and not any(status >= 500 for status in statuses)}


def loris(size: Size, folder: Path) -> Findings:
    """Connections that send their head or body a byte at a time are cut off, and others do not notice."""
    with served("tiny", folder) as (package, port, _):
        request = request_of(package)
        before = latency(port, request)
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(size.loris)]
        for connection in slow:
            connection.sendall(head)
        begun, during = time.perf_counter(), []
        while time.perf_counter() - begun < 5:
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(b"x")
            during.append(latency(port, request, 0.2))
        held = 0
        for connection in slow:
            connection.setblocking(False)
            try:
                held += connection.recv(10) != b""
            except BlockingIOError:
                held += 1
            except OSError:
                pass
            connection.close()
    found = {"connections": size.loris, "held_after_5_s": held, "p99_ms_before": before}
    return found | {"p99_ms_during": statistics.median(during), "good": held == 0}


def latency(port: int, request: bytes, seconds: float = 1.0) -> float:
    """The 99th percentile of one client's requests, in milliseconds."""
    connections = Connections(port, 1)
    found = summary(closed_loop(connections, [request], seconds))
    connections.close()
    return float(found["p99_ms"])


def body(size: Size, folder: Path) -> Findings:
    """A huge body is refused before it is read, said or not, and leaves no memory behind."""
    with served("tiny", folder) as (package, port, process):
        request = request_of(package)
        ask(port, request)
        before = process.memory_info().rss
        most, statuses = before, []
        for framing in (b"Content-Length: %d" % (size.body_mb * 10**6), b"Transfer-Encoding: chunked"):
            part = b"f4240\r\n" + b"1" * 10**6 + b"\r\n" if b"chunked" in framing else b"1" * 10**6
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                with suppress(OSError):
                    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
                    for _ in range(size.body_mb):
                        connection.sendall(part)
                        most = max(most, process.memory_info().rss)
                statuses.append(status_of(connection))
        alive = ask(port, request) == 200
    grown = (most - before) / 1e6
    found = {"megabytes": size.body_mb, "statuses": statuses, "most_memory_mb": grown}
    # What has been read of an undeclared body, up to its cap of 16 MiB, is held; and no more.
    return found | {"good": alive and set(statuses) <= {413, 0} and grown < 60}


def overload(size: Size, folder: Path) -> Findings:
    """Ten times what can be answered: 429 fast and with Retry-After, and the others about as fast as usual."""
    seconds = 2.0 if size is SAMPLE else 10.0
    with served("wide", folder, carried={"limits": {}}) as (package, port, _):
        request = request_of(package)
        most = summary(trial(port, 8, partial(closed_loop, requests=[request], seconds=seconds)))["rate"]
        usual, much = (
            summary(
                trial(port, 512, partial(open_loop, requests=[request], seconds=seconds, rate=rate, seed=0))
            )
            for rate in (0.8 * most, 10 * most)
        )
    found = {"most_per_s": most, "usual": usual, "overload": much, "goodput": much["rate"] / most}
    good = set(much["wrong"]) <= {"429"} and much["answered"] > 0
    return found | {"p99_ratio": much["p99_ms"] / usual["p99_ms"], "good": good}


def trial(port: int, count: int, loop: Callable[..., Any]) -> Any:
    """What a loop of load saw on so many connections."""
    connections = Connections(port, count)
    try:
        return loop(connections)
    finally:
        connections.close()


def packages(size: Size, folder: Path) -> Findings:
    """A flipped bit, a cut file, one too many, one too few: a typed error before anything of it is loaded."""
    whole = MODELS["tiny"](folder / "whole")
    chance, refused, let_through = random.Random(0), 0, []
    contents = {path.name: path.read_bytes() for path in whole.iterdir()}
    for number in range(size.packages):
        name = chance.choice(sorted(contents))
        content = bytearray(contents[name])
        place = chance.randrange(len(content))
        kind = chance.choice(("flip", "cut", "add", "remove"))
        target = whole / name
        match kind:
            case "flip":
                content[place] ^= 1 << chance.randrange(8)
                target.write_bytes(content)
            case "cut":
                target.write_bytes(content[:place])
            case "add":
                target = whole / f"extra{number}"
                target.write_bytes(b"x")
            case "remove":
                target.unlink()
        try:
            Package.open(whole)
            let_through.append(f"{kind} {name} at {place}")
        except BadInput:
            refused += 1
        target.unlink(missing_ok=True)
        (whole / name).write_bytes(contents[name])
    return {
        "packages": size.packages,
        "refused": refused,
        "let_through": let_through,
        "good": not let_through,
    }


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def poisoned(size: Size, folder: Path) -> Findings:
    """Pickles that would run code, in place of each file of a package, sealed again as an attacker would."""
    mark, opened = folder / "executed", []
    for name in ("model.onnx", "service.json", "encoder.json", "reference.safetensors"):
        package = MODELS["tiny"](folder / f"poisoned-{name}")
        (package / name).write_bytes(pickle.dumps(Bomb(mark)))
        seal(package, {"name": "tiny"})
        try:
            with server(package):
                opened.append(name)
        except Exception as error:
            opened.append(f"{name}: {str(error)[:80]}")
    return {"files": opened, "executed": mark.exists(), "good": not mark.exists()}


def archives(size: Size, folder: Path) -> Findings:
    """Packed folders are no packages: nothing of them is unpacked, wherever their paths lead."""
    inside = folder / "archives"
    inside.mkdir()
    with zipfile.ZipFile(inside / "package.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../outside", "x")
        file.writestr("manifest.json", b"0" * 10**7)
    with tarfile.open(inside / "package.tar", "w") as file:
        link = tarfile.TarInfo("manifest.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    linked = MODELS["tiny"](folder / "linked")
    (linked / "model.onnx").unlink()
    (linked / "model.onnx").symlink_to("/etc/passwd")
    before = sorted(folder.rglob("*"))
    refused = 0
    for path in (inside / "package.zip", inside / "package.tar", linked):
        with suppress(BadInput):
            Package.open(path)
            continue
        refused += 1
    same = sorted(folder.rglob("*")) == before
    return {"archives": 3, "refused": refused, "nothing_written": same, "good": refused == 3 and same}


def soak(size: Size, folder: Path) -> Findings:
    """Minutes of load: memory and descriptors stay as they are."""
    samples: list[tuple[float, float, int]] = []
    with served("tiny", folder) as (package, port, process):
        request, begun = request_of(package), time.perf_counter()
        everything = [process, *process.children()]
        with clients(port, request, 2) as asked:
            while (now := time.perf_counter() - begun) < size.soak_s:
                memory = sum(one.memory_info().rss for one in everything) / 1e6
                samples.append((now, memory, sum(one.num_fds() for one in everything)))
                time.sleep(size.soak_s / 60)
    # The first third warms caches up.
    settled = samples[len(samples) // 3 :]
    hours, memory = [at / 3600 for at, _, _ in settled], [mb for _, mb, _ in settled]
    slope = float(np.polyfit(hours, memory, 1)[0])
    found = {"seconds": size.soak_s, "requests": sum(asked.statuses.values()), "lost": asked.lost}
    found |= {"mb_per_hour": slope, "grown_mb": memory[-1] - memory[0]}
    descriptors = [count for _, _, count in settled]
    found["descriptors"] = [min(descriptors), max(descriptors)]
    good = set(asked.statuses) == {200} and not asked.lost and memory[-1] - memory[0] < 2
    return found | {"good": good}


PARTS: dict[str, Callable[[Size, Path], Findings]] = {
    "kills": kills,
    "reload": reload,
    "malformed": malformed_requests,
    "loris": loris,
    "body": body,
    "overload": overload,
    "packages": packages,
    "pickle": poisoned,
    "archives": archives,
    "soak": soak,
}


def main() -> None:
    """Do all parts, print what was seen, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--only", action="append", choices=PARTS, default=[])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    size = SAMPLE if options.sample else Size(soak_s=60 * options.minutes)
    found: dict[str, Findings] = {}
    for name in options.only or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            found[name] = PARTS[name](size, Path(folder))
            found[name]["took_s"] = round(time.perf_counter() - begun, 1)
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    result = {"machine": describe(), **found}
    if options.output is None:
        print(f"written to {write_result('torture-serving', result)}")
    else:
        write_json(options.output, result)
    sys.exit(not all(one["good"] for one in found.values()))


if __name__ == "__main__":
    main()
