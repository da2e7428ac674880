"""Requests a second and latency of fulldeck's server beside LitServe's and plain FastAPI, with one ONNX model.

    python benchmarks/serving.py tiny|digits|wide|convolution|bert [--rounds 3] [--seconds 3] [--binary] [--workers 1]

In every round, in random order: a closed loop with 64 connections (the most that a server answers), then,
with Poisson arrivals over 256 connections, the highest rate at which the 99th percentile of latency stays
within the bound and every request is answered. Servers that are not being measured are stopped (SIGSTOP).
All have equally many engine processes with equal threads (`--workers`; FastAPI calls its session from as many threads).
With --binary fulldeck and FastAPI get the tensor's bytes, LitServe (whose bodies are JSON) gets them as base64. Writes
benchmarks/results/serving-MODEL.json.

Needs `pip install -c constraints.txt --group bench`.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from machine import RESULTS, describe
from serving_models import MODELS

from fulldeck.files import write_json
from fulldeck.package import Package
from fulldeck.serving.load_generator import http_request

HERE = Path(__file__).parent
BUSY = "The machine was busy with other work (see load): figures are low and scatter; measure again on an idle one."
FULLDECK = """
import sys
from pathlib import Path
from fulldeck.package import Package
from fulldeck.serving import serve
package = Package.open(Path(sys.argv[1]))
serve(package.folder, port=int(sys.argv[2]),
      serving=package.service.serving.replace(workers=int(sys.argv[4]), threads=int(sys.argv[3]), queue=1024))
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str, command: list[str], port: int) -> None:
        self.name = name
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def wait_for(self, request: bytes) -> Any:
        """The answer to `request` as soon as there is one."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                    connection.sendall(request)
                    answer = http.client.HTTPResponse(connection)
                    answer.begin()
                    content = answer.read()
                if answer.status == 200:
                    return json.loads(content)
                if answer.status < 500:
                    raise SystemExit(f"{self.name}: {content!r}")
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit(f"{self.name} did not start")

    def signal_all(self, number: int) -> None:
        """Signal the server and all its descendants."""
        for process in [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]:
            process.send_signal(number)

    def resident_mb(self) -> float:
        """Proportional memory of all its processes, in megabytes."""
        root = psutil.Process(self.process.pid)
        return sum(process.memory_full_info().pss for process in [root, *root.children(recursive=True)]) / 1e6


def load(
    server: Server, requests: list[bytes], *, rate: float | None, seconds: float, seed: int
) -> dict[str, Any]:
    """One trial by `fulldeck.serving.load_generator`."""
    wish = {
        "port": server.port,
        "requests": [base64.b64encode(request).decode() for request in requests],
        "connections": 64 if rate is None else 256,
        "seconds": seconds,
        "warm_up": 0.5,
        "rate": rate,
        "seed": seed,
    }
    done = subprocess.run(
        [sys.executable, "-m", "fulldeck.serving.load_generator"],
        input=json.dumps(wish),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{server.name}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def highest_rate(
    server: Server, requests: list[bytes], most: float, *, bound_ms: float, seconds: float, seed: int
) -> tuple[float, list[dict[str, Any]]]:
    """Bisect up to `most` requests a second for the highest rate within the bound; all trials."""
    low, high = 0.0, most
    trials = []
    for step in range(5):
        rate = (low + high) / 2 if step else 0.7 * most
        trial = load(server, requests, rate=rate, seconds=seconds, seed=seed + step)
        trials.append({"asked": rate, **trial})
        if trial["p99_ms"] <= bound_ms and not trial["wrong"]:
            low = rate
        else:
            high = rate
    return low, trials


def bodies(package: Package, *, binary: bool, count: int = 16) -> dict[str, list[bytes]]:
    """By server, complete requests with one random row each, for a model with one FP32 input."""
    (spec,) = package.service.inputs
    path = path_of(package)
    generator = np.random.default_rng(0)
    shape = [1, *spec.shape[1:]]
    plain, octets, base64_json = [], [], []
    for _ in range(count):
        data = (generator.integers(0, 256, shape) / 255).round(4).astype(np.float32)
        tensor = {"name": spec.name, "datatype": spec.datatype, "shape": shape}
        plain.append(
            http_request(
                path, json.dumps({"inputs": [tensor | {"data": data.ravel().round(4).tolist()}]}).encode()
            )
        )
        raw = data.tobytes()
        head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
        octets.append(
            http_request(
                path, head + raw, "application/octet-stream", Inference_Header_Content_Length=str(len(head))
            )
        )
        encoded = base64.b64encode(raw).decode()
        base64_json.append(
            http_request(path, json.dumps({"inputs": [tensor | {"base64": encoded}]}).encode())
        )
        own = http_request(path, raw, "application/octet-stream", Shape=",".join(map(str, shape)))
        if binary:
            plain[-1] = own
    return {
        "fulldeck": octets if binary else plain,
        "litserve": base64_json if binary else plain,
        "fastapi": plain,
    }


def path_of(package: Package) -> str:
    return f"/v2/models/{package.service.model}/infer"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_all(package: Package, alone: Package, options: argparse.Namespace) -> list[Server]:
    """The servers; `alone` is the same package that joins no requests."""
    model = str(package.folder / package.model("onnxruntime").path)
    lit = [sys.executable, str(HERE / "serving_peers" / "litserve_server.py"), model]
    fast = [sys.executable, str(HERE / "serving_peers" / "fastapi_server.py"), model]
    own = [sys.executable, "-c", FULLDECK]
    ports = [str(free_port()) for _ in range(5)]
    path, number, workers = path_of(package), str(options.threads), str(options.workers)
    commands = {
        "fulldeck": [*own, str(package.folder), ports[0], number, workers],
        "fulldeck, one by one": [*own, str(alone.folder), ports[1], number, workers],
        "litserve": [*lit, ports[2], path, number, "1", workers],
        "litserve, batches of 64": [*lit, ports[3], path, number, "64", workers],
        "fastapi": [*fast, ports[4], path, number, workers],
    }
    return [
        Server(name, command, int(port))
        for (name, command), port in zip(commands.items(), ports, strict=True)
        if not options.only or name in options.only
    ]


def measure(
    servers: list[Server], requests: dict[str, list[bytes]], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """All rounds: for each server a list of what each round gave."""
    results: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        for server in random.Random(number).sample(servers, len(servers)):
            server.signal_all(signal.SIGCONT)
            own = requests[server.name.partition(",")[0]]
            closed = load(server, own, rate=None, seconds=options.seconds, seed=number)
            rate, trials = highest_rate(
                server, own, 1.2 * closed["rate"],
                bound_ms=options.bound_ms, seconds=options.seconds, seed=100 * number,
            )  # fmt: skip
            memory = server.resident_mb()
            server.signal_all(signal.SIGSTOP)
            results[server.name].append(
                {"closed_loop": closed, "rate_at_bound": rate, "open_loop": trials, "memory_mb": memory,
                 "load_average": os.getloadavg()[0]}
            )  # fmt: skip
            print(
                f"round {number + 1}  {server.name:24} closed loop {closed['rate']:7.0f}/s "
                f"(p99 {closed['p99_ms']:6.1f} ms)   open loop, p99 <= {options.bound_ms:g} ms: {rate:7.0f}/s   "
                f"{memory:5.0f} MB",
                flush=True,
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--binary", action="store_true", help="the tensor's bytes in place of JSON")
    parser.add_argument("--bound-ms", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each engine process")
    parser.add_argument("--workers", type=int, default=1, help="engine processes of each server")
    parser.add_argument("--only", action="append", default=[], help="a server's name; several times")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        joined, alone = Path(folder) / "joined", Path(folder) / "alone"
        MODELS[options.model](joined)
        MODELS[options.model](alone, carried={})
        compare(Package.open(joined), Package.open(alone), options)


def compare(package: Package, alone: Package, options: argparse.Namespace) -> None:
    """Start all servers, check that they answer alike, measure, and write what was found."""
    requests = bodies(package, binary=options.binary)
    servers = start_all(package, alone, options)
    try:
        answers = [
            server.wait_for(requests[server.name.partition(",")[0]][0])["outputs"][0]["data"]
            for server in servers
        ]
        for answer in answers[1:]:
            np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-4)
        for server in servers:
            server.signal_all(signal.SIGSTOP)
        results = measure(servers, requests, options)
    finally:
        for server in servers:
            server.signal_all(signal.SIGKILL)
            server.process.wait()
    summary = {
        name: {
            "closed_loop_per_s": median(one["closed_loop"]["rate"] for one in rounds),
            "closed_loop_p99_ms": median(one["closed_loop"]["p99_ms"] for one in rounds),
            "per_s_at_bound": median(one["rate_at_bound"] for one in rounds),
            "memory_mb": median(one["memory_mb"] for one in rounds),
        }
        for name, rounds in results.items()
    }
    for name in results:
        if name != "fulldeck" and "fulldeck" in results:
            pairs = list(zip(results["fulldeck"], results[name], strict=True))
            summary[name]["fulldeck_ratio_at_bound"] = median(
                ours["rate_at_bound"] / theirs["rate_at_bound"]
                for ours, theirs in pairs
                if theirs["rate_at_bound"]
            )
            summary[name]["fulldeck_ratio_closed"] = median(
                ours["closed_loop"]["rate"] / theirs["closed_loop"]["rate"] for ours, theirs in pairs
            )
    print(json.dumps(summary, indent=2))
    content = {
        "machine": describe(),
        "model": package.service.model,
        "payload_bytes": {name: len(found[0]) for name, found in requests.items()},
        "binary": options.binary,
        "bound_ms": options.bound_ms,
        "threads": options.threads,
        "workers": options.workers,
        "summary": summary,
        "rounds": results,
    }
    loads = [one["load_average"] for rounds in results.values() for one in rounds]
    if median(loads) > 2 * (os.cpu_count() or 1):
        content["note"] = BUSY
    kind = ("-binary" if options.binary else "") + (f"-{options.workers}" if options.workers > 1 else "")
    name = f"serving-{options.model}{kind}.json"
    write_json(options.out or RESULTS / name, content)


if __name__ == "__main__":
    main()
