"""What importing fulldeck and asking it for help must not load; gates by modules, never by time."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pandas", "sklearn", "scipy", "onnx", "onnxruntime", "kornia", "PIL", "polars")


def loaded_by(code: str) -> list[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    tail = "import json, sys; sys.stderr.write(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"], capture_output=True, text=True, check=True
    )
    modules: list[str] = json.loads(done.stderr)
    return modules


def test_importing_fulldeck_loads_nothing_but_typing() -> None:
    bare = set(loaded_by("pass"))
    assert set(loaded_by("import fulldeck")) - bare - {"typing", "_typing", "contextlib", "warnings"} == {
        "fulldeck"
    }


def test_names_are_known_without_loading_them() -> None:
    loaded = loaded_by("import fulldeck; assert 'OnnxExport' in dir(fulldeck)")
    assert not {*HEAVY, "pydantic", "typer", "rich"} & set(loaded)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["list"], ["show", "onnx_export"], ["schema"]]
)
def test_what_reads_the_catalogue_never_loads_torch(arguments: list[str]) -> None:
    loaded = loaded_by(f"from fulldeck.cli import main; assert main({arguments}) == 0")
    assert not {*HEAVY, "rich"} & set(loaded)
