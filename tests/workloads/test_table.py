import numpy as np
import polars as pl
import pytest
import torch

from fulldeck.errors import BadInput
from fulldeck.workload import encoded, r2
from fulldeck.workloads import make_workload

ADULT = """age,job, capital ,country,split,income
39,State-gov,2174,US,train,<=50K
50,?,0,US,train,>50K
38,Private,0,,train,<=50K
28, Private ,0,Cuba,test,<=50K.
37,Private,?,US,test,>50K.
"""


@pytest.fixture
def write(tmp_path):
    def write(content, name="people.csv"):
        path = tmp_path / name
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        else:
            path.write_text(content)
        return str(path)

    return write


def table(path, **keys):
    return make_workload({"kind": "table", "path": path, **keys})


def test_reads_columns_target_and_split(write):
    data = table(write(ADULT), target="income", split="split").load()
    assert data.name == "people"
    assert (data.kind, data.task, data.classes) == ("table", "classification", ("<=50K", ">50K"))
    assert {name: len(part) for name, part in data.splits().items()} == {"train": 3, "test": 2}
    np.testing.assert_array_equal(data.train.inputs["age"], [39.0, 50.0, 38.0])
    assert data.train.inputs["job"].tolist() == ["State-gov", None, "Private"]
    assert data.test.inputs["job"].tolist() == ["Private", "Private"]
    np.testing.assert_array_equal(data.test.inputs[" capital "], [0.0, np.nan])
    assert data.test.targets.tolist() == [0, 1]
    assert "split" not in data.train.inputs


def test_says_what_it_inferred(write):
    notes = " | ".join(table(write(ADULT), target="income").load().notes)
    assert 'split: column "split", by its name' in notes
    assert "2 end with a full stop" in notes
    assert "2 columns hold numbers: age,  capital " in notes
    assert "2 columns hold categories: job, country" in notes
    assert "3 missing values in job,  capital , country" in notes
    assert "split as given: train 3, test 2" in notes


def test_one_column_is_said_to_be_one(write):
    notes = " | ".join(table(write("a,b,label\n1,x,yes\n2,y,no\n3,x,yes\n")).load().notes)
    assert "1 column holds numbers: a" in notes
    assert "1 column holds categories: b" in notes


def test_a_full_stop_that_is_part_of_a_label_stays(write):
    data = table(write("a,label\n1,yes.\n2,no\n3,yes.\n")).load()
    assert data.classes == ("no", "yes.")


def test_other_separators_are_recognised(write):
    assert set(table(write("a;b;y\n1;2;0\n2;1;1\n")).load().train.inputs) == {"a", "b"}


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["1", "2", "1", "2"], "classification"),
        (["0.5", "1.5", "2.5", "3"], "regression"),
        (["yes", "no", "no", "yes"], "classification"),
    ],
)
def test_the_target_tells_the_task(write, values, task):
    rows = "".join(f"{i},{value}\n" for i, value in enumerate(values))
    data = table(write("a,y\n" + rows)).load()
    assert data.task == task
    assert any(note.startswith(f"task: {task}") for note in data.notes)


def test_many_whole_numbers_are_regression_unless_the_recipe_says_otherwise(write):
    path = write(pl.DataFrame({"a": range(60), "y": [i % 30 for i in range(60)]}), "t.parquet")
    assert table(path).load().task == "regression"
    assert table(path, task="classification").load().task == "classification"


def test_regression_answers_in_the_targets_unit_and_learns(write):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    path = write(pl.DataFrame({"x": x, "price": 300_000 + 50_000 * x}), "houses.parquet")
    workload = table(path, target="price")
    data = encoded(workload, workload.load())
    torch.manual_seed(0)
    model = workload.model(data)
    inputs = torch.from_numpy(data.encoder.encode(data.train.inputs)["input"])
    targets = torch.from_numpy(data.train.targets)
    assert targets.dtype == torch.float32
    assert abs(model(inputs).mean().item() - 300_000) < 50_000
    optimizer = workload.optimizer(1e-2, 0.0)(model.parameters())
    loss = workload.loss(data)
    assert loss(model(inputs), targets).item() < 5
    for _ in range(30):
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
    assert r2(model.eval()(inputs).detach(), targets) > 0.95


def test_rows_without_target_are_left_out_and_counted(write):
    data = table(write("a,y\n1,0\n2,\n3,1\n4,?\n")).load()
    assert data.train.inputs["a"].tolist() == [1.0, 3.0]
    assert any("2 rows without a label" in note for note in data.notes)


def test_columns_can_be_ignored_or_made_categories(write):
    data = table(write("id,zip,y\n1,101,0\n2,202,1\n"), ignore=["id"], categorical=["zip"]).load()
    assert list(data.train.inputs) == ["zip"]
    assert data.train.inputs["zip"].tolist() == ["101", "202"]


def test_identifiers_empty_columns_and_dates_are_left_out(write):
    frame = pl.DataFrame(
        {
            "name": [f"n{i}" for i in range(60)],
            "nothing": [None] * 60,
            "when": pl.Series([0] * 60).cast(pl.Date),
            "x": range(60),
            "y": [0, 1] * 30,
        }
    )
    data = table(write(frame, "t.parquet")).load()
    assert list(data.train.inputs) == ["x"]
    assert any(note.startswith("left out: name (every value is different), nothing (") for note in data.notes)


def test_groups_and_times_travel_beside_the_inputs(write):
    data = table(write("who,when,x,y\na,3,1,0\nb,2,1,1\na,1,2,1\n"), group="who", time="when").load()
    assert list(data.train.inputs) == ["x"]
    assert data.train.groups.tolist() == ["a", "b", "a"]
    assert data.train.times.tolist() == [3.0, 2.0, 1.0]


def test_max_train_limits_the_train_part_only(write):
    rows = "".join(f"{i},{i % 2},{'test' if i > 19 else 'train'}\n" for i in range(30))
    data = table(write("x,y,split\n" + rows), max_train=8).load()
    assert (len(data.train), len(data.test)) == (8, 10)
    assert any("only 8 of 20" in note for note in data.notes)


@pytest.mark.parametrize(
    ("content", "keys", "words"),
    [
        ("", {}, "is empty"),
        ("a,y\n", {}, "has no rows"),
        ("a,y\n1,0\n2,0\n", {}, 'only the class "0"'),
        ("a,y\n1,\n2,\n", {}, "no label"),
        (
            "a,income\n1,0\n2,1\n",
            {"target": "incom"},
            'no column "incom"; did you mean income\\? it has a, income',
        ),
        ("a,y\n1,0\n2,1\n", {"target": "zzz"}, 'no column "zzz"; it has a, y'),
        ("a,y\n1,0\n2,1\n", {"split": "part"}, 'no column "part"'),
        ("a,y\n1,0\n2,1\n", {"ignore": ["b"]}, 'no column "b"'),
        ("a,y\ninf,0\n2,1\n", {}, 'column "a" of .* is infinite in row 1'),
        ("y\n0\n1\n", {}, "no column to predict from"),
        ("a,y,split\n1,0,train\n2,1,trian\n", {}, 'holds "trian"; it may hold train'),
        ("a,y,part\n1,0,test\n2,1,test\n", {"split": "part"}, "has no train rows"),
        ("a,y,split\n1,0,train\n2,1,test\n", {}, 'the train part of people has only the class "0"'),
        ("a,y\n1,x\n2,z\n", {"task": "regression"}, "holds texts"),
        ("a,y\n1,1.5\n2,1.5\n", {}, "fewer than two different values"),
        ("a,y\n1,2,3\n", {}, "cannot be read"),
    ],
)
def test_refuses_in_one_line(write, content, keys, words):
    with pytest.raises(BadInput, match=words) as caught:
        table(write(content), **keys).load()
    assert "\n" not in str(caught.value)


def test_refuses_a_missing_file_with_the_closest_name(write):
    path = write(ADULT)
    with pytest.raises(BadInput, match=r"does not exist; did you mean people\.csv\?"):
        table(path.replace("people", "peoples")).load()


def test_refuses_a_damaged_file(write):
    with pytest.raises(BadInput, match="cannot be read"):
        table(write("PAR1 and no more", "t.parquet")).load()
    with pytest.raises(BadInput, match=r"neither \.csv, \.tsv nor \.parquet"):
        table(write("x", "t.json")).load()


def test_an_unknown_key_is_refused_with_the_closest():
    with pytest.raises(BadInput, match='unknown parameter "taget" of workload table; did you mean target'):
        table("x.csv", taget="income")
