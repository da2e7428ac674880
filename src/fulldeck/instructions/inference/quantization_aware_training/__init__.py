"""Train the model with weights and activations rounded as INT8 or 4-bit weights will round them, then convert it.

From `start_fraction` of the training on, each linear layer and convolution computes with weights that are
rounded to `bit_width` bits, one scale a channel, and with inputs that are rounded to 8; gradients pass as if
nothing were rounded. Batch-norm is taken into the convolution before it. The ranges of activations follow the
batches until `freeze_fraction`; from there on they and batch-norm's statistics stand still, and what is trained
is what will be shipped. The conversion has integer weights: exported, ONNX Runtime and OpenVINO run it with
their integer kernels. 4-bit weights take half the room in the file; engines unpack them and compute with 8.

Use when: quantisation after training loses too much; always at 4 bits.
Avoid when: post_training_quantization keeps the metric, which needs no training; the forward pass depends on
values in the data. A quantised step takes two to three times as long.
Reference: Jacob et al. 2017, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342. The work is done by
torchao's PT2E.

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> inputs, targets = torch.randn(32, 8), torch.randint(2, (32,))
    >>> model = prepare_qat(model, inputs, bit_width=8)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> for _ in range(3):  # train as usual
    ...     torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    ...     optimizer.step()
    >>> integers = convert(model)
    >>> {weight.dtype for name, weight in integers.state_dict().items() if "frozen" in name}
    {torch.int8}
    >>> bool((integers(inputs) - model.eval()(inputs)).abs().max() < 0.01)
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from fulldeck.candidate import Candidate, Tolerance
from fulldeck.errors import BadInput, CannotAct, closest, extra
from fulldeck.instruction import Evidence, Instruction, instruction, param
from fulldeck.logs import quiet
from fulldeck.quantization.capture import capture
from fulldeck.training.batch import Batch, Tensors
from fulldeck.training.random_state import random_state, restore_random_state
from fulldeck.training.trial import first_batch

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from fulldeck.instructions.inference.quantization_aware_training.fake_quantized import FakeQuantized
    from fulldeck.training.loop import TrainingLoop

__all__ = ["QuantizationAwareTraining", "convert", "prepare_qat"]

_GRAPH = "the model becomes one graph of operators"


@instruction(
    27,
    stage="inference",
    touches={"dtype", "modules"},
    after={
        "auto_data_augmentation": "its graph begins with a batch that is as it will be trained on",
        "touches:batch_size": "it begins after a share of the steps, and a batch of another size makes others",
        "knowledge_distillation": "the student is distilled in float first; its graph has no layers to listen to",
        "weight_averaging": "the averaged weights are those that are rounded",
        "early_stopping": "the best weights are put back before they are converted",
    },
    before={
        "onnx_export": "what is exported must have the integers in it",
        "kernel_fusion": "folding would take away the batch-norm that is to follow the rounded weights",
    },
    conflicts={
        "gradient_checkpointing": f"{_GRAPH}, without blocks to recompute; leave gradient_checkpointing out, or "
        "quantise after training (post_training_quantization)",
        "parameter_efficient_finetuning": f"{_GRAPH}, from which adapters cannot be merged; leave one out, or "
        "quantise after training (post_training_quantization)",
    },
    extras=("int8",),
    evidence=Evidence(
        workload="digits",
        metric="artifact_bytes",
        expect="<= 0.3x",
        cost={"accuracy": ">= -0.005"},
        beside=("onnx_export",),
    ),
)
class QuantizationAwareTraining(Instruction):
    bit_width: Literal[8, 4] = param(8, search=(8, 4), doc="Bits of a weight; activations have 8.")
    start_fraction: float = param(
        0.5, ge=0, lt=1, doc="Share of the training after which weights and activations are rounded."
    )
    freeze_fraction: float = param(
        0.9,
        ge=0,
        le=1,
        doc="Share of the training after which ranges and batch-norm's statistics stand still.",
    )
    keep: tuple[str, ...] = param((), doc="Modules, by qualified name, that stay in float.")
    metric_drop: float = param(
        0.005, ge=0, le=1, doc="What conversion may cost of the metric, in its own unit."
    )

    def clash(self, other: Instruction) -> str | None:
        """Also with what trains in a form that a graph cannot have."""
        settings = other.model_dump()
        if other.card.name == "amp_optimizer" and settings["dtype"] == "float8":
            return f"{_GRAPH}, and float8 is of layers; write amp_optimizer: {{dtype: bfloat16}}"
        if other.card.name == "amp_optimizer" and settings["keep_fp32"]:
            return f"{_GRAPH}, without modules to keep in float32; leave keep_fp32 out"
        if other.card.name == "auto_data_augmentation" and settings["separate_statistics"]:
            return f"{_GRAPH}, with one set of batch statistics; leave separate_statistics out"
        return super().clash(other)

    def tolerance(self) -> Tolerance:
        return Tolerance(metric_drop=self.metric_drop)

    def attach(self, loop: TrainingLoop) -> None:
        """Round weights and activations from `start_fraction` on.

        Raises CannotAct where the model cannot be captured as a graph or has nothing to quantise, BadInput
        for a name in `keep` that no module has, or a loader without a length.
        """
        _library()
        inputs = first_batch(loop).inputs
        self._check(loop.model)
        with torch.random.fork_rng(devices=[]):
            capture(loop.model, _two(inputs))  # now, and not after half of the training

        def operate(model: nn.Module) -> nn.Module:
            before = random_state()  # capturing draws numbers, which are not the training's
            prepared = prepare_qat(model, inputs, bit_width=self.bit_width, keep=self.keep)
            restore_random_state(before)
            return prepared

        begin, figures = loop.surgery(operate), loop.figures()
        start, freeze = self._steps(loop)

        def batch_start(batch: Batch) -> None:
            # Not loop.step: the steps of a trial are counted there too.
            step = loop.epoch * loop.steps_per_epoch + loop.step_in_epoch
            model = loop.model
            if step >= start and not _is_quantised(model):
                begin()
                model = loop.model
                figures["quantised_layers"] = {"before": 0, "after": len(model.quantised)}  # type: ignore[arg-type]
                loop.module.train()
            if step >= freeze and not model.frozen:
                model.freeze()  # type: ignore[operator]

        def stopping(reason: str) -> str | None:
            return None if _is_quantised(loop.model) else "quantization_aware_training has not begun"

        loop.on("batch_start", batch_start)
        loop.on("stopping", stopping)

    def restore(self, model: nn.Module, inputs: Tensors) -> nn.Module:
        return prepare_qat(model, inputs, bit_width=self.bit_width, keep=self.keep)

    def optimise(self, candidate: Candidate) -> Candidate:
        """Convert what was trained. Raises CannotAct if the training ended before it began to round."""
        if not _is_quantised(candidate.module):
            raise CannotAct("the training ended before start_fraction; train longer, or lower start_fraction")
        integers = convert(candidate.module)  # type: ignore[arg-type]
        return replace(candidate, module=integers, precision=f"int{self.bit_width}")

    def _steps(self, loop: TrainingLoop) -> tuple[int, int]:
        if self.freeze_fraction <= self.start_fraction:
            raise BadInput(
                f"quantization_aware_training.freeze_fraction {self.freeze_fraction:g} must be after "
                f"start_fraction {self.start_fraction:g}"
            )
        try:
            total = loop.total_steps
        except TypeError:
            raise BadInput(
                "quantization_aware_training: this loader has no length, so there is no share of the training"
            ) from None
        start = min(max(1, round(self.start_fraction * total)), total - 1)
        return start, max(start + 1, round(self.freeze_fraction * total))

    def _check(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_modules() if name]
        for name in self.keep:
            if name not in names:
                raise BadInput(
                    f'quantization_aware_training.keep: no module is called "{name}"{closest(name, names)}'
                )
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
        if not any(isinstance(m, kinds) for m in model.modules()):
            raise CannotAct("the model has no linear layer or convolution to quantise")


def prepare_qat(
    model: nn.Module, inputs: Tensors, *, bit_width: int = 8, keep: Sequence[str] = ()
) -> FakeQuantized:
    """The model, to be trained on as usual with rounded weights and activations; it shares its parameters.

    `inputs` is a batch of two rows or more on the model's device, from which the first ranges are taken. Weights
    get `bit_width` bits (8 or 4), one scale a channel; activations 8. Modules in `keep`, by qualified name, stay in
    float. Call `freeze()` on the result late in the training. Raises BadInput without torchao, CannotAct where
    the model cannot be captured as a graph, or has no linear layer or convolution.
    """
    if bit_width not in (8, 4):
        raise BadInput(f"bit_width must be 8 or 4, got {bit_width}: engines have kernels for no other")
    _library()
    from fulldeck.instructions.inference.quantization_aware_training.fake_quantized import fake_quantized

    return fake_quantized(model, inputs, bit_width, keep)


def convert(prepared: FakeQuantized) -> GraphModule:
    """The model of integers that `prepared` was trained to be, on the CPU: int8 weights, rounded activations.

    In PyTorch it computes slowly what an engine computes fast: export it (`export_onnx`), or compile it with
    torch. `prepared` stays as it is.
    """
    from fulldeck.instructions.inference.quantization_aware_training.fake_quantized import integers_of

    return integers_of(prepared)


def _library() -> None:
    with quiet():
        extra("torchao.quantization.pt2e", "int8")


def _two(inputs: Tensors) -> Any:
    return {n: v[:2] for n, v in inputs.items()} if isinstance(inputs, dict) else inputs[:2]


def _is_quantised(model: nn.Module) -> bool:
    return hasattr(model, "quantised")
