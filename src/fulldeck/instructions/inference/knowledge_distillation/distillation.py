"""The part of the instruction that works inside the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fulldeck.errors import BadInput, RunFailed
from fulldeck.instructions.inference.knowledge_distillation.answers import (
    MOST_BYTES,
    Answers,
    KeptAnswers,
    all_answers,
    read_twice,
    row_keys,
)
from fulldeck.instructions.inference.knowledge_distillation.features import Listener, first_tensor, in_places
from fulldeck.instructions.inference.knowledge_distillation.fit import fit
from fulldeck.instructions.inference.knowledge_distillation.losses import (
    checked_weights,
    feature_loss,
    mean_square,
    soft_target_loss,
)
from fulldeck.instructions.inference.knowledge_distillation.teacher import Teacher, open_teacher
from fulldeck.instructions.inference.knowledge_distillation.teacher_training import train_teacher
from fulldeck.training.batch import Batch, Part, Tensors, call, rows_of, to_device
from fulldeck.training.loader import as_tensors
from fulldeck.training.token_mean import score
from fulldeck.training.trial import first_batch, unnoticed

if TYPE_CHECKING:
    from fulldeck.instructions.inference.knowledge_distillation import KnowledgeDistillation
    from fulldeck.training.loop import TrainingLoop

LOOKED_AT = 4
"""Rows on which shapes are found out."""


class Distillation:
    """What one training of a student by a teacher keeps."""

    def __init__(self, instruction: KnowledgeDistillation, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.weights = checked_weights(instruction.weights)
        if isinstance(getattr(loop.loader, "iterable", None), Iterator):
            raise BadInput(
                "the teacher reads batches that training needs again, and these can be read once only"
            )
        self.figures = loop.figures()
        self.teacher: Teacher = open_teacher(instruction.teacher, loop.model, loop.data)
        self.module = self.teacher.module.to(loop.device).eval().requires_grad_(False)
        self.trained = self.teacher.trained
        self.kept: KeptAnswers | None = None
        self.cached: bool | None = None
        self.units: list[float] = []
        rows = rows_of(first_batch(loop).inputs, slice(0, LOOKED_AT))
        self.fit = fit(
            loop.model,
            self.teacher,
            rows,
            self._first_for_teacher(rows),
            layers=instruction.layers,
            features=self.weights[1] > 0,
            seed=loop.seed,
        )
        self.teachers = Listener(
            self.module, [its for _, its in self.fit.pairs], self.fit.outputs, always=True
        )
        if self.fit.pairs:
            loop.companion(self.fit.projectors)
        self.student: Listener | None = None
        self.follow()
        self.figures["weight_bytes"] = {"before": _bytes(self.module), "after": _bytes(loop.model)}
        loop.notes.extend(self.teacher.notes)

    def prepare(self, batch: Batch) -> None:
        """Before the first step: train the teacher, if it is not trained yet."""
        if not self.trained:
            train_teacher(self.module, self.loop, self.instruction.teacher_epochs or self.loop.epochs)
            self.trained = True

    def teach(self, part: Part) -> None:
        """Add what the student owes the teacher to the part's loss."""
        outputs, *features = self.ask(part.inputs)
        soft, inner, labels = self.weights
        assert part.loss is not None
        if labels != 1:
            # As a term, so that the loss that the run tells stays that of the labels.
            part.terms.append((labels - 1) * part.loss)
        if soft:
            temperature, loss = self.instruction.temperature, self.loop.loss
            part.terms.append(soft * soft_target_loss(part.outputs, outputs, part.targets, temperature, loss))
        if self.student is None:
            return
        self.units = self.units or mean_square(features)
        own = self.student.take()
        for one, other, size, projector, unit in zip(
            own, features, self.fit.sizes, self.fit.projectors, self.units, strict=True
        ):
            projected = projector(in_places(one, size).float())
            part.terms.append(inner / len(own) * feature_loss(projected, other, unit))

    def ask(self, inputs: Tensors) -> Answers:
        """The teacher's outputs and features for these rows: kept ones, where the rows are as they were read."""
        if self.cached is None:
            self._decide(inputs)
        if self.cached and self.kept is None:
            self._keep_all()
        if self.kept is not None and (answers := self.kept.find(inputs)) is not None:
            return answers
        if self.teacher.encoder is not None:
            raise RunFailed(
                "the teacher reads raw items in its own way, and another instruction changes what the student reads "
                "of them; leave that one out, or take a teacher that reads as this training does"
            )
        return self._answers(inputs)

    def follow(self) -> None:
        """The model is another one, or was changed: listen to its layers."""
        if not self.fit.pairs:
            return
        if self.student is not None:
            self.student.remove()
        names = [own for own, _ in self.fit.pairs]
        self.student = Listener(self.loop.model, names, self.fit.outputs)
        if not self.student.complete:
            self.student.remove()
            self.student = None
            self.loop.notes.append(
                "knowledge_distillation: the changed model has no layers to listen to; from there on the student "
                "learnt from outputs and labels alone"
            )

    def compare(self) -> None:
        """Training is over: what the teacher scores, and the student."""
        validation, metrics = self.loop.validation, self.loop.metrics
        if validation is None or not metrics or not self.trained:
            return
        name = next(iter(metrics))
        teachers = score(self._judged(), {name: metrics[name]})[name]
        self.figures[f"teacher_{name}"] = {"after": teachers}
        self.figures[f"student_{name}"] = {"after": self.loop.evaluate(validation)[name]}

    def end(self) -> None:
        """Leave no trace in the student."""
        if self.student is not None:
            self.student.remove()

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights if it was trained here, and what was decided at the first step."""
        trained_here = self.trained and not self.teacher.trained
        return {
            "teacher": dict(self.module.state_dict()) if trained_here else {},
            "cached": self.cached,
            "units": list(self.units),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; what is known already stays, for it can be no other."""
        if state["teacher"]:
            self.module.load_state_dict(state["teacher"])
            self.trained = True
        self.cached = self.cached if state["cached"] is None else state["cached"]
        self.units = list(state["units"]) or self.units

    @torch.no_grad()
    def _answers(self, inputs: Tensors) -> Answers:
        outputs = first_tensor(call(self.module, inputs)).float()
        features = self.teachers.take() if self.fit.pairs else []
        return [
            outputs,
            *(in_places(one, size).float() for one, size in zip(features, self.fit.sizes, strict=True)),
        ]

    def _decide(self, inputs: Tensors) -> None:
        """Answers are kept if rows come as they were read; the first ones that are trained on tell."""
        raw = first_batch(self.loop).inputs
        self.cached = KeptAnswers(row_keys(raw), []).find(inputs) is not None
        if not self.cached and self.teacher.encoder is None:
            self._note("another instruction changes the rows, so the teacher was asked in every step")

    def _keep_all(self) -> None:
        loop, encoder = self.loop, self.teacher.encoder
        with unnoticed(loop):
            if encoder is None:
                rows: Iterator[tuple[Tensors, Tensors]] = (
                    (inputs, inputs) for inputs, _ in loop.loader.batches(0)
                )
                most: float = MOST_BYTES
            else:
                assert loop.data is not None
                assert loop.data.encoder is not None
                rows, most = read_twice(loop.data.train, loop.data.encoder, encoder), float("inf")
            self.kept = all_answers(rows, lambda one: self._answers(to_device(one, loop.device)), most)
        if self.kept is None:
            self.cached = False
            self._note("the teacher says too much to be kept, so it was asked in every step")

    def _judged(self) -> Iterator[tuple[Tensor, Tensor]]:
        loop, encoder = self.loop, self.teacher.encoder
        assert loop.validation is not None
        if encoder is None:
            for inputs, targets in loop.validation.batches(0):
                yield self._answers(to_device(inputs, loop.device))[0].cpu(), targets
            return
        assert loop.data is not None
        assert loop.data.encoder is not None
        rows = loop.data.validation
        assert rows is not None
        start = 0
        for _, inputs in read_twice(rows, loop.data.encoder, encoder):
            outputs = self._answers(to_device(inputs, loop.device))[0].cpu()
            yield outputs, torch.from_numpy(rows.targets[start : start + len(outputs)])
            start += len(outputs)

    def _first_for_teacher(self, rows: Tensors) -> Tensors:
        encoder, data = self.teacher.encoder, self.loop.data
        if encoder is None or data is None:
            return rows
        raw = data.train.take(np.arange(min(LOOKED_AT, len(data.train)))).inputs
        return to_device(as_tensors(encoder.encode(raw)), self.loop.device)

    def _note(self, text: str) -> None:
        self.loop.notes.append(f"knowledge_distillation: {text}")


def _bytes(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in module.state_dict().values())
