"""Compute in 16-bit floats where that is safe, and in 32-bit where it is not (automatic mixed precision).

Matrix products and convolutions run in bfloat16 or float16, losses and reductions in float32; the weights,
their gradients and the optimizer's state stay in float32, so that what is handed over is a float32 model.
float16 has a small range: its loss is scaled up before backward and the gradient scaled down after it,
and a step whose gradient overflowed is skipped. float8 is for the linear layers; what else there is runs in
bfloat16. Evaluation runs in float32, as deployed.

Before the first step the loss of its batch is compared with float32's; where they differ, the training ends,
and names the smallest module that must stay in float32. On the first step the share of floating-point
operations that ran in 16 bits or less is counted.

Use when: the machine multiplies 16-bit floats faster: processors with AMX, many with AVX512-BF16, GPUs with tensor
cores.
Avoid when: the processor has no such instructions, or is slower by them (`auto` tries); the model is so small that
its time goes elsewhere.
Reference: Micikevicius et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322 (bfloat16).
Micikevicius et al. 2022, arXiv:2209.05433 (float8). The work is done by `torch.autocast`,
`torch.amp.GradScaler` and `torchao.float8`.

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> with mixed_precision(model, dtype="bfloat16", keep_fp32=["1"]):
    ...     model(torch.ones(3, 4)).dtype
    torch.float32
    >>> def step():
    ...     with mixed_precision(model, dtype="bfloat16"):
    ...         loss = model(torch.ones(3, 4)).float().sum()
    ...     loss.backward()
    >>> low_precision_share(step)
    1.0
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.instruction import Evidence, Instruction, Prediction, Situation, instruction, param
from fulldeck.instructions.training.amp_optimizer.attention import plain_attention
from fulldeck.instructions.training.amp_optimizer.float8 import Float8Layers, refuse_float8
from fulldeck.instructions.training.amp_optimizer.float32_modules import (
    device_of,
    keep_in_float32,
    matching_modules,
)
from fulldeck.instructions.training.amp_optimizer.flops import low_precision_share
from fulldeck.instructions.training.amp_optimizer.loss_scaling import OVERFLOW, LossScaling
from fulldeck.instructions.training.amp_optimizer.parity import module_to_keep, same_loss
from fulldeck.training.batch import call, split_batch

if TYPE_CHECKING:
    from fulldeck.diagnosis.findings import Findings
    from fulldeck.training.batch import Batch, Part
    from fulldeck.training.loop import TrainingLoop

__all__ = [
    "OVERFLOW",
    "AmpOptimizer",
    "keep_in_float32",
    "low_precision_share",
    "mixed_precision",
    "pick_dtype",
    "plain_attention",
]

Dtype = Literal["auto", "bfloat16", "float16", "float8"]
COMPARED = 32
"""Samples of the first batch that the loss is compared on."""
FASTER = 0.9
"""Time in bfloat16, as a share of that in float32, from which on `auto` leaves it: there are processors that have the
instructions and are slower by them."""
TRIED, REPEATS = 512, 10
"""Rows and columns of the matrices that tell, and how often they are multiplied."""
_WORTH_TRYING = 0.97
"""Predicted time of a step, as a share of the present one, above which nothing is predicted."""


@instruction(
    18,
    stage="training",
    goals={"fast", "balanced"},
    touches={"activations", "dtype"},
    before={
        "gradient_stabilization": "an overflow of the scaled loss must lower the scale, not count as a spike"
    },
    evidence=Evidence(
        workload="digits",
        metric="step_time",
        expect="<= 0.7x",
        cost={"accuracy": ">= -0.005"},
        peer="accelerate",
    ),
)
class AmpOptimizer(Instruction):
    dtype: Dtype = param(
        "auto",
        doc="auto is bfloat16, or float16 on GPUs that lack it; float8 is for linear layers on GPUs that have it.",
        search=("bfloat16",),
    )
    keep_fp32: tuple[str, ...] = param(
        (), doc="Modules that stay in float32, by name, pattern (`*.norm`) or class (`LayerNorm`)."
    )
    parity: float = param(
        0.05, gt=0, doc="Change of the first batch's loss against float32, relative to it, that is let pass."
    )
    channels_last: bool = param(
        False, search=(False, True), doc="Store images and convolutions with the channels last in memory."
    )
    attention: Literal["fused", "plain"] = param(
        "fused",
        search=("fused", "plain"),
        doc="plain spares CPUs the fused kernel, slow in bfloat16, for memory that grows with length squared.",
    )
    initial_scale: float = param(65536.0, ge=1, doc="First factor of the loss, for float16.")
    growth_interval: int = param(
        2000, ge=1, doc="Steps without overflow after which the factor is doubled, for float16."
    )

    def cannot(self, situation: Situation) -> str | None:
        """Without a GPU that has it: float8. On a CPU: float16, and `auto` where bfloat16 is no faster."""
        if self.dtype == "float8" and (reason := refuse_float8(torch.device(situation.device))) is not None:
            return reason
        if situation.device == "cpu" and self.dtype == "float16":
            return "float16 is slower than float32 on a CPU; write dtype: bfloat16"
        if situation.device == "cpu" and self.dtype == "auto":
            there = _has_bfloat16() if situation.dtypes is None else "bfloat16" in situation.dtypes
            if not there:
                return (
                    "this processor has no bfloat16 instructions, and emulating them is slower than float32"
                )
            if situation.dtypes is None and (ratio := time_in_bfloat16()) > FASTER:
                return (
                    f"a matrix product takes {ratio:.1f}x as long in bfloat16 as in float32 on this processor; write "
                    "dtype: bfloat16 to have it all the same"
                )
        return super().cannot(situation)

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """The float32 products and convolutions of a step in bfloat16, each as it was tried on this machine.

        What else it narrows, and what the casts cost, is left out.
        """
        products = [one for one in findings.operators if one.flops and one.dtype == "float32"]
        tried = [(one.seconds, one.in_bfloat16) for one in products if one.in_bfloat16 is not None]
        if findings.kind != "training" or not tried:
            return None
        narrow = sum(seconds * ratio for seconds, ratio in tried) / sum(seconds for seconds, _ in tried)
        share = findings.share(tuple(products))
        ratio = 1 - share * (1 - narrow)
        if ratio > _WORTH_TRYING:
            return None
        return Prediction(
            "step_time",
            ratio,
            f"matrix products and convolutions in float32 are {share:.0%} of a step, and take {narrow:.2f}x as "
            "long in bfloat16 here",
            "outputs of products have 8 bits of mantissa; compare the metric",
            eases=("compute",),
        )

    def attach(self, loop: TrainingLoop) -> None:
        """Run the forward phase in mixed precision.

        Raises BadInput if nothing matches an entry of `keep_fp32`, or for float16 weights; CannotAct for
        float8 where the device or the model has no place for it.
        """
        float8 = None
        if self.dtype == "float8":
            if (reason := refuse_float8(loop.device)) is not None:
                raise CannotAct(reason)
            float8 = Float8Layers(loop.model, list(matching_modules(loop.model, self.keep_fp32)))
            loop.deploy_with(float8.exact)
            loop.on("hand_over", float8.remove)
        dtype = pick_dtype(self.dtype, loop.device)
        if any(parameter.dtype == torch.float16 for parameter in loop.model.parameters()):
            raise BadInput("amp_optimizer: the model's weights must be float32, and some are float16")
        precision = _MixedPrecision(self, loop, dtype, float8)
        precision.keep()
        loop.on("model_changed", precision.keep)
        loop.on("hand_over", precision.release)
        loop.around("gradients", precision.gradients)
        loop.around("forward", precision.forward)
        if dtype == torch.float16:
            scaler = LossScaling(loop, self.initial_scale, self.growth_interval)
            loop.keep(scaler.scaler)
            loop.around("gradients", scaler.gradients)
            loop.on("before_step", scaler.before_step)
        if self.channels_last:
            loop.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            loop.on("hand_over", lambda: loop.model.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]


class _MixedPrecision:
    """Autocast around the forward phase, and what it came to."""

    def __init__(
        self,
        instruction: AmpOptimizer,
        loop: TrainingLoop,
        dtype: torch.dtype,
        float8: Float8Layers | None,
    ) -> None:
        self.instruction = instruction
        self.loop = loop
        self.dtype = dtype
        self.float8 = float8
        self.device = loop.device.type
        plain = instruction.attention == "plain"
        self.attention: Callable[[], AbstractContextManager[None]] = plain_attention if plain else nullcontext
        self.figures = loop.figures()
        self.release: Callable[[], None] = lambda: None

    def keep(self) -> None:
        self.release()
        self.release = keep_in_float32(self.loop.model, self.instruction.keep_fp32)

    def forward(self, part: Part, inner: Callable[[Part], None]) -> None:
        with torch.autocast(self.device, self.dtype), self.attention():
            inner(part)

    def gradients(self, batch: Batch, inner: Callable[[Batch], None]) -> None:
        if "low_precision_flops" in self.figures:
            inner(batch)
        else:
            self.compare(batch)
            share = low_precision_share(lambda: inner(batch))
            self.figures["low_precision_flops"] = {"before": 0.0, "after": share}

    @torch.no_grad()
    def compare(self, batch: Batch) -> None:
        """Before the first step: the loss of some samples in float32 and as it will be trained."""
        loop, tolerance = self.loop, self.instruction.parity
        part = split_batch(batch, COMPARED)[0]
        buffers = [buffer.clone() for buffer in loop.model.buffers()]

        def loss(kept: tuple[str, ...] | None) -> float:
            """In float32 for None."""
            with self.few_bits(kept) if kept is not None else nullcontext():
                return float(loop.loss(call(loop.model, part.inputs), part.targets))

        # As deployed: without dropout, and past what was compiled. Statistics of batch-norm are still to come.
        with loop.deployed() as model:
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
            exact, low = loss(None), loss(())
            found = None
            if not same_loss(exact, low, tolerance):
                found = module_to_keep(model, exact, loss, tolerance)
        for buffer, before in zip(loop.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.figures["first_loss"] = {"before": exact, "after": low}
        if same_loss(exact, low, tolerance):
            return
        name = "float8" if self.float8 is not None else str(self.dtype).removeprefix("torch.")
        advice = "no single module makes the difference: try another dtype, or a larger parity"
        if found is not None:
            advice = f"write keep_fp32: [{found[0]}], with which it is {found[1]:.4g}"
        raise RunFailed(
            f"amp_optimizer: the loss of the first batch is {low:.4g} in {name} and {exact:.4g} in float32; {advice}"
        )

    @contextmanager
    def few_bits(self, kept: tuple[str, ...]) -> Iterator[None]:
        """What `forward` computes in, with the modules `kept` in float32."""
        with ExitStack() as stack:
            if self.float8 is not None:
                stack.enter_context(self.float8.only_but(kept))
            stack.callback(keep_in_float32(self.loop.model, kept))
            stack.enter_context(torch.autocast(self.device, self.dtype))
            stack.enter_context(self.attention())
            yield


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """What autocast gets for `dtype` on `device`: `auto` is bfloat16 unless the GPU only has float16.

    For float8, what is no linear layer computes in bfloat16.
    """
    if dtype != "auto":
        return torch.float16 if dtype == "float16" else torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


@contextmanager
def mixed_precision(
    model: nn.Module, *, dtype: Dtype = "auto", keep_fp32: Sequence[str] = ()
) -> Iterator[None]:
    """Within it, `model` and its loss are computed in `dtype` where that is safe; backward goes outside.

    Modules that match `keep_fp32` (see `keep_in_float32`) stay in float32. float16 needs a
    torch.amp.GradScaler too. Raises BadInput if nothing matches, CannotAct for float8 where there is none.
    """
    device = device_of(model)
    float8 = None
    if dtype == "float8":
        if (reason := refuse_float8(device)) is not None:
            raise CannotAct(reason)
        float8 = Float8Layers(model, list(matching_modules(model, keep_fp32)))
    release = keep_in_float32(model, keep_fp32)
    try:
        with torch.autocast(device.type, pick_dtype(dtype, device)):
            yield
    finally:
        release()
        if float8 is not None:
            float8.remove()


def _has_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@cache
def time_in_bfloat16() -> float:
    """Time of a matrix product in bfloat16 on this processor, as a share of that in float32; tried once."""

    def seconds(dtype: torch.dtype) -> float:
        square = torch.ones(TRIED, TRIED, dtype=dtype)
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            square @ square
            times.append(time.perf_counter() - start)
        return min(times)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several that wait for each other tell more of the machine's other work
    try:
        return seconds(torch.bfloat16) / seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)
