"""Compile the forward and backward pass of a training step, where that is measured to be faster.

Compiling takes seconds to minutes before the first step. So one batch is computed as it is and compiled, in
turns: where compiled is not faster the instruction refuses, otherwise the run's result says after how many
steps the time is won back. A stack of many equal blocks is compiled by the block, which takes a fraction of
the time. Evaluation and what is handed over are not compiled.

Each shape of a batch is a compilation of its own. Only `shapes` of them are compiled, and a further one only
when it has come `compile_after` times: a ragged last batch is computed as it is. `bucket` pads texts of all
lengths up to its multiples. Compiled code is kept on disk and found again by the next run. The loss equals the
uncompiled one but for rounding and the masks of dropout.

Use when: training is long, and its time goes into many small operations (normalisation, activations).
Avoid when: a run is shorter than its break-even; time goes into a few large products or convolutions.
Reference: Ansel et al. 2024, doi:10.1145/3620665.3640366 (PyTorch 2). The work is done by `torch.compile`.

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    >>> compiled = compile_model(model, backend="eager")  # leave backend out to have it fast
    >>> compiled.names
    ['']
    >>> loss = model(torch.ones(2, 4)).sum()
    >>> with compiled.off():
    ...     same = model(torch.ones(2, 4)).sum()
    >>> bool(torch.isclose(loss, same))
    True
    >>> compiled.remove()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fulldeck.instruction import Evidence, Instruction, Prediction, instruction, param
from fulldeck.instructions.training.train_step_compilation.compiled_model import Region, compile_model
from fulldeck.instructions.training.train_step_compilation.padding import pad_to_multiple

if TYPE_CHECKING:
    from fulldeck.diagnosis.findings import Findings
    from fulldeck.training.loop import TrainingLoop

__all__ = ["TrainStepCompilation", "compile_model", "pad_to_multiple"]

_LEFT = 0.5
"""Of the time of starting operators and of moving bytes between them, what compiled code still takes."""
_WORTH_TRYING = 0.9
"""Predicted time of a step, as a share of the present one, above which nothing is predicted."""


@instruction(
    21,
    stage="training",
    touches={"graph"},
    after={
        "touches:modules": "what is compiled must be the model that is trained",
        "touches:activations": "the compiler must see the precision and the recomputation of the training",
        "touches:batch_size": "the step is measured with the batch that the training has",
    },
    evidence=Evidence(
        workload="stdlib_text",
        settings={"characters": 100_000},
        metric="step_time",
        expect="<= 0.97x",
        cost={"validation_loss": "<= 1.03x"},
    ),
)
class TrainStepCompilation(Instruction):
    region: Region = param(
        "auto",
        search=("blocks", "model"),
        doc="Compile each of the repeated blocks, or the model; auto: blocks where there are 8 or more.",
    )
    mode: Literal["default", "reduce-overhead", "max-autotune"] = param(
        "default", doc="torch.compile's mode: how much time goes into finding faster code."
    )
    backend: str = param("inductor", doc="torch.compile's backend.")
    shapes: int = param(4, ge=1, doc="Different shapes of a batch that are compiled at most.")
    compile_after: int = param(
        16, ge=1, doc="Times that a shape must come before it is compiled; the first one is compiled at once."
    )
    bucket: int | None = param(
        None,
        ge=2,
        doc="Pad token ids (samples x length) to a multiple of this length, with the encoder's padding.",
    )
    measure: bool = param(True, doc="Refuse where compiled is not measured to be faster.")
    cache: str | None = param(
        None, doc="Folder that keeps compiled code; left out: torch's own, among the temporary files."
    )

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """Of starting operators, and of moving bytes between those that do no products, a part is left."""
        moving = tuple(
            one
            for one in findings.operators
            if one.bound == "memory" and not one.flops and one.phase in ("forward", "backward")
        )
        # One alone has no neighbour to be fused with.
        several = sum(one.calls for one in moving) >= 2
        launching, moved = findings.bounds.get("launch", 0.0), findings.share(moving) if several else 0.0
        ratio = 1 - (1 - _LEFT) * (launching + moved)
        if findings.kind != "training" or ratio > _WORTH_TRYING:
            return None
        return Prediction(
            "step_time",
            ratio,
            f"starting operators is {launching:.0%} of a step, and operators that move bytes without products are "
            f"{moved:.0%}; compiled into few kernels, about {_LEFT:.0%} of that is left",
            "seconds to minutes of compilation before the first step",
            eases=("launch", "memory"),
        )

    def attach(self, loop: TrainingLoop) -> None:
        """Compile, compare with one batch, and let training run compiled.

        Raises CannotAct if the compiler fails, if compiled is not faster, if it computes another loss, or if
        the model looks at what `bucket` pads with.
        """
        # Here, because torch's compiler takes seconds to import, and a plan needs none of it.
        from fulldeck.instructions.training.train_step_compilation.trial import Compilation

        run = Compilation(self, loop)
        loop.keep(run)
        if self.bucket is not None:
            loop.on("part_start", run.pad_compiled)
        loop.around("forward", run.forward)
        loop.deploy_with(run.off)
        loop.on("model_changed", run.follow)
        loop.on("fit_end", run.end)
        run.try_out()
