"""Requests a second and latency of fulldeck's server beside LitServe's, with one ONNX model and one payload.

    python benchmarks/serving.py [--package runs/latest/package] [--bound-ms 50] [--rounds 3] [--seconds 4]

In every round, in random order: a closed loop with 64 connections (the most that a server answers), then,
with Poisson arrivals over 256 connections, the highest rate at which the 99th percentile of latency stays
within the bound and every request is answered. Servers that are not being measured are stopped (SIGSTOP).
All have one engine process with equal threads. Writes benchmarks/results/serving.json.

Needs `pip install -c constraints.txt litserve`.
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
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from machine import RESULTS, describe

from fulldeck.files import write_json
from fulldeck.load_generator import http_request
from fulldeck.package import Package

HERE = Path(__file__).parent
FULLDECK = """
import sys
from pathlib import Path
from fulldeck.package import Package
from fulldeck.serving import serve
package = Package.open(Path(sys.argv[1]))
serve(package.folder, port=int(sys.argv[2]),
      serving=package.service.serving.replace(workers=1, threads=int(sys.argv[3]), queue=1024))
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str, command: list[str], port: int) -> None:
        self.name = name
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def wait_for(self, request: tuple[str, bytes]) -> Any:
        """The answer to `request` as soon as there is one."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("POST", request[0], request[1], {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status == 200:
                    return json.loads(content)
                if answer.status < 500:
                    raise SystemExit(f"{self.name}: {content!r}")
            except OSError:
                pass
            finally:
                connection.close()
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
    """One trial by `fulldeck.load_generator`."""
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
        [sys.executable, "-m", "fulldeck.load_generator"],
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
    for step in range(6):
        rate = (low + high) / 2 if step else 0.7 * most
        trial = load(server, requests, rate=rate, seconds=seconds, seed=seed + step)
        trials.append({"asked": rate, **trial})
        if trial["p99_ms"] <= bound_ms and not trial["wrong"]:
            low = rate
        else:
            high = rate
    return low, trials


def payloads(package: Package, count: int = 32) -> tuple[str, list[bytes]]:
    """Path, and bodies with one random row each, for a model with one FP32 input."""
    (spec,) = package.service.inputs
    generator = np.random.default_rng(0)
    shape = [1, *(size if size > 0 else 16 for size in spec.shape[1:])]
    bodies = []
    for _ in range(count):
        data = generator.integers(0, 256, shape).ravel() / 255
        tensor = {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": shape,
            "data": data.round(4).tolist(),
        }
        bodies.append(json.dumps({"inputs": [tensor]}).encode())
    return f"/v2/models/{package.service.model}/infer", bodies


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_all(package: Package, path: str, threads: int, only: list[str]) -> list[Server]:
    model = str(package.folder / package.model("onnxruntime").path)
    peer = [sys.executable, str(HERE / "serving_peers" / "litserve_server.py"), model]
    ports = [free_port() for _ in range(3)]
    commands = {
        "fulldeck": [sys.executable, "-c", FULLDECK, str(package.folder), str(ports[0]), str(threads)],
        "litserve": [*peer, str(ports[1]), path, str(threads), "1"],
        "litserve, batches of 64": [*peer, str(ports[2]), path, str(threads), "64"],
    }
    return [
        Server(name, command, port)
        for (name, command), port in zip(commands.items(), ports, strict=True)
        if not only or name in only
    ]


def measure(
    servers: list[Server], requests: list[bytes], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """All rounds: for each server a list of what each round gave."""
    results: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        for server in random.Random(number).sample(servers, len(servers)):
            server.signal_all(signal.SIGCONT)
            closed = load(server, requests, rate=None, seconds=options.seconds, seed=number)
            rate, trials = highest_rate(
                server, requests, 1.2 * closed["rate"],
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
    parser.add_argument("--package", type=Path, default=Path("runs/latest/package"))
    parser.add_argument("--bound-ms", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of each engine process")
    parser.add_argument(
        "--only", action="append", default=[], help="a server's name; may be given several times"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "serving.json")
    options = parser.parse_args()
    package = Package.open(options.package)
    path, bodies = payloads(package)
    servers = start_all(package, path, options.threads, options.only)
    try:
        answers = [server.wait_for((path, bodies[0]))["outputs"][0]["data"] for server in servers]
        for answer in answers[1:]:
            np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-4)
        for server in servers:
            server.signal_all(signal.SIGSTOP)
        results = measure(servers, [http_request(path, body) for body in bodies], options)
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
    options.out.parent.mkdir(exist_ok=True)
    content = {
        "machine": describe(),
        "model": package.service.model,
        "payload_bytes": len(bodies[0]),
        "bound_ms": options.bound_ms,
        "threads": options.threads,
        "summary": summary,
        "rounds": results,
    }
    write_json(options.out, content)


if __name__ == "__main__":
    main()
