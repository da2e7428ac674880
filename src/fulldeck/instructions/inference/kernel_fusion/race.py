"""The forms that fusing gives a model, raced with the model as it came."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fulldeck.candidate import Artifact, Candidate
from fulldeck.data import Array
from fulldeck.engines import ENGINES, Engine, open_artifact, why_not
from fulldeck.engines.choice import Timed, fastest
from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.engines.shapes import shapes_of
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.inference.kernel_fusion.folding import fold_batch_norm
from fulldeck.instructions.inference.kernel_fusion.regions import Chain, Fuse, compiled, fuse_chains
from fulldeck.instructions.inference.kernel_fusion.triton_chains import in_triton
from fulldeck.training.loader import as_tensors

if TYPE_CHECKING:
    from fulldeck.instructions.inference.kernel_fusion import KernelFusion

PLAIN, FOLDED, CHAINS, WHOLE = "as it came", "batch-norm folded", "hot chains fused", "compiled whole"
SAME = 1e-3
"""Largest difference that a form may make to an output, relative to the largest output (if over 1)."""
LOOKS = (15, 30)
SECONDS = 20.0
"""A race between forms takes so long at most, once it has had its first look."""


@dataclass(frozen=True)
class Form:
    """One form of the model: the engine that runs it, and what the candidate becomes with it."""

    engine: Engine
    candidate: Candidate


class Fused(nn.Module):
    """A module that is no longer the network that its class says: it is exported or compiled, not rebuilt."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input: Any) -> Any:
        """What the module computes of one input."""
        return self.module(input)


def fused(settings: KernelFusion, candidate: Candidate) -> Candidate:
    """See `KernelFusion.optimise`."""
    inputs = {rows: _rows(candidate, rows) for rows in sorted(set(settings.rows))}
    forms, left_out, chains = _forms(settings, candidate, inputs)
    if len(forms) > 1:
        races = {
            rows: fastest(_engines(forms), some, looks=LOOKS, seconds=SECONDS)
            for rows, some in inputs.items()
        }
        best, said = _winner(races)
        left_out += said
    else:
        best = PLAIN
    lines = [_chain_line(chain) for chain in chains]
    result = forms[best].candidate
    head = (
        f"kernel_fusion: {best}"
        if best != PLAIN
        else "kernel_fusion left the model as it is: nothing was faster"
    )
    for line in (head, *lines, *(f"left out: {one}" for one in left_out)):
        result = result.telling(line)
    return result


def _forms(
    settings: KernelFusion, candidate: Candidate, inputs: Mapping[int, dict[str, Array]]
) -> tuple[dict[str, Form], list[str], list[Chain]]:
    """Every form that computes what the model does, by name, why others do not, and the hot chains."""
    plain = candidate.module.eval()
    forms = {PLAIN: Form(PyTorchEngine(plain), candidate)}
    left_out: list[str] = []
    batches = [_on_device(plain, some) for some in inputs.values()]
    module = copy.deepcopy(plain)
    if settings.fold:
        folded = fold_batch_norm(module, batches[-1])
        if folded:
            made = _wrapped(module, candidate)
            _add(forms, left_out, FOLDED, Form(PyTorchEngine(made.module), made), inputs)
        module = module if FOLDED in forms else copy.deepcopy(plain)
    ways: dict[str, Fuse] = {"compiler": compiled} if settings.compiler else {}
    if next(iter(plain.parameters()), torch.empty(0)).is_cuda:
        ways["Triton"] = in_triton(settings.cuda_kernel_launch_bounds, settings.shared_memory_size)
    parted, chains = fuse_chains(module, batches, ways) if ways else (None, [])
    if parted is not None:
        made = _wrapped(parted, candidate)
        _add(forms, left_out, CHAINS, Form(PyTorchEngine(made.module), made), inputs)
    if settings.compiler:
        try:
            _add(forms, left_out, WHOLE, _whole(module, candidate), inputs)
        except BadInput as error:
            left_out.append(f"{WHOLE}: {error}")
    return forms, left_out, chains


def _add(
    forms: dict[str, Form],
    left_out: list[str],
    name: str,
    form: Form,
    inputs: Mapping[int, dict[str, Array]],
) -> None:
    """Keep `form` if it computes what the model as it came does."""
    for rows, some in inputs.items():
        one, other = _first(forms[PLAIN].engine.run(some)), _first(form.engine.run(some))
        difference = float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")
        if not difference <= SAME * max(1.0, float(np.abs(one).max())):
            left_out.append(f"{name}: outputs of {rows} rows differ by {difference:.2g}")
            return
    forms[name] = form


def _whole(module: nn.Module, candidate: Candidate) -> Form:
    """The model as native code, in a file that a package can hold. Raises CannotAct where it cannot be compiled."""
    if (reason := why_not("torch_compiled")) is not None:
        raise CannotAct(reason)
    from fulldeck.engines import torch_compiled

    if candidate.precision not in ENGINES["torch_compiled"].precisions:
        raise CannotAct(f"{candidate.precision} is not compiled to native code")
    example = candidate.example(2)
    source = Source(example, shapes_of(example), {"fp32": module, candidate.precision: module})
    path = torch_compiled.convert(source, candidate.precision, candidate.folder, Settings())
    artifact = Artifact(path, "aoti", candidate.precision, "torch_compiled")
    return Form(open_artifact(artifact), _wrapped(module, candidate).with_artifact(artifact))


def _winner(races: Mapping[int, Mapping[str, Timed]]) -> tuple[str, list[str]]:
    """The form that is fastest over all batches of those that are slower at none, and why others are left out."""
    plain = {rows: timed[PLAIN].latency.estimate for rows, timed in races.items()}
    names = list(next(iter(races.values())))
    ratios = {
        name: {rows: timed[name].latency.estimate / plain[rows] for rows, timed in races.items()}
        for name in names
    }
    never_slower = [name for name in names if all(ratio <= 1.0 for ratio in ratios[name].values())]
    best = min(never_slower, key=lambda name: float(np.prod(list(ratios[name].values()))))
    said = []
    for name in names:
        if name not in (best, PLAIN):
            figures = ", ".join(
                f"{ratio:.2f}x of the time at {rows} rows" for rows, ratio in ratios[name].items()
            )
            said.append(f"{name}: {figures}")
    return best, said


def _chain_line(chain: Chain) -> str:
    figures = ", ".join(f"{way} {ratio:.2f}x of its time" for way, ratio in chain.ratios.items())
    verdict = f"fused by the {chain.kept}" if chain.kept else "left as it is"
    return f"chain {' > '.join(chain.operations)}, {chain.share:.0%} of a pass: {verdict} ({figures or 'not tried'})"


def _engines(forms: Mapping[str, Form]) -> dict[str, Engine]:
    return {name: form.engine for name, form in forms.items()}


def _wrapped(module: nn.Module, candidate: Candidate) -> Candidate:
    return replace(
        candidate, module=Fused(module).eval() if len(candidate.example(1)) == 1 else module.eval()
    )


def _rows(candidate: Candidate, rows: int) -> dict[str, Array]:
    some = candidate.example(rows)
    return {
        name: np.ascontiguousarray(value.take(np.arange(rows) % len(value), axis=0))
        for name, value in some.items()
    }


def _on_device(module: nn.Module, inputs: Mapping[str, Array]) -> Any:
    from fulldeck.training.batch import to_device

    first = next(iter(module.parameters()), torch.empty(0))
    return to_device(as_tensors(inputs), first.device)


def _first(outputs: Mapping[str, Array]) -> Array:
    return next(iter(outputs.values()))
