"""The contract that every instruction keeps, as a test class that a plugin's author inherits.

    from fulldeck.testing import InstructionContract

    class TestContract(InstructionContract):
        instruction = LabelSmoothing

pytest then holds the instruction to the same things as the built-in ones.
"""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, ClassVar, get_args

import pytest

from fulldeck.catalogue import FIRST_PLUGIN_NUMBER, catalogue, describe
from fulldeck.data import Kind
from fulldeck.errors import BadInput
from fulldeck.hardware.profile import Dtype
from fulldeck.installed import owner_of
from fulldeck.instruction import DOORS, TOUCHES, Instruction, Situation, snake_case
from fulldeck.planner import make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import make_recipe
from fulldeck.workload import Workload
from fulldeck.workloads import workload_class

SECTIONS = ("Use when:", "Avoid when:", "Reference:", "Example:")
EFFECT = re.compile(r"(<=|>=) [+-]?\d+(\.\d+)?x?")
"""How evidence is written: a ratio (`<= 0.6x`) or a difference or level (`>= +0.02`)."""


class InstructionContract:
    """Inherit it in a test file and set `instruction`; its defaults must be a valid instruction.

    Set `arguments` where a parameter has no default.
    """

    instruction: ClassVar[type[Instruction]]
    arguments: ClassVar[dict[str, Any]] = {}

    # What it is ---------------------------------------------------------------------------------------

    def test_its_names_agree(self) -> None:
        """`gradient_checkpointing.py` holds `GradientCheckpointing`."""
        name = self.instruction.card.name
        assert snake_case(self.instruction.__name__) == name
        assert self.instruction.__module__.rpartition(".")[2] == name, "the file is named as in the recipe"

    def test_it_is_in_the_catalogue(self) -> None:
        """It is found by `fulldeck list`, and the generated catalogue is fresh."""
        name = self.instruction.card.name
        found = catalogue()
        assert name not in found.broken, found.broken[name]
        assert name in found.entries, f"install the plugin that holds {name}: pip install -e ."
        remedy = f"python -m fulldeck.generate {self.instruction.__module__.split('.')[0]}"
        assert found.entries[name] == describe(self.instruction), f"catalogue.json is stale; run: {remedy}"

    def test_its_number_is_its_own(self) -> None:
        """Numbers below 100 are fulldeck's."""
        own = self.instruction.__module__.startswith("fulldeck.")
        assert (self.instruction.card.number < FIRST_PLUGIN_NUMBER) == own

    def test_it_opens_a_door(self) -> None:
        """An instruction that opens none does nothing."""
        assert self.instruction.doors()

    def test_it_comes_with_a_plain_function(self) -> None:
        """The work itself can be used without anything else of fulldeck."""
        assert describe(self.instruction).functions

    # What it says -------------------------------------------------------------------------------------

    def test_its_documentation_is_complete(self) -> None:
        """A title in one sentence, and the four sections."""
        text = inspect.cleandoc(self.module.__doc__ or "")
        title, *rest = text.splitlines()
        assert title == self.instruction.card.title
        assert title.endswith("."), "the title is a sentence"
        assert rest[:1] == [""], "the title stands alone"
        missing = [section for section in SECTIONS if f"\n{section}" not in text]
        assert not missing, f"the docstring of {self.module.__name__} lacks {', '.join(missing)}"

    def test_its_example_runs(self) -> None:
        """The docstring's example does what it shows."""
        test = doctest.DocTestParser().get_doctest(
            self.module.__doc__ or "", dict(vars(self.module)), self.module.__name__, self.module.__file__, 0
        )
        assert test.examples, "the Example section needs >>> lines"
        said: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
        assert not said, "".join(said)

    def test_every_parameter_is_documented(self) -> None:
        """Each has a sentence, which the command line, the schema and the documentation show."""
        for name, field in self.instruction.model_fields.items():
            assert (field.description or "").endswith("."), f"{name} needs a sentence: param(..., doc=...)"

    def test_its_evidence_is_declared(self) -> None:
        """On which workload it is measured, and which effect it claims there."""
        evidence = self.instruction.card.evidence
        workload_class(evidence.workload)
        assert evidence.metric
        for effect in (evidence.expect, *evidence.cost.values()):
            assert EFFECT.fullmatch(effect), f"{effect!r} must be like '<= 0.6x' or '>= +0.02'"

    def test_its_rules_have_reasons(self) -> None:
        """Each order rule and conflict says why, and names a name or a trait that can exist."""
        card = self.instruction.card
        for rule, reason in (*card.after.items(), *card.before.items(), *card.conflicts.items()):
            assert reason.strip(), f"{rule} needs a reason"
            kind, colon, value = rule.partition(":")
            assert not colon or (kind, value in TOUCHES) == ("touches", True) or kind == "stage", rule

    def test_its_extras_exist(self) -> None:
        """Each extra that it names can be installed with pip."""
        card = self.instruction.card
        if card.extras:
            offered = owner_of(self.instruction.__module__).metadata.get_all("Provides-Extra") or []
            assert set(card.extras) <= set(offered)

    # How it is described --------------------------------------------------------------------------------

    def test_it_is_a_value(self) -> None:
        """Equal parameters make equal, hashable, immutable instructions."""
        one, other = self.made(), self.made()
        assert one == other
        assert hash(one) == hash(other)
        for name in self.instruction.model_fields:
            with pytest.raises(ValueError, match="frozen"):
                setattr(one, name, getattr(one, name))

    def test_it_survives_yaml(self, tmp_path: Any) -> None:
        """What a run writes into its recipe.yaml is read back equal, with and without parameters."""
        for made in (self.made(), *self.variants()):
            recipe = make_recipe("digits", [made])
            file = tmp_path / "recipe.yaml"
            file.write_text(recipe.to_yaml())
            assert read_recipe(file).entries[0].instruction == made

    def test_an_unknown_parameter_is_refused(self) -> None:
        """With the closest name that there is."""
        with pytest.raises(BadInput, match='unknown parameter "no_such_parameter"'):
            self.made(no_such_parameter=1)
        for name in self.instruction.model_fields:
            with pytest.raises(BadInput, match="did you mean"):
                self.made(**{f"{name}x": 1})

    def test_values_out_of_range_are_refused(self) -> None:
        """Each bound holds, and the error names the parameter."""
        for name, value in self.values_out_of_range():
            with pytest.raises(BadInput, match=f"{name} must be"):
                self.made(**{name: value})

    def test_values_of_another_type_are_refused(self) -> None:
        """A list of mappings is no parameter's value, and a YAML true is not 1."""
        for name in self.instruction.model_fields:
            with pytest.raises(BadInput, match=name):
                self.made(**{name: [{"no": object()}]})

    def test_its_search_values_are_valid(self) -> None:
        """Each value that the tuner may try is one that the constructor takes."""
        for made in self.variants():
            assert isinstance(made, self.instruction)

    # What it does ---------------------------------------------------------------------------------------

    def test_a_shut_door_changes_nothing(self) -> None:
        """What is not overridden hands on the very thing that it was given."""
        made, thing = self.made(), object()
        for door in set(DOORS) - set(self.instruction.doors()):
            assert getattr(made, door)(thing) is (None if door == "attach" else thing)

    def test_it_can_be_planned_alone(self) -> None:
        """On data of a kind that it works on, and a machine with fast types of all kinds, nothing else is needed."""
        recipe = make_recipe(_Anything(), [self.made()])
        kinds = self.instruction.card.kinds or set(get_args(Kind))
        for kind in sorted(kinds):
            plan = make_plan(recipe, Situation(kind, "classification", "cpu", frozenset(get_args(Dtype))))
            assert [step.instruction for step in plan.steps] == [self.made()]
            assert plan.steps[0].reasons

    def test_it_says_where_it_cannot_act(self) -> None:
        """On data of another kind the plan fails with the reason."""
        recipe = make_recipe(_Anything(), [self.made()])
        kinds = self.instruction.card.kinds
        for kind in set(get_args(Kind)) - kinds if kinds else ():
            with pytest.raises(BadInput, match="cannot act"):
                make_plan(recipe, Situation(kind, "classification", "cpu"))

    # What the tests are made from -------------------------------------------------------------------------

    @property
    def module(self) -> ModuleType:
        """The instruction's file."""
        return sys.modules[self.instruction.__module__]

    def made(self, **parameters: Any) -> Instruction:
        """The instruction with defaults, or with `parameters`."""
        return self.instruction(**{**self.arguments, **parameters})

    def variants(self) -> Iterator[Instruction]:
        """The instruction with each value of each parameter's search space."""
        for name, field in self.instruction.model_fields.items():
            extra = field.json_schema_extra
            for value in extra.get("search", ()) if isinstance(extra, dict) else ():  # type: ignore[union-attr]
                yield self.made(**{name: value})

    def values_out_of_range(self) -> Iterator[tuple[str, Any]]:
        """Each bounded parameter with a value just outside each of its bounds."""
        for name, schema in describe(self.instruction).parameters.items():
            for choice in schema.get("anyOf", [schema]):
                step = 1 if choice.get("type") == "integer" else 0.5
                if "minimum" in choice:
                    yield name, choice["minimum"] - step
                if "maximum" in choice:
                    yield name, choice["maximum"] + step
                for bound in ("exclusiveMinimum", "exclusiveMaximum"):
                    if bound in choice:
                        yield name, choice[bound]
                if "enum" in choice:
                    yield name, "no_such_choice"


class _Anything(Workload):
    """Stands for any workload in a plan that is never run."""

    kind: ClassVar[str] = "anything"
    data_kind: ClassVar[str] = "unknown"
