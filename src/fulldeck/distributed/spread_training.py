"""What instructions that spread a training over several processes have in common: how those find each other."""

from __future__ import annotations

from typing import Literal

from fulldeck.distributed.process_group import pick_backend
from fulldeck.distributed.together import Together
from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction, Situation, param


class SpreadTraining(Instruction):
    """Base of such instructions. One process alone trains as it would without them."""

    backend: Literal["auto", "nccl", "xccl", "gloo", "mpi", "ucc"] = param(
        "auto", doc="What exchanges: auto is nccl for CUDA, xccl for Intel GPUs, gloo for the CPU."
    )
    init_method: str | None = param(
        None,
        doc="Where processes meet, as tcp://host:port or file:///path; left out: as the launcher says (env://).",
    )
    gpu_ids: tuple[int, ...] = param(
        (), doc="GPUs of this machine, one process each; left out: the first ones."
    )
    timeout_seconds: float = param(
        600.0, gt=0, doc="How long a process waits for the others before it takes them for lost."
    )

    def together(self) -> Together:
        return Together(self.backend, self.init_method, self.gpu_ids, self.timeout_seconds)

    def cannot(self, situation: Situation) -> str | None:
        """With a backend that is not there, or GPUs where there are none."""
        if self.gpu_ids and situation.device == "cpu":
            return "gpu_ids names GPUs, and this training is on the CPU; leave gpu_ids out"
        if self.backend != "auto":
            try:
                pick_backend(self.backend, situation.device)
            except BadInput as error:
                return str(error)
        return super().cannot(situation)
