"""Compute in bfloat16 or float16 what bears it, and leave the rest in float32.

The module's weights and activations become 16 bits; it takes and gives float32 all the same. If that costs more of the
metric than `metric_drop`, or changes more answers than `agreement` allows, the layers that change the outputs most
stay in float32, as few as it takes: in float16 first of all those whose values overflow.

bfloat16 is for PyTorch: with `model_serving_framework: {engine: torch_compiled}` it becomes native code for processors
that have it. float16 goes on to `onnx_export`, whose file is half as large and runs everywhere.

Use when: the processor multiplies bfloat16 (AVX-512 BF16, AMX, GPUs) and int8 loses too much; a file should be half as
large at no cost in accuracy.
Avoid when: the processor has neither type: it would compute in float32 and convert besides. post_training_quantization
is smaller and faster where the metric bears it.
Reference: Micikevicius et al. 2017, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322.

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> low = lower_precision(model, "bfloat16", keep=["2"])
    >>> [layer.weight.dtype for layer in (low[0], low[2])]
    [torch.bfloat16, torch.float32]
    >>> low(torch.randn(3, 8)).dtype
    torch.float32
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.candidate import Candidate, Tolerance
from fulldeck.engines.pytorch import lower
from fulldeck.errors import BadInput, CannotAct, closest
from fulldeck.files import write_json
from fulldeck.instruction import Evidence, Instruction, Prediction, instruction, param
from fulldeck.parity import agreement as agreement_of
from fulldeck.quantization.budget import Losses, fewest_spared
from fulldeck.training.batch import Tensors, call
from fulldeck.training.loader import as_tensors

if TYPE_CHECKING:
    from fulldeck.diagnosis.findings import Findings

__all__ = ["ReducedPrecisionInference", "lower_precision", "precision_sensitivity"]

Dtype = Literal["bfloat16", "float16"]
ROWS = 64
"""Validation rows on which layers are ranked."""
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}


@instruction(
    35,
    stage="inference",
    touches={"dtype", "modules"},
    before={"onnx_export": "what is exported must have the types in it"},
    evidence=Evidence(
        workload="digits", metric="artifact_bytes", expect="<= 0.55x", cost={"accuracy": ">= -0.005"}
    ),
)
class ReducedPrecisionInference(Instruction):
    dtype: Dtype = param(
        "bfloat16", search=("bfloat16", "float16"), doc="bfloat16, or float16, which can be exported."
    )
    keep: tuple[str, ...] = param((), doc="Modules, by qualified name, that stay in float32.")
    metric_drop: float = param(0.002, ge=0, le=1, doc="What the metric may lose, in its own unit.")
    agreement: float = param(0.99, ge=0, le=1, doc="Least share of answers that stay the same.")

    def clash(self, other: Instruction) -> str | None:
        """bfloat16 cannot be exported."""
        if other.card.name == "onnx_export" and self.dtype == "bfloat16":
            return (
                "ONNX Runtime and OpenVINO lack operators for files in bfloat16; write dtype: float16, leave "
                "onnx_export out, or leave this out and let fulldeck compile --bf16 choose"
            )
        return super().clash(other)

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """Half of the bytes, where the layers that were tried bear it."""
        tried = [one for one in findings.layers if one.error]
        if not tried or findings.kind != "inference":
            return None
        worst = max(tried, key=lambda one: one.error["bfloat16"])
        return Prediction(
            "artifact_bytes",
            0.5,
            f"16 bits are half of 32; the most sensitive layer, {worst.name}, changes the outputs by "
            f"{worst.error['bfloat16']:.2%} in bfloat16",
            "little of the metric, which its tolerance caps",
        )

    def tolerance(self) -> Tolerance:
        return Tolerance(metric_drop=self.metric_drop, agreement=self.agreement)

    def optimise(self, candidate: Candidate) -> Candidate:
        if candidate.artifact is not None:
            raise CannotAct(
                "the module has been exported already; leave order: strict out, or move this before it"
            )
        if candidate.precision != "fp32":
            raise CannotAct(f"the module is {candidate.precision} already; leave one conversion out")
        losses, inputs = Losses(candidate), as_tensors(candidate.example(ROWS))
        before = candidate.run(losses.inputs)
        wide = too_large(candidate.module, inputs, self.dtype)

        def form(keep: Sequence[str]) -> Candidate:
            module = lower_precision(candidate.module, self.dtype, keep=(*self.keep, *keep), wide=wide)
            return replace(candidate, module=module, precision=_PRECISIONS[self.dtype])

        def enough(keep: Sequence[str]) -> bool:
            made = form(keep)
            outputs = made.run(losses.inputs)
            return bool(
                np.isfinite(outputs).all()
                and agreement_of(before, outputs) >= self.agreement
                and losses.of(made) <= self.metric_drop
            )

        if enough(()):
            return form(())
        found = precision_sensitivity(candidate.module, inputs, self.dtype)
        spared = fewest_spared([name for name in found if name not in self.keep], enough)
        kept = [*self.keep, *(spared or [])]  # if that was not to be had, the gate will say what is lost
        write_json(
            candidate.folder / "precision.json",
            {"layers": {name: _plain(error) for name, error in found.items()}, "kept": kept},
        )
        made = form(spared or ())
        if not spared:
            return made
        return made.telling(
            f"{self.card.name} leaves {len(spared)} of {len(found)} layers in float32: {', '.join(spared)}"
        )


def lower_precision(
    model: nn.Module, dtype: Dtype = "bfloat16", *, keep: Sequence[str] = (), wide: Sequence[str] = ()
) -> nn.Module:
    """A copy of `model` in evaluation mode that computes in `dtype`, and takes and gives float32 all the same.

    Modules in `keep`, by qualified name, stay in float32 with all that is in them, and hand on values in `dtype`;
    those of them that are in `wide` too, in float32. Raises BadInput for an unknown name.
    """
    lowered = copy.deepcopy(model).eval()
    modules = dict(lowered.named_modules())
    for name in keep:
        if name not in modules or not name:
            raise BadInput(f'there is no module "{name}" to keep{closest(name, filter(None, modules))}')
    weights = {name: copy.deepcopy(modules[name].state_dict()) for name in keep}
    target = getattr(torch, dtype)
    lower(lowered, target)
    for name in keep:
        kept = modules[name].float()
        kept.load_state_dict(weights[name])  # as they were: rounded ones do not come back
        kept.register_forward_pre_hook(
            lambda _, inputs, named: (_in(inputs, torch.float32), _in(named, torch.float32)), with_kwargs=True
        )
        if name not in wide:
            kept.register_forward_hook(lambda _, inputs, output: _in(output, target))
    if set(wide) & set(keep):
        for module in modules.values():
            if any(one.dtype == target for one in module.parameters(recurse=False)):
                module.register_forward_pre_hook(
                    lambda _, inputs, named: (_in(inputs, target), _in(named, target)), with_kwargs=True
                )
    return lowered


@torch.inference_mode()
def too_large(model: nn.Module, inputs: Tensors, dtype: Dtype) -> list[str]:
    """The modules whose outputs for some rows of `inputs` are near the largest number of `dtype`, or over it."""
    model, most = copy.deepcopy(model).eval(), torch.finfo(getattr(torch, dtype)).max / 2
    found = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: (
                found.append(name)
                if isinstance(output, Tensor) and output.is_floating_point() and output.abs().max() > most
                else None
            )
        )
    call(model, inputs)
    return found


def precision_sensitivity(model: nn.Module, inputs: Tensors, dtype: Dtype = "bfloat16") -> dict[str, float]:
    """Each layer with weights to the relative error of the outputs (RMS) where it alone computes in `dtype`.

    The most sensitive first; infinite for one whose values overflow. `inputs` are some rows.
    """
    model, target = copy.deepcopy(model).eval(), getattr(torch, dtype)
    errors = {}
    with torch.inference_mode():
        reference = call(model, inputs).float()
        size = float(reference.square().mean().sqrt()) or 1.0
    for name, layer in model.named_modules():
        if not name or not any(True for _ in layer.parameters(recurse=False)):
            continue
        weights = copy.deepcopy(layer.state_dict())
        layer.to(target)
        hooks = (
            layer.register_forward_pre_hook(
                lambda _, args, named: (_in(args, target), _in(named, target)), with_kwargs=True
            ),
            layer.register_forward_hook(lambda _, args, output: _in(output, torch.float32)),
        )
        with torch.inference_mode():
            error = float((call(model, inputs).float() - reference).square().mean().sqrt()) / size
        errors[name] = error if math.isfinite(error) else math.inf
        for hook in hooks:
            hook.remove()
        layer.float().load_state_dict(weights)
    return dict(sorted(errors.items(), key=lambda item: item[1], reverse=True))


def _in(values: Any, dtype: torch.dtype) -> Any:
    """`values` with all floating-point tensors in `dtype`."""
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    if isinstance(values, Mapping):
        return {name: _in(value, dtype) for name, value in values.items()}
    return tuple(_in(value, dtype) for value in values) if isinstance(values, (tuple, list)) else values


def _plain(error: float) -> float | str:
    return error if math.isfinite(error) else "overflows"
