"""`fulldeck schema`: every good recipe validates against it, and typical mistakes do not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fulldeck.catalogue import FILE, built_in
from fulldeck.recipe.reader import _Reader
from fulldeck.recipe.schema import SCHEMA, recipe_schema, schema_of
from fulldeck.recipe.shipped import SHIPPED
from fulldeck.yaml_file import parse_yaml, read_yaml

Cli = Callable[..., Any]

EXAMPLE = """
workload: digits
hardware: auto
train: {epochs: 10, batch_size: 128, seed: 0, device: auto}
instructions:
  - leakage_safe_splitting
  - auto_data_augmentation: {attack: pgd, epsilon: 0.03}
  - amp_optimizer: {dtype: bfloat16, optional: true}
  - onnx_export
goal: {minimize: latency_p99_ms, subject_to: ["accuracy >= baseline - 0.01"]}
"""
GOOD = (
    EXAMPLE,
    "workload: {kind: digits}",
    "workload: {kind: table, path: adult.parquet, target: income, split: split}",
    "workload: {kind: images, path: cifar10.parquet, image: jpeg, label: label, split: split}",
    "workload: {kind: text, path: sst2.parquet, text: text, label: label, split: split}",
    'workload: {kind: python, factory: "package.module:function"}',
    "workload: digits\ninstructions:\n  - onnx_export:\n",
    "workload: digits\norder: strict\ntrain:\n",
    "workload: digits\ntrackers: [tensorboard, {mlflow: {experiment: x, uri: ./mlruns}}, {wandb: {mode: offline}}]",
)
BAD = (
    "train: {epochs: 1}",
    "workload: digitz",
    "workload: {kind: table}",
    "workload: digits\ntrain: {epoch: 1}",
    "workload: digits\ntrain: {epochs: 0}",
    "workload: digits\ninstructions: {onnx_export: {}}",
    "workload: digits\ninstructions: [onnx_exprt]",
    "workload: digits\ninstructions: [{onnx_export: {opsett: 1}}]",
    "workload: digits\ninstructions: [{auto_data_augmentation: {epsilon: 8}}]",
    "workload: digits\ninstructions: [{onnx_export: {}, amp_optimizer: {}}]",
    "workload: digits\nnonsense: 1",
    "workload: digits\ntrackers: [tensorbord]",
    "workload: digits\ntrackers: [{wandb: {mode: ofline}}]",
)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    jsonschema.Draft7Validator.check_schema(recipe_schema())
    return jsonschema.Draft7Validator(recipe_schema())


@pytest.mark.parametrize("text", GOOD)
def test_good_recipes_validate(validator: jsonschema.Draft7Validator, text: str) -> None:
    validator.validate(parse_yaml(text)[0])


@pytest.mark.parametrize("text", BAD)
def test_mistakes_do_not(validator: jsonschema.Draft7Validator, text: str) -> None:
    assert not validator.is_valid(parse_yaml(text)[0])


def test_shipped_recipes_validate(validator: jsonschema.Draft7Validator) -> None:
    files = [file for folder in SHIPPED for file in folder.glob("*.yaml")]
    assert files
    for file in files:
        validator.validate(read_yaml(file)[0])


def test_every_shipped_recipe_names_the_schema_that_lies_beside_it() -> None:
    files = [file for folder in SHIPPED for file in folder.glob("*.yaml")]
    for file in files:
        line = file.read_text().partition("\n")[0]
        assert line == f"# yaml-language-server: $schema={SCHEMA}"
        beside = json.loads((file.parent / line.rpartition("=")[2]).read_text())
        assert beside == schema_of(built_in(), json.loads(FILE.read_bytes()))


def test_it_knows_the_keys_that_the_reader_knows() -> None:
    assert set(_Reader.KEYS) <= set(recipe_schema()["properties"])


def test_it_is_printed_or_written(cli: Cli, tmp_path: Path) -> None:
    assert cli("schema").json == cli("schema", "--json").json == recipe_schema()
    file = tmp_path / "fulldeck.schema.json"
    assert f"$schema={file}" in cli("schema", "--out", file).out
    assert json.loads(file.read_text()) == recipe_schema()
