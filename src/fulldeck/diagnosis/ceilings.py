"""What this machine can do at best, measured here: arithmetic in each type, memory, the cost of an operator.

Kept per machine, number of threads and version of torch in the user's cache folder, so that it is measured
once. A ceiling is the best of many tries: whatever else runs on the machine only ever slows them. What was
measured beside other work is measured again the next time, and the better figures of both are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fulldeck.errors import BadInput
from fulldeck.files import write_json
from fulldeck.machine import processor

SCHEMA = 2
SECONDS_EACH = 0.25
FLOATS = ("float32", "bfloat16", "float16")
INT8 = "int8"
SIDE = {"cpu": 512}
"""Rows of the square matrices: on a CPU large enough for full speed, small enough for its slowest type."""
SIDE_ON_ACCELERATOR = 8192
COPIED = {"cpu": 64 << 20}
"""Bytes that are copied: more than a CPU's caches hold."""
COPIED_ON_ACCELERATOR = 1 << 30
LAUNCHES = 500


@dataclass(frozen=True)
class Ceilings:
    """`flops_per_s` of a large matrix product by type (int8: its multiply-adds counted likewise);
    `bytes_per_s` read and written together; `launch_s`, seconds of an operator on a single number.

    Convolutions can come out above the first: some algorithms (Winograd) need fewer operations than counted.
    """

    flops_per_s: Mapping[str, float]
    bytes_per_s: float
    launch_s: float

    def flops(self, dtype: str) -> float:
        """The rate for `dtype`; types that are not measured (float64) count as float32."""
        return self.flops_per_s.get(dtype, self.flops_per_s["float32"])

    def gain(self, dtype: str) -> float:
        """Time of a matrix product in `dtype` as a share of that in float32; 1 where it cannot be done."""
        rate = self.flops_per_s.get(dtype)
        return 1.0 if not rate else self.flops_per_s["float32"] / rate


def ceilings(device: torch.device, *, fresh: bool = False) -> Ceilings:
    """Those of `device` with the present number of threads: kept ones, or measured now (about 2 s).

    With `fresh` they are measured again. Where the cache cannot be written they are not kept.
    """
    key = _key(device)
    path = cache_folder() / f"ceilings-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    kept, busy = (None, True) if fresh else _kept(path, key)
    if kept is not None and not busy:
        return kept
    found = measure_ceilings(device)
    if kept is not None:
        found = better_of(found, kept)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"key": key, "ceilings": asdict(found), "busy": _busy()})
    except (OSError, BadInput):
        pass  # a read-only home costs two seconds each time, and nothing else
    return found


def cache_folder() -> Path:
    """`fulldeck` in XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fulldeck"


def better_of(one: Ceilings, other: Ceilings) -> Ceilings:
    """Each figure from where it is better."""
    types = [*one.flops_per_s, *(name for name in other.flops_per_s if name not in one.flops_per_s)]
    return Ceilings(
        {name: max(one.flops_per_s.get(name, 0.0), other.flops_per_s.get(name, 0.0)) for name in types},
        max(one.bytes_per_s, other.bytes_per_s),
        min(one.launch_s, other.launch_s),
    )


def measure_ceilings(device: torch.device) -> Ceilings:
    """Measure now."""
    side = SIDE.get(device.type, SIDE_ON_ACCELERATOR)
    rates: dict[str, float] = {}
    for name in FLOATS:
        matrix = torch.ones(side, side, dtype=getattr(torch, name), device=device)
        rates[name] = 2 * side**3 / best_time(lambda matrix=matrix: matrix @ matrix, device, SECONDS_EACH)  # type: ignore[misc]
    whole = torch.ones(side, side, dtype=torch.int8, device=device)
    with suppress(RuntimeError, NotImplementedError):  # not on every device
        rates[INT8] = 2 * side**3 / best_time(lambda: torch._int_mm(whole, whole), device, SECONDS_EACH)
    size = COPIED.get(device.type, COPIED_ON_ACCELERATOR)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * size / best_time(lambda: target.copy_(source), device, SECONDS_EACH)
    number = torch.ones(1, device=device)

    def launch() -> None:
        for _ in range(LAUNCHES):
            number.neg()

    return Ceilings(rates, copied, best_time(launch, device, SECONDS_EACH) / LAUNCHES)


def best_time(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest of the calls that fit into `seconds`, at least two."""
    best = float("inf")
    end = time.perf_counter() + seconds
    tries = 0
    while tries < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - start)
        tries += 1
    return best


def _key(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "schema": SCHEMA,
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _busy() -> bool:
    """Whether there is more to do than this process does."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def _kept(path: Path, key: Mapping[str, Any]) -> tuple[Ceilings | None, bool]:
    """What is kept, and whether it was measured beside other work."""
    try:
        value = json.loads(path.read_bytes())
        return (Ceilings(**value["ceilings"]), value["busy"]) if value["key"] == key else (None, True)
    except (OSError, ValueError, KeyError, TypeError):
        return None, True  # absent, or of another version
