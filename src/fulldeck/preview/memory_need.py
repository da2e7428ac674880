"""How much memory a step of training needs, by kind: counted on a real step, so that it holds for another device."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fulldeck.errors import RunFailed
from fulldeck.pipeline.run import run
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.recipe.recipe import Recipe
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

COUNTED_STEP = 2
"""The first with an optimizer state from its beginning."""
MEANING = {
    "weights": "weights and buffers",
    "optimizer_state": "state of the optimizer",
    "kept": "what instructions keep, such as averages of the weights",
    "batch": "a batch",
    "working": "activations, gradients and temporary results, at their most",
    "peak": "in all, without the libraries' own",
}


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of a step of training. `working` is the most that activations, gradients and temporary results take
    together; `kept` is what instructions hold, such as an average of the weights.

    What the kernels of a library take for themselves, and the context of a device, is not in it.
    """

    weights: int
    optimizer_state: int
    kept: int
    batch: int
    gradients: int
    working: int

    @property
    def peak(self) -> int:
        """The most at once; the gradients are part of `working`."""
        return self.weights + self.optimizer_state + self.kept + self.batch + self.working

    def to_json(self) -> dict[str, int]:
        """Every figure."""
        return vars(self) | {"peak": self.peak}


def memory_need(recipe: Recipe) -> MemoryNeed:
    """Begin `recipe` in a temporary folder, and count what its second step holds. Raises BadInput, RunFailed."""
    counter = _Counter()
    with tempfile.TemporaryDirectory(prefix="fulldeck-") as folder:
        try:
            run(replace(recipe, trackers=()), out=Path(folder), watcher=counter)
        except _Enough as enough:
            return enough.need
    raise RunFailed("the training ended before its second step, and memory is counted in that")


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made inside of it, until they are freed: `live` now, `peak` at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: weakref.WeakValueDictionary[int, UntypedStorage] = weakref.WeakValueDictionary()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {
            one.untyped_storage().data_ptr() for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for one in tree_iter(result):
            if isinstance(one, Tensor):
                self._count(one.untyped_storage(), known)
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: UntypedStorage, known: set[int]) -> None:
        key = storage._cdata
        if key in self._seen or storage.data_ptr() in known:
            return  # a view, or an operation in place
        self._seen[key] = storage
        size = storage.nbytes()
        self.live += size
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.live -= size


class _Enough(BaseException):
    """It is counted. No Exception: the run has not failed."""

    def __init__(self, need: MemoryNeed) -> None:
        super().__init__()
        self.need = need


class _Counter(Watcher):
    """Lets the training go as far as the end of its second step."""

    def training(self, loop: TrainingLoop) -> None:
        self.loop = loop
        self.live = LiveMemory()
        self.begun = self.gradients = 0
        loop.checkpoints = None  # nobody goes on from here
        loop.on("batch_start", self._begin)
        loop.on("before_step", self._look_at_gradients)
        loop.on("step_end", self._end)

    def _begin(self, batch: Batch) -> None:
        self.begun += 1
        if self.begun == COUNTED_STEP:
            self.live.__enter__()  # type: ignore[no-untyped-call]

    def _look_at_gradients(self, batch: Batch) -> None:
        self.gradients = _size([one.grad for one in self.loop.parameters()])

    def _end(self, batch: Batch) -> None:
        if self.begun < COUNTED_STEP:
            return
        self.live.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        loop = self.loop
        weights = [*loop.model.state_dict().values(), *loop.companions.state_dict().values()]
        states = [value for optimizer in loop.optimizers for value in optimizer.state.values()]
        kept = [state.state_dict() for state in loop.states.values()]
        known = {
            one.untyped_storage().data_ptr()
            for one in tree_iter((weights, states))
            if isinstance(one, Tensor)
        }
        raise _Enough(
            MemoryNeed(
                weights=_size(weights),
                optimizer_state=_size(states),
                kept=_size(kept, known),
                batch=_size([batch.inputs, batch.targets]),
                gradients=self.gradients,
                working=self.live.peak,
            )
        )


def _size(value: Any, known: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Bytes of all tensors in nested lists and mappings that are not `known`, shared memory once."""
    storages = {
        one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
        for one in tree_iter(value)
        if isinstance(one, Tensor)
    }
    return sum(size for place, size in storages.items() if place not in known)
