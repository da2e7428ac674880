"""The pipeline: load, prepare, train, optimise, configure, rehearse. One execution of a plan.

    data = workload.load()
    for instruction in plan: data = instruction.prepare(data)
    loop = TrainingLoop(workload.model(data), data.train, workload.loss, ...)
    for instruction in plan: instruction.attach(loop)
    candidate = loop.fit()
    for instruction in plan: candidate = instruction.optimise(candidate)
    service = Service(candidate)
    for instruction in plan: service = instruction.configure(service)

What is around these lines checks each conversion; `doors.py` opens the doors, `record.py` writes down what
happened.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from fulldeck.candidate import Candidate, judged_rows
from fulldeck.data import Data
from fulldeck.device import cpu_threads
from fulldeck.distributed.process_group import leave
from fulldeck.distributed.ranks import Ranks
from fulldeck.errors import BadInput, RunFailed
from fulldeck.evaluation import evaluate
from fulldeck.files import write_json
from fulldeck.machine import peak_memory
from fulldeck.pipeline.doors import Doors
from fulldeck.pipeline.gate import breaches, cautions, changes, measure, scores, scores_of_many
from fulldeck.pipeline.rank_agreement import refuse_other_data, refuse_other_model
from fulldeck.pipeline.record import RunRecord
from fulldeck.pipeline.rehearsal import keep_example, rehearse
from fulldeck.pipeline.splitting import with_default_split
from fulldeck.planner import Plan
from fulldeck.run_folder import EVALUATION, RunFolder
from fulldeck.service import Service
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.training.random_state import seed_all
from fulldeck.watchers.watcher import Watcher
from fulldeck.weights import save_weights
from fulldeck.workload import encoded

MAX_SCORED = 10_000
"""Training examples that the result's metrics are computed on; validation and test are scored whole."""


class Execution:
    """One execution of a plan in its folder; `service` is what it comes to.

    Of several processes (`ranks`) the first one `finish`es; the others `assist` it until the model is trained.
    """

    def __init__(
        self, plan: Plan, folder: RunFolder, resume: bool, watcher: Watcher, ranks: Ranks | None = None
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.resume = resume
        self.ranks = ranks or Ranks(together=False)
        self.record = RunRecord(plan, folder, watcher, first=self.ranks.rank == 0)
        self.doors = Doors(self.record)
        self.workload = plan.recipe.workload
        self.settings: dict[str, Any] = plan.recipe.resolved()["train"]
        self.began = resume
        self.service: Service | None = None

    def finish(self) -> dict[str, Any]:
        """Execute, and leave the folder in a state that tells how it ended."""
        record = self.record
        try:
            record.begun()
            self.execute()
        except KeyboardInterrupt as stop:
            record.ended("interrupted", str(stop) or "interrupted by the user")
            raise
        except BadInput as error:
            if self.began:
                record.ended("failed", str(error))
            else:
                record.discarded(str(error))
            raise
        except Exception as error:
            record.ended("failed", f"{type(error).__name__}: {error}")
            raise
        record.finished()
        return record.result

    def assist(self) -> dict[str, Any]:
        """Load, prepare and train as the first rank does, and write nothing; what is left to do is that one's."""
        self.fit(self.load())
        return {"run": str(self.folder.path), "status": "assisted", "rank": self.ranks.rank}

    def execute(self) -> None:
        """The pipeline."""
        data = self.load()
        with self.record.stage("train"):
            candidate = self.train(data)
        with self.record.stage("optimise"):
            candidate = self.optimise(candidate)
        with self.record.stage("evaluate"):
            candidate = replace(candidate, metrics=MappingProxyType(self.judge(candidate)))
        with self.record.stage("configure"):
            self.service = self.configure(candidate)
        with self.record.stage("rehearse"):
            self.rehearse(self.service)

    def load(self) -> Data:
        """The workload's data, through all `prepare` doors."""
        torch.set_num_threads(self.settings.get("threads") or cpu_threads())
        if self.ranks.world_size > 1:
            seed_all(self.settings["seed"])  # or a factory that draws its data would give each rank others
        with self.record.stage("load"):
            data = self.workload.load()
        with self.record.stage("prepare"):
            data = self.prepare(data)
            if self.ranks.world_size > 1:
                refuse_other_data(self.ranks, data)
            return data

    def prepare(self, data: Data) -> Data:
        """All `prepare` doors; then a split, if none was made, and the encoder."""
        # What was only guessed is told before anything can fail of it.
        told = self.record.note_rest(data.notes, 0)
        for step in self.doors.steps("prepare"):
            before = {name: len(examples) for name, examples in data.splits().items()}
            data = self.doors.open(step, step.instruction.prepare, data)
            after = {name: len(examples) for name, examples in data.splits().items()}
            self.doors.applied(
                step,
                {f"{name}_rows": {"before": before.get(name, 0), "after": n} for name, n in after.items()},
            )
            told = self.record.note_rest(data.notes, told)
        data = encoded(self.workload, with_default_split(data, self.settings["seed"]))
        self.record.note_rest(data.notes, told)
        return data

    def fit(self, data: Data) -> tuple[TrainingLoop, nn.Module]:
        """All `attach` doors, and the training: by all ranks, which part when it is over."""
        torch.manual_seed(self.settings["seed"])
        loop = self.loop(data)
        if self.ranks.world_size > 1:
            loop.ranks = self.ranks
            refuse_other_model(self.ranks, loop.model)
        for step in self.doors.steps("attach"):
            self.doors.attach(step, loop)
        self.record.watcher.training(loop)
        self.began = True
        module = loop.fit(resume=self.resume)
        self.ranks.gather("done")
        leave()
        return loop, module

    def train(self, data: Data) -> Candidate:
        """The trained model, and what the training came to."""
        loop, module = self.fit(data)
        if loop.stopped is not None:
            self.record.note(f"training stopped after epoch {loop.epoch}: {loop.stopped}")
        for reason, count in loop.skipped.items():
            self.record.note(f"{count} optimizer steps were skipped: {reason}")
        for text in loop.notes:
            self.record.note(text)
        for label, figures in loop.reported.items():
            self.record.reports[label]["changes"] |= figures
        for label, charts in loop.drawn.items():
            self.record.reports[label]["charts"] = charts
        self.record.result["training"] = {"epochs": loop.epoch, "steps": loop.step, "history": loop.history}
        self.record.result["memory"] = {"training_peak_bytes": peak_memory(loop.device)}
        weights = save_weights(module, self.folder.artifacts / "model.safetensors")
        self.record.artifact(weights)
        return Candidate(
            name=self.workload.name,
            module=module,
            data=data,
            folder=self.folder.artifacts,
            carried=MappingProxyType({**data.carried, **loop.carried}),
            judged_by=self.workload.metrics(data),
            lineage=tuple(self.plan.acting),
        )

    def loop(self, data: Data) -> TrainingLoop:
        """The training loop, before anything is attached to it."""
        settings, workload = self.settings, self.workload
        assert data.encoder is not None, "prepared data has an encoder"
        assert data.validation is not None, "prepared data is split"
        sampler = ShuffledSampler(len(data.train), settings["seed"])
        return TrainingLoop(
            workload.model(data),
            BatchLoader(data.train, data.encoder, settings["batch_size"], sampler),
            workload.loss(data),
            epochs=settings["epochs"],
            max_steps=settings.get("max_steps"),
            optimizer=workload.optimizer(settings["learning_rate"], settings["weight_decay"]),
            # Outputs of a language model are too large for more rows at once than training takes.
            validation=BatchLoader(
                data.validation, data.encoder, settings["batch_size"] if data.kind == "tokens" else 512
            ),
            metrics=workload.metrics(data),
            micro_batch=settings.get("micro_batch"),
            device=settings["device"],
            seed=settings["seed"],
            data=data,
            checkpoints=self.folder.checkpoints,
            checkpoint_every=settings.get("checkpoint_every"),
            record=self.record.epoch if self.ranks.rank == 0 else None,
        )

    def optimise(self, candidate: Candidate) -> Candidate:
        """All `optimise` doors, each followed by the gate."""
        metrics = self.workload.metrics(candidate.data)
        if (compared := judged_rows(candidate)) < len(candidate.judged):
            self.record.note(f"conversions are compared on the first {compared:,} validation examples")
        before = measure(candidate, metrics)
        for step in self.doors.steps("optimise"):
            after_step = self.doors.open(step, step.instruction.optimise, candidate)
            if after_step is candidate:
                continue
            self.record.note_rest(after_step.notes, len(candidate.notes))
            after = measure(after_step, metrics)
            self.doors.applied(step, changes(before, after))
            for caution in cautions(before, after):
                self.record.note(f"after {step.label}, {caution}")
            broken = breaches(before, after, step.instruction.tolerance())
            if broken:
                text = f"{step.label} broke its tolerance: {'; '.join(broken)}"
                if not step.entry.tolerate:
                    raise RunFailed(f"{text}; write tolerate: true at {step.label} to accept it")
                self.record.note(text)
            candidate, before = after_step, after
        for artifact in candidate.artifacts:
            self.record.artifact(artifact)
        return candidate

    def judge(self, candidate: Candidate) -> dict[str, dict[str, float]]:
        """Every metric on every split, of the candidate as it will be served."""
        metrics = self.workload.metrics(candidate.data)
        result = {}
        for name, examples in candidate.data.splits().items():
            rows = examples
            if name == "train" and len(examples) > MAX_SCORED:
                rows = examples.take(np.arange(MAX_SCORED))
                self.record.note(
                    f"train metrics are those of the first {MAX_SCORED:,} of {len(examples):,} examples"
                )
            if candidate.data.task == "language_modelling":
                outputs, result[name] = np.empty(0), scores_of_many(candidate, rows, metrics)
                continue
            outputs = candidate.run(candidate.encoded(rows))
            result[name] = scores(outputs, rows.targets, metrics)
        # The last split is the one that training saw least of.
        found = evaluate(candidate.data, name, rows, outputs)
        if samples := self.workload.samples(candidate):
            found["samples"] = samples
        write_json(self.folder.path / EVALUATION, found)
        self.record.result["metrics"] = result
        return result

    def configure(self, candidate: Candidate) -> Service:
        """All `configure` doors."""
        service = Service(candidate, candidate.name, self.folder.path)
        for step in self.doors.steps("configure"):
            service = self.doors.open(step, step.instruction.configure, service)
            self.doors.applied(step, {})
        if service.package is not None:
            self.record.result["package"] = str(service.package.relative_to(self.folder.path))
        return service

    def rehearse(self, service: Service) -> None:
        """Try the package as it will be used, on test items."""
        if service.package is None:
            self.record.note("no rehearsal: no instruction wrote a package (model_packaging does)")
            return
        candidate = service.candidate
        examples = candidate.data.test or candidate.judged
        found = rehearse(service.package, candidate, examples)
        self.record.result["rehearsal"] = found | {
            "example": keep_example(self.folder.path, candidate, examples)
        }
