"""The packaged ONNX model behind plain FastAPI on uvicorn, as a first version is written; until it is killed.

    python fastapi_server.py MODEL.onnx PORT PATH THREADS WORKERS

Takes the same JSON body as the Open Inference Protocol, or the tensor's bytes as application/octet-stream with its
shape in a header, and answers the same outputs, without checking anything. The session is called from a thread pool, at
most WORKERS times at once: what is engine processes elsewhere.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio
import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[4])
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
at_once = anyio.CapacityLimiter(int(sys.argv[5]))
app = FastAPI()


@app.post(sys.argv[3])
async def infer(request: Request) -> dict[str, Any]:
    if request.headers["content-type"] == "application/octet-stream":
        shape = [int(size) for size in request.headers["shape"].split(",")]
        inputs = np.frombuffer(await request.body(), np.float32).reshape(shape)
    else:
        tensor = (await request.json())["inputs"][0]
        inputs = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    outputs = await anyio.to_thread.run_sync(session.run, None, {name: inputs}, limiter=at_once)
    output = outputs[0]
    data = {
        "name": "output",
        "datatype": "FP32",
        "shape": list(output.shape),
        "data": output.ravel().tolist(),
    }
    return {"outputs": [data]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
