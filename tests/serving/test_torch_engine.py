"""A built-in network is served from JSON and safetensors alone."""

import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch

import fulldeck as fd
from fulldeck.encoders.image import ImageEncoder
from fulldeck.networks.residual_net import ResidualNet
from fulldeck.serving.process import server


def test_safetensors_are_served_by_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResidualNet(1, 3, widths=(8,)).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    encoder = ImageEncoder(1, 8, 8)
    example = encoder.encode(images)
    folder = fd.package_model(
        tmp_path / "package", [network], encoder, example, name="net", classes=["a", "b", "c"]
    )
    with torch.no_grad():
        expected = network(torch.from_numpy(example["input"])).argmax(1).tolist()
    with server(folder) as (url, _):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("GET", "/v2/models/net")
        assert json.loads(connection.getresponse().read())["platform"] == "torch_safetensors"
        body = json.dumps({"items": [{"image": image.tolist()} for image in images]})
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answers = json.loads(connection.getresponse().read())["predictions"]
        connection.close()
    assert [answer["label"] for answer in answers] == ["abc"[place] for place in expected]
