"""fulldeck: instructions that make a PyTorch model accurate, fast, small, served and watched.

Names resolve lazily, so that `import fulldeck` costs nothing: those in NAMES, and every instruction of
the catalogue by its class (`fulldeck.OnnxExport`) and by its functions (`fulldeck.export_onnx`).
"""

from typing import Any

__version__ = "0.1.0"

NAMES = {
    "BadInput": "errors",
    "Candidate": "candidate",
    "CannotAct": "errors",
    "Data": "data",
    "Evidence": "instruction",
    "Examples": "data",
    "Instruction": "instruction",
    "Plan": "planner",
    "Progress": "watchers.progress",
    "Recipe": "recipe.recipe",
    "RunFailed": "errors",
    "Service": "service",
    "TrainingLoop": "training.loop",
    "Watcher": "watchers.watcher",
    "Workload": "workload",
    "make_recipe": "recipe.recipe",
    "plan": "pipeline.run",
    "read_recipe": "recipe.reader",
    "repeated_blocks": "blocks",
    "run": "pipeline.run",
    "save_weights": "weights",
}
"""Public name to the module of this package that holds it."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in NAMES:
        value = getattr(import_module(f"fulldeck.{NAMES[name]}"), name)
    elif name.startswith("__"):
        raise AttributeError(f"module 'fulldeck' has no attribute '{name}'")
    else:
        modules = _instruction_names()
        if name not in modules:
            from fulldeck.errors import closest

            near = closest(name, (*NAMES, *modules)) or "; dir(fulldeck) lists those that there are"
            raise AttributeError(f"module 'fulldeck' has no attribute '{name}'{near}")
        value = getattr(import_module(modules[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *NAMES, *_instruction_names()))


def _instruction_names() -> dict[str, str]:
    """Class and function names of all instructions to their modules."""
    from fulldeck.catalogue import catalogue

    # Numbers rise from ours to the plugins': going backwards, no plugin takes a name of ours.
    entries = reversed(list(catalogue()))
    return {name: entry.module for entry in entries for name in (entry.class_name, *entry.functions)}
