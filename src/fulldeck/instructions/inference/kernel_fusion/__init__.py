"""Compute neighbouring operations of the trained model together, where that is measured to be faster.

Batch-norm is taken into the convolution or linear layer before it. Chains (a product or convolution with what
follows, or elementwise operations one after the other) are found in a trace of the model; those that a forward pass
spends its time in are compiled, on a GPU also written as one Triton kernel, and each is timed against the chain as it
is, in turns. The whole model is compiled too, into native code (AOTInductor) that a package can hold. All that is
then raced with the model as it came, at each batch size of `rows`, and the fastest that is slower nowhere is taken;
what is slower, fails or computes something else is left out, and the run says so.

`cuda_kernel_launch_bounds` and `shared_memory_size` are the launch bounds of CUDA and the bytes of shared memory: for
Triton they become warps of a block and registers of a thread, and the size of tiles and how many are in flight.

Use when: the model is served in PyTorch, or as native code (engine torch_compiled).
Avoid when: the model is exported to ONNX, whose engines fuse by themselves; folding is then all that remains.
Reference: Jacob et al. 2018, arXiv:1712.05877 (folding); Ansel et al. 2024, doi:10.1145/3620665.3640366 (Inductor);
Tillet et al. 2019, doi:10.1145/3315508.3329973 (Triton).

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    >>> images = torch.randn(2, 1, 8, 8)
    >>> before = model(images)
    >>> fold_batch_norm(model, images)
    ['1']
    >>> model[1]
    Identity()
    >>> bool(torch.allclose(model(images), before, atol=1e-5))
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from fulldeck.candidate import Candidate, Tolerance
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instruction import Evidence, Instruction, Prediction, instruction, param
from fulldeck.instructions.inference.kernel_fusion.folding import fold_batch_norm
from fulldeck.instructions.inference.kernel_fusion.launch import launch_of

if TYPE_CHECKING:
    from fulldeck.diagnosis.findings import Findings

__all__ = ["KernelFusion", "fold_batch_norm", "launch_of"]

_POINTWISE = ("norm", "relu", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "add", "mul")
"""Parts of the names of operators that a chain takes in."""
_LEFT = 0.4
"""Share of such an operator's time that is left of it in a fused chain, at the least."""
_LITTLE = 0.05


@instruction(
    31,
    stage="inference",
    touches={"modules", "graph"},
    after={
        "weight_averaging": "the averaged weights are those that are folded",
        "reduced_precision_inference": "what is compiled must have the type that it is served in",
        "structured_pruning": "what is pruned away needs no fusing",
        "low_rank_factorization": "the factors are what is fused",
    },
    extras=(),
    evidence=Evidence(workload="digits", metric="latency", expect="<= 0.8x", cost={"accuracy": ">= -0.001"}),
)
class KernelFusion(Instruction):
    fold: bool = param(True, doc="Take batch-norm into the layer before it.")
    compiler: bool = param(True, doc="Try the compiler on hot chains and on the whole model.")
    rows: Annotated[tuple[int, ...], Field(min_length=1)] = param(
        (1, 32), doc="Batch sizes at which fused and plain are timed; it must be slower at none of them."
    )
    cuda_kernel_launch_bounds: tuple[int, int] | None = param(
        None,
        doc="Threads of a block at most, and blocks of a multiprocessor at least, of Triton's kernels; left out: 128 "
        "threads, and the compiler decides on registers.",
    )
    shared_memory_size: int | None = param(
        None, ge=1, doc="Bytes of shared memory that a block of Triton's kernels may take."
    )

    @model_validator(mode="after")
    def _launches(self) -> KernelFusion:
        try:
            launch_of(self.cuda_kernel_launch_bounds, self.shared_memory_size, operands=4)
        except BadInput as error:
            raise ValueError(f"kernel_fusion.{error}") from None
        if any(count < 1 for count in self.rows):
            raise ValueError(f"kernel_fusion.rows must be at least 1 each, got {list(self.rows)}")
        return self

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """Elementwise operators that follow others save a pass over memory and a start each."""
        if findings.kind != "inference" or not findings.chains:
            return None
        taken = tuple(
            one
            for one in findings.operators
            if not one.flops and any(word in one.name for word in _POINTWISE)
        )
        share = findings.share(taken)
        if share < _LITTLE:
            return None
        return Prediction(
            "latency",
            1 - (1 - _LEFT) * share,
            f"{share:.0%} of a forward pass of one row are elementwise operators and normalisation, and "
            f"{len(findings.chains)} chains could take them in",
            "seconds to minutes of compilation, once; native code for this kind of machine only",
            eases=("launch", "memory"),
        )

    def tolerance(self) -> Tolerance:
        return Tolerance(metric_drop=0.005, agreement=0.99)

    def optimise(self, candidate: Candidate) -> Candidate:
        """The candidate in its fastest form; as it came, with a note, where none is faster.

        Raises CannotAct if the model has been exported already.
        """
        if candidate.artifact is not None:
            raise CannotAct(
                f"it works on the module, and what is served is {candidate.artifact.path.name} already; engines fuse "
                "what they run by themselves, so leave it out"
            )
        from fulldeck.instructions.inference.kernel_fusion.race import fused

        return fused(self, candidate)
