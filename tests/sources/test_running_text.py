import polars as pl
import pytest

from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.errors import BadInput
from fulldeck.sources.running_text import hold_out, read_running_text
from fulldeck.sources.token_blocks import blocks, masked_blocks, token_data
from fulldeck.training.token_mean import IGNORED
from tests.encoders.test_tokens import masked


def test_a_file_a_folder_and_a_column(tmp_path):
    (tmp_path / "b.txt").write_text("zwei")
    (tmp_path / "a.md").write_text("eins")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    notes = []
    assert read_running_text(str(tmp_path / "b.txt"), None, notes) == {"train": "zwei"}
    assert read_running_text(str(tmp_path), None, notes) == {"train": "eins\n\nzwei"}
    assert "2 files" in notes[0]
    frame = pl.DataFrame({"text": ["a", None, "b"], "split": ["train", "train", "test"]})
    frame.write_parquet(tmp_path / "rows.parquet")
    assert read_running_text(str(tmp_path / "rows.parquet"), None, notes) == {"train": "a", "test": "b"}


def test_files_of_a_folder_named_by_split(tmp_path):
    for name in ("train-00000-of-00001", "test"):
        pl.DataFrame({"text": [f"of {name}"]}).write_parquet(tmp_path / f"{name}.parquet")
    parts = read_running_text(str(tmp_path), None, [])
    assert parts == {"train": "of train-00000-of-00001", "test": "of test"}


def test_the_end_is_held_out_in_whole_lines():
    text = "\n".join(f"line {number}" for number in range(100))
    notes = []
    parts = hold_out({"train": text}, 0.1, 0.2, notes)
    assert list(parts) == ["train", "validation", "test"]
    assert "".join(parts.values()) == text
    assert all(part.startswith("line ") for part in parts.values())
    assert len(parts["test"]) == pytest.approx(0.2 * len(text), rel=0.1)
    assert "split by position, not at random" in notes[0]


def test_a_given_part_is_kept():
    parts = hold_out({"train": "x" * 100, "test": "given"}, 0.1, 0.1, [])
    assert (parts["test"], len(parts["validation"]), len(parts["train"])) == ("given", 10, 90)


def test_the_target_is_the_next_token():
    encoder = TokenEncoder(3)
    made = blocks(encoder.tokens("abcdefgh"), encoder)
    assert [encoder.text(row) for row in made.inputs] == ["abc", "def"]
    assert [encoder.text(row) for row in made.targets] == ["bcd", "efg"]


def test_hidden_tokens_are_the_targets_of_a_masked_model():
    encoder = masked(8)
    ids = encoder.tokens("a b " * 300)
    made = masked_blocks(ids, encoder)
    assert (made.inputs[:, 0] == 2).all()
    assert (made.inputs[:, -1] == 3).all()
    wanted = made.targets != IGNORED
    assert wanted.any(axis=1).all()
    assert 0.15 < wanted[:, 1:-1].mean() < 0.4
    assert (made.inputs[wanted] == 4).mean() > 0.7
    body = ids[: made.targets[:, 1:-1].size].reshape(len(made), -1)
    assert (made.targets[:, 1:-1] == body)[wanted[:, 1:-1]].all()


def test_refuses_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read_running_text(str(tmp_path / "none.txt"), None, [])
    with pytest.raises(BadInput, match=r"has no \.txt, \.md, \.csv or \.parquet file"):
        read_running_text(str(tmp_path), None, [])
    (tmp_path / "latin.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(BadInput, match=r"is not UTF-8 \(byte 2\)"):
        read_running_text(str(tmp_path / "latin.txt"), None, [])
    with pytest.raises(BadInput, match="the test part has 2 tokens, and one block needs 9"):
        token_data("x", {"train": "x" * 20, "validation": "x" * 20, "test": "xx"}, TokenEncoder(8), [])
    pl.DataFrame({"one": ["a"], "two": ["b"]}).write_csv(tmp_path / "rows.csv")
    with pytest.raises(BadInput, match="name the column of texts with text:; it has one, two"):
        read_running_text(str(tmp_path / "rows.csv"), None, [])
    with pytest.raises(BadInput, match=r"must be named train\.\*, validation\.\* or test\.\*"):
        read_running_text(str(tmp_path), None, [])
