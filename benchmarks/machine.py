"""What a benchmark ran on, and where its figures are kept."""

from __future__ import annotations

import os
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fulldeck.files import write_json
from fulldeck.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
PEERS = ("lightning", "accelerate", "kornia", "litserve")


def describe() -> dict[str, Any]:
    """Processor, threads, versions (also of the peers that are installed) and the load at this moment."""
    machine = describe_machine()
    return machine | {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": machine["versions"] | {name: found for name in PEERS if (found := _version(name))},
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `result` to benchmarks/results/NAME.json, and return that path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, result)
    return path


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
