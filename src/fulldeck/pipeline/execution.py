"""The pipeline: load, prepare, train, optimise, configure, rehearse. One execution of a plan.

    data = workload.load()
    for instruction in plan: data = instruction.prepare(data)
    loop = TrainingLoop(workload.model(data), data.train, workload.loss, ...)
    for instruction in plan: instruction.attach(loop)
    candidate = loop.fit()
    for instruction in plan: candidate = instruction.optimise(candidate)
    service = Service(candidate)
    for instruction in plan: service = instruction.configure(service)

What is around these lines opens each door (skipping what is optional and cannot act), checks each
conversion, and writes down what happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from fulldeck.candidate import Artifact, Candidate, judged_rows
from fulldeck.data import Data
from fulldeck.device import cpu_threads
from fulldeck.distributed.process_group import leave
from fulldeck.distributed.ranks import Ranks
from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.evaluation import evaluate
from fulldeck.files import plain, write_json
from fulldeck.machine import describe_machine, peak_memory
from fulldeck.pipeline.gate import breaches, cautions, changes, measure, scores, scores_of_many
from fulldeck.pipeline.rank_agreement import refuse_other_data, refuse_other_model
from fulldeck.pipeline.rehearsal import keep_example, rehearse
from fulldeck.pipeline.splitting import with_default_split
from fulldeck.planner import Plan, Step
from fulldeck.report import write_report
from fulldeck.run_folder import EVALUATION, PLAN, RunFolder
from fulldeck.service import Service
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.training.random_state import seed_all
from fulldeck.watchers.live_log import LiveLog
from fulldeck.watchers.run_log import RunLog
from fulldeck.watchers.tracking import Tracking
from fulldeck.watchers.watcher import Watcher, Watchers
from fulldeck.weights import save_weights
from fulldeck.workload import encoded

MAX_SCORED = 10_000
"""Training examples that the result's metrics are computed on; validation and test are scored whole."""

Thing = TypeVar("Thing", Data, Candidate, Service)


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
        if self.ranks.rank == 0:
            tracking = Tracking(plan.recipe, folder.path, self._note)
            self.watcher = Watchers([tracking, RunLog(), LiveLog(), watcher])
        else:
            self.watcher = Watchers([watcher] if watcher.on_all_ranks else [])
        self.workload = plan.recipe.workload
        self.settings: dict[str, Any] = plan.recipe.resolved()["train"]
        self.reports: dict[str, dict[str, Any]] = {step.label: _report(step) for step in plan.steps}
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.began = resume
        self.service: Service | None = None
        self.recorded = False
        self.result: dict[str, Any] = {
            "run": str(folder.path),
            "status": "running",
            "recipe": plan.recipe.name,
            "metrics": {},
            "instructions": list(self.reports.values()),
            "artifacts": [],
            "rehearsal": None,
            "notes": self.notes,
            "seconds": self.seconds,
            "machine": describe_machine(),
        }

    def finish(self) -> dict[str, Any]:
        """Execute, and leave the folder in a state that tells how it ended."""
        try:
            self.folder.write_result(self.result)
            write_json(self.folder.path / PLAN, {"steps": [step.to_json() for step in self.plan.steps]})
            self.folder.point_latest()
            self.watcher.started(self.plan, self.folder.path)
            self.execute()
        except KeyboardInterrupt as stop:
            self._ended("interrupted", str(stop) or "interrupted by the user")
            raise
        except BadInput as error:
            if not self.began:
                self.watcher.note(f"nothing was trained, so {self.folder.path} is removed again")
                self.watcher.ended("failed", str(error))
                self.folder.discard()
            else:
                self._ended("failed", str(error))
            raise
        except Exception as error:
            self._ended("failed", f"{type(error).__name__}: {error}")
            raise
        self.result["status"] = "finished"
        # A run that says that it is finished lacks nothing, so that comes last.
        self._write_report()
        self.folder.write_result(self.result)
        self.watcher.finished(self.result)
        return self.result

    def assist(self) -> dict[str, Any]:
        """Load, prepare and train as the first rank does, and write nothing; what is left to do is that one's."""
        self.fit(self.load())
        return {"run": str(self.folder.path), "status": "assisted", "rank": self.ranks.rank}

    def execute(self) -> None:
        """The pipeline."""
        data = self.load()
        with self._stage("train"):
            candidate = self.train(data)
        with self._stage("optimise"):
            candidate = self.optimise(candidate)
        with self._stage("evaluate"):
            candidate = replace(candidate, metrics=MappingProxyType(self.judge(candidate)))
        with self._stage("configure"):
            self.service = self.configure(candidate)
        with self._stage("rehearse"):
            self.rehearse(self.service)

    def load(self) -> Data:
        """The workload's data, through all `prepare` doors."""
        torch.set_num_threads(self.settings.get("threads") or cpu_threads())
        if self.ranks.world_size > 1:
            seed_all(self.settings["seed"])  # or a factory that draws its data would give each rank others
        with self._stage("load"):
            data = self.workload.load()
        with self._stage("prepare"):
            data = self.prepare(data)
            if self.ranks.world_size > 1:
                refuse_other_data(self.ranks, data)
            return data

    def prepare(self, data: Data) -> Data:
        """All `prepare` doors; then a split, if none was made, and the encoder."""
        # What was only guessed is told before anything can fail of it.
        told = self._tell(data, 0)
        for step in self._acting("prepare"):
            before = {name: len(examples) for name, examples in data.splits().items()}
            data = self._open(step, "prepare", step.instruction.prepare, data)
            after = {name: len(examples) for name, examples in data.splits().items()}
            self._applied(
                step,
                {f"{name}_rows": {"before": before.get(name, 0), "after": n} for name, n in after.items()},
            )
            told = self._tell(data, told)
        data = encoded(self.workload, with_default_split(data, self.settings["seed"]))
        self._tell(data, told)
        return data

    def fit(self, data: Data) -> tuple[TrainingLoop, nn.Module]:
        """All `attach` doors, and the training: by all ranks, which part when it is over."""
        torch.manual_seed(self.settings["seed"])
        loop = self.loop(data)
        if self.ranks.world_size > 1:
            loop.ranks = self.ranks
            refuse_other_model(self.ranks, loop.model)
        for step in self._acting("attach"):
            self._attach(step, loop)
        self.watcher.training(loop)
        self.began = True
        module = loop.fit(resume=self.resume)
        self.ranks.gather("done")
        leave()
        return loop, module

    def train(self, data: Data) -> Candidate:
        """The trained model, and what the training came to."""
        loop, module = self.fit(data)
        if loop.stopped is not None:
            self._note(f"training stopped after epoch {loop.epoch}: {loop.stopped}")
        for reason, count in loop.skipped.items():
            self._note(f"{count} optimizer steps were skipped: {reason}")
        for text in loop.notes:
            self._note(text)
        for label, figures in loop.reported.items():
            self.reports[label]["changes"] |= figures
        for label, charts in loop.drawn.items():
            self.reports[label]["charts"] = charts
        self.result["training"] = {"epochs": loop.epoch, "steps": loop.step, "history": loop.history}
        self.result["memory"] = {"training_peak_bytes": peak_memory(loop.device)}
        weights = save_weights(module, self.folder.artifacts / "model.safetensors")
        self.result["artifacts"].append(self._listed(weights))
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
            record=self._record if self.ranks.rank == 0 else None,
        )

    def optimise(self, candidate: Candidate) -> Candidate:
        """All `optimise` doors, each followed by the gate."""
        metrics = self.workload.metrics(candidate.data)
        if (compared := judged_rows(candidate)) < len(candidate.judged):
            self._note(f"conversions are compared on the first {compared:,} validation examples")
        before = measure(candidate, metrics)
        for step in self._acting("optimise"):
            after_step = self._open(step, "optimise", step.instruction.optimise, candidate)
            if after_step is candidate:
                continue
            for note in after_step.notes[len(candidate.notes) :]:
                self._note(note)
            after = measure(after_step, metrics)
            self._applied(step, changes(before, after))
            for caution in cautions(before, after):
                self._note(f"after {step.label}, {caution}")
            broken = breaches(before, after, step.instruction.tolerance())
            if broken:
                text = f"{step.label} broke its tolerance: {'; '.join(broken)}"
                if not step.entry.tolerate:
                    raise RunFailed(f"{text}; write tolerate: true at {step.label} to accept it")
                self._note(text)
            candidate, before = after_step, after
        self.result["artifacts"] += [self._listed(artifact) for artifact in candidate.artifacts]
        return candidate

    def judge(self, candidate: Candidate) -> dict[str, dict[str, float]]:
        """Every metric on every split, of the candidate as it will be served."""
        metrics = self.workload.metrics(candidate.data)
        result = {}
        for name, examples in candidate.data.splits().items():
            rows = examples
            if name == "train" and len(examples) > MAX_SCORED:
                rows = examples.take(np.arange(MAX_SCORED))
                self._note(
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
        self.result["metrics"] = result
        return result

    def configure(self, candidate: Candidate) -> Service:
        """All `configure` doors."""
        service = Service(candidate, candidate.name, self.folder.path)
        for step in self._acting("configure"):
            service = self._open(step, "configure", step.instruction.configure, service)
            self._applied(step, {})
        if service.package is not None:
            self.result["package"] = str(service.package.relative_to(self.folder.path))
        return service

    def rehearse(self, service: Service) -> None:
        """Try the package as it will be used, on test items."""
        if service.package is None:
            self._note("no rehearsal: no instruction wrote a package (model_packaging does)")
            return
        candidate = service.candidate
        examples = candidate.data.test or candidate.judged
        found = rehearse(service.package, candidate, examples)
        self.result["rehearsal"] = found | {"example": keep_example(self.folder.path, candidate, examples)}

    # Doors -------------------------------------------------------------------------------------------

    def _acting(self, door: str) -> Iterator[Step]:
        for step in self.plan.steps:
            if door in step.instruction.doors() and self.reports[step.label]["status"] != "skipped":
                self.watcher.stage(step.label)
                yield step

    def _open(self, step: Step, door: str, use: Callable[[Thing], Thing], thing: Thing) -> Thing:
        try:
            with _blaming(step):
                return use(thing)
        except CannotAct as error:
            self._cannot(step, error)
            return thing

    def _attach(self, step: Step, loop: TrainingLoop) -> None:
        try:
            with _blaming(step):
                loop.attach(step.instruction, step.label)
        except CannotAct as error:
            self._cannot(step, error)
        else:
            self._applied(step, {})

    def _cannot(self, step: Step, error: CannotAct) -> None:
        if not step.entry.optional:
            message = f"{step.label} cannot act: {error}; or write optional: true to go on without it"
            raise BadInput(message, step.entry.where) from error
        self.reports[step.label] |= {"status": "skipped", "reason": str(error)}
        self._note(f"{step.label} was skipped: {error}")

    def _applied(self, step: Step, figures: Mapping[str, Any]) -> None:
        report = self.reports[step.label]
        if report["status"] == "skipped":
            return
        report["status"] = "applied"
        report["changes"] |= figures
        self.watcher.changed(report)

    # Words -------------------------------------------------------------------------------------------

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.watcher.stage(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.watcher.note(text)

    def _listed(self, artifact: Artifact) -> dict[str, Any]:
        return {
            "path": str(artifact.path.relative_to(self.folder.path)),
            "kind": artifact.kind,
            "bytes": artifact.bytes,
            "precision": artifact.precision,
        }

    def _tell(self, data: Data, told: int) -> int:
        for note in data.notes[told:]:
            self._note(note)
        return len(data.notes)

    def _record(self, values: Mapping[str, Any]) -> None:
        if not self.recorded:
            self.folder.rewind_metrics(values["epoch"])
            self.recorded = True
        self.folder.append_metrics(values)
        self.watcher.recorded(values)

    def _ended(self, status: str, error: str) -> None:
        self.watcher.ended(status, error)
        self.result |= {"status": status, "error": error}
        self.folder.write_result(self.result)
        self._write_report()

    def _write_report(self) -> None:
        try:
            write_report(self.folder.path, json.loads(json.dumps(self.result, default=plain)))
        except Exception as error:
            # Whatever it is: a page about the work is never worth the work.
            self._note(f"report.html could not be written: {error}")


@contextmanager
def _blaming(step: Step) -> Iterator[None]:
    """What a door refuses names the instruction, and where in the recipe it stands."""
    try:
        yield
    except CannotAct:
        raise
    except BadInput as error:
        if error.where is not None:
            raise
        named = error.message if step.label in error.message else f"{step.label}: {error.message}"
        raise BadInput(named, step.entry.where) from error


def _report(step: Step) -> dict[str, Any]:
    card = step.instruction.card
    report: dict[str, Any] = {"name": card.name, "number": card.number, "label": step.label}
    if step.skipped is not None:
        return report | {"status": "skipped", "reason": step.skipped, "changes": {}}
    return report | {"status": "planned", "changes": {}}
