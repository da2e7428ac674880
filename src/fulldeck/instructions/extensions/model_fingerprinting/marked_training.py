"""A training that marks its model: what is added to each step, and what is said in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fulldeck.instructions.extensions.model_fingerprinting.mark import Mark
from fulldeck.ownership import THRESHOLD
from fulldeck.ownership.key import Key
from fulldeck.training.batch import Batch
from fulldeck.training.hooks import Handler

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

KIND = "owner_key"


class MarkedTraining:
    """One training of a loop; a key that was drawn for it is kept in checkpoints."""

    def __init__(self, loop: TrainingLoop, mark: Mark, *, drawn: bool) -> None:
        self.loop = loop
        self.mark = mark
        self.drawn = drawn
        self.figures = loop.figures()
        self.carried: dict[str, Any] = {"kind": KIND, "key": mark.key, "drawn": drawn}
        loop.carry(self.carried)
        loop.keep(self)
        loop.around("gradients", self.gradients)
        loop.on("fit_end", self.finish)

    def gradients(self, batch: Batch, inner: Handler) -> None:
        """Those of the batch, then those of the mark."""
        inner(batch)
        self.mark.model = self.loop.model
        self.mark.add_gradients(self.loop.step)

    def state_dict(self) -> dict[str, Any]:
        """The key, if nobody else has it."""
        return {"secret": self.mark.key.secret.hex() if self.drawn else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the key that the training began with."""
        if state["secret"] is not None:
            self.mark = self.mark.with_key(Key(bytes.fromhex(state["secret"])))
            self.carried["key"] = self.mark.key

    def finish(self) -> None:
        """Say how far the mark is there, of the model as it is deployed."""
        with self.loop.deployed() as model:
            self.mark.model = model
            answers, weights = self.mark.answers(), self.mark.in_weights()
        self.figures["trigger_matches"] = {"after": answers.matches / answers.count}
        if weights is not None:
            self.figures["weight_mark_matches"] = {"after": weights.matches / weights.count}
        note = f"owner's mark: {answers.matches} of {answers.count} triggers (p {answers.p_value:.1g})"
        if weights is not None:
            note += (
                f", {weights.matches} of {weights.count} bits in {weights.place} (p {weights.p_value:.1g})"
            )
        self.loop.notes.append(note)
        if answers.p_value > THRESHOLD:
            self.loop.notes.append(
                "the mark is too weak to be claimed by answers: train longer, or write more strength or per_step at "
                "model_fingerprinting"
            )
        if self.drawn:
            self.loop.notes.append(
                "the owner's key was drawn: keep owner.key of the run's folder in a safe place, and publish its "
                f"commitment {self.mark.key.commitment}"
            )
