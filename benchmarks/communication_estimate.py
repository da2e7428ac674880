"""A written estimate, not a measurement: the share of a step that waits for gradients at 8, 64 and 1024 accelerators.

    python benchmarks/communication_estimate.py

Simulated is the backward pass of a GPT-2 (124 million parameters) whose gradients become complete one after another;
each bucket is sent when it is full and the one before it is through, by a ring all-reduce over N accelerators:

    2 (N - 1) latency + 2 (N - 1) / N x bytes / bandwidth

The bandwidth is that of the slowest link of the ring, for one accelerator in each direction. Exposed is what is still
on its way when the last gradient is done. What is left out: stragglers, congestion, and trees, which pay latency with
the logarithm of N (NCCL takes them for small buckets between machines).
"""

from __future__ import annotations

from machine import describe, write_result

PARAMETERS = 124e6
STEP_SECONDS, BACKWARD_SHARE = 0.100, 2 / 3
"""Assumed: forward and backward of one micro-batch on one accelerator, and what of it is backward."""
LINKS = {
    "inside a machine, 300 GB/s, 5 us": (300e9, 5e-6),
    "between machines, 50 GB/s, 10 us": (50e9, 10e-6),
    "between machines, 12.5 GB/s, 20 us": (12.5e9, 20e-6),
    "between machines, 1.25 GB/s, 50 us": (1.25e9, 50e-6),
}
COUNTS = (8, 64, 1024)
WAYS = {
    "float32, each part (4 parts)": (4, 4, 25e6),
    "float32, once": (4, 1, 25e6),
    "bfloat16, once": (2, 1, 25e6),
    "float32, once, buckets of 100 MB": (4, 1, 100e6),
}
"""Bytes of a gradient, exchanges for a batch of four parts, bytes of a bucket (as float32)."""
PARTS = 4


def ring_seconds(count: int, size: float, bandwidth: float, latency: float) -> float:
    """Of one all-reduce of `size` bytes over `count` accelerators."""
    return 2 * (count - 1) * latency + 2 * (count - 1) / count * size / bandwidth


def exposed_seconds(count: int, link: tuple[float, float], way: tuple[int, int, float]) -> float:
    """What one optimizer step waits for."""
    width, exchanges, bucket = way
    bandwidth, latency = link
    backward = STEP_SECONDS * BACKWARD_SHARE
    buckets = max(round(PARAMETERS * 4 / bucket), 1)
    one = ring_seconds(count, PARAMETERS * width / buckets, bandwidth, latency)
    through = 0.0
    for number in range(1, buckets + 1):
        through = max(through, backward * number / buckets) + one
    return exchanges * (through - backward)


def main() -> None:
    """Print the table, and write results/communication_estimate.json."""
    computing = PARTS * STEP_SECONDS
    table = []
    for name, link in LINKS.items():
        for way, settings in WAYS.items():
            row: dict[str, object] = {"link": name, "way": way}
            for count in COUNTS:
                waited = exposed_seconds(count, link, settings)
                row[f"share_at_{count}"] = waited / (computing + waited)
            table.append(row)
            shares = "  ".join(f"{count}: {row[f'share_at_{count}']:6.1%}" for count in COUNTS)
            print(f"{name:36} {way:34} {shares}")
    print(
        "written to",
        write_result(
            "communication_estimate",
            {
                "what": "simulated, not measured",
                "machine": describe(),
                "parameters": PARAMETERS,
                "part_seconds": STEP_SECONDS,
                "parts": PARTS,
                "table": table,
            },
        ),
    )


if __name__ == "__main__":
    main()
