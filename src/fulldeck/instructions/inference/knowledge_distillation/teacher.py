"""The teacher: from a run, a package, a folder of transformers, a factory, or a network that is trained first."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulldeck.data import Data
from fulldeck.encoders import Encoder
from fulldeck.engines import Engine, network_in
from fulldeck.errors import BadInput, CannotAct, closest
from fulldeck.evaluation import fingerprint
from fulldeck.networks import NETWORKS, build, describe
from fulldeck.package import MANIFEST, Package
from fulldeck.run_folder import EVALUATION, RECIPE, RESULT
from fulldeck.yaml_file import read_yaml

NAME = "knowledge_distillation.teacher"
FORMS = (
    "a run's folder, a package's folder, a folder of transformers (config.json, model.safetensors), "
    '"package.module:function", or one of the networks ' + ", ".join(NETWORKS)
)
WIDER = 2
"""How many times as wide a teacher is that is made after the student."""
_SIZES = ("width", "widths", "features")
READ_ANEW = ("text", "table")
"""Kinds of data whose raw items a teacher may read in a way of its own."""
_WEIGHTS = Path("artifacts", "model.safetensors")


@dataclass(frozen=True)
class Teacher:
    """A model that teaches, and what is known of it.

    `encoder` is how it reads raw items, where that is not the student's way; `classes` their names in the order of
    its outputs, where they are known; `notes` what the user should know. One that is not `trained` has to be.
    """

    module: nn.Module
    trained: bool = True
    encoder: Encoder | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def layered(self) -> bool:
        """Whether its inner layers can be listened to."""
        return not isinstance(self.module, InEngine)


class InEngine(nn.Module):
    """A model that an engine runs: it has no layers and no gradient."""

    def __init__(self, engine: Engine, names: Sequence[str]) -> None:
        super().__init__()
        self.engine = engine
        self.names = tuple(names)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """The first output, on the device of the inputs."""
        tensors = dict(zip(self.names, inputs, strict=False)) | named
        device = next(iter(tensors.values())).device
        outputs = self.engine.run({name: value.detach().cpu().numpy() for name, value in tensors.items()})
        return torch.from_numpy(next(iter(outputs.values()))).to(device)


def open_teacher(where: str | None, student: nn.Module, data: Data | None) -> Teacher:
    """The teacher that `where` names (see FORMS); None: the student's network, WIDER times as wide, to be trained.

    Raises BadInput if it is none of these, cannot be read, or has classes other than `data` has.
    """
    if where is None:
        return Teacher(wider(student), trained=False)
    if where in NETWORKS:
        return Teacher(built_for(where, student), trained=False)
    folder = Path(where)
    if ":" in where and not folder.exists():
        teacher = Teacher(_called(where))
    elif not folder.is_dir():
        raise BadInput(f'{NAME}: "{where}" is no folder here{closest(where, NETWORKS)}; it may be {FORMS}')
    elif (folder / RESULT).is_file() or (folder / RECIPE).is_file():
        teacher = _of_run(folder, data)
    elif (folder / MANIFEST).is_file():
        teacher = _of_package(folder, data)
    elif (folder / "config.json").is_file():
        teacher = _of_transformers(where, data)
    else:
        raise BadInput(
            f"{NAME}: {where} is no run, no package and no folder of transformers; it may be {FORMS}"
        )
    if data is not None and teacher.classes and data.classes:
        check_classes(where, teacher.classes, data.classes)
    return teacher


def check_classes(where: str, teachers: Sequence[str], own: Sequence[str]) -> None:
    """Raises BadInput where they are not the same in the same order."""
    if len(teachers) != len(own):
        raise BadInput(f"{NAME}: {where} knows {len(teachers)} classes, and this training has {len(own)}")
    for place, (its, ours) in enumerate(zip(teachers, own, strict=True)):
        if its != ours:
            raise BadInput(
                f'{NAME}: class {place} of {where} is "{its}", and here it is "{ours}"; train the teacher on the '
                "same classes in the same order"
            )


def wider(student: nn.Module) -> nn.Module:
    """The student's network with WIDER times its widths. Raises CannotAct for one that is not built in."""
    described = describe(student)
    if described is None:
        raise CannotAct(
            f"{type(student).__name__} is no network of fulldeck, of which a wider one could be made to teach it; "
            f"name a teacher: {FORMS}"
        )
    sizes = {
        name: [WIDER * one for one in size] if isinstance(size, list) else WIDER * size
        for name, size in described["arguments"].items()
        if name in _SIZES
    }
    return build({**described, "arguments": {**described["arguments"], **sizes}})


def built_for(network: str, student: nn.Module) -> nn.Module:
    """The built-in `network` for the student's inputs and outputs, in its usual size.

    Raises CannotAct where it does not take what the student takes.
    """
    described = describe(student)
    if described is None:
        raise CannotAct(
            f"{type(student).__name__} is no network of fulldeck, so {network} cannot stand in for it"
        )
    cls = getattr(import_module(f"fulldeck.networks.{network}"), network.title().replace("_", ""))
    parameters = inspect.signature(cls).parameters.values()
    sizes = {*_SIZES, "layers", "heads", "blocks", "expansion"}
    arguments = {name: value for name, value in described["arguments"].items() if name not in sizes}
    known = {name: value for name, value in arguments.items() if name in {one.name for one in parameters}}
    if absent := [one.name for one in parameters if one.default is one.empty and one.name not in known]:
        raise CannotAct(
            f"{network} needs {absent[0]}, which {described['network']} has not; name another teacher"
        )
    return build({"network": network, "arguments": known})


def _called(factory: str) -> nn.Module:
    from fulldeck.sources.factory import called, find_function

    module = called(find_function(factory, Path()), factory)
    if not isinstance(module, nn.Module):
        raise BadInput(f"{NAME}: {factory} must return a trained torch module, got {type(module).__name__}")
    return module


def _of_run(folder: Path, data: Data | None) -> Teacher:
    status = _json(folder / RESULT).get("status") if (folder / RESULT).is_file() else "not finished"
    if status != "finished":
        raise BadInput(f"{NAME}: {folder} is {status}; go on with: fulldeck run RECIPE --resume")
    weights = folder / _WEIGHTS
    if not weights.is_file():
        raise BadInput(f"{NAME}: {folder} has no {_WEIGHTS}, which holds the trained weights")
    seen = _json(folder / EVALUATION) if (folder / EVALUATION).is_file() else {}
    notes = []
    judged = seen["fingerprint"] if seen.get("split") == "test" else None
    if judged and data is not None and data.test is not None and judged != fingerprint(data.test):
        notes.append(
            f"the teacher of {folder} was judged on other test data than this run is: it may have learnt from rows "
            "that are the test here, and what it knows of them flatters the student"
        )
    return Teacher(
        _with_weights(_module_of_run(folder, data), weights),
        encoder=_other_encoder(folder / "package" / "encoder.json", data),
        classes=tuple(seen.get("classification", {}).get("classes", ())),
        notes=tuple(notes),
    )


def _module_of_run(folder: Path, data: Data | None) -> nn.Module:
    """The run's model, with any weights."""
    try:
        return build(network_in(folder / _WEIGHTS))
    except BadInput:
        pass  # the model of somebody's own: its recipe says where it comes from
    recipe, _ = read_yaml(folder / RECIPE)
    workload = recipe["workload"] if isinstance(recipe["workload"], dict) else {"kind": recipe["workload"]}
    if workload["kind"] == "python":
        from fulldeck.sources.factory import called, find_function, take

        factory = workload["factory"]
        function = find_function(factory, Path(workload.get("path", ".")))
        model = take(called(function, factory), factory, []).model
        return model if isinstance(model, nn.Module) else model()
    if workload["kind"] == "huggingface":
        from fulldeck.sources.pretrained import open_pretrained

        classes = () if data is None else data.classes
        return open_pretrained(workload["model"], []).build(workload.get("task", "classification"), classes)
    raise BadInput(
        f"{NAME}: {folder} was trained as a graph (quantization_aware_training), which is no teacher; take a run "
        "without it"
    )


def _with_weights(module: nn.Module, weights: Path) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()).partition(": ")[2][:200]
        raise BadInput(f"{NAME}: {weights} does not fit its model: {reason}") from error
    return module


def _of_package(folder: Path, data: Data | None) -> Teacher:
    package = Package.open(folder)
    service = package.service
    network = next((one for one in service.models if one.kind == "safetensors"), None)
    if network is not None and service.network is not None:
        module: nn.Module = _with_weights(build(service.network), folder / network.path)
    else:
        module = InEngine(package.engine(), [one.name for one in service.inputs])
    return Teacher(module, encoder=_other_encoder(folder / "encoder.json", data), classes=service.classes)


def _of_transformers(place: str, data: Data | None) -> Teacher:
    from fulldeck.encoders.text import LONGEST, TextEncoder
    from fulldeck.sources.pretrained import open_pretrained

    notes: list[str] = []
    pretrained = open_pretrained(place, notes)
    if pretrained.weights is None:
        raise BadInput(f"{NAME}: {place} has no .safetensors file, and random weights teach nothing")
    if data is None or data.task == "classification":
        classes = () if data is None else data.classes
        if data is not None and pretrained.config.num_labels != len(classes):
            raise BadInput(
                f"{NAME}: {place} knows {pretrained.config.num_labels} classes, and this training has {len(classes)}"
            )
        module = pretrained.build("classification", classes)
        most = getattr(pretrained.config, "max_position_embeddings", None) or LONGEST
        length = min(most, getattr(None if data is None else data.encoder, "length", LONGEST))
        encoder = TextEncoder(pretrained.tokenizer, length, pretrained.padding)
        same = data is None or data.encoder == encoder
        return Teacher(module, encoder=None if same else encoder)
    masked = getattr(data.encoder, "mask", None) is not None
    module = pretrained.build("masked_lm" if masked else "causal_lm")
    if getattr(data.encoder, "tokenizer", None) != pretrained.tokenizer:
        raise BadInput(f"{NAME}: {place} has another tokenizer than this training, so it reads other tokens")
    return Teacher(module)


def _other_encoder(file: Path, data: Data | None) -> Encoder | None:
    """How the teacher reads raw items, if that is not how the student does."""
    from fulldeck.encoders import load_encoder

    if data is None or data.encoder is None or not file.is_file():
        return None
    described, own = _json(file), json.loads(json.dumps(data.encoder.to_json()))
    if described == own:
        return None
    if described.get("kind") not in READ_ANEW or described["kind"] != own["kind"]:
        differ = next(name for name in {**own, **described} if described.get(name) != own.get(name))
        raise BadInput(
            f"{NAME}: the teacher of {file.parent} takes {described.get('kind')} inputs with {differ} "
            f"{described.get(differ)}, and this training has {own.get(differ)}"
        )
    return load_encoder(described)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{NAME}: {file} cannot be read: {error}") from error
    if not isinstance(value, Mapping):
        raise BadInput(f"{NAME}: {file} holds no JSON object")
    return dict(value)
