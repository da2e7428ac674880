import polars as pl
import pytest
import torch

from fulldeck.errors import BadInput
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload

GOOD = ["a fine film", "great fun", "a fine cast", "very good", "good and great"]
BAD = ["a dull film", "no fun", "bad cast", "very bad", "dull and bad"]


@pytest.fixture
def write(tmp_path):
    def write(name="films.parquet", **columns):
        frame = pl.DataFrame(columns or {"text": GOOD + BAD, "label": [1] * 5 + [0] * 5})
        path = tmp_path / name
        frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
        return str(path)

    return write


def text(path, **keys):
    return make_workload({"kind": "text", "path": path, **keys})


@pytest.mark.parametrize("name", ["films.parquet", "films.csv"])
def test_reads_texts_and_labels(write, name):
    data = text(write(name), text="text", label="label").load()
    assert (data.name, data.kind, data.classes) == ("films", "text", ("0", "1"))
    assert data.train.inputs == GOOD + BAD
    assert data.train.targets.tolist() == [1] * 5 + [0] * 5


def test_infers_columns_and_split_and_says_so(write):
    data = text(
        write(id=list("abcdefghij"), words=GOOD + BAD, label=[1] * 5 + [0] * 5, split=["train", "dev"] * 5)
    ).load()
    assert (len(data.train), len(data.validation)) == (5, 5)
    assert 'text: column "words", which has the longest texts' in data.notes
    assert 'label: column "label", by its name' in data.notes
    assert 'split: column "split", by its name' in data.notes


def test_rows_without_text_are_left_out_and_counted(write):
    data = text(write(text=["a", None, "b", "c"], label=[0, 1, 1, 0])).load()
    assert data.train.inputs == ["a", "b", "c"]
    assert data.train.targets.tolist() == [0, 1, 0]
    assert "1 rows without a text are left out" in data.notes


def test_the_vocabulary_comes_from_the_train_part_only(write):
    path = write(text=[*GOOD, "zyzzyva zyzzyva"], label=[0, 1, 0, 1, 0, 1], split=["train"] * 5 + ["test"])
    workload = text(path)
    data = encoded(workload, workload.load())
    assert "zyzzyva" not in data.encoder.tokenizer
    assert "great" in data.encoder.tokenizer


def test_model_learns_the_texts(write):
    torch.manual_seed(0)
    workload = text(write())
    data = encoded(workload, workload.load())
    model = workload.model(data)
    inputs = torch.from_numpy(data.encoder.encode(data.train.inputs)["input"])
    targets = torch.from_numpy(data.train.targets)
    optimizer = workload.optimizer(1e-3, 0.01)(model.parameters())
    for _ in range(20):
        optimizer.zero_grad()
        workload.loss(data)(model(inputs), targets).backward()
        optimizer.step()
    assert workload.metrics(data)["accuracy"](model.eval()(inputs), targets) == 1


def test_refuses_in_one_line(write):
    with pytest.raises(BadInput, match='no column "txt"; did you mean text'):
        text(write(), text="txt").load()
    with pytest.raises(BadInput, match=r'column "label" of .* holds no texts'):
        text(write(), text="label").load()
    with pytest.raises(BadInput, match="name the column of labels with label:; it has text, n"):
        text(write(text=GOOD, n=[1, 2, 3, 4, 5])).load()
    with pytest.raises(BadInput, match="name the column of texts with text:"):
        text(write(n=[1, 2], label=[0, 1])).load()
    with pytest.raises(BadInput, match='only the class "0"'):
        text(write(text=GOOD, label=[0] * 5)).load()
    with pytest.raises(BadInput, match="has no texts"):
        text(write(text=pl.Series([None, None], dtype=pl.String), label=[0, 1])).load()
    with pytest.raises(BadInput, match="has no rows"):
        text(write(text=pl.Series([], dtype=pl.String), label=[])).load()
    with pytest.raises(BadInput, match="30 different labels in 30 rows; is it the label"):
        text(write(text=["x"] * 30, label=list(range(30)))).load()
