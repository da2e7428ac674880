"""Train small adapters in place of the weights, and merge them into the weights at the end.

The weights stay as they are; beside each chosen layer a few numbers are trained. `lora` adds a product of two
thin matrices, `dora` also learns the length of each row of the sum, `ia3` only scales each layer's outputs
(the inputs of layers that narrow). A new head is trained whole. Optimizer states, gradients and checkpoints
shrink with the number of trained parameters. At hand-over the adapters are merged into the weights, and the
outputs must stay what they were: the model that is handed over has its own layers only and costs nothing more.

Adapters want a rate about ten times that of full training.

Use when: a pretrained model is fine-tuned and memory is short, or many variants of one model are to be kept.
Avoid when: the model is trained from scratch, or is small: a step takes longer, not shorter.
Reference: Hu et al. 2021, arXiv:2106.09685 (LoRA); Liu et al. 2024, arXiv:2402.09353 (DoRA); Liu et al. 2022,
arXiv:2205.05638 (IA3). The layers and their merging are those of the library peft.

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    >>> adapters = add_adapters(model, "lora", rank=2, targets=["0"], train_also=["2"])
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # 2 x (64 + 64), and the head's 130
    386
    >>> # ... your training ...
    >>> adapters.merge(torch.ones(3, 64)) < 1e-5  # the largest change of any output
    True
    >>> [type(layer).__name__ for layer in model]
    ['Linear', 'ReLU', 'Linear']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from fulldeck.instruction import Evidence, Instruction, instruction, param
from fulldeck.instructions.training.parameter_efficient_finetuning.adapters import Kind, add_adapters
from fulldeck.instructions.training.parameter_efficient_finetuning.layers import find_head
from fulldeck.training.batch import to_device

if TYPE_CHECKING:
    from fulldeck.candidate import Candidate
    from fulldeck.training.loop import TrainingLoop

__all__ = ["ParameterEfficientFinetuning", "add_adapters", "find_head"]

FOLDER = "adapters"


@instruction(
    24,
    stage="training",
    touches={"modules", "weights"},
    after={"early_stopping": "the best adapters must be back in place when they are merged"},
    before={
        "amp_optimizer": "modules that stay in float32 are looked up in the model that has its adapters",
        "train_step_compilation": "the step is compiled with its adapters",
    },
    extras=("peft",),
    evidence=Evidence(
        workload="digits", metric="trainable_share", expect="<= 0.12", cost={"accuracy": ">= -0.02"}
    ),
)
class ParameterEfficientFinetuning(Instruction):
    kind: Kind = param("lora", search=("lora", "dora"), doc="Which adapters.")
    rank: int = param(8, ge=1, search=(4, 8, 16, 32), doc="Width of the thin matrices of lora and dora.")
    alpha: float | None = param(
        None, gt=0, doc="What lora and dora scale their addition by, times rank; twice the rank if left out."
    )
    dropout: float = param(0.0, ge=0, lt=1, doc="Share of a layer's inputs that lora and dora do not see.")
    targets: tuple[str, ...] = param(
        (),
        doc="Layers to adapt, by name, pattern (`*.query`) or class (`Linear`); all linear and "
        "convolution layers but the head if left out.",
    )
    train_also: tuple[str, ...] | None = param(
        None, doc="Modules to train whole, likewise; the last layer if left out, unless it predicts tokens."
    )
    save_adapters: bool = param(
        False, doc="Also write the adapters alone to artifacts/adapters, as peft reads them."
    )

    def attach(self, loop: TrainingLoop) -> None:
        """Freeze the model and train adapters; merge them at hand-over.

        Raises BadInput if nothing matches, CannotAct if the model has no layer to adapt.
        """
        language = loop.data is not None and loop.data.task == "language_modelling"
        head = () if language else find_head(loop.model)
        before = _trained(loop.model)
        adapters = add_adapters(
            loop.model,
            self.kind,
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=self.targets,
            train_also=head if self.train_also is None else self.train_also,
        )
        loop.model.to(loop.device)
        figures = loop.figures()
        figures["trainable_share"] = {"before": 1.0, "after": _trained(loop.model) / before}

        def merge() -> None:
            inputs, _ = next(iter(loop.loader.batches(0)))
            device = next(loop.model.parameters()).device  # shares of a model are put together on the host
            figures["merge_difference"] = {"after": adapters.merge(to_device(inputs, device))}
            if self.save_adapters:
                loop.notes.append(f"the adapters alone are in the folder artifacts/{FOLDER}")

        loop.on("hand_over", merge)
        if self.save_adapters:
            loop.carry(adapters)

    def optimise(self, candidate: Candidate) -> Candidate:
        """Write the adapters alone, where asked for; the candidate stays as it is."""
        if self.save_adapters:
            candidate.carried[self.card.name].save(candidate.folder / FOLDER)
        return candidate


def _trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
