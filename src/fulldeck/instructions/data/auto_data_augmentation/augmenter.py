"""The part of the instruction that works inside the training loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fulldeck.distributed.rank_random import drawing_from
from fulldeck.errors import CannotAct
from fulldeck.instructions.data.auto_data_augmentation.attack import ascend, statistics_kept
from fulldeck.instructions.data.auto_data_augmentation.draws import Draws
from fulldeck.instructions.data.auto_data_augmentation.mixing import mix
from fulldeck.instructions.data.auto_data_augmentation.policies import augmented
from fulldeck.instructions.data.auto_data_augmentation.split_batchnorm import SeparateStatistics
from fulldeck.instructions.data.auto_data_augmentation.strength import FoundMagnitude
from fulldeck.training.batch import Batch, Part, Tensors

if TYPE_CHECKING:
    from fulldeck.instructions.data.auto_data_augmentation import AutoDataAugmentation
    from fulldeck.training.loop import TrainingLoop


class Augmenter:
    """Augments each batch at its start, and each part of it adversarially at the part's start.

    The policy works on the batch, so that a step that is tried again sees the same images; the attack works
    on the part, so that micro-batches bound its memory.
    """

    def __init__(self, settings: AutoDataAugmentation, loop: TrainingLoop) -> None:
        self.settings = settings
        self.loop = loop
        self.found: FoundMagnitude | None = None
        self.routes: SeparateStatistics | None = None
        self.classes: int | None = None
        self.augmented = torch.zeros(0, dtype=torch.bool)
        self.figures = loop.figures()
        loop.on("ready", self.warn)
        loop.on("batch_start", self.augment_batch)
        if settings.magnitude == "auto" and settings.policy != "none":
            self.found = FoundMagnitude(loop.device)
            loop.keep(self.found)
            found = self.found
            loop.on("batch_start", lambda batch: found.begin())
            loop.on("after_forward", self.follow)
            loop.on("step_end", lambda batch: found.learn(loop.ranks))
            loop.on("evaluation", self.report)
        if settings.attack != "none":
            if settings.separate_statistics:
                self.routes = _separate(loop)
            loop.on("part_start", self.attack_part)

    def augment_batch(self, batch: Batch) -> None:
        """Replace the batch's images, and its targets where images are mixed."""
        settings = self.settings
        images = batch.inputs if self.classes is not None else self._checked(batch.inputs)
        assert isinstance(images, Tensor)
        assert self.classes is not None
        draws = _draws(batch)
        magnitude = settings.magnitude if self.found is None else self.found.magnitude
        if isinstance(magnitude, str):
            magnitude = 0.0  # there is no policy, so nothing has it
        how = partial(augmented, magnitude=magnitude, operations=settings.operations, chains=settings.chains)
        if settings.flip:
            images = how(images, draws, "none", flip=True)
        if settings.policy != "none":
            chosen, of_chosen = draws.some(settings.share)
            rows = chosen.nonzero()[:, 0].to(images.device, non_blocking=True)
            images = images.index_copy(0, rows, how(images.index_select(0, rows), of_chosen, settings.policy))
            self.augmented = chosen.to(images.device, non_blocking=True)
        if settings.mix != "none":
            with self._drawing_alone():
                images, batch.targets = mix(
                    images, batch.targets, self.classes, settings.mix, alpha=settings.mix_alpha
                )
        batch.inputs = images

    def attack_part(self, part: Part) -> None:
        """Replace the first rows of the part by adversarial samples made from them."""
        assert isinstance(part.inputs, Tensor)
        count = self._adversarial(part)
        if count == 0:
            return
        settings, loop = self.settings, self.loop

        def loss_of(images: Tensor) -> Tensor:
            probe = Part(images, part.targets[:count], weight=count)
            loop.forward(probe)
            assert probe.loss is not None
            # Scaled as the loop scales it: a half-precision slope must not underflow.
            return probe.loss * loop.loss_scale

        if self.routes is not None:
            self.routes.route(count, count)
        steps = settings.attack_steps if settings.attack == "pgd" else 1
        auxiliary = () if self.routes is None else (self.routes.auxiliary,)
        with self._drawing_alone(part.start), statistics_kept(loop.model, *auxiliary):
            moved = ascend(part.inputs[:count], loss_of, epsilon=settings.epsilon, steps=steps)
        part.inputs = torch.cat([moved, part.inputs[count:]])
        if self.routes is not None:
            self.routes.route(count, len(part.targets))

    def follow(self, part: Part) -> None:
        """Let the magnitude follow how many of the part's augmented samples are right."""
        assert self.found is not None
        if part.share == 0:
            return  # its rows are another process's
        count = self._adversarial(part) if self.settings.attack != "none" else 0
        augmented = self.augmented[part.start + count : part.start + len(part.targets)]
        self.found.observe(part.outputs[count:], part.targets[count:], augmented)

    def report(self, metrics: dict[str, float]) -> None:
        """Show the magnitude that was found among the epoch's and the run's figures."""
        assert self.found is not None
        metrics["augmentation_magnitude"] = float(self.found.magnitude)
        self.figures["magnitude"] = {"after": float(self.found.magnitude)}

    def warn(self) -> None:
        """Say what several processes do not do as one would: what takes other rows of the batch, or counts them."""
        settings = self.settings
        differ = {
            "images are mixed with others of each process's rows": settings.mix != "none",
            "of each process's rows the first ones are attacked": settings.attack != "none",
        }
        if self.loop.ranks.world_size > 1 and (said := [words for words, holds in differ.items() if holds]):
            self.loop.notes.append(
                f"auto_data_augmentation: not exactly the training of one process: {', '.join(said)}"
            )

    def _drawing_alone(self, *numbers: int) -> AbstractContextManager[None]:
        """Within it, what depends on this process's rows is drawn apart, so that all go on from the same state."""
        ranks = self.loop.ranks
        if ranks.world_size == 1:
            return nullcontext()
        return drawing_from(self.loop.device, self.loop.seed, ranks.rank, self.loop.step, *numbers)

    def _adversarial(self, part: Part) -> int:
        return round(self.settings.adversarial_share * len(part.targets))

    def _checked(self, inputs: Tensors) -> Tensor:
        """The first batch: say what cannot be augmented, and learn the number of classes."""
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
            raise CannotAct("auto_data_augmentation works on batches of N x C x H x W float images")
        low, high = float(inputs.min()), float(inputs.max())
        if low < 0 or high > 1:
            raise CannotAct(
                f"auto_data_augmentation wants images between 0 and 1, got {low:g} to {high:g}; "
                "standardise them inside the model"
            )
        with self.loop.deployed() as model, torch.no_grad():
            scores = model(inputs[:1])
        self.classes = scores.shape[1] if isinstance(scores, Tensor) and scores.ndim == 2 else 0
        if self.classes < 2 and (self.settings.mix != "none" or self.found is not None):
            raise CannotAct(
                "auto_data_augmentation needs N x C class scores for mix and for magnitude: auto; "
                "write mix: none and a magnitude between 0 and 1"
            )
        return inputs


def _draws(batch: Batch) -> Draws:
    own = len(batch.targets)
    if batch.whole is None:
        return Draws(own)
    return Draws(len(batch.whole), torch.arange(batch.first, batch.first + own))


def _separate(loop: TrainingLoop) -> SeparateStatistics:
    routes = SeparateStatistics(loop.model)
    if not routes.main:
        raise CannotAct(
            "auto_data_augmentation.separate_statistics finds no batch normalisation in the model; "
            "write separate_statistics: false"
        )
    loop.companion(routes.auxiliary)
    loop.on("after_backward", lambda part: routes.route(0, 0))
    loop.on("hand_over", routes.undo)
    return routes
