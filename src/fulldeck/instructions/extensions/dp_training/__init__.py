"""Train with differential privacy: what the weights say about any one training sample is bounded by epsilon.

Every sample's gradient is clipped to a norm, Gaussian noise is added to their sum, batches are drawn by Poisson
sampling, and an accountant says what that spends. The noise follows from the epsilon that is asked for. The clipped sum
comes from the fastest of three ways on this model, which is measured before the first step. Randomness comes from the
system, not from the recipe's seed: whoever knew it could take the noise away, so two runs differ.

What is bounded is what training gives away. What is fitted on the data beforehand (statistics for scaling, a
vocabulary) and what is measured on it afterwards is not in epsilon.

Use when: the model may be seen by people who must not learn who or what it was trained on.
Avoid when: there are only a few hundred samples, or accuracy counts above all: noise costs some, and the less the
more samples there are. Large batches and few parameters suffer least.
Reference: Abadi et al. 2016, arXiv:1607.00133; Bu et al. 2022, arXiv:2210.00038 (book-keeping); Yeom et al. 2018,
arXiv:1709.01604 (the attack that is its evidence).

Example:
    >>> import torch
    >>> from fulldeck.instructions.extensions.dp_training.gradients import PrivateGradients
    >>> model = torch.nn.Linear(4, 2)
    >>> loss = torch.nn.functional.cross_entropy
    >>> gradients = PrivateGradients(model, loss, noise=1.0, expected=16, mode="functional")
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for step in range(3):  # of your own loop; each batch drawn by Poisson sampling, 16 samples on average
    ...     inputs, targets = torch.randn(16, 4), torch.randint(2, (16,))
    ...     _ = gradients(step, inputs, targets)  # fills .grad: clipped, summed, with noise, averaged
    ...     optimizer.step()
    >>> private_epsilon(noise=1.0, rate=16 / 10_000, steps=3, delta=1e-5) < 1
    True
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from fulldeck.errors import BadInput, CannotAct
from fulldeck.group_norm import with_group_norm
from fulldeck.instruction import Evidence, Instruction, Situation, instruction, param
from fulldeck.instructions.extensions.dp_training.accounting import Accountant, Steps
from fulldeck.instructions.extensions.dp_training.attack import attacked
from fulldeck.instructions.extensions.dp_training.gradients import PrivateGradients
from fulldeck.instructions.extensions.dp_training.norms import check_norms
from fulldeck.instructions.extensions.dp_training.poisson import PoissonLoader, Secret
from fulldeck.instructions.extensions.dp_training.private_training import DRAWS, PrivateTraining
from fulldeck.training.loader import BatchLoader

if TYPE_CHECKING:
    from torch import nn

    from fulldeck.evidence.outcome import Outcome
    from fulldeck.service import Service
    from fulldeck.training.batch import Tensors
    from fulldeck.training.loop import TrainingLoop

__all__ = ["DpTraining", "PrivateGradients", "private_epsilon", "with_group_norm"]

_CONFLICTS = {
    "dynamic_batch_scheduler": "accumulation in parts of a batch that it chooses is not what the accountant counts; "
    "leave it out and write micro_batch: 64 at dp_training, which clips and adds up each part exactly",
    "distributed_data_parallel": "every rank would add noise of its own; train in one process",
    "fully_sharded_training": "norms of a sample's gradient are spread over ranks; train in one process",
    "gradient_checkpointing": "it computes activations twice, and gradients a sample are told from them; write "
    "micro_batch: 16 at dp_training to save memory",
    "train_step_compilation": "a compiled step gives the gradient of the whole batch only; leave it out",
    "quantization_aware_training": "observers learn the ranges of samples without noise; quantise afterwards with "
    "post_training_quantization: {mode: dynamic}",
    "knowledge_distillation": "a teacher that saw the same data hands it on without noise; leave it out",
    "sequence_packing": "a row then holds several samples, and what is clipped is a row; leave it out",
    "class_rebalancing": f"{DRAWS}, every sample with the same probability; leave it out",
    "sharded_streaming": f"{DRAWS}; leave it out",
    "drift_detection": "it ships statistics of the training data without noise; leave it out",
}


@instruction(
    53,
    stage="extensions",
    touches={"gradients", "sampler"},
    conflicts=_CONFLICTS,
    before={
        "touches:package": "what it spent goes into the manifest",
        "parameter_efficient_finetuning": "group norms that come later would be trained beside the adapters",
    },
    extras=("dp",),
    evidence=Evidence(workload="breast_cancer", metric="membership_auc", expect="<= -0.2"),
)
class DpTraining(Instruction):
    epsilon: float | None = param(
        8.0,
        gt=0,
        doc="What all of the training may spend at most; left out (null): what noise_multiplier comes to.",
    )
    noise_multiplier: float | None = param(
        None, gt=0, doc="Standard deviation of the noise over max_grad_norm; left out: what epsilon asks for."
    )
    delta: float | None = param(
        None, gt=0, lt=1, doc="Probability of giving away more; left out: a tenth of one over the samples."
    )
    max_grad_norm: float = param(
        1.0, gt=0, search=(0.3, 1.0, 3.0), doc="Norm that a sample's gradient is clipped to."
    )
    mode: Literal["auto", "functional", "ghost", "hooks"] = param(
        "auto", doc="How clipped sums are computed; auto: the fastest, by trying."
    )
    micro_batch: int | None = param(
        None,
        ge=1,
        doc="Most samples computed at once; left out: as train.micro_batch. The sum stays the same.",
    )
    group_norm: bool = param(
        False, doc="Put group norms in the place of batch norms, which privacy rules out."
    )
    accountant: Accountant = param("rdp", doc="rdp: fast; prv: tighter, so less noise for the same epsilon.")
    noise_seed: int | None = param(
        None,
        ge=0,
        doc="For tests only: whoever knows it can take the noise away. Left out: drawn from the system.",
    )

    def clash(self, other: Instruction) -> str | None:
        """Also augmentation that mixes samples, quantisation calibrated on them, a scaled loss, a range test."""
        given: Callable[[str], Any] = lambda name: getattr(other, name, None)  # noqa: E731
        mixes = given("mix") != "none" or given("attack") != "none" or given("magnitude") == "auto"
        if other.card.name == "auto_data_augmentation" and mixes:
            return (
                "mixing samples, attacks and a strength that is learnt from losses make a sample count twice; write "
                "auto_data_augmentation: {policy: trivial, magnitude: 0.5, mix: none, attack: none}"
            )
        if other.card.name == "amp_optimizer" and given("dtype") == "float16":
            return (
                "float16 scales the loss, and gradients a sample are clipped unscaled; write dtype: bfloat16"
            )
        if other.card.name == "post_training_quantization" and given("mode") == "static":
            return "ranges are calibrated on training samples without noise; write mode: dynamic"
        if other.card.name == "lr_scheduler" and given("range_test"):
            return (
                "the rate is found from losses on training samples, which the accountant never sees; leave range_test "
                "out and write train.learning_rate"
            )
        return super().clash(other)

    def cannot(self, situation: Situation) -> str | None:
        """A token is no sample that is clipped."""
        if situation.task == "language_modelling":
            return "clips by sample, and a block of a running text is none; it works on classification and regression"
        return super().cannot(situation)

    def restore(self, model: nn.Module, inputs: Tensors) -> nn.Module:
        if self.group_norm:
            with_group_norm(model)
        return model

    def attach(self, loop: TrainingLoop) -> None:
        """Take over how batches are drawn and gradients computed. Raises CannotAct, BadInput as the docs say."""
        check_norms(loop.model, self.group_norm)
        if not isinstance(loop.loader, BatchLoader):
            raise CannotAct(
                f"{DRAWS}, and this loader draws its own; give the loop a fulldeck.training.loader.BatchLoader, or use "
                "PrivateGradients in your own loop"
            )
        secret = Secret(secrets.randbits(128) if self.noise_seed is None else self.noise_seed)
        loader = PoissonLoader(loop.loader, secret)
        loop.loader = loader
        steps = Steps(loader.rate, loop.total_steps, self.delta or 0.1 / loader.rows, self.accountant)
        noise = self._noise(steps)
        PrivateTraining(self, loop, loader, secret, steps, noise)

    def _noise(self, steps: Steps) -> float:
        if self.noise_multiplier is None:
            if self.epsilon is None:
                raise BadInput("dp_training needs epsilon or noise_multiplier")
            return steps.noise(self.epsilon)
        spent = steps.epsilon(self.noise_multiplier)
        if self.epsilon is not None and spent > self.epsilon and "epsilon" in self.model_fields_set:
            few = steps.most_steps(self.epsilon, self.noise_multiplier)
            enough = steps.noise(self.epsilon)
            raise BadInput(
                f"epsilon {self.epsilon:g} is not reachable: {steps.count} steps with a noise multiplier of "
                f"{self.noise_multiplier:g} spend {spent:.3g}; a noise multiplier of {enough:.3g} would do, or at "
                f"most {few} steps"
            )
        return self.noise_multiplier

    def configure(self, service: Service) -> Service:
        """Say in the manifest what was spent."""
        for label, value in service.candidate.carried.items():
            if isinstance(value, dict) and value.get("kind") == "differential_privacy":
                return service.stating(label, value)
        return service

    def prove(self, outcome: Outcome) -> float:
        """membership_auc: how well losses tell who was trained on, of a task that can only be learnt by heart."""
        chosen = [entry.instruction for entry in outcome.recipe.entries]
        own = [one for one in chosen if one.card.name == self.card.name]
        return attacked(own, outcome.recipe.train.seed)


def private_epsilon(
    *, noise: float, rate: float, steps: int, delta: float, accountant: Accountant = "rdp"
) -> float:
    """What `steps` steps spend, each on every sample with probability `rate`, at a noise multiplier of `noise`."""
    return Steps(rate, steps, delta, accountant).epsilon(noise)
