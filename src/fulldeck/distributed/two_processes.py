"""A short run of a recipe in two processes: what evidence of instructions that spread a training is read off."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulldeck.errors import RunFailed
from fulldeck.files import write_text

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.instruction import Instruction

PROCESSES, STEPS = 2, 40


def changes_in_two_processes(
    outcome: Outcome, spreading: Instruction, *, parts: int = 1
) -> dict[str, dict[str, float]]:
    """What `spreading` says that it changed in a run of the outcome's workload with it alone.

    A process computes its share of a batch in so many `parts`. Raises RunFailed if that run fails.
    """
    batch = outcome.recipe.resolved()["train"]["batch_size"]
    micro = max(batch // PROCESSES // parts, 1)
    train = outcome.recipe.train.replace(max_steps=STEPS, micro_batch=micro, threads=1)
    alone = replace(outcome.recipe.only(spreading), trackers=(), train=train)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "two.yaml"
        write_text(file, alone.to_yaml())
        command = [sys.executable, "-m", "fulldeck", "run", str(file), "--nproc", str(PROCESSES), "--json"]
        done = subprocess.run([*command, "--out", str(Path(name) / "runs")], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.splitlines() or ["it does not say why"])[-1]
        raise RunFailed(f"a run of two processes failed: {said}")
    (report,) = json.loads(done.stdout)["instructions"]
    changes: dict[str, Any] = report["changes"]
    return changes
