"""Seconds to write a report, and its bytes, for a run of 10,000 steps.

    python benchmarks/report.py [--rounds 5]

A run folder is made up: 100 epochs of 100 steps with the loss of each, 100 classes with a full confusion
matrix, 24 worst errors with a picture each. Each round writes its report in a fresh process, as
`fulldeck report` does, so the time holds the start of Python. Goals: at most 2 s, at most 1.5 MB.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe, write_result
from PIL import Image

EPOCHS, STEPS, CLASSES, WORST, EXAMPLES = 100, 100, 100, 24, 10_000


def make_run(folder: Path) -> None:
    """Write the files of a finished run that never took place."""
    chance = random.Random(0)
    names = [f"class {number}" for number in range(CLASSES)]
    files = {
        "plan.json": {"steps": []},
        "result.json": _result(),
        "evaluation.json": _evaluation(names, chance),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "recipe.yaml").write_text("workload: digits\n")
    with (folder / "metrics.jsonl").open("w") as stream:
        for epoch in range(EPOCHS):
            stream.write(json.dumps(_epoch(epoch, chance)) + "\n")


def _epoch(epoch: int, chance: random.Random) -> dict[str, Any]:
    losses = [math.exp(-epoch / 20) * chance.uniform(0.5, 2) for _ in range(STEPS)]
    return {
        "epoch": epoch,
        "step": (epoch + 1) * STEPS,
        "lr": 0.003 * (1 - epoch / EPOCHS),
        "loss": statistics.mean(losses),
        "losses": losses,
        "losses_every": 1,
        "validation_loss": math.exp(-epoch / 25),
        "validation_accuracy": 1 - 0.9 * math.exp(-epoch / 15),
        "augmentation_magnitude": epoch / EPOCHS,
        "phases_ms": {"data": 0.3, "instructions": 3.0, "forward": 5.0, "backward": 10.0, "optimizer": 1.0},
    }


def _result() -> dict[str, Any]:
    return {
        "status": "finished",
        "recipe": "made up",
        "metrics": {split: {"accuracy": 0.98} for split in ("train", "validation", "test")},
        "rehearsal": {"requests": 100, "agreement": 1.0, "latency_ms": {"p50": 1.0, "p99": 2.0}},
        "seconds": {"train": 100.0},
        "machine": describe(),
    }


def _evaluation(names: list[str], chance: random.Random) -> dict[str, Any]:
    figures = {"precision": 0.98, "recall": 0.97, "f1": 0.975, "support": EXAMPLES // CLASSES}
    return {
        "split": "test",
        "examples": EXAMPLES,
        "task": "classification",
        "classification": {
            "classes": names,
            "confusion": [
                [97 if row == column else chance.choice((0, 0, 0, 1)) for column in range(CLASSES)]
                for row in range(CLASSES)
            ],
            "per_class": [{"name": name, **figures} for name in names],
            "calibration": [
                {"confidence": share / 10 + 0.05, "accuracy": share / 10, "count": 1000}
                for share in range(10)
            ],
            "calibration_error": 0.05,
        },
        "worst": [
            {
                "row": row,
                "truth": "class 1",
                "predicted": "class 2",
                "confidence": 0.99,
                "image": _noise(chance),
            }
            for row in range(WORST)
        ],
    }


def _noise(chance: random.Random) -> str:
    """A picture that does not compress: the largest that a thumbnail can be."""
    stream = io.BytesIO()
    Image.frombytes("RGB", (96, 96), chance.randbytes(3 * 96 * 96)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder))
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "fulldeck", "report", folder], check=True, stdout=subprocess.DEVNULL
            )
            seconds.append(time.perf_counter() - start)
        size = (Path(folder) / "report.html").stat().st_size
    print(f"{EPOCHS * STEPS:,} steps: {statistics.median(seconds):.2f} s median, {max(seconds):.2f} s most")
    print(f"{size:,} bytes")
    write_result(
        "report",
        {
            "machine": describe(),
            "steps": EPOCHS * STEPS,
            "rounds": rounds,
            "seconds": {"median": round(statistics.median(seconds), 3), "most": round(max(seconds), 3)},
            "bytes": size,
        },
    )


if __name__ == "__main__":
    main()
