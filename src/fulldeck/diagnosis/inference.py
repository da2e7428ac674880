"""`diagnose --inference RUN`: a trained model's forward pass, what could be fused, and what precision it bears."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulldeck.candidate import Candidate
from fulldeck.chains import fusible_chains
from fulldeck.diagnosis.bottleneck import split_by_bound
from fulldeck.diagnosis.ceilings import ceilings
from fulldeck.diagnosis.diagnose import report
from fulldeck.diagnosis.findings import RARE, Findings
from fulldeck.diagnosis.operators import RANGE, Recorder, timed_operators
from fulldeck.diagnosis.precision import TOLERATED, precision_of_layers
from fulldeck.diagnosis.work import WorkCounter
from fulldeck.engines import available
from fulldeck.errors import BadInput
from fulldeck.pipeline.execution import Execution
from fulldeck.pipeline.run import situation
from fulldeck.planner import make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Recipe
from fulldeck.run_folder import RECIPE, RESULT, RunFolder
from fulldeck.training.batch import Tensors, call
from fulldeck.training.loader import as_tensors
from fulldeck.watchers.watcher import Watcher

BATCHES = (1, 32)
TIMED, SECONDS = 30, 2.0
"""A forward pass is timed so often, or for so long."""
RESTORED_ROWS = 4
ROWS = 64
"""Validation rows that outputs are compared on."""


def diagnose_inference(
    run: Path, *, fresh: bool = False, tell: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Where a forward pass of the model that `run` trained spends its time, and what would shorten it.

    Raises BadInput if `run` is no finished run, or its weights do not fit the model of its recipe.
    """
    started = time.monotonic()
    tell("loading the trained model")
    recipe, candidate = trained(run)
    module = candidate.module.eval()
    inputs = {rows: _rows(candidate, rows) for rows in (*BATCHES, ROWS)}
    passes = {}
    for rows in BATCHES:
        tell(f"forward passes of {rows} rows")
        passes[rows] = _forward(module, inputs[rows], fresh and rows == BATCHES[0])
    tell("rounding each layer's weights")
    layers = precision_of_layers(module, lambda: _outputs(module, inputs[ROWS]))
    findings = replace(passes[BATCHES[0]], layers=layers, chains=fusible_chains(module))
    return report(findings, recipe) | {
        "run": str(run),
        "batches": {str(rows): _batch(rows, found) for rows, found in passes.items()},
        "layers": [asdict(one) | {"tolerates": one.tolerates(TOLERATED)} for one in layers],
        "chains": [list(chain) for chain in findings.chains],
        "engines": [{"name": name, "reason": reason} for name, reason in available().items()],
        "seconds": round(time.monotonic() - started, 1),
    }


def trained(run: Path) -> tuple[Recipe, Candidate]:
    """The recipe of a finished run, and the model that it trained, with the data that it is judged on.

    A model that was trained with rounded weights is one of integers, in the precision that it was trained for.
    """
    from safetensors.torch import load_file

    if not (run / RESULT).is_file() or not (run / RECIPE).is_file():
        raise BadInput(f"{run} is no run: it has no {RESULT}; name a run folder such as runs/latest")
    status = json.loads((run / RESULT).read_bytes()).get("status")
    if status != "finished":
        raise BadInput(f"{run} is {status}, not finished; go on with: fulldeck run RECIPE --resume")
    weights = run / "artifacts" / "model.safetensors"
    if not weights.is_file():
        raise BadInput(f"{run} has no artifacts/{weights.name}, which holds the trained weights")
    recipe = replace(read_recipe(run / RECIPE), trackers=())
    execution = Execution(make_plan(recipe, situation(recipe)), RunFolder(run), False, Watcher())
    torch.set_num_threads(recipe.train.threads or torch.get_num_threads())
    data = execution.prepare(recipe.workload.load())
    name = recipe.workload.name
    judged_by = recipe.workload.metrics(data)
    plain = recipe.workload.model(data)
    candidate = Candidate(name, plain, data, run / "artifacts", judged_by=judged_by)
    inputs = as_tensors(candidate.example(RESTORED_ROWS))
    restored = []
    for step in execution.plan.steps:
        module = step.instruction.restore(candidate.module, inputs)
        if module is not candidate.module:
            restored.append(step.instruction)
            candidate = replace(candidate, module=module)
    try:
        candidate.module.load_state_dict(load_file(weights))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BadInput(f"{weights} does not fit the model of {run / RECIPE}: {first}") from None
    candidate.module.eval()
    for instruction in restored:
        candidate = instruction.optimise(candidate)
    return replace(recipe, name=name), candidate


def _rows(candidate: Candidate, rows: int) -> Tensors:
    return as_tensors(candidate.example(rows))


@torch.inference_mode()
def _outputs(module: nn.Module, inputs: Tensors) -> Tensor:
    outputs: Tensor = call(module, inputs)
    return outputs.float()


def _forward(module: nn.Module, inputs: Tensors, fresh: bool) -> Findings:
    """Time, operators and limits of one forward pass on the CPU."""
    device = torch.device("cpu")
    _outputs(module, inputs)
    times: list[float] = []
    while len(times) < TIMED and sum(times) < SECONDS:
        start = time.perf_counter()
        _outputs(module, inputs)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    events, profiled = _profiled(module, inputs, Recorder())
    counter = WorkCounter()
    with torch.no_grad(), counter:
        call(module, inputs)
    machine = ceilings(device, fresh=fresh)
    operators = timed_operators(events, counter.work, profiled, {"forward": seconds}, machine)
    phases = {"forward": 1.0}
    return Findings(
        kind="inference",
        device=str(device),
        step_seconds=seconds,
        phases=phases,
        bounds=split_by_bound(phases, operators, seconds),
        operators=operators,
        ceilings=machine,
        model_bytes=sum(one.numel() * one.element_size() for one in module.state_dict().values()),
        steps={"warm_up": 1, "timed": len(times), "profiled": profiled},
    )


def _profiled(module: nn.Module, inputs: Tensors, recorder: Recorder) -> tuple[Sequence[Any], int]:
    """The profiler's events, and of how many passes they are."""
    events: Sequence[Any] = ()
    passes = 0
    for warm in (False, True):  # the profiler's own first step allocates
        recorder.start()
        passes = 0
        while not passes or (warm and not recorder.enough(passes)):
            with torch.profiler.record_function(f"{RANGE}forward"):
                _outputs(module, inputs)
            passes += 1
        events = recorder.stop()
    return events, passes


def _batch(rows: int, found: Findings) -> dict[str, Any]:
    return {
        "milliseconds": 1000 * found.step_seconds,
        "rows_per_s": rows / found.step_seconds,
        "bounds": dict(found.bounds),
        "operators": [
            one.to_json(found.step_seconds, found.ceilings)
            for one in found.operators
            if found.share((one,)) >= RARE
        ],
    }
