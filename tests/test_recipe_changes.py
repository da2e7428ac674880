"""Two recipes side by side."""

from fulldeck.recipe_changes import ABSENT, changed_settings, describe_changes, flags_back

ONE = """\
workload: {kind: table, path: a.csv}
train: {epochs: 20, seed: 0}
instructions:
  - leakage_safe_splitting: {test: 0.2}
  - onnx_export
  - onnx_export: {opset: 18}
"""


def test_settings_are_named_as_set_names_them() -> None:
    other = ONE.replace("20", "3").replace("0.2", "0.1").replace("18", "20")
    changes = changed_settings(ONE, other)
    assert changes == {
        "train.epochs": (20, 3),
        "instructions.leakage_safe_splitting.test": (0.2, 0.1),
        "instructions.onnx_export#2.opset": (18, 20),
    }
    assert describe_changes(changes).startswith("train.epochs: 20 there, 3 here, instructions.")
    assert flags_back({"train.epochs": (20, 3)}) == "--set train.epochs=20"
    assert not changed_settings(ONE, ONE)


def test_what_only_one_of_them_has() -> None:
    changes = changed_settings(ONE, ONE.replace("  - onnx_export\n", "").replace(", seed: 0", ""))
    assert changes["train.seed"] == (0, ABSENT)
    assert flags_back({"train.seed": (0, ABSENT)}) == "--set train.seed=0"
    assert changes["instructions.onnx_export#2"] == (True, ABSENT)
    assert flags_back(changes) is None, "a flag cannot add an instruction"
    assert flags_back({"train.seed": (ABSENT, 0)}) is None, "nor take a setting away"
    assert "instructions.onnx_export#2: only there" in describe_changes(changes)


def test_a_workload_by_name_is_its_kind() -> None:
    assert changed_settings("workload: digits", "workload: {kind: digits}") == {}
