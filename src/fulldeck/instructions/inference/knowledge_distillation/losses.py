"""What a student is trained on: the teacher's softened answers, its inner layers, and the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fulldeck.errors import BadInput
from fulldeck.training.batch import LossFunction
from fulldeck.training.token_mean import IGNORED

WEIGHTS = (0.4, 0.3, 0.3)
TEMPERATURE = 4.0


def distillation_loss(
    outputs: Tensor,
    teacher_outputs: Tensor,
    targets: Tensor,
    *,
    features: Sequence[tuple[Tensor, Tensor]] = (),
    weights: Sequence[float] = WEIGHTS,
    temperature: float = TEMPERATURE,
    loss: LossFunction = nn.functional.cross_entropy,
) -> Tensor:
    """The weighted sum of soft-target loss, feature loss and `loss` on the labels, each a mean over the batch.

    `outputs` and `teacher_outputs` are N x C (or N x T x V) logits, or N (or N x 1) values, for which the soft-target
    loss is `loss` with the teacher's values as targets. `features` are pairs of the student's and the teacher's,
    alike in shape. Raises BadInput if outputs or features are not alike, or for three zero weights.
    """
    soft, inner, labels = checked_weights(weights)
    _same_shape("outputs", outputs, teacher_outputs)
    total = labels * loss(outputs, targets)
    if soft:
        total = total + soft * soft_target_loss(outputs, teacher_outputs, targets, temperature, loss)
    for own, teachers in features:
        _same_shape("features", own, teachers)
        total = total + inner / len(features) * feature_loss(own, teachers)
    return total


def soft_target_loss(
    outputs: Tensor,
    teacher_outputs: Tensor,
    targets: Tensor,
    temperature: float = TEMPERATURE,
    loss: LossFunction = nn.functional.cross_entropy,
) -> Tensor:
    """How far the student's answers are from the teacher's: a mean over rows, or over the tokens that count.

    For logits it is the Kullback-Leibler divergence of both divided by `temperature`, times its square, so that the
    gradient does not shrink with it (Hinton et al. 2015).
    """
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return loss(outputs, teacher_outputs)
    own, teachers = outputs.flatten(0, -2).float(), teacher_outputs.flatten(0, -2).float()
    divergence = nn.functional.kl_div(
        (own / temperature).log_softmax(-1),
        (teachers / temperature).log_softmax(-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    if outputs.ndim > 2:
        counted = targets.flatten() != IGNORED
        return temperature**2 * (divergence * counted).sum() / counted.sum().clamp(min=1)
    return temperature**2 * divergence.mean()


def feature_loss(own: Tensor, teachers: Tensor, unit: float | None = None) -> Tensor:
    """Mean squared difference in units of the teacher's mean square (or of `unit`): 1 for a student that is silent."""
    if unit is None:
        unit = max(float(teachers.float().square().mean()), 1e-12)
    return nn.functional.mse_loss(own.float(), teachers.float()) / unit


def checked_weights(weights: Sequence[float]) -> tuple[float, float, float]:
    """The weights of soft targets, features and labels. Raises BadInput if they are not three, or not positive."""
    if len(weights) != 3 or any(not weight >= 0 for weight in weights) or not sum(weights):
        raise BadInput(
            "weights are three numbers of at least 0, not all 0: of soft targets, features and labels, such as "
            f"[0.4, 0.3, 0.3]; got {list(weights)}"
        )
    soft, inner, labels = weights
    return soft, inner, labels


def _same_shape(what: str, own: Tensor, teachers: Tensor) -> None:
    if own.shape != teachers.shape:
        raise BadInput(
            f"the {what} of student and teacher must be alike, and are {list(own.shape)} and {list(teachers.shape)}"
        )


def mean_square(tensors: Sequence[Tensor]) -> list[float]:
    """Of each of the tensors; at least 1e-12."""
    with torch.no_grad():
        return [max(float(one.float().square().mean()), 1e-12) for one in tensors]
