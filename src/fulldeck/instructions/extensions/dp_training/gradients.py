"""The gradient that a private optimizer steps with."""

from __future__ import annotations

import secrets

import torch
from torch import Tensor, nn

from fulldeck.instructions.extensions.dp_training.clipping import MODES, ClippedSum, Forward, Mode
from fulldeck.instructions.extensions.dp_training.norms import check_norms
from fulldeck.instructions.extensions.dp_training.poisson import Secret
from fulldeck.training.batch import Batch, LossFunction, Tensors, split_batch


class PrivateGradients:
    """Fills `.grad` with what a private optimizer steps with: clipped gradients, summed, with noise, over the expected
    size of a batch (`expected`). `noise` is in units of `max_norm`; `micro_batch` the most samples at once.

    Raises CannotAct for a batch norm, and where `mode` does not know a layer.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        *,
        noise: float,
        expected: int,
        max_norm: float = 1.0,
        mode: Mode = "ghost",
        micro_batch: int | None = None,
        secret: Secret | None = None,
    ) -> None:
        check_norms(model)
        self.clipped: ClippedSum = MODES[mode](model, loss, max_norm)
        self.noise = noise
        self.expected = expected
        self.micro_batch = micro_batch
        self.secret = secret or Secret(secrets.randbits(128))

    def __call__(self, step: int, inputs: Tensors, targets: Tensor, forward: Forward | None = None) -> Tensor:
        """The gradient of a batch, which may be empty, and its mean loss. `step` must not come twice."""
        parameters = self.clipped.parameters
        for parameter in parameters:
            parameter.grad = None
        rows = len(targets)
        total = torch.zeros((), device=targets.device)
        if rows:
            for part in split_batch(Batch(inputs, targets), self.micro_batch or rows):
                loss = self.clipped.add(part.inputs, part.targets, forward)
                total += loss.float() * len(part.targets) / rows
        generators: dict[torch.device, torch.Generator] = {}
        for parameter in parameters:
            device = parameter.device
            if device not in generators:
                generators[device] = self.secret.generator(device, step)
            drawn = torch.randn(
                parameter.shape, generator=generators[device], device=device, dtype=torch.float32
            )
            drawn *= self.noise * self.clipped.max_norm
            drawn = drawn if parameter.grad is None else drawn + parameter.grad
            parameter.grad = (drawn / self.expected).to(parameter.dtype)
        return total
