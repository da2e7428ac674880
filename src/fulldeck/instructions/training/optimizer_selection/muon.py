"""torch's Muon, also for the kernels of convolutions, and in float32 on a CPU, where that is several times as fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` at AdamW's step size, over groups of matrices and of kernels.

    A kernel is taken as a matrix: a row for each output channel, with all that it sees (Jordan 2024,
    kellerjordan.github.io/posts/muon). Steps are as long as AdamW's (Liu et al. 2025, arXiv:2502.16982).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        # torch's own looks only here whether all are matrices.
        super().__init__([nn.Parameter(torch.zeros(1, 1))], adjust_lr_fn="match_rms_adamw", **settings)
        self.param_groups.clear()
        for group in groups:
            self.add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        matrix = update.flatten(1)
        direction = orthogonalised(
            matrix, coefficients=group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"]
        )
        length = 0.2 * max(matrix.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.view(parameter.shape), alpha=-group["lr"] * length)


def orthogonalised(
    matrix: Tensor,
    *,
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    steps: int = 5,
    eps: float = 1e-7,
) -> Tensor:
    """`matrix` with singular values near 1 (0.7 to 1.2, but for tiny ones), by Newton-Schulz steps.

    In bfloat16 on an accelerator. On a CPU in float32, whose small products are faster there; a matrix that is
    at least twice as wide as high goes through its much smaller Gram matrix, which comes to the same.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T, coefficients=coefficients, steps=steps, eps=eps).T.contiguous()
    a, b, c = coefficients
    on_cpu = matrix.device.type == "cpu"
    x = matrix.float() if on_cpu else matrix.bfloat16()
    x = x / x.norm().clamp(min=eps)
    if on_cpu and 2 * x.shape[0] <= x.shape[1] and type(x) is Tensor:
        gram, factor = x @ x.T, None
        for _ in range(steps):
            polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            polynomial.diagonal().add_(a)
            factor = polynomial if factor is None else polynomial @ factor
            gram = polynomial @ gram @ polynomial
        return x if factor is None else factor @ x
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
