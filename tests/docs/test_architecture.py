"""docs/architecture.md names every room of the source."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_module_and_package_is_named() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    source = ROOT / "src/fulldeck"
    modules = {path.name for path in source.glob("*.py") if not path.name.startswith("_")}
    packages = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    missing = {name for name in modules | packages if f"`{name}" not in text}
    assert not missing, f"say in docs/architecture.md what is in: {', '.join(sorted(missing))}"
