"""Whether teacher and student fit together: outputs alike, layers to compare, and projections between their widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.instructions.inference.knowledge_distillation.features import (
    Pair,
    channels,
    common_size,
    first_tensor,
    layer_shapes,
    matching_layers,
)
from fulldeck.instructions.inference.knowledge_distillation.teacher import Teacher
from fulldeck.training.batch import Tensors, call

OUTPUTS_ONLY = "write weights: [0.5, 0, 0.5] to learn from outputs and labels alone"


@dataclass(frozen=True)
class Fit:
    """What of student and teacher is compared.

    `outputs` is how many values both give for a row or token. For each of `pairs`, `sizes` has what both features are
    averaged to, and `projectors` what brings the student's to the teacher's width.
    """

    outputs: int
    pairs: tuple[Pair, ...]
    sizes: tuple[tuple[int, ...], ...]
    projectors: nn.ModuleList


def fit(
    student: nn.Module,
    teacher: Teacher,
    rows: Tensors,
    teachers_rows: Tensors,
    *,
    layers: Sequence[Pair] = (),
    features: bool = True,
    seed: int = 0,
) -> Fit:
    """Look at both on a few `rows`, as either reads them.

    Raises BadInput if the teacher cannot read its rows or gives other outputs than the student; with `features`,
    also for layers that are not there, and where none are found or the teacher has none.
    """
    own = _output_shape(student, rows)
    try:
        its = _output_shape(teacher.module, teachers_rows)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the teacher cannot read what this training reads: {reason}") from error
    if own != its:
        if len(own) == len(its) == 2:
            difference = f"{its[1]} classes, and the student {own[1]}"
        else:
            difference = f"outputs of shape {list(its)}, and the student {list(own)}"
        raise BadInput(f"the teacher gives {difference}; it must have learnt the same task")
    outputs = own[-1] if len(own) > 1 else 1
    if not features:
        return Fit(outputs, (), (), nn.ModuleList())
    if not teacher.layered:
        raise BadInput(
            f"the teacher runs in an engine, where its layers cannot be listened to; {OUTPUTS_ONLY}"
        )
    pairs = list(layers) or matching_layers(student, teacher.module, outputs)
    if not pairs:
        raise BadInput(
            "no layers of student and teacher are found that belong together; name pairs in layers (the student's "
            f"first), or {OUTPUTS_ONLY}"
        )
    shapes = zip(
        layer_shapes(student, [one for one, _ in pairs], rows, outputs),
        layer_shapes(teacher.module, [other for _, other in pairs], teachers_rows, outputs),
        strict=True,
    )
    sizes, projectors = [], nn.ModuleList()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for one, other in shapes:
            sizes.append(common_size(one, other))
            widths = channels(one), channels(other)
            projectors.append(nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths))
    return Fit(outputs, tuple(pairs), tuple(sizes), projectors)


def _output_shape(model: nn.Module, rows: Tensors) -> torch.Size:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return first_tensor(call(model, rows)).shape
    finally:
        model.train(training)
