"""Recipes: every problem at once, each with file and line, and the way back to YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Train, make_recipe
from fulldeck.recipe.shipped import SHIPPED
from fulldeck.yaml_file import parse_yaml

HEAD = "workload: digits\ninstructions:\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, *settings: str) -> str:
    with pytest.raises(BadInput) as caught:
        read_recipe(write(folder, text), settings)
    return str(caught.value).replace(str(folder) + "/", "")


def test_a_recipe_survives_the_way_to_yaml_and_back(tmp_path: Path) -> None:
    text = HEAD + "  - lr_scheduler: {optional: true}\n  - onnx_export\ntrain: {epochs: 3, micro_batch: 16}\n"
    recipe = read_recipe(write(tmp_path, text))
    again = read_recipe(write(tmp_path, recipe.to_yaml()))
    assert [e.instruction for e in again.entries] == [e.instruction for e in recipe.entries]
    assert again.entries[0].optional
    assert again.resolved() == recipe.resolved()
    assert again.train.epochs == 3


def test_shipped_recipes_are_found_by_name() -> None:
    assert read_recipe("digits").workload.kind == "digits"
    names = [path.stem for folder in SHIPPED if folder.is_dir() for path in folder.glob("*.yaml")]
    for name in names:
        read_recipe(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "  - amp_optimiser\n",
            'unknown instruction "amp_optimiser"; did you mean amp_optimizer (18)? (recipe.yaml:3)',
        ),
        (
            HEAD + "  - onnx_export\n  - lr_scheduler:\n      kindd: cosine\n",
            'unknown parameter "kindd" of lr_scheduler; did you mean kind? (recipe.yaml:5)',
        ),
        (
            HEAD + "  - auto_data_augmentation: {attack: pgd,\n      epsilon: 8}\n",
            "auto_data_augmentation.epsilon must be between 0 and 1, got 8. "
            "For 8 grey levels of 255 write epsilon: 0.031. (recipe.yaml:4)",
        ),
        ("workload: digit\n", 'unknown workload "digit"; did you mean digits?'),
        (
            "workloads: digits\n",
            'unknown key "workloads" in a recipe; did you mean workload? (recipe.yaml:1)',
        ),
        (
            "workload: digits\nepochs: 3\n",
            'unknown key "epochs" in a recipe; did you mean train.epochs? (recipe.yaml:2)',
        ),
        ("workload: digits\ntrain: {epochs: 0}\n", "train.epochs must be at least 1, got 0. (recipe.yaml:2)"),
        ("workload: digits\ntrain: {epochs: true}\n", "train.epochs must be a valid integer, got True."),
        (
            "workload: digits\ninstructions: {onnx_export: {}}\n",
            "instructions must be a list: begin each with a dash",
        ),
        ("workload: {path: x.csv}\n", "workload needs a kind; there is breast_cancer"),
        (HEAD + "  - onnx_export: {optional: 3}\n", "onnx_export.optional must be true or false, got 3"),
        ("- digits\n", "a recipe is a mapping that begins with workload: (recipe.yaml:1)"),
        ("workload: digits\nhardware: tpu\n", 'there is no hardware profile "tpu"'),
        ("workload: [\n", "not valid YAML"),
    ],
)
def test_bad_recipes_say_what_where_and_what_instead(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = HEAD + "  - amp_optimiser\n  - onnx_exprot\ntrain: {epoch: 3}\n"
    lines = refusal(tmp_path, text).splitlines()
    assert len(lines) == 3
    assert [line.rsplit(":", 1)[1].rstrip(")") for line in lines] == ["5", "3", "4"]


def test_settings_change_a_recipe_and_are_named_in_errors(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "  - lr_scheduler\n")
    recipe = read_recipe(
        path, ["train.epochs=3", "train.learning_rate=1e-3", "instructions.lr_scheduler.kind=linear"]
    )
    assert recipe.train == Train(epochs=3, learning_rate=1e-3)
    assert recipe.entries[0].instruction.parameters() == {"kind": "linear"}
    with pytest.raises(BadInput, match=r"epochs must be at least 1, got 0. \(--set\)"):
        read_recipe(path, ["train.epochs=0"])
    with pytest.raises(BadInput, match="has no instruction"):
        read_recipe(path, ["instructions.lr_schedular.kind=linear"])
    with pytest.raises(BadInput, match="--set takes key=value"):
        read_recipe(path, ["epochs"])


def test_a_missing_recipe_names_the_closest_shipped_one() -> None:
    with pytest.raises(BadInput, match=r'no recipe "digit"; did you mean digits\?'):
        read_recipe("digit")
    with pytest.raises(BadInput, match=r"recipe nowhere\.yaml does not exist"):
        read_recipe("nowhere.yaml")


def test_a_recipe_can_be_made_in_python() -> None:
    import fulldeck as fd

    recipe = make_recipe("digits", [fd.LrScheduler(kind="linear")], train={"epochs": 2})
    assert recipe.resolved()["instructions"] == [{"lr_scheduler": {"kind": "linear"}}]
    with pytest.raises(BadInput, match=r"unknown parameter .*epoch.*did you mean epochs\?"):
        make_recipe("digits", train={"epoch": 2})


def test_bombs_and_depth_are_refused_before_anything_is_built() -> None:
    nine = ",".join(["x"] * 9)
    bomb = f"a: &a [{nine}]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(BadInput, match=r"more than 5,000 values, with aliases written out \(bomb:4\)"):
        parse_yaml(bomb, "bomb")
    with pytest.raises(BadInput, match="nested more than 20 levels deep"):
        parse_yaml("[" * 500 + "]" * 500)
    with pytest.raises(BadInput, match="refers to itself"):
        parse_yaml("a: &a [*a]")
    with pytest.raises(BadInput, match="given twice"):
        parse_yaml("a: 1\na: 2")
    with pytest.raises(BadInput, match=r"the tag .*apply.* is not taken"):
        parse_yaml("a: !!python/object/apply:os.system [ls]")


def test_yaml_numbers_are_numbers() -> None:
    value, lines = parse_yaml("a: 1e-3\nb:\n  - 2\n  - {c: yes, d: true}\n")
    assert value == {"a": 0.001, "b": [2, {"c": "yes", "d": True}]}
    assert lines[("b", 1, "d")] == 4
