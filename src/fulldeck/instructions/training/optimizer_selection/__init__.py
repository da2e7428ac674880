"""Choose the optimizer: fused AdamW, schedule-free, Muon, Lion, or AdamW with 8-bit states.

The learning rate and decay of the recipe are AdamW's, and are transferred: Muon, its steps scaled by 0.2 to
those of AdamW, takes twice the rate (AdamW's steps are 0.2 to 0.4 of it once averaged, more in short
trainings); Lion, whose every step is full, a third; schedule-free twice the rate, because an average stands
in for its fall (`benchmarks/optimizer_transfer.py`). What shrinks the weights in a step, rate times decay,
stays the same. Decayed are the weights of products and convolutions only: no bias, no normalisation, no
embedding.

`muon` orthogonalises the momentum of the hidden matrices and of convolutions, and leaves all else (embeddings,
the last layer, vectors, grouped convolutions) to AdamW. `schedule_free` needs no schedule, and evaluates and
hands over an average of its weights. `lion` and `adamw_8bit` halve and quarter the optimizer's memory.

Use when: training takes long, or the optimizer's states do not fit (lion, adamw_8bit).
Avoid when: a pretrained model is fine-tuned that another optimizer had trained: stay with that one. On a CPU
a step of adamw_8bit takes many times that of AdamW.
Reference: arXiv:1711.05101 (AdamW); Defazio et al. 2024, arXiv:2405.15682 (schedule-free); Jordan 2024,
kellerjordan.github.io/posts/muon, and Liu et al. 2025, arXiv:2502.16982 (Muon at AdamW's rate); Chen et al.
2023, arXiv:2302.06675 (Lion); Dettmers et al. 2021, arXiv:2110.02861 (8 bits).

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizers = make_optimizers(model, "muon", learning_rate=1e-3, weight_decay=0.1)
    >>> [type(optimizer).__name__ for optimizer in optimizers]
    ['AdamW', 'Muon']
    >>> [(len(g["params"]), g["weight_decay"]) for o in optimizers for g in o.param_groups]
    [(1, 0.1), (2, 0.0), (1, 0.05)]
    >>> transferred("muon", 1e-3, 0.1)
    (0.002, 0.05)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from fulldeck.errors import BadInput, CannotAct, closest, extra
from fulldeck.instruction import Evidence, Instruction, instruction, param
from fulldeck.instructions.training.optimizer_selection import groups
from fulldeck.instructions.training.optimizer_selection.eight_bit import adamw_8bit
from fulldeck.instructions.training.optimizer_selection.groups import decayed_parameters, hidden_matrices
from fulldeck.instructions.training.optimizer_selection.lion import Lion
from fulldeck.instructions.training.optimizer_selection.muon import Muon
from fulldeck.instructions.training.optimizer_selection.schedule_free import Averages

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

__all__ = [
    "Lion",
    "Muon",
    "OptimizerSelection",
    "adamw_8bit",
    "decayed_parameters",
    "hidden_matrices",
    "make_optimizers",
    "state_bytes",
    "transferred",
]

Kind = Literal["adamw", "schedule_free", "muon", "lion", "adamw_8bit"]

_RATES = {"muon": 2.0, "lion": 1 / 3, "schedule_free": 2.0}
"""What AdamW's rate is multiplied by; 1 for the others."""
_ADAM = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam)
_BETAS = (0.9, 0.999)
_ADAM_STATE_BYTES = 8
"""Of each parameter: two float32 averages."""


@instruction(
    19,
    stage="training",
    touches={"optimizer"},
    before={
        "early_stopping": "schedule_free puts its average in place, which the best weights then replace",
        "parameter_efficient_finetuning": "the averaged adapters must be in place when they are merged",
    },
    evidence=Evidence(
        workload="stdlib_text",
        settings={"characters": 100_000},
        metric="validation_loss",
        expect="<= 0.97x",
        cost={"state_bytes": "<= 1.0x"},
    ),
)
class OptimizerSelection(Instruction):
    kind: Kind = param("muon", search=("adamw", "muon", "lion"), doc="Which optimizer.")
    learning_rate: float | None = param(
        None, gt=0, doc="Its own rate; left out: transferred from train.learning_rate, which is AdamW's."
    )
    weight_decay: float | None = param(
        None, ge=0, doc="Its own decay; left out: transferred, so that a step shrinks weights as before."
    )
    warmup: float = param(
        0.05, ge=0, lt=1, doc="Share of the steps in which the rate of schedule_free rises."
    )

    def clash(self, other: Instruction) -> str | None:
        """schedule_free takes the place of schedules and of other averages."""
        if self.kind == "schedule_free":
            if other.card.name == "lr_scheduler" and other.parameters().get("kind") != "constant":
                return (
                    "schedule_free averages in place of a falling rate, and both together learn less; leave "
                    "lr_scheduler out, or write kind: constant in it"
                )
            if other.card.name == "weight_averaging":
                return (
                    "schedule_free ships an average of its own, which would be taken of the other one; leave "
                    "weight_averaging out"
                )
        return super().clash(other)

    def attach(self, loop: TrainingLoop) -> None:
        """Build the optimizers of the loop.

        Raises CannotAct if muon finds no hidden matrix, BadInput if a library is missing or no rate can be
        told.
        """
        if self.kind == "muon" and not hidden_matrices(loop.model):
            raise CannotAct(
                "muon is for matrices and convolutions, and this model has none before its last layer; "
                "write kind: adamw or schedule_free"
            )
        if self.kind in ("schedule_free", "adamw_8bit"):
            extra("schedulefree" if self.kind == "schedule_free" else "torchao", "optimizers")
        given = loop.build_optimizers

        def build(parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
            chosen = list(parameters)
            return self._build(loop, chosen, given(chosen))

        figures = loop.figures()

        def report() -> None:
            figures["optimizer_state_bytes"] = {
                "before": float(_ADAM_STATE_BYTES * sum(p.numel() for p in loop.parameters())),
                "after": float(sum(map(state_bytes, loop.optimizers))),
            }

        loop.build_optimizers = build
        loop.on("fit_end", report)
        if self.kind == "schedule_free":
            averages = Averages(loop)
            loop.on("ready", averages.begin)
            loop.on("hand_over", averages.settle)
            loop.deploy_with(averages.swapped)

    def prove(self, outcome: Outcome) -> float:
        """state_bytes: of the optimizer; what AdamW holds, where this instruction does not say it."""
        changes = [entry["changes"] for entry in outcome.result["instructions"]]
        told = [change["optimizer_state_bytes"] for change in changes if "optimizer_state_bytes" in change]
        if told:
            return float(told[0]["after"])
        return float(_ADAM_STATE_BYTES * sum(p.numel() for p in outcome.candidate.module.parameters()))

    def _build(
        self, loop: TrainingLoop, parameters: list[nn.Parameter], given: list[Optimizer]
    ) -> list[Optimizer]:
        """Optimizers as `given` ones have it, in so far as this instruction does not say it itself."""
        groups_given = [group for optimizer in given for group in optimizer.param_groups]
        rate = first = float(groups_given[0]["lr"])
        decay = max(float(group.get("weight_decay", 0.0)) for group in groups_given)
        if not all(isinstance(one, _ADAM) for one in given):
            if self.learning_rate is None:
                raise BadInput(
                    f"optimizer_selection: the rate of {type(given[0]).__name__} tells nothing about that of "
                    f"{self.kind}; write learning_rate, or give the loop an AdamW"
                )
            rate = self.learning_rate / _RATES.get(self.kind, 1.0)
            decay *= first / rate
        own_rate, own_decay = transferred(self.kind, rate, decay)
        if self.learning_rate is not None:
            own_rate, own_decay = self.learning_rate, rate * decay / self.learning_rate
        return _optimizers(
            loop.model,
            parameters,
            self.kind,
            adamw=(rate, decay),
            own=(own_rate, own_decay if self.weight_decay is None else self.weight_decay),
            # Groups of the given optimizer that learn faster or slower than its first go on doing so.
            relative={id(p): float(group["lr"]) / first for group in groups_given for p in group["params"]},
            betas=given[0].defaults.get("betas", _BETAS),
            warmup_steps=round(self.warmup * _total_steps(loop)) if self.kind == "schedule_free" else 0,
        )


def make_optimizers(
    model: nn.Module,
    kind: Kind,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    warmup_steps: int = 0,
) -> list[Optimizer]:
    """The optimizers for `model`, to be stepped one after another: two for muon, else one.

    `learning_rate` and `weight_decay` are AdamW's, and transferred (see `transferred`). schedule_free needs
    `.train()` before training and `.eval()` before the model is used, and heeds `warmup_steps`. Raises
    BadInput for an unknown kind or a missing library.
    """
    return _optimizers(
        model,
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        kind,
        adamw=(learning_rate, weight_decay),
        own=transferred(kind, learning_rate, weight_decay),
        warmup_steps=warmup_steps,
    )


def transferred(kind: Kind, learning_rate: float, weight_decay: float) -> tuple[float, float]:
    """AdamW's rate and decay as `kind` needs them; their product stays the same.

    Raises BadInput for an unknown kind.
    """
    if kind not in get_args(Kind):
        near = closest(str(kind), get_args(Kind))
        raise BadInput(f'unknown optimizer "{kind}"{near}; there is {", ".join(get_args(Kind))}')
    factor = _RATES.get(kind, 1.0)
    return learning_rate * factor, weight_decay / factor


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the tensors that `optimizer` keeps for its parameters."""
    return sum(_bytes(value) for state in optimizer.state.values() for value in state.values())


def _optimizers(
    model: nn.Module,
    parameters: list[nn.Parameter],
    kind: Kind,
    *,
    adamw: tuple[float, float],
    own: tuple[float, float],
    relative: Mapping[int, float] = MappingProxyType({}),
    betas: tuple[float, float] = _BETAS,
    warmup_steps: int = 0,
) -> list[Optimizer]:
    """`adamw` and `own` are rates and decays: for what muon leaves to AdamW, and for `kind` itself."""
    chosen = {id(parameter) for parameter in decayed_parameters(model)}
    # What is not of the model (a companion's) is judged by its shape.
    in_model = {id(parameter) for parameter in model.parameters()}
    decayed = [p for p in parameters if id(p) in chosen or (id(p) not in in_model and p.ndim >= 2)]

    def grouped(some: list[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
        rates = {id(p): rate * relative.get(id(p), 1.0) for p in some}
        return groups.parameter_groups(some, decayed, rates=rates, weight_decay=decay)

    rate, decay = own
    settings: dict[str, Any] = {"lr": rate, "weight_decay": decay}
    if kind == "lion":
        return [Lion(grouped(parameters, *own), **settings)]
    if kind == "adamw_8bit":
        return [adamw_8bit(grouped(parameters, *own), rate, betas=betas, weight_decay=decay)]
    if kind == "schedule_free":
        library = extra("schedulefree", "optimizers")
        return [
            library.AdamWScheduleFree(
                grouped(parameters, *own), betas=betas, warmup_steps=warmup_steps, **settings
            )
        ]
    matrices = {id(p) for p in hidden_matrices(model)} if kind == "muon" else set()
    rest = [p for p in parameters if id(p) not in matrices]
    hidden = [p for p in parameters if id(p) in matrices]
    found: list[Optimizer] = []
    # AdamW first: what a surgery adds to the model joins its first group, and Muon is not for vectors.
    if rest:
        found.append(torch.optim.AdamW(grouped(rest, *adamw), lr=adamw[0], betas=betas, fused=True))
    if hidden:
        found.append(Muon(grouped(hidden, *own), **settings))
    return found


def _total_steps(loop: TrainingLoop) -> int:
    try:
        return loop.total_steps
    except TypeError:
        if loop.max_steps is None:
            raise BadInput(
                "optimizer_selection: schedule_free warms up in a share of the steps, and this loader has no "
                "length; set max_steps"
            ) from None
        return loop.max_steps


def _bytes(value: Any) -> int:
    if hasattr(value, "__tensor_flatten__"):
        return sum(_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.nbytes if isinstance(value, torch.Tensor) else 0
