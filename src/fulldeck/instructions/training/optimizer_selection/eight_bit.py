"""torchao's AdamW with 8-bit states, whose state can be kept like any other: as plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fulldeck.errors import extra


def adamw_8bit(
    groups: Iterable[nn.Parameter] | Iterable[dict[str, Any]], learning_rate: float, **settings: Any
) -> Optimizer:
    """`torchao.optim.AdamW8bit` (Dettmers et al. 2021, arXiv:2110.02861), compiled on accelerators only.

    States of fewer than 4096 values, or not a multiple of 256, stay in 32 bits. Its `state_dict` holds plain
    tensors. On a CPU a step takes many times that of AdamW. Raises BadInput if torchao is not installed.
    """
    module = extra("torchao.optim", "optimizers")
    state_8bit = extra("torchao.optim.subclass_8bit", "optimizers").OptimState8bit

    class AdamW8bit(module.AdamW8bit):  # type: ignore[name-defined,misc]
        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            if all(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
                return super().step(closure)  # type: ignore[no-any-return]
            # On a CPU compiling takes minutes, more than it ever gives back.
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)  # type: ignore[no-any-return]

        def state_dict(self) -> dict[str, Any]:
            state: dict[str, Any] = super().state_dict()
            plain = {
                number: {name: _plain(value) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            return {**state, "state": plain}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict({**state_dict, "state": {}})
            parameters = [p for group in self.param_groups for p in group["params"]]
            for number, values in state_dict["state"].items():
                parameter = parameters[int(number)]
                self.state[parameter] = {
                    name: _restored(value, parameter, state_8bit) for name, value in values.items()
                }

    return AdamW8bit(list(groups), lr=learning_rate, **settings)


def _plain(value: Any) -> Any:
    if not hasattr(value, "__tensor_flatten__"):
        return value
    return {"codes": value.codes, "scale": value.scale, "qmap": value.qmap, "signed": value.signed}


def _restored(value: Any, parameter: nn.Parameter, state_8bit: Any) -> Any:
    if not isinstance(value, dict):
        # The step counter stays on the host.
        return value.to(parameter.device) if value.ndim else value.clone()
    moved = {name: value[name].to(parameter.device) for name in ("codes", "scale", "qmap")}
    return state_8bit(**moved, signed=value["signed"], dtype=parameter.dtype)
