import sys
import textwrap

import numpy as np
import pytest
import torch

from fulldeck.errors import BadInput
from fulldeck.recipe.reader import read_recipe
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload

START = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset
rng = np.random.default_rng(0)
x = rng.normal(size=(20, 4))
y = (x[:, 0] > 0).astype(int)
def net():
    return nn.Linear(4, 2)
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Write a module of the user's in a folder of its own; give its name and folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(body, name="mine"):
        name = f"{name}_{tmp_path.name}_{len(written)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(START + textwrap.dedent(body))
        written.append(name)
        return name

    write.folder = tmp_path
    yield write
    for name in written:
        sys.modules.pop(name, None)


def python(code, body, function="factory"):
    name = code(body)
    return make_workload({"kind": "python", "factory": f"{name}:{function}", "path": str(code.folder)})


def test_a_mapping_with_everything(code):
    workload = python(
        code,
        """
        def factory():
            def loss(outputs, targets):
                return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)
            data = {"train": (x, y), "test": (x[:5], y[:5])}
            return {"model": net, "data": data, "loss": loss, "metrics": {"error": lambda o, t: 0.25}}
        """,
    )
    data = encoded(workload, workload.load())
    assert (data.kind, data.task, data.classes) == ("tensor", "classification", ("0", "1"))
    assert (len(data.train), len(data.test), data.validation) == (20, 5, None)
    assert data.train.inputs.dtype == np.float32
    assert data.train.targets.dtype == np.int64
    model = workload.model(data)
    outputs = model(torch.from_numpy(data.encoder.encode(data.train.inputs)["input"]))
    assert workload.loss(data)(outputs, torch.from_numpy(data.train.targets)) > 0
    assert workload.metrics(data)["error"](outputs, outputs) == 0.25


def test_a_tuple_is_in_the_order_model_data_loss_metrics(code):
    workload = python(code, "def factory():\n    return net, (torch.tensor(x), torch.tensor(y))\n")
    data = workload.load()
    assert len(data.train) == 20
    assert list(workload.metrics(data)) == ["accuracy"]


def test_an_object_with_datasets(code):
    workload = python(
        code,
        """
        class Mine:
            model = net()
            data = {"train": TensorDataset(torch.tensor(x), torch.tensor(y))}
        factory = Mine
        """,
    )
    data = workload.load()
    assert len(data.train) == 20
    assert any("20 items of a Dataset were read into memory" in note for note in data.notes)
    assert any("train.seed does not decide" in note for note in data.notes)
    first, second = workload.model(data), workload.model(data)
    first.weight.data.zero_()
    assert second.weight.abs().sum() > 0


def test_numbers_with_a_point_are_regression(code):
    workload = python(code, "def factory():\n    return lambda: nn.Linear(4, 1), (x, x[:, :1] * 3)\n")
    data = workload.load()
    assert (data.task, data.classes) == ("regression", ())
    assert data.train.targets.shape == (20,)
    assert list(workload.metrics(data)) == ["r2"]


def test_is_not_imported_before_load(code):
    name = code("raise RuntimeError('imported')")
    path = code.folder / "recipe.yaml"
    path.write_text(f"workload: {{kind: python, factory: '{name}:factory'}}\n")
    recipe = read_recipe(path)
    assert name not in sys.modules
    assert recipe.workload.name == name
    with pytest.raises(RuntimeError, match="imported"):
        recipe.workload.load()


def test_code_beside_the_recipe_is_found(code):
    name = code("def factory():\n    return net, (x, y)\n")
    path = code.folder / "recipe.yaml"
    path.write_text(f"workload: {{kind: python, factory: '{name}:factory'}}\n")
    assert len(read_recipe(path).workload.load().train) == 20


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def other(): pass", "has no function factory"),
        ("def factry(): pass", r"has no function factory; did you mean factry\?"),
        ("import no_such_thing", "cannot be imported: No module named 'no_such_thing'"),
        ("def (", "cannot be imported"),
        (
            "def factory(): return None",
            "must return model, data, loss, metrics .* model is missing from the NoneType",
        ),
        ("def factory(): return {'model': net}", "data is missing"),
        ("def factory(): return {'model': net, 'dat': 1}", r'unknown key "dat"; did you mean data\?'),
        ("def factory(): return (net, (x, y), None, None, 1)", "returns 5 things"),
        ("def factory(): return 3, (x, y)", "model of .* must be a module or a function"),
        ("def factory(): return net, (x, y), 1", "loss of .* must be a function"),
        ("def factory(): return net, (x, y), None, [1]", "metrics of .* must map names"),
        ("def factory(): return net, {'test': (x, y)}", "has no train part"),
        ("def factory(): return net, {'train': (x, y), 'tset': (x, y)}", 'has "tset"'),
        ("def factory(): return net, x", r"must be \(inputs, targets\)"),
        ("def factory(): return net, (x, y[:3])", "20 inputs and 3 targets"),
        ("def factory(): return net, (x[:0], y[:0])", "is empty"),
        ("def factory(): return net, (x, y * 0)", "all the same"),
        ("def factory(): return net, (x, y - 1)", "negative classes"),
        (
            "def factory(): return net, (np.where(x == x[3, 1], np.nan, x), y)",
            "NaN or infinite values, first in row 4",
        ),
        ("def factory(): return net, ([[1], [1, 2]], [0, 1])", "no array of one shape"),
        ("def factory(): return net, (np.array(['a', 'b']), [0, 1])", "arrays or tensors of numbers"),
        ("def factory(): return net, (x, x)", r"targets have shape \[20, 4\]"),
    ],
)
def test_refuses_in_one_line(code, body, words):
    with pytest.raises(BadInput, match=words) as caught:
        python(code, body).load()
    assert "\n" not in str(caught.value)


def test_refuses_what_cannot_be_found(code):
    for factory, words in (
        ("no_module_of_mine:factory", "there is no module no_module_of_mine in"),
        ("factory", 'must be "package.module:function", got "factory"'),
        ("a-b:c", "must be"),
    ):
        workload = make_workload({"kind": "python", "factory": factory, "path": str(code.folder)})
        with pytest.raises(BadInput, match=words):
            workload.load()


def test_a_function_that_builds_no_module_is_refused(code):
    workload = python(code, "def factory(): return (lambda: 3), (x, y)")
    data = workload.load()
    with pytest.raises(BadInput, match="builds no torch module, but int"):
        workload.model(data)


def test_a_regression_loss_gets_targets_in_the_shape_of_the_outputs(code):
    body = "def factory():\n    return nn.Linear(4, 1), (x, x[:, :1] * 3), nn.MSELoss()\n"
    workload = python(code, body)
    data = workload.load()
    outputs = torch.arange(20.0).reshape(20, 1)
    assert workload.loss(data)(outputs, torch.arange(20.0)) == 0


def test_what_the_users_function_raises_is_one_line_with_its_place(code):
    workload = python(code, "def factory():\n    raise KeyError('oops')\n")
    with pytest.raises(BadInput, match=r"factory raised KeyError: 'oops' \(mine_.*\.py:\d+\)"):
        workload.load()
