"""`fulldeck predict`: one answer from a package; what is not an input, and what is not a package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_breast_cancer

from fulldeck.cli.predict import read_item
from fulldeck.encoders.image import ImageEncoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.encoders.text import TextEncoder
from fulldeck.errors import BadInput

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def row() -> dict[str, float]:
    """A benign one, as the source names its columns."""
    source = load_breast_cancer()
    place = int((source.target == 1).argmax())
    names = [name.replace(" ", "_") for name in source.feature_names]
    return dict(zip(names, map(float, source.data[place]), strict=True))


def test_a_row_a_file_and_a_package_folder(
    cli: Cli, finished: Path, row: dict[str, float], tmp_path: Path
) -> None:
    file = tmp_path / "row.json"
    file.write_text(json.dumps(row))
    answers = [
        cli("predict", finished, json.dumps(row), "--json"),
        cli("predict", finished, file, "--json"),
        cli("predict", finished / "package", file, "--json"),
    ]
    assert [answer.code for answer in answers] == [0, 0, 0]
    assert answers[0].json == answers[1].json == answers[2].json
    assert answers[0].json["label"] == "benign"
    assert sum(answers[0].json["probabilities"].values()) == pytest.approx(1)
    shown = cli("predict", finished, file).out.splitlines()
    assert shown[0].split() == ["label", "probability"]
    assert shown[1].startswith("benign")


def test_the_item_that_a_run_keeps(cli: Cli, finished: Path) -> None:
    answer = cli("predict", finished, finished / "example.json", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["label"] in ("benign", "malignant")


def test_a_text_as_it_is_sent_to_a_server(tmp_path: Path) -> None:
    encoder = TextEncoder.__new__(TextEncoder)
    for content, meant in (
        ('{"text": "a fine film"}', "a fine film"),
        ('{"text": 3}', '{"text": 3}'),
        ("{no json", "{no json"),
    ):
        (tmp_path / "example.json").write_text(content)
        assert read_item(encoder, str(tmp_path / "example.json")) == meant


@pytest.mark.parametrize("item", ["no json", "3", '{"no such column": 1}', "[" * 3000])
def test_what_is_no_input(cli: Cli, finished: Path, item: str) -> None:
    answer = cli("predict", finished, item)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1


def test_a_row_may_stand_under_its_key(cli: Cli, finished: Path, row: dict[str, float]) -> None:
    bare = cli("predict", finished, json.dumps(row), "--json")
    assert cli("predict", finished, json.dumps({"row": row}), "--json").json == bare.json


def test_all_absent_columns_are_named_at_once(cli: Cli, finished: Path, row: dict[str, float]) -> None:
    kept = {name: value for name, value in row.items() if name not in ("mean_area", "worst_area")}
    said = cli("predict", finished, json.dumps(kept)).err
    assert 'columns "mean_area", "worst_area" are absent; send null for a missing value' in said
    several = cli("predict", finished, json.dumps(row | {"size": 1, "mass": 2})).err
    assert 'unknown columns "size", "mass"; a row has columns "mean_radius", ' in several
    assert "and 10 more" in several


def test_what_is_no_package(cli: Cli, finished: Path, tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        answer = cli("predict", folder, "{}")
        assert answer.code == 2
        return str(answer.err)

    assert "nowhere does not exist" in said(tmp_path / "nowhere")
    assert "is not a folder" in said(finished / "result.json")
    assert "is neither a run nor a package" in said(tmp_path)
    (tmp_path / "recipe.yaml").write_text("workload: digits")
    assert "is not finished; go on with: fulldeck run RECIPE --resume" in said(tmp_path)
    (tmp_path / "result.json").write_text('{"status": "failed", "error": "the loss is not finite"}')
    assert "failed, so it has no package: the loss is not finite" in said(tmp_path)
    (tmp_path / "result.json").write_text('{"status": "interrupted"}')
    assert "was interrupted; go on with: fulldeck run RECIPE --resume" in said(tmp_path)
    (tmp_path / "result.json").write_text('{"status": "finished"}')
    assert "has no package; add model_packaging to the recipe" in said(tmp_path)


def test_an_engine_that_the_package_has_no_model_for(cli: Cli, finished: Path) -> None:
    answer = cli("predict", finished, "{}", "--engine", "torch")
    assert answer.code == 2
    assert "the package has no model for engine torch" in answer.err


def test_what_input_means_for_each_kind_of_model(tmp_path: Path) -> None:
    file = tmp_path / "item"
    file.write_text("[[1, 2]]")
    image, tensor = ImageEncoder(1, 1, 2), TensorEncoder((1, 2))
    assert read_item(image, str(file)) == b"[[1, 2]]", "a file is an image's"
    assert read_item(image, "[[1, 2]]") == read_item(tensor, str(file)) == [[1, 2]]
    with pytest.raises(BadInput, match=r"photo\.png does not exist; INPUT is an image file"):
        read_item(image, "photo.png")
    with pytest.raises(BadInput, match="INPUT must be a JSON list"):
        read_item(tensor, "1, 2")
    with pytest.raises(
        BadInput, match=r"^none\.json does not exist; INPUT is a JSON list, or a file with it$"
    ):
        read_item(tensor, "none.json")
    (tmp_path / "bad.json").write_text("1, 2")
    with pytest.raises(BadInput, match="INPUT must be a JSON list, or a file with it: Extra data"):
        read_item(tensor, str(tmp_path / "bad.json"))


def test_options_of_a_language_model_are_refused_elsewhere(cli: Cli, finished: Path) -> None:
    answer = cli("predict", finished, "{}", "--tokens", "3")
    assert answer.code == 2
    assert "--tokens and --temperature are for language models" in answer.err


def test_a_mistyped_file_is_not_taken_for_a_text(tmp_path: Path) -> None:
    encoder = TextEncoder.fit(["a good film", "a bad film"] * 5, vocabulary=300)
    (tmp_path / "review.md").write_text("good")
    assert read_item(encoder, str(tmp_path / "review.md")) == "good"
    for text in ("good", "good and bad", "and/or", "see review.txt for it", "x" * 5000):
        assert read_item(encoder, text) == text
    for path in (f"{tmp_path}/reviw.md", "reviews.txt", "./review"):
        with pytest.raises(BadInput, match="looks like a file, and does not exist"):
            read_item(encoder, path)
    with pytest.raises(BadInput, match=r"does not exist; did you mean review\.md"):
        read_item(encoder, f"{tmp_path}/reviw.md")
