"""What was measured is written into the user's recipe, whose own lines stay as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fulldeck.catalogue import catalogue
from fulldeck.diagnosis.diagnose import diagnose
from fulldeck.diagnosis.improvement import check_output, improve, recipe_with
from fulldeck.errors import BadInput
from fulldeck.recipe.reader import read_recipe

RECIPE = """\
# mine
workload: digits      # the data

train: {epochs: 2, threads: 1}
instructions:
  # first the rate
  - lr_scheduler: {kind: cosine}   # falls
"""
AMP: dict[str, Any] = {
    "name": "amp_optimizer",
    "parameters": {},
    "figure": "step_time",
    "predicted": 0.8,
    "verified": {"ratio": 0.75, "interval": [0.7, 0.81], "metric": "step_time", "verdict": "helps"},
}
AVERAGE: dict[str, Any] = {
    "name": "weight_averaging",
    "parameters": {"kind": "swa"},
    "figure": "steps_to_target",
    "predicted": 0.9,
    "verified": {"ratio": None, "interval": [0.7, 0.81], "metric": "validation_loss", "verdict": "helps"},
}
TOGETHER = {"metric": "step_time", "ratio": 0.76, "interval": [0.72, 0.8], "rounds": 30}


def written(folder: Path, text: str, kept: list[dict[str, Any]], output: Path | None = None) -> str:
    source = folder / "mine.yaml"
    source.write_text(text)
    return recipe_with(source, read_recipe(source), kept, TOGETHER, output or folder / "better.yaml")


def test_own_lines_and_comments_stay(tmp_path: Path) -> None:
    text = written(tmp_path, RECIPE, [AMP, AVERAGE])
    assert text.startswith(RECIPE)
    added = text.removeprefix(RECIPE).splitlines()
    assert added[0].startswith("  - amp_optimizer")
    assert "# predicted step_time 0.80x, measured 0.75x (0.70 to 0.81)" in added[0]
    assert "predicted steps_to_target 0.90x, measured validation_loss: helps" in text
    assert text.splitlines()[-1] == (
        "# fulldeck diagnose: amp_optimizer and weight_averaging against mine.yaml: step_time 0.76x "
        "(0.72 to 0.80, 30 rounds)"
    )
    (tmp_path / "better.yaml").write_text(text)
    entries = read_recipe(tmp_path / "better.yaml").entries
    assert [one.instruction.card.name for one in entries] == [
        "lr_scheduler",
        "amp_optimizer",
        "weight_averaging",
    ]
    assert entries[2].instruction.parameters() == {"kind": "swa"}


@pytest.mark.parametrize(
    "instructions",
    [
        "",
        "instructions:\n",
        "instructions: []\n",
        "instructions: [lr_scheduler]\n",
        "instructions:\n- lr_scheduler\n",
    ],
)
def test_every_form_of_the_list(instructions: str, tmp_path: Path) -> None:
    text = written(tmp_path, f"workload: digits\n{instructions}", [AMP])
    (tmp_path / "better.yaml").write_text(text)
    names = [one.instruction.card.name for one in read_recipe(tmp_path / "better.yaml").entries]
    assert names == (["lr_scheduler"] if "lr" in instructions else []) + ["amp_optimizer"]
    assert "measured 0.75x" in text


def test_a_path_beside_the_recipe_is_found_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,label\n1,2,x\n")
    (tmp_path / "sub").mkdir()
    text = "workload: {kind: table, path: rows.csv, target: label}\n"
    output = tmp_path / "sub" / "better.yaml"
    output.write_text(written(tmp_path, text, [AMP], output))
    assert "path: ../rows.csv" in output.read_text()
    assert Path(read_recipe(output).workload.path).resolve() == tmp_path / "rows.csv"  # type: ignore[attr-defined]


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    there = tmp_path / "better.yaml"
    check_output(there, force=False)
    there.write_text("")
    with pytest.raises(BadInput, match="exists; write --force to replace it"):
        check_output(there, force=False)
    check_output(there, force=True)
    with pytest.raises(BadInput, match="is a folder"):
        check_output(tmp_path, force=True)
    with pytest.raises(BadInput, match="there is no folder"):
        check_output(tmp_path / "absent" / "better.yaml", force=False)


def test_an_interruption_keeps_what_is_there(tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    source = tmp_path / "mine.yaml"
    source.write_text(RECIPE)
    advised = {name: value for name, value in AMP.items() if name != "verified"} | {"blocked": None}
    advised["parameters"] = {"dtype": "bfloat16"}
    result = improve(
        read_recipe(source), source, {"advice": [advised]}, tmp_path / "better.yaml", tell=interrupt
    )
    assert result["improvement"]["status"] == "interrupted"
    assert result["improvement"]["output"] is None
    assert result["advice"] == [advised]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_other_figures_than_those_of_training_are_not_measured(tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text(RECIPE)
    size = {"name": "post_training_quantization", "figure": "artifact_bytes", "blocked": None}
    result = improve(read_recipe(source), source, {"advice": [size]}, tmp_path / "better.yaml")
    assert result["improvement"] == {"status": "finished", "kept": [], "output": None, "metric": "step_time"}


PLUGIN = '''"""Leave out a delay that is in the model."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch import nn

from fulldeck.errors import CannotAct
from fulldeck.instruction import Evidence, Instruction, Prediction, instruction


class Waiting(nn.Linear):
    delay = 0.02

    def forward(self, inputs: Any) -> Any:
        time.sleep(self.delay)
        return super().forward(inputs)


def factory() -> Any:
    random = np.random.default_rng(0)
    rows = random.standard_normal((4096, 4)).astype(np.float32), random.integers(0, 2, 4096)
    return {"model": lambda: Waiting(4, 2), "data": rows}


@instruction(195, stage="training", evidence=Evidence(workload="digits", metric="step_time", expect="<= 0.5x"))
class PlantedHaste(Instruction):
    """Do not wait."""

    @classmethod
    def predict(cls, findings: Any) -> Prediction:
        return Prediction("step_time", 0.1, "it waits", "nothing", eases=("launch",))

    def attach(self, loop: Any) -> None:
        loop.model.delay = 0.0


@instruction(196, stage="training", evidence=Evidence(workload="digits", metric="step_time", expect="<= 0.5x"))
class PlantedBoast(Instruction):
    """Promise, and do nothing."""

    @classmethod
    def predict(cls, findings: Any) -> Prediction:
        return Prediction("step_time", 0.5, "it says so", "nothing")

    def attach(self, loop: Any) -> None:
        pass


@instruction(197, stage="training", evidence=Evidence(workload="digits", metric="step_time", expect="<= 0.5x"))
class PlantedRefusal(Instruction):
    """Look at the model, and decline."""

    def attach(self, loop: Any) -> None:
        raise CannotAct("it would be slower")
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "haste-1.0.dist-info"
    info.mkdir()
    (tmp_path / "haste.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: haste\nVersion: 1.0\n")
    names = {"planted_haste": "Haste", "planted_boast": "Boast", "planted_refusal": "Refusal"}
    points = "".join(f"{name} = haste:Planted{cls}\n" for name, cls in names.items())
    (info / "entry_points.txt").write_text(f"[fulldeck.instructions]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    catalogue.cache_clear()
    yield
    sys.modules.pop("haste", None)
    catalogue.cache_clear()


def test_one_that_refuses_to_act_ends_nothing(plugin: None, tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text(RECIPE)
    advised = {"name": "planted_refusal", "parameters": {}, "figure": "step_time", "predicted": 0.5}
    result = improve(
        read_recipe(source), source, {"advice": [advised | {"blocked": None}]}, tmp_path / "better.yaml"
    )
    (item,) = result["advice"]
    assert item["verified"]["verdict"] == "not measured"
    assert "it would be slower" in item["verified"]["reason"]
    assert result["improvement"]["kept"] == []


@pytest.mark.slow
def test_what_pays_is_kept_and_what_does_not_is_shown(plugin: None, tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text(
        'workload: {kind: python, factory: "haste:factory"}  # waits\n'
        "train: {threads: 1, batch_size: 32, epochs: 100}\n"
    )
    recipe = read_recipe(source)
    result = diagnose(recipe)
    planted = [item for item in result["advice"] if item["name"].startswith("planted")]
    assert [item["name"] for item in planted] == ["planted_haste", "planted_boast"]
    result["advice"] = planted
    result = improve(recipe, source, result, tmp_path / "better.yaml", budget=240)
    haste, boast = (item["verified"] for item in result["advice"])
    assert haste["ratio"] < 0.5
    assert boast["ratio"] > 0.8
    assert not boast["kept"]
    assert boast["missed"]
    improvement = result["improvement"]
    if haste["verdict"] == "inconclusive":  # a machine too busy to tell, which is then said
        assert improvement["output"] is None
        assert "noisy" in haste["reason"] or "budget" in haste["reason"]
    else:
        assert improvement["kept"] == ["planted_haste"]
        text = (tmp_path / "better.yaml").read_text()
        assert "# waits" in text
        assert f"measured {haste['ratio']:.2f}x" in text
        assert [one.instruction.card.name for one in read_recipe(tmp_path / "better.yaml").entries] == [
            "planted_haste"
        ]
