"""What is seen in a user's data, and what is refused with the layout that is expected."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulldeck.errors import BadInput
from fulldeck.preview.inspection import inspect_data, recognise

Write = Callable[[str, Sequence[str], Sequence[Sequence[object]]], str]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Write a CSV file; return its path."""

    def write(name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
        with (tmp_path / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([columns, *rows])
        return str(tmp_path / name)

    return write


def photos(folder: Path, sizes: dict[str, int]) -> str:
    """A folder for each class, of so many small images."""
    rng = np.random.default_rng(0)
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(size):
            level = rng.integers(256, size=(12, 10, 3), dtype=np.uint8)
            Image.fromarray(level).save(folder / name / f"{number}.png")
    return str(folder)


def test_a_folder_of_images(tmp_path: Path) -> None:
    seen = inspect_data(photos(tmp_path / "photos", {"cat": 20, "owl": 2}))
    assert seen.settings == {"kind": "images", "path": str(tmp_path / "photos")}
    assert seen.facts == (
        "22 examples",
        "2 classes: cat 20, owl 2; unbalanced: the largest has 10 times the items of the smallest",
        "images of 10 x 12 pixels, RGB",
    )


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "shapes.npz"
    np.savez(path, x=np.zeros((30, 8, 8), np.uint8), y=np.arange(30) % 3)
    seen = inspect_data(str(path))
    assert seen.settings["kind"] == "images"
    assert "images of 8 x 8 pixels, grey" in seen.facts


def test_a_table_with_gaps(table: Write) -> None:
    rows = [["" if i % 10 == 0 else i, "ab"[i % 2], "yes" if i % 3 else "no"] for i in range(60)]
    seen = inspect_data(table("t.csv", ["age", "city", "bought"], rows))
    assert seen.settings["kind"] == "table"
    said = " ".join(seen.facts)
    for words in (
        "60 examples",
        "2 classes: yes 40, no 20",
        "6 missing values in age",
    ):
        assert words in said
    assert seen.facts[0] == (
        'careful: no column is named target, label, class or y: the target is the last one, "bought"; for '
        "another write target: COLUMN (fulldeck init --target COLUMN)"
    )
    assert inspect_data(seen.settings["path"], target="age").data.task == "regression"


def test_texts_are_told_from_categories(table: Write) -> None:
    rows = [[f"a film that is number {i} of many", "good" if i % 2 else "bad"] for i in range(30)]
    seen = inspect_data(table("reviews.csv", ["review", "sentiment"], rows))
    assert dict(seen.settings, path="") == {"kind": "text", "path": "", "text": "review"}
    assert "texts of 8 words (median), the longest 8" in seen.facts
    assert seen.data.kind == "text"


def test_running_text_and_folders_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    for name in ("one.txt", "two.md"):
        (folder / name).write_text("It was a dark and stormy night, and then it was not. " * 60)
    assert recognise(str(folder)) == {"kind": "language_model", "path": str(folder)}
    seen = inspect_data(str(folder / "one.txt"), task="language_model")
    assert seen.data.task == "language_modelling"
    assert any("blocks of" in fact for fact in seen.facts)


def test_a_model_to_fine_tune_is_told_from_the_texts(table: Write, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"holds a model; give it with --model .*, and your texts with --data"):
        recognise(str(tmp_path))
    rows = [[f"a film that is number {i} of many", "good" if i % 2 else "bad"] for i in range(30)]
    path = table("reviews.csv", ["review", "sentiment"], rows)
    with pytest.raises(BadInput, match=r"config\.json"):
        inspect_data(path, target="sentiment", model=str(tmp_path))


def test_a_built_in_workload_by_its_name() -> None:
    assert inspect_data("digits").facts[0] == "1,797 examples"
    with pytest.raises(BadInput, match="table is a kind of workload; --data takes a folder with"):
        recognise("table")


def test_what_is_in_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match=r"is empty; put images at .*/empty/CLASS/IMAGE\.png"):
        recognise(str(empty))
    flat = photos(tmp_path, {"flat": 3})
    with pytest.raises(BadInput, match=r"has 3 images, but no folder for each class; put images at"):
        recognise(str(tmp_path / "flat"))
    few = photos(tmp_path / "few", {"a": 2, "b": 1})
    with pytest.raises(BadInput, match=r"has 3 labelled examples; at least 20 are needed .*/few/CLASS/IMAGE"):
        inspect_data(few)
    (tmp_path / "flat" / "data.xls").write_text("")
    with pytest.raises(BadInput, match="is none of what is read: a folder with"):
        recognise(f"{flat}/flat/data.xls")


def test_what_is_in_a_file_that_cannot_be_used(table: Write, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has one column"):
        inspect_data(table("one.csv", ["a"], [[1]] * 30))
    good = table("good.csv", ["age", "income"], [[i, i % 2] for i in range(30)])
    with pytest.raises(BadInput, match='has no column "incme"; did you mean income'):
        inspect_data(good, target="incme")
    with pytest.raises(BadInput, match="name the column of texts"):
        inspect_data(good, task="language_model")
    with pytest.raises(BadInput, match="is for classification, not regression"):
        inspect_data("digits", task="regression")
    with pytest.raises(BadInput, match="leave --target out"):
        inspect_data(good, task="language_model", target="age")
    np.savez(tmp_path / "shapes.npz", x=np.zeros((30, 8, 8), np.uint8), y=np.arange(30) % 3)
    with pytest.raises(BadInput, match=r"--model takes texts, and .*shapes\.npz holds none"):
        inspect_data(str(tmp_path / "shapes.npz"), model="some-model")
    with pytest.raises(BadInput, match="has no label; at least two classes are needed"):
        inspect_data(table("unlabelled.csv", ["a", "b"], [[i, ""] for i in range(30)]))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadInput, match="cannot be read"):
        inspect_data(str(tmp_path / "bad.parquet"))
    with pytest.raises(BadInput, match=r"goods\.csv does not exist; did you mean good\.csv"):
        inspect_data(str(tmp_path / "goods.csv"))
