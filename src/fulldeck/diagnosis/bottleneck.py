"""Locate: what a step waits for most, said in one sentence with the figures that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulldeck.diagnosis.findings import BOUNDS, Findings, Operator
from fulldeck.distributed.straggler import straggler
from fulldeck.figures import milliseconds, size

CLEAR = 0.4
"""Share of the step from which a limit is the bottleneck; below it the largest is named as one among several."""
PADDED = 0.1
"""Share of padding worth saying: less is gained back by no means without other cost."""
GAINS_NOTHING = 0.95
"""Time in bfloat16 as a share of that in float32 from which it is not worth a try."""
COMPUTING = ("forward", "backward")
OF_THE_UPDATE = frozenset({"aten::embedding_dense_backward"})
"""Operators of backward that fill a gradient for every row of a table, for an update that then reads it all."""


@dataclass(frozen=True)
class Limit:
    """A class of bottleneck: what it is, in words, and what is done about it in the field."""

    says: str
    remedy: str


LIMITS: Mapping[str, Limit] = {
    "data": Limit(
        "waiting for the next batch",
        "more loader workers, prefetching, and caching what has been decoded",
    ),
    "transfer": Limit(
        "copying batches to the device",
        "pinned memory with copies that overlap with work, and smaller types on the way (bytes for images)",
    ),
    "instructions": Limit(
        "the handlers of attached instructions",
        "leaving out what does not pay: fulldeck verify --recipe shows what each contributes",
    ),
    "communication": Limit(
        "exchanging gradients",
        "overlap with backward, larger buckets, fewer exchanges by accumulation, compressed gradients",
    ),
    "optimizer": Limit(
        "updating the weights",
        "sparse gradients and updates for embedding tables, fused or 8-bit optimizer states, fewer updates",
    ),
    "launch": Limit(
        "starting many small operators, not running them",
        "compiling the step into few kernels, or a larger batch",
    ),
    "memory": Limit(
        "moving bytes, with little arithmetic on each",
        "fusing chains of elementwise operators by a compiler, and narrower activations",
    ),
    "compute": Limit(
        "arithmetic: matrix products and convolutions",
        "narrower types, fewer operations (pruning, low rank, a smaller model), or a faster device",
    ),
    "capacity": Limit(
        "memory that is full",
        "recomputing activations, micro-batches with accumulation, smaller optimizer states, sharding",
    ),
}
"""Bottleneck to what it means. Beside them, padding, recompiles and a straggler are findings of their own."""
PADDING_REMEDY = (
    "grouping rows of like length, cutting batches to their longest row, or packing several in one"
)


def split_by_bound(
    phases: Mapping[str, float], operators: Sequence[Operator], step_seconds: float
) -> dict[str, float]:
    """Shares of a step by what limits it: its phases, with forward and backward divided by their operators.

    What of forward and backward is no operator's time is the host's: Python, and starting operators. The
    dense gradient of an embedding table counts to the optimizer, who is what wants it dense.
    """
    shares = {name: value for name, value in phases.items() if name not in COMPUTING}
    spent = dict.fromkeys((*BOUNDS, "optimizer"), 0.0)
    for one in operators:
        if one.phase in COMPUTING:
            spent["optimizer" if one.name in OF_THE_UPDATE else one.bound] += one.seconds
    computing = step_seconds * sum(phases.get(name, 0.0) for name in COMPUTING)
    spent["launch"] += max(computing - sum(spent.values()), 0.0)
    scale = computing / step_seconds / max(sum(spent.values()), 1e-12)
    update = spent.pop("optimizer") * scale
    if update:
        shares["optimizer"] += update
    return shares | {bound: value * scale for bound, value in spent.items()}


def bottleneck(findings: Findings) -> dict[str, Any]:
    """The class, its share of the step, whether it is clear, one sentence, and what is done about it."""
    memory = findings.memory
    if memory is not None and memory.full:
        used = memory.peak / memory.limit
        said = f"The memory is full: {size(memory.peak)} of {size(memory.limit)} ({used:.0%})."
        return _named("capacity", used, True, said)
    name = max(findings.bounds, key=lambda bound: findings.bounds[bound])
    share = findings.bounds[name]
    whole = "a step" if findings.kind == "training" else "a forward pass"
    if share >= CLEAR:
        said = f"{share:.0%} of {whole} is {LIMITS[name].says}{_because(name, findings)}."
    else:
        said = f"No single limit: the largest, {LIMITS[name].says}, is {share:.0%} of {whole}."
    return _named(name, share, share >= CLEAR, said)


def beside(findings: Findings) -> list[dict[str, Any]]:
    """What else is worth knowing: padding, recompilations, a process that the others wait for."""
    found = []
    pipeline = findings.pipeline
    if pipeline is not None and (pipeline.padding or 0.0) >= PADDED:
        assert pipeline.padding is not None
        assert pipeline.padding_in_batch is not None
        said = (
            f"{pipeline.padding:.0%} of the tokens are padding; {pipeline.padding_in_batch:.0%} would be left "
            "if each batch were cut to its longest row."
        )
        found.append(
            {"class": "padding", "share": pipeline.padding, "sentence": said, "remedy": PADDING_REMEDY}
        )
    if findings.recompiles:
        said = f"Functions were compiled anew {findings.recompiles} times: their inputs change shape or type."
        found.append({"class": "recompiles", "share": None, "sentence": said, "remedy": "a few fixed shapes"})
    if (late := straggler(findings.rank_seconds)) is not None:
        rank, own, others = late
        said = (
            f"Rank {rank} computes {milliseconds(1000 * own)} a step and the others {milliseconds(1000 * others)}: "
            "they wait for it."
        )
        remedy = "equal machines and equal shares, and nothing else that runs beside one of them"
        found.append({"class": "straggler", "share": 1 - others / own, "sentence": said, "remedy": remedy})
    return found


def _because(name: str, findings: Findings) -> str:
    """The figures beside the share."""
    if name == "data" and findings.pipeline is not None:
        alone, trained = findings.pipeline.batches_per_s, 1 / findings.step_seconds
        return f": the input pipeline alone brings {alone:.3g} batches/s, training takes {trained:.3g}"
    if name in BOUNDS:
        worst = [one for one in findings.operators if one.bound == name and one.phase in COMPUTING]
        if name == "launch":
            calls = sum(one.calls for one in findings.operators)
            return f": {calls:,.0f} operators in {milliseconds(1000 * findings.step_seconds)}"
        if worst:
            costliest, share = _costliest(worst, findings)
            said = f", most of all {costliest} ({share:.0%})"
            return said + (_no_gain_in_bfloat16(worst) if name == "compute" else "")
    return ""


def _costliest(operators: Sequence[Operator], findings: Findings) -> tuple[str, float]:
    """The name whose operators, whatever their shapes, take most of the step, and their share of it."""
    names = dict.fromkeys(one.name for one in operators)
    shares = {name: findings.share(tuple(one for one in operators if one.name == name)) for name in names}
    name = max(shares, key=lambda one: shares[one])
    return name.removeprefix("aten::"), shares[name]


def _no_gain_in_bfloat16(operators: Sequence[Operator]) -> str:
    """Where a narrower type, the first thing that comes to mind, was tried and is no faster on this machine."""
    tried = [(one.seconds, one.in_bfloat16) for one in operators if one.in_bfloat16 is not None]
    if not tried:
        return ""
    ratio = sum(seconds * ratio for seconds, ratio in tried) / sum(seconds for seconds, _ in tried)
    return f"; bfloat16 is no way out here, it takes {ratio:.2f}x as long" if ratio >= GAINS_NOTHING else ""


def _named(name: str, share: float, clear: bool, sentence: str) -> dict[str, Any]:
    remedy = LIMITS[name].remedy
    return {"class": name, "share": share, "clear": clear, "sentence": sentence, "remedy": remedy}
