"""Pages that are generated from the code, added to the site while mkdocs builds it (see hooks in mkdocs.yml).

No generated page is kept in the repository. In a hand-written page, `<!-- generated: NAME -->` is
replaced by the part of that name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
ROOT = HERE.parent
if str(HERE) not in sys.path:  # mkdocs loads this file by its path
    sys.path.insert(0, str(HERE))

import command_page  # noqa: E402
import instruction_page  # noqa: E402
import measurement_page  # noqa: E402
import recipe_page  # noqa: E402

from fulldeck.catalogue import built_in  # noqa: E402
from fulldeck.training.hooks import EVENTS, PHASES  # noqa: E402

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page


def _events() -> str:
    """The loop's events and phases, with what a handler is given."""
    said = [(f"`{name}`", meaning) for name, meaning in (EVENTS | PHASES).items()]
    count = len(EVENTS)
    return "\n\n".join(
        instruction_page.table((column, "what it means"), rows)
        for column, rows in (("event", said[:count]), ("phase", said[count:]))
    )


PARTS: dict[str, Callable[[], str]] = {
    "events": _events,
    "recipe reference": recipe_page.reference,
    "shipped recipes": recipe_page.texts,
    "trackers": recipe_page.trackers,
    "example lightning_module": partial(recipe_page.example, "lightning_module"),
    "example huggingface_model": partial(recipe_page.example, "huggingface_model"),
}
"""What a hand-written page may ask for."""
_PART = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def pages() -> dict[str, str]:
    """The generated pages: path below docs to Markdown."""
    entries = built_in()
    return {
        "instructions/index.md": instruction_page.overview(entries),
        **{f"instructions/{entry.name}.md": instruction_page.page(entry) for entry in entries},
        "command-line.md": command_page.page(),
        "measurements.md": measurement_page.page(),
        "decisions/index.md": _decisions(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
    }


def complete(markdown: str) -> str:
    """A hand-written page with the parts that it asks for. Raises KeyError for an unknown part."""
    return _PART.sub(lambda found: PARTS[found[1]](), markdown)


def _decisions() -> str:
    files = sorted((HERE / "decisions").glob("[0-9]*.md"))
    titles = {path: path.read_text().partition("\n")[0].removeprefix("# ") for path in files}
    lines = [f"- [{path.stem[:4]}]({path.name}): {title}" for path, title in titles.items()]
    return "\n".join(["# Decisions", "", "What was decided, and why. One page each.", "", *lines])


# What mkdocs calls ---------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder in place of its name in the navigation."""
    config.nav = _expanded(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is generated within a page."""
    return complete(markdown)


def _expanded(items: Any) -> Any:
    """The navigation, with the pages of a folder in place of its name."""
    expanded: list[Any] = []
    for item in items:
        if isinstance(item, dict):
            expanded.append(
                {
                    title: _expanded(under) if isinstance(under, list) else under
                    for title, under in item.items()
                }
            )
        elif item == "instructions/":
            expanded += [{f"{e.number:02d} {e.name}": f"instructions/{e.name}.md"} for e in built_in()]
        elif item == "decisions/":
            expanded += [f"decisions/{path.name}" for path in sorted((HERE / "decisions").glob("[0-9]*.md"))]
        else:
            expanded.append(item)
    return expanded
