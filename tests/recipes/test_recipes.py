"""Every recipe that is shipped runs, at reduced size and on data made here where it has none of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fulldeck.pipeline.run import run
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.shipped import shipped_recipes

RECIPES = shipped_recipes()
QUICK = ["train.epochs=1", "train.threads=1", "train.device=cpu"]
GOOD, BAD = ["fine", "great", "good", "lovely"], ["dull", "bad", "poor", "awful"]


def photos(folder: Path) -> list[str]:
    """Two classes of 24 small pictures: bright on the left, or on the right."""
    random = np.random.default_rng(0)
    for number in range(48):
        pixels = random.integers(0, 90, size=(16, 16, 3), dtype=np.uint8)
        side = slice(0, 8) if number % 2 else slice(8, 16)
        pixels[:, side] += 150
        path = folder / "photos" / ("left" if number % 2 else "right") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return [f"workload.path={folder / 'photos'}", "train.batch_size=16"]


def reviews(folder: Path) -> list[str]:
    """160 short reviews whose words tell the class."""
    random = np.random.default_rng(0)
    rows = [
        f"a {random.choice(GOOD if number % 2 else BAD)} film number {number},{number % 2}"
        for number in range(160)
    ]
    (folder / "reviews.csv").write_text("\n".join(["review,label", *rows]))
    return [f"workload.path={folder / 'reviews.csv'}", "train.batch_size=16"]


def shorter_text(folder: Path) -> list[str]:
    """The built-in text, less of it, for a smaller model."""
    return ["workload.characters=20000", "workload.length=32", "workload.width=32", "workload.layers=1"]


def as_it_is(folder: Path) -> list[str]:
    """Data that come with fulldeck."""
    return []


def distilled(folder: Path) -> list[str]:
    """One epoch for the teacher too, and two for the student, or there is none in eight bits."""
    return ["train.epochs=2", "instructions.knowledge_distillation.teacher_epochs=1", "train.batch_size=256"]


MADE = {
    "compress_8x": distilled,
    "fast_images": photos,
    "image_classification": photos,
    "text_classification": reviews,
    "small_gpt": shorter_text,
    "table": as_it_is,
}
"""What makes the data, or makes it less. `digits` is run by the tests of the pipeline."""


def test_every_recipe_is_run_somewhere() -> None:
    assert set(RECIPES) == {*MADE, "digits", "everything_training"}


SLOW = {"compress_8x"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MADE]
)
def test_runs_to_a_checked_server(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(RECIPES[name], [*QUICK, *MADE[name](tmp_path)])
    entries = tuple(entry for entry in recipe.entries)
    result = run(recipe, out=tmp_path / "runs")
    assert result["status"] == "finished"
    assert len(result["instructions"]) == len(entries)
    assert result["rehearsal"]["agreement"] == 1.0


def test_ten_training_instructions_at_once_leave_a_plain_model(tmp_path: Path) -> None:
    # What 21 composes with is the tracing, so nothing becomes machine code.
    compiled = "instructions.train_step_compilation"
    smaller = [*shorter_text(tmp_path), "workload.layers=2", "train.epochs=2"]
    changes = [*QUICK, *smaller, f"{compiled}.backend=eager", f"{compiled}.measure=false"]
    changes += ["instructions.amp_optimizer.dtype=bfloat16"]  # also where it is slower
    result = run(read_recipe(RECIPES["everything_training"], changes), out=tmp_path / "runs")
    assert result["status"] == "finished"
    assert result["rehearsal"]["agreement"] == 1.0
    done = {one["number"]: one for one in result["instructions"] if one["status"] == "applied"}
    assert done.keys() >= {5, 8, 16, 17, 18, 19, 20, 21, 23, 24}
    first, *_, last = result["training"]["history"]
    assert last["validation_loss"] < first["validation_loss"]
    assert done[23]["changes"]["checkpointed_blocks"]["after"] == 2
    assert done[21]["changes"]["compilations"]["after"] >= 1
    assert done[24]["changes"]["merge_difference"]["after"] < 1e-4
    weights = load_file(Path(result["run"]) / "artifacts" / "model.safetensors")
    assert not [name for name in weights if "lora" in name or "orig_mod" in name]


@pytest.mark.parametrize("name", RECIPES)
def test_editors_find_the_schema_and_readers_a_reason_in_every_line(name: str) -> None:
    first, *lines = RECIPES[name].read_text().splitlines()
    assert first == "# yaml-language-server: $schema=fulldeck.schema.json"
    if name == "digits":
        return
    bare = [line for line in lines if "#" not in line and not re.fullmatch(r"[a-z]+:", line.strip())]
    assert bare == []


@pytest.mark.parametrize("name", ["fast_images", "image_classification", "text_classification"])
def test_a_placeholder_is_named_in_the_first_comment(name: str) -> None:
    assert "--set workload.path=" in RECIPES[name].read_text().splitlines()[1]
