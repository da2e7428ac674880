"""The planner: order, conflicts, skipping; each rule with instructions of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from fulldeck.errors import BadInput
from fulldeck.instruction import Evidence, Instruction, Situation, instruction, param
from fulldeck.planner import Plan, make_plan
from fulldeck.recipe.recipe import Entry, Recipe
from fulldeck.workloads import make_workload

HERE = Situation(kind="image", task="classification", device="cpu")
EVIDENCE = Evidence(workload="digits", metric="accuracy", expect=">= +0.0")


def make(number: int, stage: Any = "training", **card: Any) -> Any:
    return instruction(number, stage=stage, evidence=EVIDENCE, **card)


@make(901, "data", touches={"split"})
class Splits(Instruction):
    def prepare(self, data: Any) -> Any:
        return data


@make(902, "data", touches={"fitted"})
class Fits(Instruction):
    def prepare(self, data: Any) -> Any:
        return data


@make(903, before={"compiles": "compiling sees the blocks as they are then"})
class Checkpoints(Instruction):
    def attach(self, loop: Any) -> None: ...


@make(904, conflicts={"fits": "because of the test"})
class Compiles(Instruction):
    def attach(self, loop: Any) -> None: ...


@make(905, "inference", touches={"weights", "graph"})
class Prunes(Instruction):
    def optimise(self, candidate: Any) -> Any:
        return candidate


@make(906, "inference", touches={"export"})
class Exports(Instruction):
    def optimise(self, candidate: Any) -> Any:
        return candidate


@make(907, "inference", touches={"dtype", "artifact"})
class Quantizes(Instruction):
    backend: str = param("artifact", doc="torch or artifact.")

    def order(self) -> Any:
        reason = {"exports": "it works on the artifact" if self.backend == "artifact" else "on the module"}
        return (reason, {}) if self.backend == "artifact" else ({}, reason)

    def optimise(self, candidate: Any) -> Any:
        return candidate


@make(908, "inference", touches={"dtype", "weights"})
class Halves(Instruction):
    def optimise(self, candidate: Any) -> Any:
        return candidate


@make(909, "deployment", after={"stage:deployment": "it seals what they configure"})
class Packs(Instruction):
    def configure(self, service: Any) -> Any:
        return service


@make(910, "deployment")
class Serves(Instruction):
    def configure(self, service: Any) -> Any:
        return service


@make(911, kinds={"text"})
class ReadsText(Instruction):
    def attach(self, loop: Any) -> None: ...


@make(912, repeatable=True)
class Repeats(Instruction):
    share: float = param(1.0, ge=0, le=1, doc="Of anything.")

    def clash(self, other: Instruction) -> str | None:
        return "half of it forbids compiling" if self.share == 0.5 and other.card.name == "compiles" else None

    def attach(self, loop: Any) -> None: ...


@make(913, after={"goes_second": "a circle"})
class GoesFirst(Instruction): ...


@make(914, after={"goes_first": "a circle"})
class GoesSecond(Instruction): ...


def plan(*instructions: Instruction, **recipe: Any) -> Plan:
    entries = tuple(
        i if isinstance(i, Entry) else Entry(i, where=f"r.yaml:{line}")
        for line, i in enumerate(instructions, 3)
    )
    return make_plan(Recipe("test", make_workload("digits"), entries, **recipe), HERE)


def order(*instructions: Any, **recipe: Any) -> list[str]:
    return [step.label for step in plan(*instructions, **recipe).steps]


def test_what_is_fitted_goes_after_the_split_whatever_the_user_wrote() -> None:
    assert order(Fits(), Splits()) == ["splits", "fits"]
    step = plan(Fits(), Splits()).steps[1]
    assert step.reasons == ("waits for splits: what is fitted may see the training split only",)


def test_the_users_order_decides_where_no_rule_does() -> None:
    assert order(Compiles(), Repeats()) == ["compiles", "repeats"]
    assert order(Repeats(), Compiles()) == ["repeats", "compiles"]


def test_declared_order_wins_over_the_users() -> None:
    assert order(Compiles(), Checkpoints()) == ["checkpoints", "compiles"]
    assert order(Packs(), Serves()) == ["serves", "packs"]


def test_the_module_is_not_changed_after_its_export() -> None:
    assert order(Exports(), Prunes()) == ["prunes", "exports"]


def test_order_may_depend_on_parameters() -> None:
    assert order(Quantizes(), Exports()) == ["exports", "quantizes"]
    assert order(Exports(), Quantizes(backend="torch")) == ["quantizes", "exports"]


def test_an_order_that_the_recipe_insists_on_against_a_rule_is_refused() -> None:
    with pytest.raises(BadInput, match=r"compiles must come after checkpoints: compiling .* \(r\.yaml:3\)"):
        plan(Compiles(), Checkpoints(), order="strict")
    assert order(Checkpoints(), Compiles(), order="strict") == ["checkpoints", "compiles"]


def test_an_order_that_the_recipe_insists_on_against_the_stages_is_refused() -> None:
    with pytest.raises(BadInput, match=r"exports must come after splits: that acts while data is prepared"):
        plan(Exports(), Splits(), order="strict")
    assert order(Exports(), Splits()) == ["splits", "exports"]


def test_every_conflict_is_told_at_once_with_its_reason() -> None:
    with pytest.raises(BadInput) as caught:
        plan(Fits(), Compiles(), Quantizes(), Halves(), Serves(), Serves())
    lines = str(caught.value).splitlines()
    assert lines[0] == "fits and compiles exclude each other: because of the test (r.yaml:3, r.yaml:4)"
    assert "both convert the dtype of the deployed weights" in lines[1]
    assert "may stand only once" in lines[2]
    assert len(lines) == 3


def test_a_conflict_may_depend_on_parameters() -> None:
    assert len(order(Repeats(share=0.4), Compiles())) == 2
    with pytest.raises(BadInput, match="half of it forbids compiling"):
        plan(Repeats(share=0.5), Compiles())


def test_repeats_are_labelled() -> None:
    assert order(Repeats(), Repeats(share=0.2), Repeats()) == ["repeats", "repeats#2", "repeats#3"]


def test_rules_that_contradict_each_other_are_shown_as_a_circle() -> None:
    with pytest.raises(BadInput, match=r"contradict each other: .*a circle.*; leave one of them out"):
        plan(GoesFirst(), GoesSecond(), Compiles())


def test_nothing_is_skipped_in_silence() -> None:
    with pytest.raises(
        BadInput, match=r"reads_text cannot act: works on text data, and this is image data; leave"
    ):
        plan(ReadsText())
    made = plan(Entry(ReadsText(), optional=True), Compiles())
    assert made.steps[0].skipped == "works on text data, and this is image data"
    assert ReadsText().cannot(Situation("tokens", "language_modelling", "cpu")) == (
        "works on text data, and this is token data"
    )
    assert list(made.acting) == ["compiles"]


def test_a_skipped_instruction_conflicts_with_nobody() -> None:
    @make(915, kinds={"text"}, conflicts={"compiles": "never together"})
    class ReadsToo(Instruction):
        def attach(self, loop: Any) -> None: ...

    assert plan(Entry(ReadsToo(), optional=True), Compiles()).acting.keys() == {"compiles"}
