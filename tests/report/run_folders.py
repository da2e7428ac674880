"""Run folders written by hand: the files of a finished run, as far as reports read them."""

import json
import math
from pathlib import Path
from typing import Any

HOSTILE = "</script><script>alert(1)</script><b onclick='x'>\"&amp;"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAA"
    "SUVORK5CYII="
)
RECIPE = """\
workload: digits
train: {epochs: 3, batch_size: 64, seed: 0}
instructions:
- lr_scheduler: {kind: one_cycle}
- onnx_export
- post_training_quantization
"""


def write_run(folder: Path, **changed: Any) -> Path:
    """A finished classification run. `changed` replaces whole files: recipe, plan, result, metrics, evaluation."""
    folder.mkdir(parents=True)
    files = {
        "recipe.yaml": changed.get("recipe", RECIPE),
        "plan.json": json.dumps(changed.get("plan", plan())),
        "result.json": json.dumps(changed.get("result", result())),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in changed.get("metrics", metrics())),
        "evaluation.json": json.dumps(changed.get("evaluation", classification())),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def plan(*names: str) -> dict[str, Any]:
    """plan.json of instructions."""
    numbers = {"lr_scheduler": 8, "onnx_export": 32, "post_training_quantization": 28, "weight_averaging": 17}
    return {
        "steps": [
            {
                "label": name,
                "name": name,
                "number": numbers[name],
                "stage": "training" if numbers[name] < 20 else "inference",
                "parameters": {"kind": "one_cycle"} if name == "lr_scheduler" else {},
                "optional": False,
                "tolerate": False,
                "reasons": [f"the reason of {name}"],
                "skipped": None,
            }
            for name in names or ("lr_scheduler", "onnx_export", "post_training_quantization")
        ]
    }


def result(**changed: Any) -> dict[str, Any]:
    """result.json."""
    return {
        "run": "runs/x",
        "status": "finished",
        "recipe": "digits",
        "metrics": {
            "train": {"accuracy": 0.999},
            "validation": {"accuracy": 0.98},
            "test": {"accuracy": 0.975},
        },
        "instructions": [
            {
                "name": "lr_scheduler",
                "number": 8,
                "label": "lr_scheduler",
                "status": "applied",
                "changes": {"learning_rate": {"before": 0.003, "after": 1e-8}},
            },
            conversion("onnx_export", (1_200_000, 1_210_000), (0.8, 0.1)),
            conversion("post_training_quantization", (1_210_000, 300_000), (0.1, 0.05)),
        ],
        "artifacts": [
            {"path": "artifacts/model.onnx", "kind": "onnx", "bytes": 1_210_000, "precision": "fp32"}
        ],
        "rehearsal": {
            "requests": 100,
            "agreement": 1.0,
            "latency_ms": {"p50": 0.8, "p99": 1.2},
            "memory_bytes": 120_000_000,
        },
        "memory": {"training_peak_bytes": 480_000_000},
        "training": {"epochs": 3, "steps": 60},
        "notes": ["a note"],
        "seconds": {"load": 1.0, "train": 3.0},
        "machine": {
            "processor": "a processor",
            "cores": 2,
            "threads": 1,
            "accelerator": None,
            "system": "Linux",
            "load": 0.5,
            "versions": {"fulldeck": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu"},
        },
    } | changed


def conversion(name: str, size: tuple[int, int], latency: tuple[float, float]) -> dict[str, Any]:
    """The result's entry of an instruction that converts."""
    return {
        "name": name,
        "number": 32,
        "label": name,
        "status": "applied",
        "changes": {
            "accuracy": {"before": 0.98, "after": 0.98},
            "bytes": {"before": size[0], "after": size[1]},
            "latency_ms": {"before": latency[0], "after": latency[1]},
            "difference": {"after": 3e-6},
            "agreement": {"after": 1.0},
        },
    }


def metrics(epochs: int = 3, steps: int = 20) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, each with the losses of its steps."""
    return [
        {
            "epoch": epoch,
            "step": (epoch + 1) * steps,
            "lr": 0.003 / (epoch + 1),
            "loss": math.exp(-epoch),
            "losses": [2 * math.exp(-(epoch * steps + step) / steps) for step in range(steps)],
            "losses_every": 1,
            "validation_loss": 1.1 * math.exp(-epoch),
            "validation_accuracy": 1 - 0.1 / (epoch + 1),
            "phases_ms": {"data": 0.5, "forward": 2.0, "backward": 2.5},
        }
        for epoch in range(epochs)
    ]


def classification(names: tuple[str, ...] = ("zero", "one", "two")) -> dict[str, Any]:
    """evaluation.json of a classification, with an image, a text and a row among the worst."""
    size = len(names)
    figures = {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 10}
    error = {"truth": names[0], "predicted": names[1], "confidence": 0.98, "loss": 4.1}
    return {
        "split": "test",
        "examples": 10 * size,
        "task": "classification",
        "classification": {
            "classes": list(names),
            "confusion": [[8 if row == column else 1 for column in range(size)] for row in range(size)],
            "per_class": [{"name": name, **figures} for name in names],
            "calibration": [
                {"confidence": 0.6, "accuracy": 0.5, "count": 4},
                {"confidence": 0.97, "accuracy": 0.99, "count": 26},
            ],
            "calibration_error": 0.03,
        },
        "worst": [
            {"row": 12, **error, "image": PIXEL},
            {"row": 13, **error, "text": f"a text {names[0]}"},
            {"row": 14, **error, "cells": {"age": 31, names[0]: None}},
        ],
    }


def regression() -> dict[str, Any]:
    """evaluation.json of a regression."""
    points = [[float(value), value + math.sin(value)] for value in range(50)]
    return {
        "split": "test",
        "examples": 50,
        "task": "regression",
        "regression": {"target": "price", "points": points, "rmse": 0.7, "mae": 0.6},
        "worst": [{"row": 3, "truth": 3.0, "predicted": 3.9, "loss": 0.9, "cells": {"rooms": 4}}],
    }
