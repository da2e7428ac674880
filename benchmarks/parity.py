"""Two processes beside one on the same batches: how far apart they end, and whether they decide alike.

    python benchmarks/parity.py

The cases are those of tests/distributed/parity_process.py that come to the same: trainings of small models without
batch statistics, whose batches end ragged.

Each is trained by one process, by two replicas (22) and in two shards (26). Kept are the largest difference of a
step's loss and of a weight, relative (losses) and absolute (weights), whether all decisions are the same (steps,
epochs, skipped steps, early stopping, notes), and whether both ranks hold the same bits. They are float32 sums in
another order, so nothing is expected to be exactly equal but decisions and bits. Results:
`benchmarks/results/parity.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, write_result

ROOT = Path(__file__).parents[1]
DECISIONS = ("stopped", "skipped", "epochs", "steps", "notes")


def beside(alone: dict[str, Any], ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One case of one kind."""
    both = ranks[0]
    losses = np.asarray(both["losses"]), np.asarray(alone["losses"])
    weights = [
        float(np.abs(np.asarray(both["weights"][name]) - np.asarray(values)).max())
        for name, values in alone["weights"].items()
    ]
    return {
        "steps": alone["steps"],
        "loss_difference": float((np.abs(losses[0] - losses[1]) / np.maximum(np.abs(losses[1]), 1e-6)).max()),
        "weight_difference": max(weights),
        "same_decisions": all(both[name] == alone[name] for name in DECISIONS),
        "same_bits_on_both_ranks": all(
            ranks[0][name] == ranks[1][name] for name in ("weights", "losses", "history")
        ),
    }


def main() -> None:
    """Run the cases, and write results/parity.json."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.distributed.parity_process", folder]
        subprocess.run(command, check=True, cwd=ROOT)
        found = json.loads((Path(folder) / "found.json").read_text())
    first = {kind: found["ranks"][0][kind] for kind in ("replicas", "shards")}
    cases = {
        kind: {
            name: beside(found["alone"][name], [rank[kind][name] for rank in found["ranks"]])
            for name in first[kind]
            if name in found["alone"]
        }
        for kind in first
    }
    print(json.dumps(cases, indent=2))
    print(write_result("parity", {"machine": describe(), "cases": cases}))


if __name__ == "__main__":
    main()
