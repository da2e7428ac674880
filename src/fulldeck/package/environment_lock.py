"""What a server of a package needs, with exact versions: all of it, and nothing that only training needs.

`pip install --no-deps fulldeck==...` and `pip install -r environment.txt` make an environment in which the package is
served as where it was made, without PyTorch unless its engine is PyTorch.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SERVER = (
    *(
        "httptools",
        "jinja2",
        "numpy",
        "orjson",
        "packaging",
        "prometheus-client",
        "psutil",
        "pydantic",
        "rich",
    ),
    *("ruamel.yaml", "safetensors", "typer", "uvloop"),
)
"""What the server's processes import whatever they serve."""
ENGINES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "torch_compiled": ("torch",),
    "tvm": ("apache-tvm",),
    "tensorrt": ("tensorrt", "torch"),
}
ENCODERS = {"image": ("pillow",), "text": ("tokenizers",), "tokens": ("tokenizers",)}


def lock(engines: Collection[str], kind: str) -> str:
    """The content of environment.txt for a package with forms for `engines` and an encoder of `kind`."""
    roots = [
        *SERVER,
        *ENCODERS.get(kind, ()),
        *(name for engine in engines for name in ENGINES.get(engine, ())),
    ]
    found = closure(roots)
    lines = [
        f"# Python {platform.python_version()}, {sys.platform}, {platform.machine()}",
        f"# pip install --no-deps fulldeck=={_version('fulldeck')}",
        *(f"{name}=={version}" for name, version in sorted(found.items())),
    ]
    return "\n".join(lines) + "\n"


def closure(names: Collection[str]) -> dict[str, str]:
    """The distributions of `names` and all that they need here, by canonical name, with their public versions."""
    found: dict[str, str] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        try:
            there = distribution(name)
        except PackageNotFoundError:
            continue  # an optional one that is not here either
        # Without a local part: PyPI has no 2.13.0+cpu, only 2.13.0.
        found[name] = there.version.partition("+")[0]
        extras = wanted.extras or {""}
        for text in there.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return found


def _version(name: str) -> str:
    return distribution(name).version
