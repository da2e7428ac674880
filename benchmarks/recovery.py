"""How long a run of two processes takes to go on after one of them was killed, and whether it ends alike.

    python benchmarks/recovery.py [--rounds 3]

`fulldeck run RECIPE --nproc 2` keeps a checkpoint every few steps; once there is one, a process is killed (-9), in
turns the first and the second. Measured is the time from the kill until a newer checkpoint is complete: noticing,
ending the other process, starting both, reading the checkpoint, training on. At the end the weights are compared,
bit for bit, with those of a run that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from machine import describe, write_result

RECIPE = """
workload: breast_cancer
train: {epochs: 120, batch_size: 16, device: cpu, threads: 1}
instructions:
  - lr_scheduler
  - weight_averaging
  - fault_tolerant_checkpointing: {every_steps: 50}
  - distributed_data_parallel: {timeout_seconds: 20}
"""
PATIENCE = 120.0


def started(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """A run of two processes below `out`."""
    command = [
        sys.executable,
        "-m",
        "fulldeck",
        "run",
        "recovery.yaml",
        "--nproc",
        "2",
        "--out",
        str(out),
        "--quiet",
    ]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def newest(out: Path) -> int:
    """The step of the newest complete checkpoint below `out`; -1 if there is none."""
    manifests = out.glob("*-recovery/checkpoints/step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in manifests), default=-1)


def wait_for(out: Path, step: int, run: subprocess.Popen[bytes]) -> float:
    """The moment at which a checkpoint of `step` or later is complete."""
    deadline = time.monotonic() + PATIENCE
    while newest(out) < step:
        if time.monotonic() > deadline or run.poll() is not None:
            raise RuntimeError(f"no checkpoint of step {step} came; the run ended with {run.poll()}")
        time.sleep(0.01)
    return time.monotonic()


def rank_process(run: subprocess.Popen[bytes], rank: int) -> int:
    """The process id of one rank."""
    for child in psutil.Process(run.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            return int(child.pid)
    raise RuntimeError(f"there is no rank {rank}")


def weights(out: Path) -> bytes:
    """The weights that the run below `out` ended with."""
    (path,) = out.glob("*-recovery/artifacts/model.safetensors")
    return path.read_bytes()


def recovered(folder: Path, out: Path, victim: int, expected: bytes) -> dict[str, Any]:
    """One run in which `victim` is killed once."""
    run = started(folder, out)
    begun = time.monotonic()
    first = wait_for(out, 0, run)
    step = newest(out)
    os.kill(rank_process(run, victim), signal.SIGKILL)
    killed = time.monotonic()
    again = wait_for(out, step + 1, run)
    _, said = run.communicate(timeout=PATIENCE)
    return {
        "victim": victim,
        "killed_after_step": step,
        "start_seconds": first - begun,
        "recovery_seconds": again - killed,
        "exit_code": run.returncode,
        "same_bits": weights(out) == expected,
        "said": said.decode().splitlines()[:3],
    }


def main() -> None:
    """Print each round, and write results/recovery.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recovery.yaml").write_text(RECIPE)
        alone = started(folder, folder / "alone")
        alone.communicate(timeout=PATIENCE)
        expected = weights(folder / "alone")
        for number in range(options.rounds):
            rounds.append(recovered(folder, folder / str(number), number % 2, expected))
            print(json.dumps(rounds[-1]), flush=True)
    print(
        f"written to {write_result('recovery', {'machine': describe(), 'goal_seconds': 30, 'rounds': rounds})}"
    )


if __name__ == "__main__":
    main()
