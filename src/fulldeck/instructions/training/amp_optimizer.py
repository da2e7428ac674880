"""Compute in 16-bit floats where that is safe, and in 32-bit where it is not (automatic mixed precision).

Matrix products and convolutions run in bfloat16 or float16, losses and reductions in float32; the weights,
their gradients and the optimizer's state stay in float32, so that what is handed over is a float32 model.
float16 has a small range: its loss is scaled up before backward and the gradient scaled down after it,
and a step whose gradient overflowed is skipped. Evaluation runs in float32, as deployed.

The share of floating-point operations that ran in 16 bits is counted on the first step.

Use when: the machine multiplies 16-bit floats faster: Intel and AMD processors with AVX512-BF16 or AMX,
GPUs with tensor cores.
Avoid when: the processor has no such instructions; the model is so small that its time goes elsewhere.
Reference: Micikevicius et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322 (bfloat16).
The work is done by `torch.autocast` and `torch.amp.GradScaler`.

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

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fulldeck.errors import BadInput, RunFailed, closest
from fulldeck.instruction import Evidence, Instruction, Prediction, Situation, instruction, param

if TYPE_CHECKING:
    from fulldeck.batch import Batch, Part
    from fulldeck.diagnosis.findings import Findings
    from fulldeck.training_loop import TrainingLoop

Dtype = Literal["auto", "bfloat16", "float16"]
OVERFLOW = "float16 overflow"
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
        doc="16-bit type; auto is bfloat16, or float16 on GPUs that lack bfloat16.",
        search=("bfloat16",),
    )
    keep_fp32: tuple[str, ...] = param(
        (), doc="Modules that stay in float32, by name, pattern (`*.norm`) or class (`LayerNorm`)."
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
        """On a CPU: float16, and `auto` where the processor has no bfloat16 instructions."""
        if situation.device == "cpu" and self.dtype == "float16":
            return "float16 is slower than float32 on a CPU; write dtype: bfloat16"
        if situation.device == "cpu" and self.dtype == "auto" and not _fast_bfloat16():
            return "this processor has no bfloat16 instructions, and emulating them is slower than float32"
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

        Raises BadInput if nothing matches an entry of `keep_fp32`, or for float16 weights.
        """
        dtype = pick_dtype(self.dtype, loop.device)
        if any(parameter.dtype == torch.float16 for parameter in loop.model.parameters()):
            raise BadInput("amp_optimizer: the model's weights must be float32, and some are float16")
        precision = _MixedPrecision(loop, dtype, self.keep_fp32, plain=self.attention == "plain")
        precision.keep()
        loop.on("model_changed", precision.keep)
        loop.on("hand_over", precision.release)
        loop.around("gradients", precision.gradients)
        loop.around("forward", precision.forward)
        if dtype == torch.float16:
            scaler = _Scaler(loop, self.initial_scale, self.growth_interval)
            loop.keep(scaler.scaler)
            loop.around("gradients", scaler.gradients)
            loop.on("before_step", scaler.before_step)
        if self.channels_last:
            loop.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            loop.on("hand_over", lambda: loop.model.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]


class _MixedPrecision:
    """Autocast around the forward phase, and what it came to."""

    def __init__(
        self, loop: TrainingLoop, dtype: torch.dtype, keep_fp32: Sequence[str], *, plain: bool
    ) -> None:
        self.loop = loop
        self.dtype = dtype
        self.keep_fp32 = keep_fp32
        self.device = loop.device.type
        self.attention: Callable[[], AbstractContextManager[None]] = plain_attention if plain else nullcontext
        self.figures = loop.figures()
        self.figures = loop.figures()
        self.release: Callable[[], None] = lambda: None

    def keep(self) -> None:
        self.release()
        self.release = keep_in_float32(self.loop.model, self.keep_fp32)

    def forward(self, part: Part, inner: Callable[[Part], None]) -> None:
        with torch.autocast(self.device, self.dtype), self.attention():
            inner(part)

    def gradients(self, batch: Batch, inner: Callable[[Batch], None]) -> None:
        if "low_precision_flops" in self.figures:
            inner(batch)
        else:
            share = low_precision_share(lambda: inner(batch))
            self.figures["low_precision_flops"] = {"before": 0.0, "after": share}


class _Scaler:
    """Dynamic loss scaling: torch's GradScaler inside the loop's contracts."""

    def __init__(self, loop: TrainingLoop, initial_scale: float, growth_interval: int) -> None:
        self.loop = loop
        self.one = torch.ones((), device=loop.device)
        self.scaler = torch.amp.GradScaler(
            loop.device.type, init_scale=initial_scale, growth_interval=growth_interval
        )

    def gradients(self, batch: Batch, inner: Callable[[Batch], None]) -> None:
        scale = self.scaler.scale(self.one)
        # Setting the scale to what it is forgets an earlier unscale_: this phase may run twice in a step.
        self.scaler.update(scale)
        self.loop.loss_scale = scale
        inner(batch)
        for optimizer in self.loop.optimizers:
            self.scaler.unscale_(optimizer)

    def before_step(self, batch: Batch) -> str | None:
        before = self.scaler.get_scale()
        self.scaler.update()
        after = self.scaler.get_scale()
        if after >= before:
            return None
        if after < 1:
            raise RunFailed(
                f"the gradient is not finite at step {self.loop.step}, however small the loss scale; write "
                "dtype: bfloat16, keep the module that overflows in fp32, or lower the learning rate"
            )
        self._check_statistics()
        return OVERFLOW

    def _check_statistics(self) -> None:
        # Skipping the step undoes an overflow of the gradient, not one of the activations.
        for name, buffer in self.loop.model.named_buffers():
            if name.endswith(("running_mean", "running_var")) and not buffer.isfinite().all():
                raise RunFailed(
                    f"an activation overflowed float16 at step {self.loop.step} and reached {name}; write "
                    f"dtype: bfloat16, or keep the modules before {name.rpartition('.')[0]} in fp32"
                )


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The type that `dtype` means on `device`: `auto` is bfloat16 unless the GPU only has float16."""
    if dtype != "auto":
        return torch.bfloat16 if dtype == "bfloat16" else torch.float16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


@contextmanager
def mixed_precision(
    model: nn.Module, *, dtype: Dtype = "auto", keep_fp32: Sequence[str] = ()
) -> Iterator[None]:
    """Within it, `model` and its loss are computed in `dtype` where that is safe; backward goes outside.

    Modules that match `keep_fp32` (see `keep_in_float32`) stay in float32. float16 needs a
    torch.amp.GradScaler too. Raises BadInput if nothing matches.
    """
    device = _device(model)
    release = keep_in_float32(model, keep_fp32)
    try:
        with torch.autocast(device.type, pick_dtype(dtype, device)):
            yield
    finally:
        release()


def keep_in_float32(model: nn.Module, patterns: Sequence[str]) -> Callable[[], None]:
    """Let the modules that match `patterns` compute in float32 under autocast; return what undoes it.

    A pattern is a qualified name with the wildcards of fnmatch, or the name of a class. Raises BadInput
    for a pattern that matches nothing.
    """
    names = dict(model.named_modules())
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        found = {n: m for n, m in names.items() if fnmatchcase(n, pattern) or type(m).__name__ == pattern}
        if not found:
            there = {*names, *(type(module).__name__ for module in names.values())}
            raise BadInput(f'amp_optimizer.keep_fp32: no module matches "{pattern}"{closest(pattern, there)}')
        chosen |= found
    hooks = [_Float32Hooks(module, _device(model).type) for module in chosen.values()]

    def release() -> None:
        for hook in hooks:
            hook.remove()

    return release


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within it, torch's scaled_dot_product_attention is two matrix products around a softmax, in 16 bits.

    On a CPU without AMX the fused bfloat16 kernel takes 2.5 times as long at a length of 128 and breaks
    even near 1000. The attention weights (batch x heads x length x length) are held for backward.
    """
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # named cuda, and heeded everywhere
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)


class _Float32Hooks:
    """Turn autocast off around one module's forward. Hooks can be removed in any order, patches cannot."""

    def __init__(self, module: nn.Module, device_type: str) -> None:
        self.device_type = device_type
        self.before: list[bool] = []
        self.handles = [
            module.register_forward_pre_hook(self.enter, with_kwargs=True),
            module.register_forward_hook(self.leave, always_call=True),
        ]

    def enter(self, module: nn.Module, inputs: Any, named: Any) -> tuple[Any, Any]:
        # Not torch.autocast as a context: torch's compiler cannot follow one from hook to hook.
        self.before.append(torch.is_autocast_enabled(self.device_type))
        torch.set_autocast_enabled(self.device_type, False)
        return tuple(map(_float32, inputs)), {name: _float32(value) for name, value in named.items()}

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self.before:
            torch.set_autocast_enabled(self.device_type, self.before.pop())

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def low_precision_share(work: Callable[[], object]) -> float:
    """Run `work`, and return the share (0 to 1) of its floating-point operations done in 16 bits or less.

    Counted are the matrix products, convolutions and attention kernels that
    `torch.utils.flop_counter` knows; without any the share is 0.
    """
    counter = _FlopsByWidth()
    with counter:
        work()
    total = sum(counter.flops.values())
    return counter.flops[True] / total if total else 0.0


class _FlopsByWidth(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count floating-point operations, by whether their first operand has at most 16 bits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[bool] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        formula = _FORMULAS.get(getattr(func, "overloadpacket", None))
        if formula is not None:
            low = next(arg.dtype.itemsize <= 2 for arg in args if isinstance(arg, Tensor))
            self.flops[low] += formula(*args, **kwargs, out_val=outputs)
        return outputs


_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch counts attention on GPUs only.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _aten._scaled_dot_product_flash_attention
    ],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _fast_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
