import json
import sys

import numpy as np
import pytest
import torch

from fulldeck.candidate import Candidate
from fulldeck.errors import BadInput
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.pipeline.run import run
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import make_recipe
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload

pytest.importorskip(
    "transformers", reason='transformers is not installed: pip install "fulldeck[huggingface]"'
)
from .pretrained_folders import SENTENCES, SMALL, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """bert/, gpt2/ and llama/ with weights, random/ without, films.csv and text.txt."""
    folder = tmp_path_factory.mktemp("hub")
    for kind in SMALL:
        write_model(folder / kind, kind)
    write_model(folder / "random", "bert", weights=False)
    (folder / "text.txt").write_text("\n".join(SENTENCES))
    rows = "\n".join(f"{sentence},{'good' in sentence}" for sentence in SENTENCES)
    (folder / "films.csv").write_text(f"text,label\n{rows}\n")
    return folder


def of(folder, model, task="classification", data=None, **keys):
    data = data or ("films.csv" if task == "classification" else "text.txt")
    return make_workload(
        {
            "kind": "huggingface",
            "model": str(folder / model),
            "data": str(folder / data),
            "task": task,
            **keys,
        }
    )


@pytest.mark.parametrize(
    ("model", "task"),
    [
        ("bert", "classification"),
        pytest.param("bert", "masked_lm", marks=pytest.mark.slow),
        pytest.param("gpt2", "causal_lm", marks=pytest.mark.slow),
        pytest.param("llama", "causal_lm", marks=pytest.mark.slow),
    ],
)
def test_starts_from_the_weights_of_the_folder_and_exports(folder, tmp_path, model, task):
    from safetensors.torch import load_file

    workload = of(folder, model, task)
    data = encoded(workload, workload.load())
    module = workload.model(data).eval()
    weights = load_file(folder / model / "model.safetensors")
    own = module.model.state_dict()
    shared = [name for name in weights if name in own]
    assert len(shared) > 10
    assert all(torch.equal(weights[name], own[name]) for name in shared)
    inputs = torch.from_numpy(data.encoder.encode(data.train.take(range(20)).inputs)["input"])
    outputs = module(inputs)
    assert outputs.shape == ((20, 2) if task == "classification" else (20, 16, SMALL[model]["vocab_size"]))
    export_onnx(module, inputs, tmp_path / "model.onnx")


def test_padding_does_not_count(folder):
    workload = of(folder, "bert")
    data = encoded(workload, workload.load())
    module = workload.model(data).eval()
    ids = torch.tensor([[2, 7, 8, 3, 0, 0, 0, 0]])
    torch.testing.assert_close(module(ids), module(ids[:, :4]))


def test_without_safetensors_it_starts_at_random_and_says_so(folder):
    workload = of(folder, "random")
    assert any("RANDOM weights" in note for note in workload.load().notes)
    assert not any("RANDOM" in note for note in of(folder, "bert").load().notes)


def test_the_seed_decides_the_new_layer(folder):
    workload = of(folder, "bert")
    data = workload.load()

    def head(seed):
        torch.manual_seed(seed)
        return workload.model(data).model.classifier.weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_learns_a_language_and_is_served(folder, tmp_path):
    recipe = make_recipe(of(folder, "gpt2", "causal_lm"), _instructions(), train=_quick(epochs=3))
    result = run(recipe, out=tmp_path)
    assert result["recipe"] == "gpt2"
    assert result["metrics"]["test"]["perplexity"] < 200
    assert result["rehearsal"]["agreement"] == 1.0
    samples = json.loads((tmp_path / "latest" / "evaluation.json").read_text())["samples"]
    assert len(samples) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "task"),
    [("bert", "classification"), ("bert", "masked_lm"), ("gpt2", "classification"), ("llama", "causal_lm")],
)
def test_every_task_from_data_to_a_checked_server(folder, tmp_path, model, task):
    result = run(make_recipe(of(folder, model, task), _instructions(), train=_quick()), out=tmp_path)
    assert result["rehearsal"]["agreement"] == 1.0


def test_a_masked_model_fills_in(folder, tmp_path):
    workload = of(folder, "bert", "masked_lm")
    data = workload.load()
    samples = workload.samples(Candidate("x", workload.model(data).eval(), data, tmp_path))
    assert all("[MASK]" in sample["prompt"] and "[MASK]" not in sample["text"] for sample in samples)


def test_files_named_by_split_are_the_splits(folder, tmp_path):
    rows = (folder / "films.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(rows[:150]))
    (tmp_path / "test.csv").write_text("\n".join([rows[0], *rows[150:]]))
    data = of(folder, "bert", data=tmp_path).load()
    assert (len(data.train), len(data.test)) == (149, len(rows) - 150)


def test_model_and_data_are_found_beside_the_recipe(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = folder / "recipe.yaml"
    path.write_text("workload: {kind: huggingface, model: bert, data: films.csv}\n")
    recipe = read_recipe(path)
    assert recipe.workload.name == "bert"
    assert len(recipe.workload.load().train) == len(SENTENCES)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml())
    assert read_recipe(again).workload == recipe.workload


def test_a_name_without_network_is_one_line(folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    workload = make_workload(
        {"kind": "huggingface", "model": "owner/model", "data": str(folder / "films.csv")}
    )
    with pytest.raises(
        BadInput, match=r'"owner/model" is no folder here, and .* switched off .* model: \./folder'
    ) as caught:
        workload.load()
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_one_line_and_not_tried_again(folder, monkeypatch):
    import huggingface_hub

    def no_network(*arguments, **keys):
        assert keys["timeout"] <= 5
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", no_network)
    workload = make_workload(
        {"kind": "huggingface", "model": "owner/model", "data": str(folder / "films.csv")}
    )
    with pytest.raises(
        BadInput, match=r"cannot be reached \(Name or service not known\); name a local folder"
    ):
        workload.load()


def test_refuses_in_one_line(folder, tmp_path, monkeypatch):
    def refused(words, **keys):
        value = {
            "kind": "huggingface",
            "model": str(folder / "bert"),
            "data": str(folder / "films.csv"),
        } | keys
        with pytest.raises(BadInput, match=words) as caught:
            make_workload(value).load()
        assert "\n" not in str(caught.value)

    refused("does not exist", model=str(tmp_path / "none"))
    refused(r"has no config\.json; a model's folder holds", model=str(tmp_path))
    refused("none.csv does not exist", data="none.csv")
    refused("is no folder here, and no name of the Hugging Face hub; name a local folder", model="none/")
    refused(
        "length is 99, and .* takes at most 16 tokens",
        length=99,
        task="causal_lm",
        data=str(folder / "text.txt"),
    )
    refused(
        "has no mask token; use task: causal_lm",
        model=str(folder / "gpt2"),
        task="masked_lm",
        data=str(folder / "text.txt"),
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("imdb is no file or folder here; .*pip install datasets", data="imdb")
    (tmp_path / "config.json").write_text((folder / "bert" / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    refused("is a pickle, which is never read", model=str(tmp_path))
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "config.json").write_text("{")
    refused(f"transformers cannot read {tmp_path}", model=str(tmp_path))
    with pytest.raises(BadInput, match=r"huggingface\.model is required"):
        make_workload({"kind": "huggingface", "data": "x"})


def _instructions():
    import fulldeck as fd

    return [
        fd.OnnxExport(),
        fd.PostTrainingQuantization(mode="dynamic", metric_drop=0.1),
        fd.ModelPackaging(),
    ]


def _quick(**more):
    return {"epochs": 1, "threads": 1, "device": "cpu", "learning_rate": 3e-3, **more}


def test_inputs_are_ids_of_the_models_own_tokenizer(folder):
    data = of(folder, "gpt2", "causal_lm").load()
    assert np.asarray(data.train.inputs).shape[1] == 16
    assert data.encoder.text(data.train.inputs[0]) in "\n".join(SENTENCES)
