"""GET /openapi.json: what this server takes and answers, with the names and shapes of its model.

Reference: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from math import prod
from typing import Any

import fulldeck
from fulldeck.encoders import Encoder
from fulldeck.encoders.table import TableEncoder
from fulldeck.package import ServiceFile, TensorSpec

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
ERRORS = {
    400: "The request is wrong; `error` says where and how.",
    401: "A token is missing.",
    403: "This server has no administrator.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    422: "The model's output is not finite, which JSON cannot hold.",
    429: "Too many requests; Retry-After says when to come again.",
    500: "The model or the server failed.",
    503: "No model is loaded, or the engine process that had the request ended; try again.",
    504: "The deadline passed.",
}
PLAIN = (400, 401, 408, 413)
"""What every request may be answered."""
WORK = (*PLAIN, 422, 429, 500, 503, 504)
"""What a request that runs the model may be answered."""


def _range(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


NUMBERS: dict[str, Schema] = {
    **{f"FP{bits}": {"type": "number"} for bits in (16, 32, 64)},
    **{f"INT{bits}": _range(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": _range(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    "BOOL": FLAG,
}
"""The protocol's names of types to what one number of a tensor may be."""


def document(service: ServiceFile, encoder: Encoder, *, token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server of one model; `token`: whether clients must send one."""
    model = f"/v2/models/{service.model}"
    paths: dict[str, Any] = {
        "/v2": _get("What this server is", _object(name=TEXT, version=TEXT, extensions=_list(TEXT))),
        "/v2/health/live": _get("Whether the server runs", _object(live=FLAG), open_to_all=True),
        "/v2/health/ready": _get(
            "Whether the model can be asked", _object(ready=FLAG), 503, open_to_all=True
        ),
        "/predict": _post("Ask as a person would", _items(encoder), _answer(service), WORK),
        "/v2/repository/index": _post("What there is", _any(), _list(_any()), (*PLAIN, 403), admin=True),
    }
    for verb, said in (("load", "Serve what is in the folder now"), ("unload", "Serve nothing")):
        path = f"/v2/repository/models/{service.model}/{verb}"
        paths[path] = _post(said, _any(), _any(), (*PLAIN, 403, 504), admin=True)
    for base in (model, f"{model}/versions/1"):
        ready = _object(name=TEXT, ready=FLAG)
        paths[base] = _get("The model's inputs and outputs", _metadata(), 503)
        paths[f"{base}/ready"] = _get("Whether the model can be asked", ready, 503)
        paths[f"{base}/infer"] = _post("Run the model", _inference(service), _outputs(service), WORK)
    return {
        "openapi": "3.1.0",
        "info": {"title": service.model, "version": fulldeck.__version__},
        "paths": paths,
        "security": [{"token": []}] if token else [],
        "components": {
            "schemas": {"Error": _object(error=TEXT)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _list(item: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": item, **more}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _any() -> Schema:
    return {"type": "object"}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(schema: Schema, *errors: int) -> dict[str, Any]:
    error = _json({"$ref": "#/components/schemas/Error"})
    return {
        "200": {"description": "The answer.", "content": _json(schema)},
        **{str(status): {"description": ERRORS[status], "content": error} for status in sorted(errors)},
    }


def _get(said: str, schema: Schema, *errors: int, open_to_all: bool = False) -> dict[str, Any]:
    responses = _responses(schema, *errors, *(() if open_to_all else PLAIN))
    if 503 in errors:
        responses["503"] = {"description": "Not now.", "content": _json(_any())}
    return {"get": {"summary": said, "responses": responses, **({"security": []} if open_to_all else {})}}


def _post(
    said: str, body: dict[str, Any], schema: Schema, errors: tuple[int, ...], *, admin: bool = False
) -> dict[str, Any]:
    content = body if "content" in body else {"content": _json(body), "required": not admin}
    return {
        "post": {
            "summary": said,
            "requestBody": content,
            "responses": _responses(schema, *errors),
            **({"security": [{"token": []}]} if admin else {}),
        }
    }


def _tensor(spec: TensorSpec) -> Schema:
    """One tensor; its `data` may be flat, or nested like its shape."""
    flat = _list(NUMBERS[spec.datatype])
    sizes = [size for size in spec.shape if size >= 0]
    if len(sizes) == len(spec.shape):
        flat |= {"minItems": prod(sizes), "maxItems": prod(sizes)}
    axes = _list({"type": "integer", "minimum": 0}, minItems=len(spec.shape), maxItems=len(spec.shape))
    axes["description"] = f"{list(spec.shape)}, where -1 is any size."
    return _object(name={"const": spec.name}, datatype={"const": spec.datatype}, shape=axes, data=flat)


def _inference(service: ServiceFile) -> Schema:
    names = {"enum": [spec.name for spec in service.outputs]}
    count = len(service.inputs)
    body = _object(
        inputs={"type": "array", "minItems": count, "maxItems": count}
        | _list({"oneOf": [_tensor(spec) for spec in service.inputs]})
    )
    body["properties"] |= {
        "id": TEXT,
        "outputs": _list(_object(name=names)),
        "parameters": {"type": "object", "properties": {"timeout": {"type": "integer", "minimum": 1}}},
    }
    return body


def _outputs(service: ServiceFile) -> Schema:
    tensors = _list({"oneOf": [_tensor(spec) for spec in service.outputs]})
    return _object(model_name=TEXT, model_version=TEXT, outputs=tensors)


def _metadata() -> Schema:
    tensor = _object(name=TEXT, datatype=TEXT, shape=_list({"type": "integer"}))
    return _object(
        name=TEXT, versions=_list(TEXT), platform=TEXT, inputs=_list(tensor), outputs=_list(tensor)
    )


def _items(encoder: Encoder) -> dict[str, Any]:
    """The body of /predict: one item as a person has it, or several under `items`."""
    content: dict[str, Any] = {}
    numbers: Schema = {"type": "array"}
    match encoder.kind:
        case "image":
            content["image/*"] = {"schema": {"type": "string", "contentMediaType": "image/png"}}
            item = _object(image=numbers)
        case "text" | "tokens":
            item = _object(text=TEXT)
        case "table":
            assert isinstance(encoder, TableEncoder)
            item = _object(row={"type": "object", "example": encoder.example()})
        case _:
            item = _object(input=numbers)
    return {"content": {**content, **_json({"oneOf": [item, _object(items=_list(item))]})}, "required": True}


def _answer(service: ServiceFile) -> Schema:
    if service.task == "classification":
        one = _object(label=TEXT, probability={"type": "number"}, probabilities=_any())
    elif service.task == "language_modelling":
        return _any()
    else:
        one = _object(value={})
    return {"oneOf": [one, _object(predictions=_list(one))]}
