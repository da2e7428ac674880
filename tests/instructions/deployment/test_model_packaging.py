import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fulldeck.candidate import Candidate
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.instructions.deployment.model_packaging import ModelPackaging, package_model
from fulldeck.package import Package
from fulldeck.package.signing import verify_signature
from fulldeck.service import Service, Serving


def package(candidate: Candidate, folder: Path, **parameters) -> Package:
    serving = Serving(engine=parameters.pop("engine", "auto"), workers=2)
    service = Service(candidate, "digits", folder, serving, carried={"schema": {"rows": 1}})
    made = ModelPackaging(**parameters).configure(service)
    assert made.package == folder / "package"
    return Package.open(made.package)


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope="module")
def sealed(quantised, tmp_path_factory) -> Path:
    candidate = replace(quantised, metrics={"test": {"accuracy": 0.99}}, lineage=("onnx_export",))
    return package(candidate, tmp_path_factory.mktemp("run"), include="all").folder


def test_the_served_form_alone_is_packed_by_default(quantised, tmp_path):
    made = package(quantised, tmp_path)
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "encoder.json",
        "environment.txt",
        "manifest.json",
        "manifest.sha256",
        "model.int8.onnx",
        "reference.safetensors",
        "service.json",
    ]
    assert made.model().precision == "int8"


@pytest.mark.parametrize("form", ["trained", "exported", "quantised"])
def test_a_reopened_package_answers_identically(form, request, tmp_path):
    candidate = request.getfixturevalue(form)
    made = package(candidate, tmp_path)
    raw = candidate.judged.take(np.arange(50))
    inputs = made.encoder().encode(raw.inputs)
    assert np.array_equal(made.engine().run(inputs)["output"], candidate.run(candidate.encoded(raw)))


def test_all_forms_can_be_served(sealed, trained, quantised):
    made = Package.open(sealed)
    inputs = trained.example(5)
    assert [model.kind for model in made.service.models] == ["safetensors", "onnx", "onnx"]
    assert np.allclose(made.engine("torch").run(inputs)["output"], trained.run(inputs), atol=1e-6)
    assert np.array_equal(made.engine().run(inputs)["output"], quantised.run(inputs))


def test_the_form_for_the_chosen_engine_is_packed(quantised, tmp_path):
    made = package(quantised, tmp_path, engine="torch")
    assert [model.engine for model in made.service.models] == ["torch"]


def test_what_a_server_needs_is_in_it(sealed):
    made = Package.open(sealed)
    service = made.service
    assert (service.model, service.task, service.classes[3]) == ("digits", "classification", "3")
    assert [(t.name, t.datatype, t.shape) for t in service.inputs] == [("input", "FP32", (-1, 1, 8, 8))]
    assert [(t.name, t.datatype, t.shape) for t in service.outputs] == [("output", "FP32", (-1, 10))]
    assert service.serving.workers == 2
    assert service.carried == {"schema": {"rows": 1}}
    assert made.manifest["metrics"] == {"test": {"accuracy": 0.99}}
    assert made.manifest["lineage"] == ["onnx_export"]
    public = torch.__version__.partition("+")[0]
    assert f"torch=={public}" in (sealed / "environment.txt").read_text().splitlines()


def test_signed_with_a_key_it_is_verified_with_the_other(trained, tmp_path):
    from tests.package.test_signing import keys

    private, public = keys(tmp_path, "own")
    (folder := tmp_path / "run").mkdir()
    made = package(trained, folder, sign_with=str(private))
    verify_signature(made.folder, public)
    (tmp_path / "unsigned").mkdir()
    with pytest.raises(BadInput, match="is not signed"):
        verify_signature(package(trained, tmp_path / "unsigned").folder, public)


def test_there_is_no_pickle_and_no_code(sealed):
    assert {path.suffix for path in sealed.iterdir()} == {".json", ".onnx", ".safetensors", ".txt", ".sha256"}
    for path in sealed.iterdir():
        assert not path.read_bytes().startswith((b"PK", b"\x80"))


def test_any_flipped_byte_is_refused(sealed, tmp_path):
    folder = copy(sealed, tmp_path / "package")
    random = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        original = path.read_bytes()
        places = {0, len(original) - 1, *random.integers(0, len(original), 8).tolist()}
        for place in places:
            changed = bytearray(original)
            changed[place] ^= 1 << int(random.integers(8))
            path.write_bytes(changed)
            with pytest.raises(BadInput, match="was changed after it was packaged"):
                Package.open(folder)
        path.write_bytes(original)
    Package.open(folder)


def test_an_added_a_removed_and_a_linked_file_are_refused(sealed, tmp_path):
    folder = copy(sealed, tmp_path / "package")
    (folder / "extra.txt").write_text("x")
    with pytest.raises(BadInput, match=r"extra.txt is not in the manifest"):
        Package.open(folder)
    (folder / "extra.txt").unlink()
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(BadInput):
            Package.open(folder)
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BadInput):
            Package.open(folder)
        path.unlink()
        path.write_bytes(content)


def test_packing_twice_gives_the_same_bytes_and_replaces(quantised, tmp_path):
    first = {path.name: path.read_bytes() for path in package(quantised, tmp_path).folder.iterdir()}
    second = {path.name: path.read_bytes() for path in package(quantised, tmp_path).folder.iterdir()}
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


class Own(nn.Module):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.flatten(1)[:, :10]


def test_a_users_own_module_needs_an_export(trained, tmp_path):
    with pytest.raises(CannotAct, match=r"model \(Own\) is no built-in fp32 network; add onnx_export"):
        package(replace(trained, module=Own()), tmp_path)
    with pytest.raises(CannotAct, match="Own is not a built-in network"):
        package_model(tmp_path / "p", [Own()], TensorEncoder((1, 8, 8)), trained.example(), name="own")
    assert not list(tmp_path.iterdir())


def test_a_network_that_no_longer_is_what_it_says_is_refused(trained, tmp_path):
    """A hook survives in the module, not in its description: the package would answer otherwise."""
    module = trained.module
    handle = module.head.register_forward_hook(lambda *call: call[2] + 1)
    try:
        with pytest.raises(RunFailed, match=r"differs from the model by 1"):
            package(trained, tmp_path)
    finally:
        handle.remove()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_package_is_left_alone(trained, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists and is not a package"):
        package(trained, tmp_path)
    assert (tmp_path / "package" / "mine.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_one_line(trained, tmp_path):
    with pytest.raises(BadInput, match=r"cannot write .*no such file or directory"):
        package(trained, tmp_path / "absent")


def test_the_manifest_is_plain_json(sealed):
    manifest = json.loads((sealed / "manifest.json").read_text())
    assert set(manifest["files"]) | {"manifest.json", "manifest.sha256"} == {p.name for p in sealed.iterdir()}
