import json
import math

import numpy as np
import pytest
import torch

from fulldeck.candidate import Candidate
from fulldeck.errors import BadInput
from fulldeck.instructions.data.leakage_safe_splitting import LeakageSafeSplitting
from fulldeck.pipeline.run import run
from fulldeck.recipe.reader import read_recipe
from fulldeck.workloads import make_workload

WORDS = ["the", "cat", "sat", "on", "a", "mat", "far", "from", "home"]
SMALL = {"length": 16, "width": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, size=6)) + "." for _ in range(300)]
    path = tmp_path_factory.mktemp("text") / "my book.txt"
    path.write_text("\n".join(lines))
    return path


def model_of(book, **keys):
    return make_workload({"kind": "language_model", "path": str(book), **SMALL, **keys})


def test_the_end_of_the_text_is_the_test(book):
    workload = model_of(book)
    data = workload.load()
    assert (data.name, data.kind, data.task) == ("my_book", "tokens", "language_modelling")
    text = book.read_text()
    for examples, beginning in ((data.train, 0), (data.test, len(text) * 9 // 10 - 60)):
        shown = data.encoder.text(np.asarray(examples.inputs).reshape(-1))
        assert shown in text[beginning:]
    assert any("split by position, not at random" in note for note in data.notes)


def test_instruction_15_keeps_that_split_and_looks_for_blocks_that_occur_twice(book):
    data = model_of(book).load()
    split = LeakageSafeSplitting(test=0.4).prepare(data)
    assert [len(part) for part in split.splits().values()] == [len(part) for part in data.splits().values()]
    assert any("split as given" in note for note in split.notes)


def test_a_learnt_vocabulary_comes_from_train_only(book, tmp_path):
    path = tmp_path / "odd.txt"
    path.write_text(book.read_text() + "\n" + "zyzzyva " * 150)
    data = model_of(path, tokenizer="bpe", vocabulary=320).load()
    vocabulary = json.loads(data.encoder.tokenizer)["model"]["vocab"]
    assert any("cat" in token for token in vocabulary)
    assert not any("zyz" in token for token in vocabulary)


def test_figures_of_an_untrained_model_are_those_of_guessing(book):
    workload = model_of(book)
    data = workload.load()
    torch.manual_seed(0)
    outputs = workload.model(data).eval()(torch.from_numpy(data.test.inputs)).detach()
    figures = {
        name: float(f(outputs, torch.from_numpy(data.test.targets)))
        for name, f in workload.metrics(data).items()
    }
    assert list(figures) == ["accuracy", "perplexity", "bits_per_byte"]
    assert figures["perplexity"] == pytest.approx(256, rel=0.1)
    assert figures["bits_per_byte"] == pytest.approx(math.log2(figures["perplexity"]), rel=1e-3)


def test_bits_of_a_byte_do_not_depend_on_the_size_of_tokens(book):
    workload = model_of(book, tokenizer="bpe", vocabulary=320)
    data = workload.load()
    outputs = torch.zeros(*data.test.targets.shape, data.encoder.vocabulary)
    bits = float(workload.metrics(data)["bits_per_byte"](outputs, torch.from_numpy(data.test.targets)))
    whole = "".join(data.encoder.text(row) for row in np.asarray(data.validation.inputs))
    expected = math.log2(data.encoder.vocabulary) * data.validation.inputs.size / len(whole.encode())
    assert bits == pytest.approx(expected)


def test_samples_have_a_prompt_and_a_text(book, tmp_path):
    workload = model_of(book)
    data = workload.load()
    samples = workload.samples(Candidate("x", workload.model(data), data, tmp_path))
    assert len(samples) == 3
    assert all(set(sample) == {"prompt", "text"} and sample["text"] for sample in samples)
    assert all(sample["prompt"] in book.read_text() for sample in samples)


def test_from_text_to_a_checked_server(book, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
workload: {{kind: language_model, path: {book}, length: 16, width: 16, layers: 1, heads: 2}}
train: {{epochs: 2, batch_size: 16, micro_batch: 6, threads: 1, device: cpu, learning_rate: 0.01}}
instructions: [leakage_safe_splitting, lr_scheduler, weight_averaging, onnx_export,
  {{post_training_quantization: {{mode: dynamic}}}}, model_serving_framework, model_packaging]
"""
    )
    result = run(read_recipe(recipe), out=tmp_path / "runs")
    assert result["metrics"]["test"]["perplexity"] < 20
    assert result["rehearsal"]["agreement"] == 1.0
    assert result["artifacts"][-1]["precision"] == "int8"


def test_what_cannot_act_says_so(book, tmp_path):
    with pytest.raises(
        BadInput, match="auto_data_augmentation cannot act: works on image data, and this is token data"
    ):
        run(model_of(book), [_augmentation()], out=tmp_path)


def _augmentation():
    from fulldeck.instructions.data.auto_data_augmentation import AutoDataAugmentation

    return AutoDataAugmentation()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"width": 15}, "width must be a multiple of twice the heads, got 15 for 2 heads"),
        ({"tokenizer": "byte"}, r"did you mean bytes\?"),
        ({"test": 0.9}, "test must"),
        ({"length": 4000}, "one block needs 4,001"),
        ({"path": "no such.txt"}, "no such.txt does not exist"),
    ],
)
def test_refuses_in_one_line(book, keys, words):
    with pytest.raises(BadInput, match=words) as caught:
        model_of(book, **keys).load() if "path" not in keys else make_workload(
            {"kind": "language_model", **keys}
        ).load()
    assert "\n" not in str(caught.value)
