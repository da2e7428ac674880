"""Average the weights over the last steps of training, and deploy the average.

The weights of single steps scatter around a better point; their average is closer to it, at the cost of
one more copy of the weights. `ema` is an exponential moving average of every step, `swa` the plain mean
of one state an epoch from `start` on, `lawa` the mean of the last `window` states. Evaluation and
hand-over see the average; training goes on with the weights themselves. A skipped step is not averaged.

Frozen parameters are not averaged. Of the buffers only batch-norm's running statistics are: averaged like
the weights, or recalculated from up to 100 training batches when the average is swapped in (`swa`'s
states lie too far apart for averaged statistics).

Use when: the metric jumps from epoch to epoch, or the learning rate ends high.
Avoid when: memory has no room for a second copy of the weights; the learning rate decays to zero: the last
weights then hardly scatter, and their average gains nothing over them (a run that ends so says it).
Reference: Polyak & Juditsky 1992 (EMA's ancestor); Izmailov et al. 2018, arXiv:1803.05407 (SWA); Kaddour
2022, arXiv:2209.14981 (LAWA). The averaging itself is `torch.optim.swa_utils`.

Example:
    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> average = average_weights(model, "ema", decay=0.5, decay_warmup=False)
    >>> for weight in (0.0, 1.0, 2.0):  # after each step of your optimizer:
    ...     _ = torch.nn.init.constant_(model.weight, weight)
    ...     average.update()
    >>> with average.swapped():
    ...     model.weight.item()
    1.25
    >>> model.weight.item()
    2.0
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from fulldeck.distributed.spread_tensor import spread_as
from fulldeck.errors import BadInput, closest
from fulldeck.instruction import Evidence, Instruction, instruction, param
from fulldeck.training.batch import Tensors
from fulldeck.training.batch_norm import (
    STATISTICS,
    recalculate_statistics,
    running_statistics,
    training_inputs,
)

if TYPE_CHECKING:
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

Kind = Literal["ema", "swa", "lawa"]

_START = {"ema": 0.0, "swa": 0.75, "lawa": 0.0}
_LOW = (torch.bfloat16, torch.float16)
_LOW_RATE = 0.05
"""Share of the highest learning rate, below which the weights hardly move any more."""


@instruction(
    17,
    stage="training",
    goals={"accurate", "balanced"},
    touches={"weights"},
    before={"parameter_efficient_finetuning": "the averaged adapters must be in place when they are merged"},
    evidence=Evidence(workload="digits", metric="validation_loss", expect="<= 0.97x"),
)
class WeightAveraging(Instruction):
    kind: Kind = param("ema", search=("ema", "swa", "lawa"), doc="Which average.")
    decay: float = param(
        0.999, ge=0, lt=1, search=(0.99, 0.999, 0.9999), doc="Share of the old average that `ema` keeps."
    )
    decay_warmup: bool = param(
        True, doc="Let `ema` forget faster at first, by (1 + n) / (10 + n), so that short runs gain too."
    )
    window: int = param(5, ge=1, doc="Number of states that `lawa` averages.")
    start: float | None = param(
        None, ge=0, lt=1, doc="Share of the training before the first average; 0.75 for swa, else 0."
    )
    every: int | None = param(
        None, ge=1, doc="Steps between two states; 1 for ema, one epoch for swa and lawa."
    )
    batch_norm: Literal["auto", "average", "recalculate"] = param(
        "auto", doc="Running statistics of batch-norm; auto recalculates for swa and averages otherwise."
    )
    unless_worse: bool = param(
        True, doc="Hand over the last weights where the average's validation loss is higher, and say so."
    )

    def attach(self, loop: TrainingLoop) -> None:
        """Average after each step; evaluate and hand over the average.

        Raises BadInput if the loader has no length and `every` or `start` needs one.
        """
        every, first = self._pace(loop)
        recalculate = self.batch_norm == "recalculate" or (self.batch_norm == "auto" and self.kind == "swa")
        average = average_weights(
            loop.model,
            self.kind,
            decay=self.decay,
            decay_warmup=self.decay_warmup,
            window=self.window,
            statistics_from=(lambda: training_inputs(loop)) if recalculate else None,
        )

        def step_end(batch: Batch) -> None:
            if loop.updates > first and loop.updates % every == 0:
                average.update()

        figures = loop.figures()

        def compare() -> None:
            if loop.validation is None or average.count == 0:
                return
            if not loop.history:
                if self.unless_worse:
                    loop.notes.append(
                        "weight_averaging: the average is handed over without a look at whether it is better: this "
                        "trainer judges by itself (unless_worse)"
                    )
                return
            average.paused = True
            last = loop.evaluate(loop.validation)
            averaged = {name: loop.history[-1][f"validation_{name}"] for name in last}
            average.paused = self.unless_worse and averaged["loss"] > last["loss"]
            for name, value in last.items():
                after = value if average.paused else averaged[name]
                figures[f"validation_{name}"] = {"before": value, "after": after}
            if average.paused:
                loop.notes.append(
                    f"the average of the weights has a validation loss of {averaged['loss']:.4g}, the last "
                    f"weights {last['loss']:.4g}: this average is not handed over"
                )
            if (left := _rate_left(loop)) <= _LOW_RATE:
                loop.notes.append(
                    f"weight_averaging gains little where the learning rate ends low, here at {left:.1%} of its "
                    "highest: leave it out, or let the rate end higher (lr_scheduler: {min_lr_ratio: 0.1})"
                )

        loop.keep(average)
        loop.on("ready", average.restart)
        loop.on("model_changed", lambda: average.follow(loop.model))
        loop.on("step_end", step_end)
        loop.on("fit_end", compare)
        loop.on("hand_over", average.settle)
        loop.deploy_with(average.swapped)

    def _pace(self, loop: TrainingLoop) -> tuple[int, int]:
        start = _START[self.kind] if self.start is None else self.start
        try:
            every = self.every or (1 if self.kind == "ema" else loop.steps_per_epoch)
            return every, round(start * loop.total_steps) if start else 0
        except TypeError:
            raise BadInput(
                "weight_averaging: this loader has no length; set every (in steps) and start: 0"
            ) from None


def _rate_left(loop: TrainingLoop) -> float:
    """The last learning rate as a share of the highest; schedulers of torch note that in the group."""
    group = loop.optimizers[0].param_groups[0]
    highest = float(group.get("max_lr", group.get("initial_lr", group["lr"])))
    return float(group["lr"]) / highest if highest else 1.0


class WeightAverage:
    """The running average of a model's trained parameters and batch-norm statistics."""

    def __init__(
        self,
        model: nn.Module,
        kind: Kind,
        *,
        decay: float,
        decay_warmup: bool,
        window: int,
        statistics_from: Callable[[], Iterable[Tensors]] | None,
    ) -> None:
        self.model = model
        self.kind = kind
        self.decay = decay
        self.decay_warmup = decay_warmup
        self.statistics_from = statistics_from
        self.paused = False
        if kind not in get_args(Kind):
            raise BadInput(
                f'unknown kind "{kind}" of average{closest(str(kind), get_args(Kind))}; there is '
                f"{', '.join(get_args(Kind))}"
            )
        self._window: deque[list[Tensor]] = deque(maxlen=window)
        self.restart()

    def follow(self, model: nn.Module) -> None:
        """Begin anew with `model`."""
        self.model = model
        self.restart()

    def restart(self) -> None:
        """Forget the average and follow the model's present parameters; needed when they were exchanged."""
        named: list[tuple[str, Tensor]] = [
            (name, p) for name, p in self.model.named_parameters() if p.requires_grad
        ]
        named += list(running_statistics(self.model).items())
        self._names = [name for name, _ in named]
        self._current: list[Tensor] = [tensor for _, tensor in named]
        # A bfloat16 average would swallow steps of a thousandth: eight bits cannot tell them apart.
        self._low = any(t.dtype in _LOW for t in self._current)
        self._averages: list[Tensor] = []
        self._window.clear()
        self._statistics_stale = True
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present state into the average."""
        current = self._current
        if self._low:
            current = [t.float() if t.dtype in _LOW else t for t in current]
        if self.kind == "lawa":
            self._window.append([t.clone() for t in current])
            self._averages = [
                sum(states[1:], states[0]) / len(states) for states in zip(*self._window, strict=True)
            ]
        elif self.count == 0:
            self._averages = [t.clone() for t in current]
        elif self.kind == "swa":
            get_swa_multi_avg_fn()(self._averages, current, self.count)  # type: ignore[no-untyped-call]
        else:
            decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.decay_warmup else self.decay
            get_ema_multi_avg_fn(decay)(self._averages, current, self.count)  # type: ignore[no-untyped-call]
        self.count += 1
        self._statistics_stale = True

    @contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """Within it the model has the averaged weights; without an average yet it keeps its own."""
        if self.count == 0 or self.paused:
            yield self.model
            return
        own = [t.detach().clone() for t in self._current]
        try:
            self._put_in()
            yield self.model
        finally:
            _copy(own, self._current)

    def settle(self) -> None:
        """Give the model the averaged weights for good, unless they are not to be shipped: training is over."""
        if self.count > 0 and not self.paused:
            self._put_in()
            self.paused = True

    def state_dict(self) -> dict[str, Any]:
        """The average, by the names of the parameters."""
        return {
            "count": self.count,
            "averages": dict(zip(self._names, self._averages, strict=False)),
            "window": [list(states) for states in self._window],
            "statistics_stale": self._statistics_stale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises BadInput if it is of other parameters."""
        if state["count"] and list(state["averages"]) != self._names:
            raise BadInput("the averaged weights in the checkpoint are of another model")
        self.restart()
        self.count = state["count"]
        for name, current in zip(self._names, self._current, strict=True):
            if self.count:
                self._averages.append(_like(state["averages"][name], current))
        for states in state["window"]:
            self._window.append([_like(s, c) for s, c in zip(states, self._current, strict=True)])
        self._statistics_stale = state["statistics_stale"]

    @torch.no_grad()
    def _put_in(self) -> None:
        _copy(self._averages, self._current)
        if self.statistics_from is not None and self._statistics_stale:
            recalculate_statistics(self.model, self.statistics_from())
            for name, current, average in zip(self._names, self._current, self._averages, strict=True):
                if name.endswith(STATISTICS):
                    average.copy_(current)
            self._statistics_stale = False


def average_weights(
    model: nn.Module,
    kind: Kind = "ema",
    *,
    decay: float = 0.999,
    decay_warmup: bool = True,
    window: int = 5,
    statistics_from: Callable[[], Iterable[Tensors]] | None = None,
) -> WeightAverage:
    """An average to `update()` after each optimizer step, and to evaluate inside `swapped()`.

    `decay` (0 to 1) and `decay_warmup` are for ema, `window` (states) for lawa. `statistics_from` gives
    training inputs, on the model's device, from which batch-norm's statistics are recalculated; None:
    they are averaged. `settle()` ends it, with the average in the model. Raises BadInput for an unknown kind.
    """
    return WeightAverage(
        model,
        kind,
        decay=decay,
        decay_warmup=decay_warmup,
        window=window,
        statistics_from=statistics_from,
    )


@torch.no_grad()
def _copy(source: list[Tensor], destination: list[Tensor]) -> None:
    for value, tensor in zip(source, destination, strict=True):
        tensor.copy_(value)


def _like(saved: Tensor, current: Tensor) -> Tensor:
    # The strides of the parameter: an average in another memory format is several times slower.
    same: Tensor = spread_as(saved, current)
    return torch.empty_like(current, dtype=saved.dtype, requires_grad=False).copy_(same)
