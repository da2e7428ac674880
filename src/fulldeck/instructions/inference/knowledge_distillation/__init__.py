"""Train the model to answer as a larger one does, which it is to replace: a student and its teacher.

Three losses are added up, by `weights`: how far the student's answers are from the teacher's, both softened by
`temperature` (Kullback-Leibler divergence); how far its inner layers are from the teacher's (mean squared error,
through a learnt projection where widths differ); and the usual loss on the labels. The student is the workload's
model. It is trained as always, so the other instructions work on it: quantised afterwards, it is a fraction of the
teacher in bytes.

The teacher is the folder of a run, of a package, or of a model of transformers; a function
(`package.module:function`) that returns a trained module; or the name of a built-in network, which is trained first on
the same rows for `teacher_epochs`. Left out, it is the student's own network twice as wide, likewise trained first. It
reads the training rows once: what it says is kept, and found again by the rows' content. Where rows change in
every epoch (augmentation), it is asked in every step. Texts and tables it may read in its own way (another tokenizer,
say), if rows do not change.

Use when: the model must become small or fast, and a large one is right more often.
Avoid when: the small model is as good as the large one by itself; the teacher has seen this training's test data.
Reference: Hinton et al. 2015, arXiv:1503.02531; Romero et al. 2015, arXiv:1412.6550 (inner layers); Beyer et al.
2022, arXiv:2106.05237 (teacher and student must see the same rows).

Example:
    >>> import torch
    >>> teacher, student = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
    >>> inputs, labels = torch.randn(16, 8), torch.randint(3, (16,))
    >>> with torch.no_grad():
    ...     answers = teacher(inputs)  # once, if you keep them
    >>> loss = distillation_loss(student(inputs), answers, labels, weights=(0.6, 0, 0.4), temperature=2.0)
    >>> loss.backward()  # train as usual
    >>> float(soft_target_loss(answers, answers, labels))
    0.0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import model_validator

from fulldeck.errors import BadInput
from fulldeck.instruction import Evidence, Instruction, instruction, param
from fulldeck.instructions.inference.knowledge_distillation.losses import (
    TEMPERATURE,
    WEIGHTS,
    checked_weights,
    distillation_loss,
    feature_loss,
    soft_target_loss,
)
from fulldeck.networks import NETWORKS

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

__all__ = ["KnowledgeDistillation", "distillation_loss", "feature_loss", "soft_target_loss"]

_PROCESSES = ("distributed_data_parallel", "fully_sharded_training")


@instruction(
    34,
    stage="inference",
    touches={"loss", "modules"},
    after={
        "structured_pruning": "the student is what pruning leaves",
        "parameter_efficient_finetuning": "the layers that learn from the teacher's are those with adapters",
        "amp_optimizer": "layers are heard in the precision that they compute in",
    },
    evidence=Evidence(
        workload="digits",
        settings={"network": "mobile_net"},
        metric="validation_loss",
        expect="<= 0.95x",
        cost={"accuracy": ">= -0.005"},
    ),
)
class KnowledgeDistillation(Instruction):
    teacher: str | None = param(
        None,
        doc="A run, a package, a folder of transformers, package.module:function, or a network's name; left out: "
        "the model's own network, twice as wide.",
    )
    teacher_epochs: int | None = param(
        None, ge=1, doc="Epochs of a teacher that is trained first; left out: as many as the training has."
    )
    weights: tuple[float, float, float] = param(
        WEIGHTS,
        search=((0.4, 0.3, 0.3), (0.6, 0.0, 0.4)),
        doc="Of soft targets, inner layers and labels; 0 leaves one out.",
    )
    temperature: float = param(
        TEMPERATURE,
        gt=0,
        search=(2.0, 4.0, 8.0),
        doc="What logits are divided by; higher shows more of them.",
    )
    layers: tuple[tuple[str, str], ...] = param(
        (),
        doc="Pairs of modules to compare, the student's first; left out: the middle block, and what the last layer "
        "reads.",
    )

    @model_validator(mode="after")
    def _weights_are_weights(self) -> KnowledgeDistillation:
        try:
            checked_weights(self.weights)
        except BadInput as error:
            raise ValueError(f"knowledge_distillation.weights: {error}") from None
        return self

    def clash(self, other: Instruction) -> str | None:
        """Also with what trains in several processes, where the teacher is trained first."""
        if other.card.name in _PROCESSES and (self.teacher is None or self.teacher in NETWORKS):
            return (
                "each process would train a teacher of its own; train it in a run, and name that as teacher"
            )
        return super().clash(other)

    def attach(self, loop: TrainingLoop) -> None:
        """Open the teacher, and let the student learn from it.

        Raises BadInput for a teacher that cannot be read or has learnt another task (CannotAct if none can be made),
        for layers that are not there, and for batches that can be read once only.
        """
        # Here, because a plan needs none of it.
        from fulldeck.instructions.inference.knowledge_distillation.distillation import Distillation

        distillation = Distillation(self, loop)
        loop.keep(distillation)
        loop.on("batch_start", distillation.prepare)
        loop.on("after_forward", distillation.teach)
        loop.on("model_changed", distillation.follow)
        loop.on("fit_end", distillation.compare)
        loop.on("hand_over", distillation.end)
