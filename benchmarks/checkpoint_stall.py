"""How long keeping the state of a training holds the training up, and how much is written.

    python benchmarks/checkpoint_stall.py [--rounds 8]

A GPT-2-like model on the docstrings of Python with AdamW, saved after every second step. Arms take turns:

- asynchronous: fault_tolerant_checkpointing's default: a copy on the host, which a thread writes while training goes on
- synchronous: the same state, and training waits until it is written and known to be on the disk

Beside the stall of a save, the bytes of a checkpoint, and the whole training's time against one that keeps nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from machine import describe, write_result
from rounds import interleaved, median, ratio

from fulldeck.instructions.training.fault_tolerant_checkpointing import FaultTolerantCheckpointing
from fulldeck.pipeline.splitting import with_default_split
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload

WORKLOAD = {
    "kind": "stdlib_text",
    "tokenizer": "bytes",
    "length": 64,
    "width": 384,
    "layers": 6,
    "characters": 200_000,
}
BATCH, STEPS, EVERY = 8, 10, 2
ARMS = {
    "nothing kept": None,
    "asynchronous": {"asynchronous": True},
    "synchronous": {"asynchronous": False},
}


def main() -> None:
    """Print the table, and write results/checkpoint_stall.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    workload = make_workload(WORKLOAD)
    data = encoded(workload, with_default_split(workload.load(), 0))
    assert data.encoder is not None

    def train(name: str) -> dict[str, float]:
        kept = ARMS[name]
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            instruction = [] if kept is None else [FaultTolerantCheckpointing(every_steps=EVERY, **kept)]
            loop = TrainingLoop(
                workload.model(data),
                BatchLoader(data.train, data.encoder, BATCH, ShuffledSampler(len(data.train), 0)),
                workload.loss(data),
                instructions=instruction,
                max_steps=STEPS,
                epochs=1,
                device="cpu",
                optimizer=workload.optimizer(1e-3, 0.01),
                checkpoints=None if kept is None else Path(folder),
            )
            begun = time.perf_counter()
            loop.fit()
            seconds = time.perf_counter() - begun
        figures = loop.reported.get("fault_tolerant_checkpointing", {})
        parameters = sum(parameter.numel() for parameter in loop.parameters())
        return {
            "seconds": seconds,
            "parameters": parameters,
            **{name: changes["after"] for name, changes in figures.items()},
        }

    train("nothing kept")
    found = interleaved({name: (lambda name=name: train(name)) for name in ARMS}, options.rounds)
    seconds = {name: [one["seconds"] for one in rounds] for name, rounds in found.items()}
    stalls = {
        name: [one["checkpoint_stall_ms"] for one in rounds] for name, rounds in found.items() if ARMS[name]
    }
    first = found["asynchronous"][0]
    result = {
        "machine": describe(),
        "rounds": options.rounds,
        "parameters": first["parameters"],
        "checkpoint_bytes": first["checkpoint_bytes"],
        "checkpoints": first["checkpoints"],
        "stall_ms": {name: median(values) for name, values in stalls.items()},
        "stall_of_synchronous": ratio(stalls["asynchronous"], stalls["synchronous"]),
        "training_of_nothing_kept": {
            name: ratio(values, seconds["nothing kept"]) for name, values in seconds.items() if ARMS[name]
        },
    }
    for name, stall in result["stall_ms"].items():
        print(
            f"{name:14} a save holds training up {stall['median']:7.1f} ms; the whole training takes "
            f"{result['training_of_nothing_kept'][name]['median']:.2f}x as long as with nothing kept"
        )
    print(
        f"{first['checkpoint_bytes'] / 1e6:.0f} MB a checkpoint, {first['parameters'] / 1e6:.1f} M parameters"
    )
    print(f"written to {write_result('checkpoint_stall', result)}")


if __name__ == "__main__":
    main()
