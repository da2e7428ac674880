"""Keep the state of training while it goes on, so that nothing ends it for good.

At a step's end the state is copied to the host, and a thread writes it: a shard of each process and a
manifest with their hashes, which makes them a checkpoint. A crash at any moment leaves the newest whole one,
a damaged one is noticed and the one before it is taken, and a resumed training ends with the same bits as one
that was never stopped, also from the middle of an epoch: data order, random states, optimizers, schedules,
loss scale, averages, early stopping and batch scheduling are in it. One process, replicas and shards read
each other's checkpoints, and any number of processes those of any other; that is exact in the state, while
the sums of other groupings of the data differ by rounding.

At SIGTERM the step is ended, its state kept, and the training stopped with a line that says so.

Use when: training takes longer than you would like to lose: machines that may be taken away, shared queues.
Avoid when: the whole training takes minutes: the state after each epoch is kept anyway. The copy takes as
much memory on the host as the state has.
Reference: Mohan et al. 2021, "CheckFreq", FAST 21 (copy, then write while training goes on); Pillai et al.
2014, "All File Systems Are Not Created Equal", OSDI 14 (what survives a crash).

Example:
    >>> import tempfile, torch
    >>> from fulldeck.checkpoints.folder import CheckpointFolder
    >>> folder, model = tempfile.mkdtemp(), torch.nn.Linear(2, 1)
    >>> with CheckpointFolder(folder, keep_last=2) as kept:
    ...     for step in (10, 20, 30):  # of your own loop; what is written meanwhile costs it nothing
    ...         kept.save(step, {"model": model.state_dict()})
    ...     kept.wait()
    ...     kept.steps()
    [20, 30]
    >>> step, state = load_newest(folder)  # in another program, or after a crash
    >>> step, torch.equal(state["model"]["weight"], model.weight)
    (30, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fulldeck.checkpoints.checkpoint import LastCheckpoint
from fulldeck.checkpoints.folder import CheckpointFolder
from fulldeck.checkpoints.shards import Damaged, folder_of, read_state, steps_in
from fulldeck.checkpoints.store import store_at
from fulldeck.checkpoints.termination import Termination
from fulldeck.errors import BadInput
from fulldeck.instruction import Evidence, Instruction, instruction, param
from fulldeck.instructions.training.fault_tolerant_checkpointing.kept_training import KeptTraining
from fulldeck.instructions.training.fault_tolerant_checkpointing.save_stall import save_stall

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

__all__ = ["CheckpointFolder", "FaultTolerantCheckpointing", "Termination", "load_newest"]


@instruction(
    25,
    stage="training",
    evidence=Evidence(
        workload="digits",
        metric="save_stall_ms",
        expect="<= 0.7x",
        cost={"step_time": "<= 1.03x"},
    ),
)
class FaultTolerantCheckpointing(Instruction):
    every_seconds: float | None = param(
        600.0, gt=0, search=(60.0, 600.0), doc="Save after so long; a crash loses at most about that."
    )
    every_steps: int | None = param(
        None, ge=1, doc="Save after so many steps; left out: as train.checkpoint_every."
    )
    every_epochs: int | None = param(1, ge=1, doc="Save after so many epochs; the last one always is.")
    keep_last: int = param(2, ge=1, doc="How many of the newest stay.")
    keep_best: int = param(0, ge=0, doc="How many with the best metric stay besides.")
    metric: str = param("loss", doc="Validation metric that tells the best; judged after whole epochs.")
    mode: Literal["auto", "min", "max"] = param(
        "auto", doc="Whether a smaller or a larger metric is better; auto tells by its name."
    )
    folder: str | None = param(
        None, doc="A folder, or an URL that fsspec knows (s3://...); left out: the run's own folder."
    )
    autoresume: bool = param(False, doc="Also a new run goes on from what lies in `folder`.")
    asynchronous: bool = param(True, doc="Write in a thread; false holds training up until it is written.")
    grace_seconds: float = param(
        25.0, gt=0, doc="After SIGTERM, how long the step and its checkpoint may take at most."
    )

    def attach(self, loop: TrainingLoop) -> None:
        """Take the place of the loop's own checkpoints.

        Raises BadInput without a folder, and for an URL that cannot be opened.
        """
        there = loop.checkpoints
        own = there if isinstance(there, LastCheckpoint) else None
        where = self.folder or (None if own is None else str(own.folder))
        if where is None:
            raise BadInput(
                "fault_tolerant_checkpointing has no place to write to; name a folder in it, or give the "
                "TrainingLoop checkpoints=Path(...)"
            )
        every = self.every_steps or (None if own is None else own.every)
        loop.checkpoints = KeptTraining(self, loop, where, every)

    def prove(self, outcome: Outcome) -> float:
        """save_stall_ms: how long a checkpoint holds up the training, the median of several."""
        chosen = [entry.instruction for entry in outcome.recipe.entries]
        return save_stall(outcome, [one for one in chosen if one.card.name == self.card.name])


def load_newest(where: Path | str) -> tuple[int, Any]:
    """Step and state of the newest whole checkpoint at `where`, without locking or changing anything.

    `state["model"]` of a training is the model's state dict. Raises BadInput if there is none.
    """
    store = store_at(where)
    wrong = []
    for step in sorted((step for step, complete in steps_in(store).items() if complete), reverse=True):
        try:
            return step, read_state(store, folder_of(step))
        except Damaged as error:
            wrong.append(str(error))
    raise BadInput("; ".join(wrong) or f"there is no checkpoint in {where}")
