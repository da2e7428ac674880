"""The packaged ONNX model behind LitServe, as its documentation recommends; serves until it is killed.

    python litserve_server.py MODEL.onnx PORT PATH THREADS BATCH WORKERS

Takes the same JSON body as the Open Inference Protocol, or one with the tensor's bytes as base64 in it, and answers the
same outputs, without checking anything. BATCH 1 leaves batching off, as is LitServe's default.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Model(litserve.LitAPI):
    """One tensor in, one tensor out."""

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[4])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    # LitServe looks at the parameter: it must be named `request`, and FastAPI gets its annotation.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        tensor = request["inputs"][0]
        if "base64" in tensor:
            return np.frombuffer(base64.b64decode(tensor["base64"]), np.float32).reshape(tensor["shape"])
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

    def predict(self, inputs: Any) -> Any:
        return self.session.run(None, {self.input: inputs})[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        data = {"name": "output", "datatype": "FP32", "shape": output.shape, "data": output.ravel().tolist()}
        return {"outputs": [data]}


class JoiningModel(Model):
    """The same, with requests joined to batches."""

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate(inputs)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output[:, None])


if __name__ == "__main__":
    batch = int(sys.argv[5])
    if batch > 1:
        api = JoiningModel(max_batch_size=batch, batch_timeout=0.002, api_path=sys.argv[3])
    else:
        api = Model(api_path=sys.argv[3])
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[6]), fast_queue=True)
    server.run(
        "127.0.0.1",
        int(sys.argv[2]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        pretty_logs=False,
    )
