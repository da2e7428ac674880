"""`fulldeck new`: the files of a new instruction, which pass the contract suite as they are written."""

from __future__ import annotations

import importlib
import keyword
import re
import shutil
import sys
import tempfile
from pathlib import Path
from string import Template

from fulldeck.catalogue import FIRST_PLUGIN_NUMBER, catalogue
from fulldeck.errors import BadInput, closest
from fulldeck.files import write_text
from fulldeck.instruction import snake_case

TEMPLATES = Path(__file__).parent / "templates"
STAGES = ("data", "training", "inference", "deployment")
INSTRUCTIONS = Path("src/fulldeck/instructions")


def write_plugin(name: str, stage: str, into: Path, number: int | None = None) -> tuple[Path, list[str]]:
    """Write a package with the instruction `name` to a new folder below `into`.

    Returns the folder and its files. Raises BadInput for a name that is no name, a name or number that is
    taken, an unknown stage, and a folder that exists; nothing is then written.
    """
    words = _words(name, stage, f"fulldeck_{name}", f"fulldeck_{name}.{name}")
    words["number"] = _number(number, range(FIRST_PLUGIN_NUMBER, 10_000))
    folder = into / words["distribution"]
    if folder.exists():
        raise BadInput(f"{folder} exists already; remove it, or choose another folder with --into")
    source = Path("src") / words["package"]
    files = {
        Path("pyproject.toml"): "pyproject.toml",
        Path("README.md"): "README.md",
        source / "__init__.py": None,
        source / f"{name}.py": f"{stage}.py",
        Path("tests") / f"test_{name}.py": f"test_{stage}.py",
    }
    try:
        into.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=into, prefix=f".{folder.name}."))
    except OSError as error:
        raise BadInput(f"cannot write to {into}: {(error.strerror or str(error)).lower()}") from None
    try:
        for path, template in files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            text = _filled(template, words) if template else f'"""The instruction {name} for fulldeck."""\n'
            write_text(temporary / path, text)
        _write_catalogue(temporary / "src", words["package"])
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, sorted(str(path) for path in (*files, source / "catalogue.json"))


def write_built_in(
    name: str, stage: str, checkout: Path, number: int | None = None
) -> tuple[Path, list[str]]:
    """Write the two files of a new built-in instruction into a checkout of fulldeck.

    Returns the checkout and the files. Raises BadInput as `write_plugin` does, and if it is no checkout.
    """
    if not (checkout / INSTRUCTIONS).is_dir():
        raise BadInput(f"{checkout.resolve()} is no checkout of fulldeck: it has no {INSTRUCTIONS}")
    words = _words(name, stage, "fulldeck", f"fulldeck.instructions.{stage}.{name}")
    words["number"] = _number(number, range(1, FIRST_PLUGIN_NUMBER))
    files = {
        INSTRUCTIONS / stage / f"{name}.py": f"{stage}.py",
        Path("tests/instructions") / stage / f"test_{name}.py": f"test_{stage}.py",
    }
    for path in files:
        if (checkout / path).exists():
            raise BadInput(f"{checkout / path} exists already")
    for path, template in files.items():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(checkout / path, _filled(template, words))
    return checkout, sorted(str(path) for path in files)


def _words(name: str, stage: str, package: str, module: str) -> dict[str, str]:
    class_name = "".join(word.capitalize() for word in name.split("_"))
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or snake_case(class_name) != name:
        raise BadInput(f'"{name}" is no instruction\'s name; write words such as label_smoothing')
    if keyword.iskeyword(name) or name == "catalogue":
        raise BadInput(f'"{name}" has a meaning of its own; choose another name')
    if stage not in STAGES:
        raise BadInput(f'unknown stage "{stage}"{closest(stage, STAGES)}; there is {", ".join(STAGES)}')
    found = catalogue()
    if name in found.entries or name in found.broken:
        where = f"by {found.entries[name].module}" if name in found.entries else "by a broken plugin"
        raise BadInput(f"the name {name} is taken {where}")
    return {
        "name": name,
        "class_name": class_name,
        "function": f"apply_{name}",
        "package": package,
        "module": module,
        "distribution": f"fulldeck-{name.replace('_', '-')}",
    }


def _number(wanted: int | None, allowed: range) -> str:
    taken = {entry.number: entry.name for entry in catalogue()}
    if wanted is None:
        return str(next(number for number in allowed if number not in taken))
    if wanted not in allowed:
        raise BadInput(f"the number must be between {allowed.start} and {allowed.stop - 1}, got {wanted}")
    if wanted in taken:
        raise BadInput(f"the number {wanted} is taken by {taken[wanted]}")
    return str(wanted)


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.txt").read_text()).substitute(words)


def _write_catalogue(source: Path, package: str) -> None:
    from fulldeck.generate import generated

    sys.path.insert(0, str(source))
    importlib.invalidate_caches()
    try:
        for path, text in generated(package).items():
            write_text(path, text)
    finally:
        sys.path.remove(str(source))
        # The modules were loaded from a folder that is about to be renamed.
        for module in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[module]
        shutil.rmtree(source / package / "__pycache__", ignore_errors=True)
