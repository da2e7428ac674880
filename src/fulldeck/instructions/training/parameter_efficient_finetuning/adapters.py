"""Adapters of the library peft in a model, in place, and the way back."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fulldeck.errors import BadInput, CannotAct, RunFailed, extra
from fulldeck.files import atomic_folder, refusing_disk
from fulldeck.instructions.training.parameter_efficient_finetuning.layers import (
    GPT2_LINEAR,
    NAME,
    adaptable_layers,
    names_matching,
    narrows,
    shared_weights,
    unwrapped,
)
from fulldeck.training.batch import Tensors, call

Kind = Literal["lora", "dora", "ia3"]
SAME = 1e-4
"""Largest difference that merging may make to an output, relative to the largest output (if over 1)."""
_ADAPTER = "default"  # peft's own name for the only one


class Adapters:
    """The adapters that `add_adapters` put into a model, until they are merged."""

    def __init__(self, model: nn.Module, config: Any, layers: Sequence[str], whole: Sequence[str]) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.whole = tuple(whole)
        self._core, prefix = unwrapped(model)
        self._whole = [name.removeprefix(prefix) for name in whole]
        self._required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._settings = _evaluate_layer_by_layer(model)
        self._merged: dict[str, Tensor] | None = None
        model.requires_grad_(False)
        try:
            self._peft = extra("peft", "peft").get_peft_model(self._core, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise BadInput(f"{NAME}: peft cannot adapt this model: {str(error).splitlines()[0]}") from error
        for name in whole:
            model.get_submodule(name).requires_grad_(True)

    def merge(self, example: Tensors) -> float:
        """Put the adapters into the weights and take their layers out of the model, in place.

        `example` is a batch of inputs; returned is the largest difference of an output, in evaluation mode.
        Raises RunFailed if it is more than rounding.
        """
        self._merged = self._state()
        before = _outputs(self.model, example)
        self._peft.base_model.merge_and_unload()
        for restore in self._settings:
            restore()
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        after = _outputs(self.model, example)
        difference = float((after - before).abs().max())
        if not difference <= SAME * max(1.0, float(before.abs().max())):
            raise RunFailed(
                f"{NAME}: merging the adapters changed an output by {difference:.2g}; the model uses a layer's "
                "weight without calling the layer: leave that one out of targets"
            )
        return difference

    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, which `peft.PeftModel.from_pretrained` reads.

        Modules that were trained whole are in it. Raises BadInput if the disk is full or read-only.
        """
        from safetensors.torch import save_file

        config = copy.copy(self._peft.peft_config[_ADAPTER])
        config.inference_mode = True
        config.modules_to_save = self._whole or None
        with refusing_disk(folder), atomic_folder(folder) as temporary:
            config.save_pretrained(str(temporary))
            state = self._merged if self._merged is not None else self._state()
            save_file(state, temporary / "adapter_model.safetensors", metadata={"format": "pt"})

    def _state(self) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        state: dict[str, Tensor] = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        for name in self._whole:
            inside = self._core.get_submodule(name).state_dict()
            state |= {f"base_model.model.{name}.{key}": value for key, value in inside.items()}
        return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def add_adapters(
    model: nn.Module,
    kind: Kind = "lora",
    *,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = (),
    train_also: Sequence[str] = (),
) -> Adapters:
    """Freeze `model` in place, but for new adapters beside the layers that match `targets`.

    `targets` and `train_also` (modules that are trained whole) are qualified names with the wildcards of
    fnmatch, or names of classes. Without `targets` it is every linear and convolution layer that is called
    as such and shares its weight with none. See the parameters of the instruction for the rest.

    Raises BadInput if a pattern matches nothing or peft is not installed, CannotAct without a layer to adapt.
    """
    modules = dict(model.named_modules())
    whole = [name for pattern in train_also for name in names_matching(modules, pattern, "train_also")]
    shared = shared_weights(model)
    if targets:
        chosen = [name for pattern in targets for name in names_matching(modules, pattern, "targets")]
        if tied := [name for name in chosen if name in shared]:
            raise BadInput(
                f"{NAME}.targets: {tied[0]} shares its weight with {shared[tied[0]]}; leave one out"
            )
    else:
        chosen = [name for name in adaptable_layers(model) if name not in shared]
    layers = [
        name
        for name in dict.fromkeys(chosen)
        if not any(name == one or name.startswith(f"{one}.") for one in whole)
    ]
    if not layers:
        raise CannotAct(
            "the model has no linear or convolution layer to adapt, apart from what is trained whole"
        )
    return Adapters(model, _config(model, kind, layers, rank, alpha, dropout), layers, whole)


def _config(
    model: nn.Module, kind: Kind, layers: Sequence[str], rank: int, alpha: float | None, dropout: float
) -> Any:
    peft = extra("peft", "peft")
    core, prefix = unwrapped(model)
    names = [name.removeprefix(prefix) for name in layers]
    # peft matches a list of names by their ends, and "3" would be "13" too; a pattern it matches whole.
    matching = "|".join(map(re.escape, names))
    transposed = any(type(core.get_submodule(name)).__name__ == GPT2_LINEAR for name in names)
    if kind == "ia3":
        narrowing = [name for name in names if narrows(core.get_submodule(name))]
        feeding = "|".join(map(re.escape, narrowing)) or "(?!)"
        return peft.IA3Config(target_modules=matching, feedforward_modules=feeding, fan_in_fan_out=transposed)
    return peft.LoraConfig(
        fan_in_fan_out=transposed,
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=matching,
        use_dora=kind == "dora",
    )


def _evaluate_layer_by_layer(model: nn.Module) -> list[Callable[[], None]]:
    """Keep torch's encoder layers off their fast path, which reads weights past the adapters; return what undoes it."""
    undo: list[Callable[[], None]] = []
    for module in model.modules():
        for kind, name, value in (
            (nn.TransformerEncoderLayer, "activation_relu_or_gelu", 0),
            (nn.TransformerEncoder, "use_nested_tensor", False),
        ):
            if isinstance(module, kind):
                undo.append(partial(setattr, module, name, getattr(module, name)))
                setattr(module, name, value)
    return undo


@torch.no_grad()
def _outputs(model: nn.Module, example: Tensors) -> Tensor:
    training = model.training
    model.eval()
    outputs = call(model, example)
    model.train(training)
    if isinstance(outputs, Mapping):
        outputs = outputs["logits"] if "logits" in outputs else next(iter(outputs.values()))
    first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return first.float()
