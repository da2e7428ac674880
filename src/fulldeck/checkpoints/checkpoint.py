"""A checkpoint: nested states in one safetensors file, no pickle; and the newest one of a training.

Tensors are stored as tensors, named by their place in the state (`model/0.weight`); everything else is JSON
in the file's header. The file is written whole or not at all, and a SHA-256 of the content is compared before
anything of it is believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from fulldeck.distributed.ranks import Ranks
from fulldeck.distributed.spread_tensor import is_spread, whole
from fulldeck.errors import BadInput
from fulldeck.files import write_bytes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fulldeck.training.loop import TrainingLoop

_HASH_BYTES = 32


class Checkpoints(Protocol):
    """When and where a training is kept; `TrainingLoop.checkpoints` is one."""

    def opened(self, loop: TrainingLoop) -> AbstractContextManager[object]:
        """Held while `loop` trains."""

    def due(self) -> bool:
        """Whether to write now; asked between two steps, and after each epoch (`step_in_epoch` is 0)."""

    def write(self, state: dict[str, Any]) -> None:
        """Keep what `training_state` gave."""

    def read(self, resume: bool) -> dict[str, Any] | None:
        """What to go on from; None to begin."""


class LastCheckpoint:
    """The newest state in `folder`/last.safetensors, after each epoch and every `every` steps.

    Of several processes the first one writes; parameters that are spread over them are gathered.
    """

    def __init__(self, folder: Path, every: int | None = None) -> None:
        self.folder = folder
        self.every = every

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "last.safetensors"

    @contextmanager
    def opened(self, loop: TrainingLoop) -> Iterator[None]:
        """Held while `loop` trains."""
        self._loop = loop
        with Ranks() as self._ranks:
            yield

    def due(self) -> bool:
        """After each epoch and every `every` steps."""
        loop = self._loop
        return loop.step_in_epoch == 0 or (self.every is not None and loop.step % self.every == 0)

    def write(self, state: dict[str, Any]) -> None:
        """Write the file; it loads completely or is the previous one. Raises BadInput if the disk is full."""
        content = checkpoint_bytes(self._ranks.shared(state))
        self._ranks.first(lambda: write_bytes(self.path, content))

    def read(self, resume: bool) -> dict[str, Any] | None:
        """What the file holds; None where there is none, or a training is not to go on.

        Raises BadInput if some of the processes see the file and others do not.
        """
        if not resume:
            return None
        seen = self._ranks.gather(self.path.exists())
        if any(seen) and not all(seen):
            raise BadInput(
                f"rank {seen.index(False)} sees no {self.path}, which rank {seen.index(True)} would go on from; give "
                "all machines the same folder"
            )
        return self._ranks.own(load_checkpoint(self.path)) if all(seen) else None


def save_checkpoint(path: Path, state: Any) -> None:
    """Write `state` (dicts, lists, tuples, tensors, arrays, numbers, texts, None) atomically to `path`.

    Raises TypeError for a value of another type, BadInput if the disk is full.
    """
    write_bytes(path, checkpoint_bytes(state))


def checkpoint_bytes(state: Any) -> bytes:
    """The content of a checkpoint's file. Raises TypeError for a value of a type that it cannot hold."""
    tree, tensors = encode(state)
    # clone: safetensors refuses tensors that share storage (tied weights, views of one buffer).
    content = save(
        {name: whole(tensor).cpu().contiguous().clone() for name, tensor in tensors.items()},
        metadata={"tree": json.dumps(tree)},
    )
    return hashlib.sha256(content).digest() + content


def load_checkpoint(path: Path) -> Any:
    """Read what `save_checkpoint` wrote; tensors are on the CPU.

    Raises BadInput if the file is cut short or any byte of it was changed.
    """
    raw = path.read_bytes()
    digest, content = raw[:_HASH_BYTES], raw[_HASH_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise BadInput(f"checkpoint {path} is damaged: its content does not match its hash")
    return decode(json.loads(header(content)["tree"]), load(content))


def header(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
    return metadata


def encode(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """`state` as a tree that JSON takes, and its tensors by name: those of `state` themselves, detached.

    Raises TypeError for a value of a type that it cannot hold.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(state, "", tensors), tensors


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"array": _encode(torch.from_numpy(value.copy()), place, tensors)["tensor"]}
    if isinstance(value, Tensor):
        # Two keys may read alike (1 and "1"); two tensors may not.
        name = place if place and place not in tensors else f"{place}#{len(tensors)}"
        # A fused optimizer takes its state to lie in memory as the parameter does (channels_last), and
        # computes nonsense where it does not: the order of the dimensions is part of the state.
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        permuted = not is_spread(value) and not value.is_contiguous() and value.permute(order).is_contiguous()
        tensors[name] = value.detach().permute(order) if permuted else value.detach()
        return {"permuted": [name, order]} if permuted else {"tensor": name}
    if isinstance(value, dict):
        inside = f"{place}/" if place else ""
        return {"dict": [[key, _encode(item, f"{inside}{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(item, f"{place}/{n}", tensors) for n, item in enumerate(value)]}
    raise TypeError(
        f"a state must hold tensors, numbers, texts and containers of these, not {type(value).__name__}"
    )


def decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The state of which `encode` made a tree and `tensors`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "permuted":
        name, order = content
        return tensors[name].permute(sorted(range(len(order)), key=order.__getitem__))
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: decode(item, tensors) for key, item in content}
    items = [decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
