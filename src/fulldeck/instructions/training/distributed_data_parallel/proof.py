"""What a step of two processes waits for the exchange of gradients: the figure that the evidence names."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fulldeck.errors import RunFailed
from fulldeck.files import write_text

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.instruction import Instruction

PROCESSES, PARTS, STEPS = 2, 4, 40


def exposed_communication(outcome: Outcome, exchanging: Instruction) -> float:
    """Milliseconds of a step in a short run of the outcome's recipe with `exchanging`, in two processes.

    Raises RunFailed if that run fails.
    """
    batch = outcome.recipe.resolved()["train"]["batch_size"]
    micro = max(batch // PROCESSES // PARTS, 1)
    train = outcome.recipe.train.replace(max_steps=STEPS, micro_batch=micro, threads=1)
    bare = replace(outcome.recipe, entries=(), trackers=(), train=train)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "exchange.yaml"
        write_text(file, bare.to_yaml())
        entry = json.dumps(exchanging.model_dump(mode="json"))
        command = [sys.executable, "-m", "fulldeck", "run", str(file), "--nproc", str(PROCESSES), "--json"]
        command += ["--set", f"distributed={entry}", "--out", str(Path(name) / "runs")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(
            f"a run of two processes failed: {(done.stderr.splitlines() or ['it does not say why'])[-1]}"
        )
    (report,) = json.loads(done.stdout)["instructions"]
    return float(report["changes"]["communication_ms"]["after"])
