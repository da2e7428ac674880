"""The model that may be somebody's: a package on disk, or a server that only answers (Open Inference Protocol v2)."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput, RunFailed
from fulldeck.ownership.triggers import Form
from fulldeck.package import Package, TensorSpec
from fulldeck.serving.protocol import DATATYPES

ROWS = 20
"""Rows of one request."""
ATTEMPTS, MOST_WAIT = 20, 5.0
"""How often a busy server is asked again, and the most seconds between."""
TIMEOUT = 30.0

Array = npt.NDArray[Any]


class OfPackage:
    """A package: it answers, and its weights can be read. Raises BadInput if it is no classifier of one input."""

    def __init__(self, folder: Path, shape: Sequence[int] | None = None) -> None:
        self.package = Package.open(folder)
        service = self.package.service
        if service.task != "classification":
            raise BadInput(f"{folder} is no classifier but does {service.task}: it cannot carry such a mark")
        self._input, self._output = _one(service.inputs), service.outputs[0].name
        shape = shape or _shape(self._input) or self._encoded()
        self.form = Form(
            tuple(shape), _dtype(self._input), len(service.classes) or service.outputs[0].shape[-1]
        )
        self.queries = 0
        self._engine = self.package.engine()

    def ask(self, inputs: Array) -> Array:
        """The class of each row."""
        self.queries += len(inputs)
        parts = [inputs[start : start + ROWS] for start in range(0, len(inputs), ROWS)]
        outputs = [self._engine.run({self._input.name: part})[self._output] for part in parts]
        return np.concatenate([one.argmax(axis=-1) for one in outputs])

    def weights(self) -> dict[str, Array]:
        """Arrays by name, of the preferred form that can be read; empty if all are native code."""
        for model in reversed(self.package.service.models):
            path = self.package.folder / model.path
            if model.kind == "safetensors":
                from safetensors.numpy import load_file

                return dict(load_file(path))
            if model.kind == "onnx":
                from fulldeck.ownership.onnx_weights import onnx_weights

                return onnx_weights(path)
        return {}

    def _encoded(self) -> tuple[int, ...]:
        """The size that the package's own encoder makes."""
        stated = self.package.encoder().to_json()
        if {"channels", "height", "width"} <= set(stated):
            return stated["channels"], stated["height"], stated["width"]
        return ()


class OfServer:
    """A server by its URL, `http://host:port` of fulldeck or `.../v2/models/NAME` of any that speaks the protocol.

    Raises BadInput if there is no such classifier, RunFailed if it does not answer.
    """

    def __init__(self, url: str, *, token: str | None = None, shape: Sequence[int] | None = None) -> None:
        self.url = url.rstrip("/")
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise BadInput(f"{url} is no address such as http://127.0.0.1:8000")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connection = (
            http.client.HTTPSConnection(
                address.hostname, address.port, timeout=TIMEOUT, context=ssl.create_default_context()
            )
            if address.scheme == "https"
            else http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT)
        )
        self._base = address.path if "/models/" in address.path else self._found(address.path)
        described = self._json("GET", self._base)
        with _as_agreed(self.url):
            self._input = _one([_spec(one) for one in described["inputs"]])
            self._output = _spec(described["outputs"][0])
            if len(self._output.shape) != 2 or self._output.shape[-1] < 2:
                raise BadInput(f"{url} is no classifier: its output has shape {list(self._output.shape)}")
            shape = shape or _shape(self._input)
            self.form = Form(tuple(shape or (-1,)), _dtype(self._input), self._output.shape[-1])
        self.queries = 0

    def ask(self, inputs: Array) -> Array:
        """The class of each row."""
        found: list[Array] = []
        for start in range(0, len(inputs), ROWS):
            part = inputs[start : start + ROWS]
            tensor = {
                "name": self._input.name,
                "datatype": self._input.datatype,
                "shape": list(part.shape),
                "data": part.reshape(-1).tolist(),
            }
            answer = self._json("POST", f"{self._base}/infer", {"inputs": [tensor]})
            with _as_agreed(self.url):
                output = next(one for one in answer["outputs"] if one["name"] == self._output.name)
                found.append(np.asarray(output["data"]).reshape(len(part), -1).argmax(axis=1))
            self.queries += len(part)
        return np.concatenate(found)

    def _found(self, path: str) -> str:
        """The model of a fulldeck server, from its description."""
        described = self._json("GET", f"{path.rstrip('/')}/openapi.json")
        with _as_agreed(self.url):
            places: list[str] = list(described.get("paths", {}))
            names = [place.removesuffix("/infer") for place in places if place.endswith("/infer")]
        if not names:
            raise BadInput(f"{self.url} does not say what it serves; write {self.url}/v2/models/NAME")
        return min(names, key=len)

    def _json(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = None if content is None else json.dumps(content)
        for _ in range(ATTEMPTS):
            try:
                self._connection.request(method, path, body, self._headers)
                response = self._connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise RunFailed(f"{self.url} does not answer: {error}") from None
            if response.status not in (429, 503):
                break
            time.sleep(_wait(response.headers.get("Retry-After")))
        if response.status != 200:
            kind = RunFailed if response.status >= 500 or response.status == 429 else BadInput
            raise kind(f"{self.url}{path} answers {response.status}: {text.decode(errors='replace')[:200]}")
        try:
            value = json.loads(text)
        except ValueError:
            raise BadInput(f"{self.url}{path} answers no JSON; is it a server of the protocol v2?") from None
        if not isinstance(value, dict):
            raise BadInput(f"{self.url}{path} answers no JSON object; is it a server of the protocol v2?")
        return value


@contextmanager
def _as_agreed(url: str) -> Iterator[None]:
    """An answer is read here: one of another form is BadInput."""
    try:
        yield
    except BadInput:
        raise
    except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise BadInput(
            f"{url} answers JSON, and not what the protocol v2 says ({type(error).__name__}: {error}); is it such a "
            "server?"
        ) from None


def _wait(retry_after: str | None) -> float:
    """The seconds that a server asks for, at most MOST_WAIT, which is as good as a date that it may name."""
    if retry_after is None:
        return 1.0
    return min(float(retry_after), MOST_WAIT) if retry_after.isdecimal() else MOST_WAIT


def _spec(stated: Mapping[str, Any]) -> TensorSpec:
    """Servers may state more of a tensor."""
    return TensorSpec(name=stated["name"], datatype=stated["datatype"], shape=stated["shape"])


def _one(inputs: Sequence[TensorSpec]) -> TensorSpec:
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise BadInput(f"a mark is in answers to one input, and this model takes {len(inputs)}: {names}")
    return inputs[0]


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    """Without the batch; empty if a size is open."""
    shape = spec.shape[1:]
    return shape if min(shape, default=0) > 0 else ()


def _dtype(spec: TensorSpec) -> str:
    return np.dtype(DATATYPES[spec.datatype]).name
