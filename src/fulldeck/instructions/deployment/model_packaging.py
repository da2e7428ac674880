"""Pack the model with all that a server needs into one folder, sealed by hashes.

The package holds the model (ONNX, or safetensors of a built-in network: no pickle, no code), the encoder
that turns a raw item into its input, the service's settings, the versions of the libraries, and a manifest
with the SHA-256 of every file. It is written whole or not at all, and opened again and compared with the
model before it counts.

Use when: the model is to be served, handed over or kept.
Avoid when: nothing but a converted file is wanted; it lies in the run's `artifacts` folder anyway.
Reference: Gebru et al. 2018, arXiv:1803.09010, on what travels with data and models; safetensors,
github.com/huggingface/safetensors.

Example:
    >>> import tempfile
    >>> from fulldeck.encoders.tensor import TensorEncoder
    >>> from fulldeck.networks import build
    >>> from fulldeck.package import Package
    >>> description = {"network": "residual_net", "arguments": {"channels": 1, "outputs": 2, "widths": [4]}}
    >>> network = build(description).eval()
    >>> example = {"input": np.zeros((2, 1, 8, 8), dtype=np.float32)}
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = package_model(
    ...         Path(name) / "package", [network], TensorEncoder((1, 8, 8)), example, name="shapes"
    ...     )
    ...     package = Package.open(folder)
    ...     package.engine().run(example)["output"].shape
    (2, 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from fulldeck import __version__
from fulldeck.candidate import Artifact
from fulldeck.data import Array
from fulldeck.encoders import Encoder
from fulldeck.engines import open_artifact
from fulldeck.engines.pytorch import PyTorchEngine
from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.files import atomic_folder, refusing_disk, write_json, write_text, write_with
from fulldeck.instruction import GOALS, Evidence, Instruction, instruction, param
from fulldeck.networks import describe
from fulldeck.onnx_file import copy_model
from fulldeck.package import ENCODER, MANIFEST, SERVICE, Package, PackagedModel, ServiceFile, TensorSpec, seal
from fulldeck.package.environment_lock import lock
from fulldeck.package.reference import label, write_reference
from fulldeck.package.signing import sign
from fulldeck.service import Service, Serving

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome

ENVIRONMENT = "environment.txt"
SAME = 1e-5
"""Largest difference, relative to the largest output (if over 1), between a model and its package."""
EXAMPLE_ROWS = 4

Form = Artifact | nn.Module


@instruction(
    40,
    stage="deployment",
    goals=GOALS,
    touches={"package"},
    after={"touches:service": "what is set for the server goes into the package"},
    evidence=Evidence(workload="digits", metric="tampering_refused", expect=">= 1.0"),
)
class ModelPackaging(Instruction):
    include: Literal["served", "all"] = param(
        "served",
        doc="served: the form of the model that will be served; all: the other forms too, so that a server "
        "can be started with another engine.",
    )
    sign_with: str | None = param(
        None, doc="File with an elliptic private key (PEM) to sign the package with; needs the extra signing."
    )

    def prove(self, outcome: Outcome) -> float:
        """tampering_refused: the share of a package's files that cannot lose a bit unnoticed."""
        package = outcome.service.package
        if package is None:
            return 0.0
        files = [path for path in sorted(package.rglob("*")) if path.is_file()]
        refused = 0
        for path in files:
            content = path.read_bytes()
            place = len(content) // 2
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            try:
                Package.open(package)
            except BadInput:
                refused += 1
            path.write_bytes(content)
        return refused / len(files)

    def configure(self, service: Service) -> Service:
        candidate = service.candidate
        encoder = candidate.data.encoder
        assert encoder is not None, "a candidate's data has been encoded"
        folder = package_model(
            service.folder / "package",
            self._forms(service),
            encoder,
            candidate.example(EXAMPLE_ROWS),
            name=service.name,
            task=candidate.data.task,
            classes=candidate.data.classes,
            serving=service.serving,
            carried=service.carried,
            facts={
                "metrics": {split: dict(values) for split, values in candidate.metrics.items()},
                "lineage": list(candidate.lineage),
                **({"stated": dict(service.stated)} if service.stated else {}),
            },
            sign_with=None if self.sign_with is None else Path(self.sign_with),
        )
        return replace(service, package=folder)

    def _forms(self, service: Service) -> list[Form]:
        candidate = service.candidate
        forms: list[Form] = [*candidate.artifacts]
        if describe(candidate.module) is not None and candidate.precision == "fp32":
            forms.insert(0, candidate.module)
        if not forms:
            raise CannotAct(
                f"a package holds no code, and the model ({type(candidate.module).__name__}) is no built-in "
                "fp32 network; add onnx_export"
            )
        wanted = service.serving.engine
        fitting = [form for form in forms if wanted in ("auto", _engine(form))]
        if not fitting:
            raise CannotAct(f"there is no form of the model for engine {wanted}")
        if self.include == "all":
            return forms
        # An ONNX file goes in for every engine that it was tried in: another machine may not have the fastest.
        return [form for form in fitting if _file(form) == _file(fitting[-1])]


def package_model(
    folder: Path,
    models: Sequence[Form],
    encoder: Encoder,
    example: Mapping[str, Array],
    *,
    name: str,
    task: str = "classification",
    classes: Sequence[str] = (),
    serving: Serving | None = None,
    carried: Mapping[str, Any] = MappingProxyType({}),
    facts: Mapping[str, Any] = MappingProxyType({}),
    sign_with: Path | None = None,
) -> Path:
    """Write a package to `folder` and return it; `fulldeck.package.Package.open` reads it.

    `models` are forms of one model, the preferred one last: artifacts, or a network of
    `fulldeck.networks`. `example` has a few rows of encoded inputs by name, the batch first. `carried` is
    plain JSON for the server, `facts` for the manifest, `sign_with` a private key to sign it. An older package
    in `folder` is replaced.

    Raises CannotAct for a module that is not built in, BadInput if `folder` exists and is no package or
    cannot be written, RunFailed if the package does not answer as the models do.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise BadInput(f"{folder} exists and is not a package; give a new folder")
    expected = {_engine(form): _outputs(form, example) for form in models}
    output = expected[_engine(models[-1])]
    with refusing_disk(folder), atomic_folder(folder) as temporary:
        described = [_write(form, temporary) for form in models]
        networks = [describe(form) for form in models if isinstance(form, nn.Module)]
        service = ServiceFile(
            model=name,
            task=task,
            classes=tuple(classes),
            inputs=_specs(example),
            outputs=_specs(output),
            models=tuple(described),
            network=networks[-1] if networks else None,
            serving=serving or Serving(),
            carried=dict(carried),
        )
        write_json(temporary / SERVICE, service.model_dump(mode="json"))
        write_json(temporary / ENCODER, encoder.to_json())
        write_text(temporary / ENVIRONMENT, lock(sorted(expected), encoder.kind))
        answers = {label(form): expected[form.engine] for form in described}
        write_reference(temporary, example, answers)
        seal(temporary, {"name": name, "fulldeck": __version__, **facts})
        package = Package.open(temporary)
        for engine, outputs in expected.items():
            _check(package, engine, example, outputs)
        if sign_with is not None:
            sign(temporary, sign_with)
    return folder


def _file(form: Form) -> object:
    return form.path if isinstance(form, Artifact) else form


def _engine(form: Form) -> str:
    return form.engine if isinstance(form, Artifact) else PyTorchEngine.name


def _outputs(form: Form, example: Mapping[str, Array]) -> dict[str, Array]:
    return (open_artifact(form) if isinstance(form, Artifact) else PyTorchEngine(form)).run(example)


def _write(form: Form, folder: Path) -> PackagedModel:
    if isinstance(form, Artifact):
        copy_model(form.path, folder / form.path.name)
        return PackagedModel(
            path=form.path.name, kind=form.kind, precision=form.precision, engine=form.engine
        )
    from safetensors.torch import save_file

    if describe(form) is None:
        raise CannotAct(f"{type(form).__name__} is not a built-in network; export it to ONNX first")
    # Copies: safetensors refuses tensors that share memory.
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in form.state_dict().items()}
    path = folder / "model.safetensors"
    write_with(path, partial(save_file, weights))
    return PackagedModel(path=path.name, kind="safetensors", precision="fp32", engine=_engine(form))


def _specs(tensors: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, datatype=_datatype(array.dtype), shape=(-1, *array.shape[1:]))
        for name, array in tensors.items()
    )


def _datatype(dtype: np.dtype[Any]) -> str:
    """The Open Inference Protocol's name of `dtype`."""
    families = {"f": "FP", "i": "INT", "u": "UINT"}
    return "BOOL" if dtype.kind == "b" else f"{families[dtype.kind]}{8 * dtype.itemsize}"


def _check(
    package: Package, engine: str, example: Mapping[str, Array], expected: Mapping[str, Array]
) -> None:
    for name, array in package.engine(engine).run(example).items():
        difference = float(np.abs(array - expected[name]).max())
        if not difference <= SAME * max(1.0, float(np.abs(expected[name]).max())):
            raise RunFailed(
                f"the packaged model ({engine}) differs from the model by {difference:.2g}; it was not packaged"
            )
