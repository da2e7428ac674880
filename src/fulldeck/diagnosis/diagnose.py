"""`diagnose`: collect, locate, advise; and with `fulldeck.diagnosis.improvement`, verify.

The result is plain JSON, kept as `diagnosis.json`; `diagnosis.html` is drawn from it. Times are in the unit
that a key names, shares and ratios have 1 for the whole or for no change.

    schema          1
    kind            "training" (figures of an optimizer step) or "inference" (of a forward pass at batch 1)
    recipe          the recipe's name; `run`: the run folder, of inference only
    recipe_hash     of all that the recipe says of what was diagnosed: not of its goal, search and trackers
    workload, device, threads, time (ISO 8601), seconds (that the diagnosis took), machine
    steps           {"warm_up", "timed", "profiled"}: how many
    step            {"milliseconds", "phases": {data, transfer, instructions, forward, backward, optimizer,
                    communication: share}, "bounds": {data, transfer, instructions, optimizer, communication,
                    launch, memory, compute: share}}: two partitions of the step, for the waterfall
    operators       the costliest first, each {"name" (aten::...), "phase" (forward, backward, optimizer),
                    "shapes", "dtype", "calls", "milliseconds", "share" (of the step), "flops", "bytes",
                    "flops_per_s", "bytes_per_s", "flops_of_ceiling", "bytes_of_ceiling", "intensity" (FLOP a
                    byte, or null), "bound" (launch, memory, compute), "in_bfloat16" (time ratio, or null)};
                    those with less than RARE of the step are left out
    ceilings        {"flops_per_s": {float32, bfloat16, float16, int8 where there is}, "bytes_per_s",
                    "launch_s"}: the roofline's roofs
    memory          {"weights", "gradients", "optimizer_state", "activations", "batch", "peak", "limit"} in
                    bytes, or null
    pipeline        {"batches_per_s" (the input pipeline alone), "padding", "padding_in_batch" (shares, or
                    null)}, or null
    recompiles      how often torch.compile had to compile anew
    ranks           of several processes: {"computing_ms": what each computes in a step, in their order}, or null
    bottleneck      {"class", "share", "clear" (false: no single one), "sentence", "remedy", "missing"}; a class
                    is one of the bounds, or capacity; missing: in field terms, what no instruction here does
                    about it, or null
    beside          further findings, each as bottleneck has it but without clear (padding, recompiles,
                    straggler)
    advice          what eases the bottleneck before the rest, each by predicted effect: {"name", "number",
                    "parameters", "figure" (step_time, latency, artifact_bytes, ...), "predicted" (ratio),
                    "reason", "cost", "eases" (classes), "blocked" (why it cannot be added, or null)}, and
                    once verified also "verified"
    verified        of one: {"verdict" (as `fulldeck verify` gives it, or "not measured"), "reason" (or null),
                    "kept", "missed" (true: the prediction was off by more than NEAR; null: not comparable)} and,
                    if measured, {"metric", "ratio" (or null), "interval": [low, high] (null where there were too
                    few rounds for one), "rounds", "costs", "not_measured" (figures, for want of time)}

of inference also

    batches         {"1": {"milliseconds", "rows_per_s", "bounds", "operators" (as above)}, "32": ...}
    layers          the largest first, each {"name", "kind", "bytes", "error": {"int8", "bfloat16"} (relative
                    change of the outputs; empty if not tried), "tolerates" (int8, bfloat16, float32, unknown)}
    chains          fusible neighbours: lists of module names
    engines         each {"name", "reason" (why it cannot run here, or null)}

and after `--verify` also

    improvement     {"status" (finished, interrupted), "kept": names, "output": file or null, "metric", "ratio",
                    "interval", "rounds", "verdict": of all that is kept together, against the input recipe; with
                    nothing kept only status, kept, output and metric}
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from fulldeck.diagnosis.advice import advise, unaddressed
from fulldeck.diagnosis.bottleneck import beside, bottleneck
from fulldeck.diagnosis.collection import collect
from fulldeck.diagnosis.findings import RARE, Findings
from fulldeck.errors import BadInput
from fulldeck.files import write_json
from fulldeck.machine import describe_machine
from fulldeck.recipe.recipe import Recipe

SCHEMA = 1
FILE = "diagnosis.json"


def diagnose(
    recipe: Recipe,
    *,
    fresh: bool = False,
    limit: float = math.inf,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any] | None:
    """Where a training step of `recipe` spends its time and memory, and what to do about it.

    `fresh` measures the machine's ceilings again; no step begins `limit` seconds after the call; `tell` takes words for
    a progress line. Of several processes that train together the first one is told, the others get None. Raises
    BadInput, and RunFailed in one line if the training fails or the time is over.
    """
    started = time.monotonic()
    findings = collect(recipe, fresh=fresh, limit=limit, tell=tell)
    if findings is None:
        return None
    return report(findings, recipe) | {"seconds": round(time.monotonic() - started, 1)}


def report(findings: Findings, recipe: Recipe) -> dict[str, Any]:
    """Findings, bottleneck and advice as JSON."""
    limits = [bottleneck(findings), *beside(findings)]
    advice = advise(findings, recipe, limits[0]["class"])
    for limit in limits:
        limit["missing"] = limit["remedy"] if unaddressed(limit["class"], advice) else None
    return {
        "schema": SCHEMA,
        "kind": findings.kind,
        "recipe": recipe.name,
        "recipe_hash": recipe_hash(recipe),
        "workload": recipe.workload.name,
        "device": findings.device,
        "threads": torch.get_num_threads(),
        "steps": dict(findings.steps),
        "step": {
            "milliseconds": 1000 * findings.step_seconds,
            "phases": dict(findings.phases),
            "bounds": dict(findings.bounds),
        },
        "operators": [
            one.to_json(findings.step_seconds, findings.ceilings)
            for one in findings.operators
            if findings.share((one,)) >= RARE
        ],
        "ceilings": asdict(findings.ceilings),
        "memory": None if findings.memory is None else asdict(findings.memory),
        "pipeline": None if findings.pipeline is None else asdict(findings.pipeline),
        "recompiles": findings.recompiles,
        "ranks": {"computing_ms": [1000 * one for one in findings.rank_seconds]}
        if len(findings.rank_seconds) > 1
        else None,
        "bottleneck": limits[0],
        "beside": limits[1:],
        "advice": advice,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": describe_machine(),
    }


def recipe_hash(recipe: Recipe) -> str:
    """By which a diagnosis is told from that of another recipe of the same name."""
    diagnosed = replace(recipe, goal=None, search=None, trackers=())
    return hashlib.sha256(diagnosed.to_yaml().encode()).hexdigest()[:24]


def keep(result: dict[str, Any], folder: Path) -> Path:
    """Write `result` to diagnosis.json in `folder`, replacing an older one. Raises BadInput if it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror}; choose another with --out") from None
    write_json(folder / FILE, result)
    return folder / FILE
