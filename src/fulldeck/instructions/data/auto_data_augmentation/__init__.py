"""Augment images by a policy and with adversarial samples made during training.

A policy (TrivialAugment, RandAugment, AugMix; mixup, CutMix) changes each batch on the device, and a share
of each part is replaced by adversarial samples made against the model as it is (FGSM, PGD). The first
makes a model robust against change of appearance, the second against worst-case and against random noise;
each alone leaves the other gap. `magnitude: auto` raises the policy's strength while augmented training
samples are right nearly as often as clean ones. With `separate_statistics`, adversarial samples are
normalised by batch statistics of their own, as in AdvProp, which are dropped at hand-over. No default
operation is noise, blur, compression or contrast, and yet `benchmarks/augmentation_cifar.py` shows how much
better the model holds under them.

Use when: a model must hold on images noisier than its training set, or the training set is small.
Avoid when: an operation would change a label (a mirrored digit, a rotated arrow): choose `operations`.
Reference: arXiv:2103.10158, arXiv:1909.13719, arXiv:1912.02781, arXiv:1710.09412, arXiv:1905.04899,
    arXiv:2001.03994, arXiv:1706.06083, arXiv:1911.09665; each named where it is used.

Example:
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> images, targets = torch.rand(8, 3, 16, 16), torch.randint(10, (8,))
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 10))
    >>> images = augment(images, "trivial", magnitude=0.5)
    >>> moved = adversarial(model, images, targets, epsilon=8 / 255)
    >>> mixed, probabilities = mix(moved, targets, classes=10)
    >>> loss = torch.nn.functional.cross_entropy(model(mixed), probabilities)
    >>> mixed.shape, probabilities.shape, bool((moved - images).abs().max() <= 8 / 255 + 1e-6)
    (torch.Size([8, 3, 16, 16]), torch.Size([8, 10]), True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fulldeck.errors import closest
from fulldeck.instruction import Evidence, Instruction, Situation, instruction, param
from fulldeck.instructions.data.auto_data_augmentation import corruption
from fulldeck.instructions.data.auto_data_augmentation.attack import adversarial
from fulldeck.instructions.data.auto_data_augmentation.augmenter import Augmenter
from fulldeck.instructions.data.auto_data_augmentation.mixing import Mixing, mix
from fulldeck.instructions.data.auto_data_augmentation.operations import AUGMIX_OPERATIONS, Operation
from fulldeck.instructions.data.auto_data_augmentation.policies import Policy, augment

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

__all__ = ["AutoDataAugmentation", "adversarial", "augment", "mix"]


@instruction(
    12,
    stage="data",
    goals={"accurate", "balanced"},
    touches={"inputs", "targets"},
    kinds={"image"},
    after={"label_noise_cleaning": "labels are cleaned before they are mixed"},
    evidence=Evidence(
        workload="digits",
        metric="corruption_accuracy",
        expect=">= +0.02",
        cost={"accuracy": ">= -0.005"},
    ),
)
class AutoDataAugmentation(Instruction):
    policy: Policy = param(
        "augmix", search=("none", "trivial", "augmix"), doc="How operations are chosen for each image."
    )
    magnitude: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = param(
        "auto",
        search=("auto", 0.3, 0.6),
        doc="Greatest strength of an operation, 0 to 1; auto finds it while training.",
    )
    operations: tuple[Operation, ...] = param(
        AUGMIX_OPERATIONS, doc="What the policy chooses from; leave out what changes a label."
    )
    chains: int = param(
        1, ge=1, le=5, search=(1, 3), doc="Chains of operations that augmix mixes; each adds to its time."
    )
    share: float = param(0.9, ge=0, le=1, doc="Share of the images that the policy augments.")
    flip: bool = param(False, doc="Mirror half of the images left to right; not for digits or letters.")
    mix: Mixing = param(
        "none", search=("none", "mixup", "cutmix"), doc="Mix images and labels with others of the batch."
    )
    mix_alpha: float = param(
        0.2, gt=0, le=10, doc="How evenly images are mixed: the parameter of the Beta distribution."
    )
    attack: Literal["none", "fgsm", "pgd"] = param(
        "fgsm", doc="How adversarial samples are made: in one step, or in attack_steps."
    )
    epsilon: float = param(
        0.016,
        ge=0,
        le=1,
        search=(0.008, 0.016, 0.031),
        hint="For 8 grey levels of 255 write epsilon: 0.031.",
        doc="Furthest that an adversarial sample moves a value; images are between 0 and 1.",
    )
    attack_steps: int = param(3, ge=1, le=100, doc="Gradient steps of pgd; each costs a pass.")
    adversarial_share: float = param(
        0.15, ge=0, le=1, search=(0.15, 0.3, 0.5), doc="Share of the images made adversarial."
    )
    separate_statistics: bool = param(
        False, doc="Normalise adversarial samples by batch statistics of their own (AdvProp)."
    )

    @field_validator("magnitude", mode="before")
    @classmethod
    def _auto_or_share(cls, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value == "auto" or (number and 0 <= value <= 1):
            return value
        near = closest(value, ("auto",)) if isinstance(value, str) else ""
        raise ValueError(
            f"auto_data_augmentation.magnitude must be auto or between 0 and 1, got {value!r}{near}"
        )

    @model_validator(mode="after")
    def _auto_needs_clean_images(self) -> Self:
        if self.magnitude == "auto" and self.policy != "none" and self.share == 1:
            raise ValueError(
                "auto_data_augmentation.share must be below 1 with magnitude: auto, which compares with the "
                "images left clean; write share: 0.9, or a magnitude between 0 and 1"
            )
        return self

    def cannot(self, situation: Situation) -> str | None:
        if (reason := super().cannot(situation)) is not None:
            return reason
        if situation.task == "regression" and (self.mix != "none" or self.magnitude == "auto"):
            return "needs classes for mix and magnitude: auto; write mix: none and a magnitude from 0 to 1"
        return None

    def prove(self, outcome: Outcome) -> float:
        """corruption_accuracy: on test images under corruptions that no policy applies in training."""
        return corruption.corrupted_accuracy(outcome.candidate)

    def attach(self, loop: TrainingLoop) -> None:
        Augmenter(self, loop)
